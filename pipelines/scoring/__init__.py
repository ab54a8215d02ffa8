"""Aligned faces to expression probabilities, and which model a name means; open ``scorer.py`` first.

May import ``mfer``, ``pipelines.batches`` and the lake's models.
"""
