"""Delta tables on a disk or in an object store: commits exactly once, logs, locks, reading.

Open ``tables.py`` first. May import the schema, the rounding and the errors of ``storage``; does not know
what a lake means.
"""
