"""Processes that analyse videos, watched; on one machine or many. Open ``pool.py`` first.

May import ``flows/run.py`` of the flows, ``pipelines`` and ``storage``. Ray has its place here.
"""
