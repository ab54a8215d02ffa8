"""Plain functions that turn one video into rows. Open ``score.py`` first: the spine.

``batches.py`` has what passes between the steps, ``settings.py`` what a person can choose. The folders hold the steps:
``video/`` frames, ``faces/`` faces, ``scoring/`` scores, ``learning/`` labelled faces. May import ``mfer`` and
``storage``.
"""
