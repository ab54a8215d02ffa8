"""Places in an object store (s3://, gs://, az://), with the part of pathlib's surface that a lake and videos need.

obstore is the library on which deltalake stands, too: both read the same environment variables and mean the same by a
URI. It is imported when the first object is touched: a lake in a folder never loads it.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from storage.errors import LakeError
from storage.files import whole_file

__all__ = [
    "NAMED_BYTES",
    "ObjectPath",
    "Status",
    "StoragePath",
    "StoreError",
    "is_uri",
    "move",
    "place_of",
    "plain_reason",
    "relative_text",
    "remove_tree",
    "replace_bytes",
    "storage_options",
]

_URI = re.compile(r"(s3|gs|az)://([A-Za-z0-9._-]+)(?:/(.*))?", re.DOTALL)
_SCHEMES = ("s3://", "gs://", "az://")
_ANSWER = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)
#: Bytes that are asked for at a time when a whole object is read: a request has to end within the client's 30 s.
READ_BYTES = 8 * 2**20
#: Sizes of the data files in stores that logs have named in this process: what DuckDB may open (``duckdb_fs.py``).
NAMED_BYTES: dict[str, int] = {}


class StoreError(OSError):
    """A store, or the way to it, failed; that says nothing about the object."""


class Status(NamedTuple):
    """What is known of an object, under the names of ``os.stat_result``; the time is the store's, in whole seconds."""

    st_size: int
    st_mtime_ns: int
    e_tag: str | None = None


class ObjectPath:
    """An object, or the prefix of some: ``s3://bucket/a/b``. Plain data, safe to pickle."""

    #: Whether this process has named an object: what DuckDB's connections look at to know if they will meet one.
    in_use = False

    def __init__(self, uri: str, status: Status | None = None) -> None:
        found = _URI.fullmatch(uri)
        if not found:
            # not the text itself: somebody may have put keys into it
            message = "a place in an object store is s3://BUCKET/PREFIX (or gs://, az://), without keys or options"
            raise LakeError(message, "bad_location")
        self._root, self._key = f"{found[1]}://{found[2]}", (found[3] or "").rstrip("/")
        self._status = status
        ObjectPath.in_use = True

    def __str__(self) -> str:
        return f"{self._root}/{self._key}".rstrip("/")

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: ObjectPath) -> bool:
        return str(self) < str(other)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        ObjectPath.in_use = True

    def __truediv__(self, part: str) -> ObjectPath:
        return ObjectPath(f"{self}/{part}")

    @property
    def name(self) -> str:
        return self._key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(f"{self._root}/{self._key.rpartition('/')[0]}")

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    def _store(self) -> Any:
        return _client(self._root, os.getpid(), tuple(_environment().items()))

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    exists = is_file

    def stat(self) -> Status:
        """Size and time, from the listing that named it or else from the store."""
        if self._status is not None:
            return self._status
        with _errors(self) as obstore:
            return _status(obstore.head(self._store(), self._key))

    def read_bytes(self) -> bytes:
        with _errors(self) as obstore:
            return bytes(obstore.get(self._store(), self._key).bytes())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def read_range(self, start: int, end: int, e_tag: str | None = None) -> bytes:
        """Bytes ``start`` to ``end``. With ``e_tag``, OSError where the object is another one by now."""
        with _errors(self) as obstore:
            options: dict[str, Any] = {"range": (start, end)} | ({"if_match": e_tag} if e_tag else {})
            return bytes(obstore.get(self._store(), self._key, options=options).bytes())

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The object as a file that is read by ranges, some megabytes at a time."""
        assert mode == "rb", "objects are written whole"
        return io.BufferedReader(_ObjectFile(self, self.stat().st_size), READ_BYTES)

    def write_bytes(self, data: bytes) -> None:
        """Put the whole object, in place of what is there."""
        with _errors(self) as obstore:
            obstore.put(self._store(), self._key, data)

    def create(self, source: bytes | Path) -> bool:
        """Put the whole object where there is none (``If-None-Match: *``); False where there is one."""
        with _errors(self) as obstore:
            data = source if isinstance(source, bytes) else source.read_bytes()
            try:
                # in one request: a put in parts cannot be made conditional everywhere
                obstore.put(self._store(), self._key, data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
            return True

    def exchange(self, data: bytes, tag: Mapping[str, str]) -> dict[str, str] | None:
        """Put the whole object where ``tag`` is still its tag (``If-Match``): the new tag, or None where it is not."""
        with _errors(self) as obstore:
            try:
                return _tag(obstore.put(self._store(), self._key, data, mode=dict(tag)))
            except (obstore.exceptions.PreconditionError, FileNotFoundError):
                return None

    def tag(self) -> dict[str, str]:
        """What ``exchange`` asks for: it changes with the content."""
        with _errors(self) as obstore:
            return _tag(obstore.head(self._store(), self._key))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; a store does not say whether there was one."""
        with _errors(self) as obstore:
            obstore.delete(self._store(), self._key)

    def copy_to(self, other: ObjectPath) -> None:
        with _errors(self) as obstore:
            obstore.copy(self._store(), self._key, other._key)

    def files(self) -> Iterator[ObjectPath]:
        """Every object below, listed page by page while it is asked for, in the order of their keys' bytes."""
        with _errors(self) as obstore:
            pages = obstore.list(self._store(), self._key or None)
            for page in pages:
                for found in page:
                    yield ObjectPath(f"{self._root}/{found['path']}", _status(found))

    def iterdir(self) -> Iterator[ObjectPath]:
        """What is directly below: objects, and prefixes of others."""
        with _errors(self) as obstore:
            found = obstore.list_with_delimiter(self._store(), self._key or None)
        yield from (ObjectPath(f"{self._root}/{prefix}") for prefix in found["common_prefixes"])
        yield from (ObjectPath(f"{self._root}/{each['path']}", _status(each)) for each in found["objects"])


