"""Which tracks show the same person, only when somebody asks: ``mfer people find``. Open ``find.py`` first.

May import ``pipelines.video``, ``pipelines.scoring.onnx``, plain modules of ``pipelines``, ``mfer`` and ``storage``.
"""
