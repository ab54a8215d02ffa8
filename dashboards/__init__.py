"""Pictures for people: ``web/`` in the browser, ``outputs/`` as files. May import ``pipelines`` and ``storage``."""
