"""A lake as the dashboard reads it: views that are opened once and renewed when somebody has committed."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from storage.delta.object_store import Status
from storage.delta.relations import read_errors
from storage.delta.tables import data_files, open_table
from storage.lake import Lake
from storage.originals import FILES_SQL, content_of, find_original
from storage.schema import TABLES
from storage.sql.model_choice import mixture_note
from storage.sql.views import connect

__all__ = ["LakeSource"]

T = TypeVar("T")
#: Connections to single videos, and answers, that are kept.
_MAX_KEPT = 64
#: Up to so many files, one connection for everything is quicker than one of their own for the files of each video.
_FEW_FILES = 100
#: How old a look at the logs in an object store may be: each costs some requests.
_LOOK_AGAIN_S = 5.0


class LakeSource:
    """Answers from one lake, safe for many threads; what it said is remembered until something changes.

    ``wanted_model`` says whose scores the viewer of the moment asks for; None: those that the views choose.
    """

    def __init__(self, lake: Lake, wanted_model: Callable[[], str | None] = lambda: None) -> None:
        self.lake = lake
        self._wanted_model = wanted_model
        self._lock = threading.RLock()
        self._version: tuple[int, ...] = ()
        self._looked_s = 0.0
        self._models: list[str] | None = None
        self._many_files = False
        self._connections: OrderedDict[tuple[str | None, str], Any] = OrderedDict()
        self._kept: dict[str, OrderedDict[tuple[str, ...], Any]] = {}
        self._making: dict[tuple[str, ...], threading.RLock] = {}
        self._hashed: dict[tuple[str, int, int], str] = {}

    def rows(self, sql: str, values: Sequence[Any] = (), *, video_id: str = "") -> pa.Table:
        """The answer to our own SQL; with ``video_id`` only files that may hold that video are opened (filter rows!).

        Raises LakeError where the lake is damaged.
        """
        cursor = self._cursor(self.model, video_id)
        with read_errors(self.lake.location), cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            return cursor.sql(sql, params=list(values)).to_arrow_table()

    def _cursor(self, model: str | None, video_id: str = "") -> Any:
        with self._lock:
            self._renew()
            key = model, video_id if self._many_files else ""
            if key not in self._connections:
                self._connections[key] = connect(self.lake, [video_id] if key[1] else None, model=model)
                self._shorten(self._connections)
            self._connections.move_to_end(key)
            return self._connections[key].cursor()

    @property
    def model(self) -> str | None:
        """The model_id that the viewer of the moment has chosen, where the lake has scores of it."""
        wanted = self._wanted_model()
        return wanted if wanted in self.models() else None

    def models(self) -> list[str]:
        """The models that have scored a video of the lake."""
        with self._lock:
            self._renew()
            if self._models is None:
                with read_errors(self.lake.location), self._cursor(None) as cursor:
                    found = cursor.execute("SELECT DISTINCT model_id FROM raw.videos ORDER BY 1").fetchall()
                self._models = [model_id for (model_id,) in found]
            return self._models

    def mixture_note(self) -> str:
        """A sentence where the pages show scores of more than one model."""

        def ask() -> str:
            with read_errors(self.lake.location), self._cursor(self.model) as cursor:
                return mixture_note(cursor, remedy="the choice of a model above")

        return self.kept(("mixture",), ask)

    def dicts(self, sql: str, values: Sequence[Any] = (), *, video_id: str = "") -> list[dict[str, Any]]:
        return self.rows(sql, values, video_id=video_id).to_pylist()

    def kept(self, key: tuple[str, ...], make: Callable[[], T], at_most: int = _MAX_KEPT) -> T:
        """What ``make`` gives, from memory as long as the lake has not changed.

        Of the keys that begin with the same word, the ``at_most`` that were asked for last are kept. A page asks for
        its curves and its faces at once: whoever comes second waits for what the first one makes.
        """
        key = (*key, self.model or "")
        with self._lock:
            self._renew()
            making = self._making.setdefault(key, threading.RLock())
        with making:
            with self._lock:
                self._renew()
                version, kept = self._version, self._kept.setdefault(key[0], OrderedDict())
                if key in kept:
                    kept.move_to_end(key)
                    return kept[key]
            made = make()
            with self._lock:
                if version == self._version:
                    kept[key] = made
                    self._shorten(kept, at_most)
        return made

    def file_of(self, video_id: str) -> Path | None:
        """The file with a video's content: one that the lake names and whose bytes are still those; None: none is."""

        def ask() -> dict[str, list[dict[str, Any]]]:
            files: dict[str, list[dict[str, Any]]] = {}
            for row in self.dicts(FILES_SQL):  # of all videos at once: a page asks for the pictures of forty
                files.setdefault(row["video_id"], []).append(row)
            return files

        return find_original(self.kept(("files",), ask).get(video_id, []), video_id, self._content)

    def _content(self, path: Path, status: os.stat_result | Status) -> str | None:
        """A copied file has another time and may have the same bytes: hash it, once."""
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._hashed:
            hashed = content_of(path, status)
            if hashed is None:
                return None
            self._hashed[key] = hashed
        return self._hashed[key]

    def _renew(self) -> None:
        version = self._look()
        if version != self._version:
            self._models = None
            self._connections.clear()  # cursors in use keep their database alive
            self._kept.clear()
            self._making.clear()
            self._many_files = len(data_files(self.lake.location, "observations")) > _FEW_FILES
            self._version = version

    def _look(self) -> tuple[int, ...]:
        """What changes with every commit. On a disk a log's folder gets another time, and looking costs nothing."""
        location = self.lake.location
        if isinstance(location, Path):
            logs = (location / table.place / "_delta_log" for table in TABLES.values())
            return tuple(os.stat(log).st_mtime_ns if log.exists() else 0 for log in logs)
        if not self._version or time.monotonic() - self._looked_s > _LOOK_AGAIN_S:
            self._looked_s = time.monotonic()
            return tuple(open_table(location, name).version() for name in TABLES)
        return self._version

    @staticmethod
    def _shorten(kept: OrderedDict[Any, Any], at_most: int = _MAX_KEPT) -> None:
        while len(kept) > at_most:
            kept.popitem(last=False)
