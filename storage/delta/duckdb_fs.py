"""DuckDB's way to the data files of a lake in an object store: those that a log has named, and nothing else.

DuckDB asks for a Parquet file's end and then for the column chunks of the row groups that its statistics leave, each a
range of bytes, so pruning works as on disk. It keeps what it has read, and sizes come from the log: no object is
listed or asked for its head.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import fsspec

from storage.delta.object_store import NAMED_BYTES, ObjectPath

__all__ = ["LakeFiles"]

#: Data files never change under their name. DuckDB keeps nothing of a file whose time is 0.
_UNCHANGED = datetime(2000, 1, 1, tzinfo=UTC)


class _Handle:
    """A file that many of DuckDB's threads seek and read: each has a position of its own."""

    def __init__(self, path: ObjectPath, size_bytes: int) -> None:
        self._path, self._size_bytes = path, size_bytes
        self._at = threading.local()

    def seek(self, offset: int) -> int:
        self._at.position = offset
        return offset

    def tell(self) -> int:
        return getattr(self._at, "position", 0)

    def read(self, size: int) -> bytes:
        start = self.tell()
        end = min(start + size, self._size_bytes)
        if start >= end:
            return b""
        self._at.position = end
        return self._path.read_range(start, end)

    def close(self) -> None: ...


class LakeFiles(fsspec.AbstractFileSystem):
    """Read-only, and blind for what no log of this process has named."""

    protocol = ("s3", "gs", "az")
    cachable = False

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Handle:
        if mode != "rb":
            raise PermissionError(f"{path} can only be read")
        return _Handle(ObjectPath(path), self.size(path))

    def size(self, path: str) -> int:
        if path not in NAMED_BYTES:
            raise FileNotFoundError(f"no table of a lake names {path}")
        return NAMED_BYTES[path]

    def modified(self, path: str) -> datetime:
        return _UNCHANGED

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path] if path in NAMED_BYTES else []

    def exists(self, path: str, **_: Any) -> bool:
        return path in NAMED_BYTES

    isfile = exists

    def isdir(self, path: str) -> bool:
        return False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self.size(path), "type": "file"}
