"""Other people's packages, in folders of their own under `.bench/`, so that both sides are measured in one run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["peer_command"]

_HERE = Path(__file__).resolve().parent
_BENCH = _HERE.parent / ".bench"
_PACKAGES = {
    "plain script": ["opencv-python-headless<5"],
    "fer": ["fer==25.10.3", "opencv-contrib-python<5", "setuptools<81"],
}


def peer_command(name: str, script: str) -> tuple[list[str], dict[str, str]]:
    """The beginning of a command line that runs a script of this folder with a peer's packages, and its environment.

    The plain script uses this project's own PyTorch; fer has an environment of its own (7 GB: it brings two
    frameworks), because it does not import beside Triton.
    """
    folder = _BENCH / name.replace(" ", "_")
    alone = name == "fer"
    python = folder / "bin" / "python" if alone else Path(sys.executable)
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if alone:
            venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "--quiet"]
        where = [] if alone else ["--target", str(folder)]
        subprocess.run([*pip, "install", *where, *_PACKAGES[name]], check=True, capture_output=True)
        if alone:
            subprocess.run([*pip, "uninstall", "--yes", "triton"], check=True, capture_output=True)
        (folder / ".complete").touch()
    return [str(python), str(_HERE / script)], {"PYTHONPATH": "" if alone else str(folder)}
