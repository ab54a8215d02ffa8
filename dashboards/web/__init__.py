"""The dashboard in the browser; open ``app.py`` first, then ``pages/``. ``assets/`` is what runs in the browser.

May import ``dashboards.outputs``, ``pipelines`` and ``storage``.
"""