StoragePath: TypeAlias = Path | ObjectPath


class _ObjectFile(io.RawIOBase):
    def __init__(self, path: ObjectPath, size_bytes: int) -> None:
        super().__init__()
        self._path, self._size_bytes, self._position = path, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size_bytes)
        if self._position >= end:
            return 0
        data = self._path.read_range(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def is_uri(text: object) -> bool:
    """Whether a text names an object or a prefix in a store, and not a file."""
    return isinstance(text, ObjectPath) or (isinstance(text, str) and text.startswith(_SCHEMES))


def place_of(location: str | StoragePath) -> StoragePath:
    """A folder or file as an absolute path, or a place in an object store."""
    if isinstance(location, ObjectPath):
        return location
    if is_uri(location):
        return ObjectPath(str(location))
    return Path(
        os.path.expanduser(location)
    ).absolute()  # like a shell, it leaves ~name as it is where nobody has the name


# -- what a lake does alike on disk and in a store --------------------------------------------------------------------


def relative_text(place: StoragePath, root: StoragePath) -> str:
    """Where a place is below another, with slashes."""
    return str(place).removeprefix(f"{root}/") if isinstance(place, ObjectPath) else str(place.relative_to(str(root)))


def replace_bytes(place: StoragePath, data: bytes) -> None:
    """Write a whole file or object in one step: whoever reads sees the old or the new."""
    if isinstance(place, ObjectPath):
        place.write_bytes(data)
        return
    with whole_file(place) as fresh:
        fresh.write_bytes(data)


def move(source: StoragePath, target: StoragePath) -> None:
    """Put a file elsewhere; in a store that is a copy and a deletion, and killed in between both are there."""
    if isinstance(source, ObjectPath):
        assert isinstance(target, ObjectPath)
        source.copy_to(target)
        source.unlink()
        return
    assert isinstance(target, Path)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def remove_tree(place: StoragePath) -> None:
    """Delete everything below; nothing there is no fault."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
        return
    for found in list(place.files()):
        found.unlink()


# -- the client -------------------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """What the environment says in words that object_store itself does not read."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    found = {"aws_endpoint_url": endpoint} if endpoint else {}
    return found | ({"allow_http": "true"} if endpoint.startswith("http://") else {})


def storage_options(place: StoragePath) -> dict[str, str] | None:
    """deltalake's options for a location; it reads secrets from the environment itself."""
    if isinstance(place, Path):
        return None
    return (_environment() | {"aws_conditional_put": "etag"}) if str(place).startswith("s3://") else {}


@cache
def _client(root: str, pid: int, environment: tuple[tuple[str, str], ...]) -> Any:
    """By process, because a client does not survive a fork, and by what the environment says."""
    from obstore.store import from_url

    config: Any = (
        {name: value for name, value in environment if name != "allow_http"} if root.startswith("s3://") else {}
    )
    options: Any = {"allow_http": True} if "allow_http" in dict(environment) else None
    return from_url(root, config=config or None, client_options=options)


def _obstore(place: ObjectPath) -> Any:
    try:
        import obstore
        import obstore.exceptions
    except ModuleNotFoundError as error:
        message = f"{place} is in an object store, which needs obstore: pip install 'mfer[s3]'"
        raise LakeError(message, "bad_location") from error
    return obstore


@contextmanager
def _errors(place: ObjectPath) -> Iterator[Any]:
    """Turn obstore's errors into FileNotFoundError and StoreError, in one line, without its debugging notes."""
    obstore = _obstore(place)
    try:
        yield obstore
    except FileNotFoundError as error:
        raise FileNotFoundError(plain_reason(str(error)) or f"there is no {place}") from error
    except (OSError, obstore.exceptions.BaseError) as error:
        raise StoreError(plain_reason(str(error))) from error


def plain_reason(text: str) -> str:
    """What a store or the way to it said, in one line."""
    answer = _ANSWER.search(text)
    if answer:
        return f"{answer[1]}: {answer[2]}"
    return " ".join(text.partition("\n\nDebug source")[0].split())


def _status(meta: Mapping[str, Any]) -> Status:
    moment: datetime = meta["last_modified"]
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Status(meta["size"], (since.days * 86400 + since.seconds) * 10**9, meta["e_tag"])


def _tag(meta: Mapping[str, Any]) -> dict[str, str]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}
