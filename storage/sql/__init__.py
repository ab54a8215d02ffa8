"""What people ask of a lake: views, table functions and a locked door. Open ``views.py`` first.

May import ``storage.delta``, the lake and its schema.
"""
