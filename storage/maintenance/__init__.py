"""Rare work on a whole lake: check, repair, forget; each is the file of its name.

May import ``storage.delta``, the lake, its models and sums; nothing of ``storage`` imports it.
"""
