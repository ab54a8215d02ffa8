"""The working folder of the runs that ``mfer serve`` starts.

Prefect puts the working folder first on the path when it imports a flow, so that a file of the user named
``storage.py`` would be run in place of ours. The runs start in an empty folder, therefore, and enter the right one
once the flow is imported, since relative paths mean that one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from tempfile import TemporaryDirectory

__all__ = ["enter_working_folder", "runs_start_elsewhere"]

_VARIABLE = "_MFER_WORKING_FOLDER"  # internal: nobody sets it


@contextmanager
def runs_start_elsewhere() -> Iterator[None]:
    """Stay in an empty folder meanwhile, and tell the processes that are started where they are meant to work."""
    os.environ[_VARIABLE] = os.getcwd()
    try:
        with TemporaryDirectory(prefix="mfer_") as empty, chdir(empty):
            yield
    finally:
        del os.environ[_VARIABLE]


def enter_working_folder() -> None:
    """Go where relative paths mean what they meant to whoever started ``mfer serve``; nothing in any other process."""
    if (folder := os.environ.get(_VARIABLE)) is not None:
        os.chdir(folder)
