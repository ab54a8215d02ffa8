"""What people add to a lake: judgements, names, splits of tracks, events. Open ``edits.py`` first.

May import ``storage.delta``, ``storage.sql`` and the lake.
"""
