"""Labels of people and labelled pictures to faces that a model can learn from; open ``collect.py`` first.

May import the other folders of ``pipelines``, ``mfer`` and ``storage``.
"""
