"""How a process of ours starts another Python: it finds our modules, and never what lies in the working folder.

A folder of videos may well hold a ``storage.py`` or a ``random.py`` of its owner; to run those would be wrong at best.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

__all__ = ["python_command", "python_environment"]

_ROOT = Path(__file__).resolve().parents[1]


def python_command(*arguments: str) -> list[str]:
    """The command that runs this Python with these arguments, without the working folder or a script's on its path."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment for such a process and for all that it starts in turn.

    Our packages come first where they run from a checkout (installed ones are found by themselves); of PYTHONPATH only
    absolute paths are kept, because an empty or relative one means the working folder.
    """
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    ours = [] if _ROOT in installed else [str(_ROOT)]
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*ours, *given]), "PYTHONSAFEPATH": "1"}
