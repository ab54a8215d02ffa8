"""The file or object that holds a video's content: the lake names paths, and only the same bytes will do."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from storage.delta.object_store import ObjectPath, Status, StoragePath, is_uri, place_of
from storage.delta.relations import Connection, rows_of
from storage.identity import content_of_video, video_id_of
from storage.sequences import is_file, status_of

__all__ = ["FILES_SQL", "content_of", "find_original", "find_place", "place_of_video"]

#: Every path that the lake knows of every content, in a connection of ``storage.sql.views.connect``.
FILES_SQL = """
    SELECT DISTINCT video_id, path, size_bytes, mtime_ns FROM (
        SELECT video_id, path, size_bytes, mtime_ns FROM raw.videos
        UNION ALL SELECT video_id, path, size_bytes, mtime_ns FROM raw.runs
    ) WHERE video_id IS NOT NULL ORDER BY path
"""


def content_of(path: Path, status: os.stat_result | Status) -> str | None:
    """The video_id of a file as it is now; None where it cannot be read."""
    try:
        return video_id_of(path)
    except OSError:
        return None


def find_original(
    named: Iterable[Mapping[str, Any]],
    video_id: str,
    content: Callable[[Path, os.stat_result | Status], str | None] = content_of,
) -> Path | None:
    """The first file whose bytes are those of the video; None where none is.

    Args:
        named: rows of ``FILES_SQL`` for this video.
        video_id: its content; of any stream.
        content: asked for the video_id of a file whose time has changed: a copy has another time and the same bytes.
    """
    wanted = content_of_video(video_id)
    for row in named:
        path = Path(row["path"])
        try:
            status = status_of(path)
        except OSError:
            continue
        if not is_file(path) or status.st_size != row["size_bytes"]:
            continue
        if status.st_mtime_ns == row["mtime_ns"] or content(path, status) == wanted:
            return path
    return None


def find_place(named: Collection[Mapping[str, Any]], video_id: str) -> StoragePath | None:
    """``find_original``, or else the first object in a store, or sequence of pictures there, that still has the size
    and time of a row; None where nothing is left."""
    return find_original(named, video_id) or _find_object(named)


def place_of_video(con: Connection, video_id: str, path: str) -> StoragePath:
    """Where a video is by now, of all paths that the lake knows of it; ``path`` where it is at none of them.

    ``con`` is from ``storage.sql.views.connect``.
    """
    named = rows_of(con, f"FROM ({FILES_SQL}) WHERE video_id = ?", [video_id]).to_pylist()
    return find_place(named, video_id) or place_of(path)


def _find_object(named: Iterable[Mapping[str, Any]]) -> ObjectPath | None:
    for row in named:
        if not is_uri(row["path"]):
            continue
        place = ObjectPath(row["path"])
        try:
            status = status_of(place)
        except OSError:
            continue
        if (status.st_size, status.st_mtime_ns) == (row["size_bytes"], row["mtime_ns"]):
            return place
    return None
