"""Frames to numbered faces with landmarks and their quality; open ``finder.py`` first.

May import ``pipelines.scoring`` (networks in ONNX Runtime), ``pipelines.video`` (smaller pictures), the plain modules
of ``pipelines`` and the lake's schema.
"""
