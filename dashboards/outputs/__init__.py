"""Reports, rendered videos and plots as files; open ``report.py`` first.

May import ``pipelines.video`` and ``storage``, not ``dashboards.web``.
"""
