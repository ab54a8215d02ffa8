"""A lake's rows as files of other programs; open ``formats.py`` first.

May import ``storage.delta``, ``storage.sql`` and the lake.
"""
