"""The lake: what the rows mean, commits that happen exactly once, views for SQL and the model store.

Import from the modules (``storage.lake``, ``storage.views``, ``storage.models``): the package itself imports
nothing, so that a command line that only prints its help stays fast.
"""
