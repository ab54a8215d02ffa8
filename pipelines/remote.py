"""Videos in an object store: found by listing, and copied to this disk one at a time while they are analysed.

A sequence of pictures is copied as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipelines.errors import VideoError
from pipelines.heartbeat import heartbeat
from storage.delta.object_store import READ_BYTES, ObjectPath, Status, StoragePath
from storage.errors import LakeError
from storage.sequences import PictureSequence, sequence_of

__all__ = ["local_copy", "objects_below"]

#: Names of the copies in the temporary folder; each is locked while it is used.
_PREFIX = "mfer-copy-"
#: Age below which a copy may not have its lock yet.
_YOUNG_S = 60
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def objects_below(path: ObjectPath) -> Iterator[ObjectPath]:
    """The object of that name, or those below that prefix, by key; listed page by page as they are asked for.

    Raises:
        VideoError: ``missing`` where there is neither, ``unreadable`` where the store cannot be asked.
    """
    n_found = 0
    try:
        for found in path.files():
            n_found += 1
            yield found
        if not n_found:
            yield ObjectPath(str(path), path.stat())
    except (OSError, LakeError) as error:
        raise _video_error(path, error) from error


@contextmanager
def local_copy(path: StoragePath) -> Iterator[Path]:
    """A path where a video can be read: its own, or that of a copy that is deleted at the end.

    The copy lies in the temporary folder (TMPDIR) and has the object's size and time; that of a sequence of pictures is
    a folder with all of them. What a killed process leaves there, the next copy on this machine deletes.

    Raises:
        VideoError: ``missing``, ``empty_file`` or ``unreadable``.
        OSError: this disk is full.
    """
    if isinstance(path, Path):
        yield path
        return
    _delete_abandoned()
    if sequence := sequence_of(path):
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, _locked(folder):
            yield _fetch_all(sequence, Path(folder))
        return
    with tempfile.NamedTemporaryFile(prefix=_PREFIX, suffix=path.suffix) as copy:
        fcntl.flock(copy, fcntl.LOCK_EX)
        status = _fetch(path, copy)
        os.utime(copy.name, ns=(status.st_mtime_ns, status.st_mtime_ns))
        if status.st_size == 0:
            raise VideoError("empty_file", "open", str(path), "the object has no bytes; upload it again")
        yield Path(copy.name)


def _fetch_all(sequence: PictureSequence[ObjectPath], folder: Path) -> Path:
    """Copy the pictures of a sequence into a folder; the name of their sequence there."""
    try:
        files, _ = sequence.frames()
    except (OSError, LakeError) as error:
        raise _video_error(sequence.path, error) from error
    changed_ns = []
    for _, file in files:
        with open(folder / file.name, "wb") as copy:
            status = _fetch(file, copy)
        os.utime(folder / file.name, ns=(status.st_mtime_ns, status.st_mtime_ns))
        changed_ns.append(status.st_mtime_ns)
    os.utime(folder, ns=(max(changed_ns), max(changed_ns)))  # else the folder would look changed later than the objects
    return PictureSequence(folder, sequence.prefix, sequence.suffix, sequence.fps).path


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fetch(path: ObjectPath, copy: IO[bytes]) -> Status:
    try:
        status = path.stat()
        for start in range(0, status.st_size, READ_BYTES):
            end = min(start + READ_BYTES, status.st_size)
            copy.write(path.read_range(start, end, status.e_tag))  # of that very object, also when it is replaced
            heartbeat()
        copy.flush()
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise
        raise _video_error(path, error) from error
    except LakeError as error:
        raise _video_error(path, error) from error
    return status


def _video_error(path: ObjectPath, error: Exception) -> VideoError:
    if isinstance(error, FileNotFoundError):
        message = "there is no such object, and none below such a prefix; check bucket and name"
        return VideoError("missing", "open", str(path), message)
    message = f"the object cannot be read ({error}); check keys and network (docs/object_storage.md), and run again"
    return VideoError("unreadable", "open", str(path), message)


def _delete_abandoned() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                if time.time() - left.stat().st_ctime >= _YOUNG_S:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)
