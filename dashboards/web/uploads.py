"""Files that a browser sent."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["uploaded_file"]


@contextmanager
def uploaded_file(name: str, content: str) -> Iterator[Path]:
    """A file with the bytes of a data URL, whose name ends as ``name`` does, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="mfer-") as folder:
        file = Path(folder) / f"table{Path(name).suffix.lower()}"
        file.write_bytes(base64.b64decode(content.partition(",")[2]))
        yield file
