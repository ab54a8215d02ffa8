"""The revision of this project's code."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["code_revision"]


def code_revision() -> str | None:
    """What git says of the checkout that this code runs from; None for an installed package, or without git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--tags", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
