"""How a process of ours starts another Python, and what it does not load.

It finds our modules, and never what lies in the working folder. A folder of videos may well hold a ``storage.py`` or a
``random.py`` of its owner; to run those would be wrong at best.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__all__ = ["leave_out_pandas", "python_command", "python_environment"]

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


class _NoPandas(Loader):
    """Finds pandas and refuses to load it: PyTorch asks only where it lies, and must get an answer."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, cls()) if name == "pandas" else None

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError("this process does without pandas", name=module.__name__)


def leave_out_pandas() -> None:
    """Let this process do without pandas, which none of our code uses.

    Where it is installed, pyarrow imports it for its first array: a fifth of a second at every start. Not for a process
    that is somebody else's, such as a notebook.
    """
    if _NoPandas not in sys.meta_path:
        sys.meta_path.insert(0, _NoPandas)
