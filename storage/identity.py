"""Names that follow from content and settings, so that the same work has the same name everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage.delta.object_store import StoragePath
from storage.sequences import sequence_of

__all__ = [
    "analysis_id",
    "as_stored",
    "canonical_json",
    "composed",
    "content_of_video",
    "faces_id",
    "path_shown",
    "path_text",
    "printable",
    "stream_of_video",
    "video_id_of",
    "video_name",
    "with_stream",
]

_ID_DIGITS = 16
_STREAM = "-v"
_CHUNK_BYTES = 1 << 20


def video_id_of(path: str | Path, on_progress: Callable[[], None] = lambda: None) -> str:
    """The first 16 hex digits of the sha256 of a file's bytes. Raises OSError where the file cannot be read.

    Of a sequence of pictures: of its rate, and of the place and the sha256 of each file. ``on_progress`` is called now
    and then: the file may be a hundred gigabytes on a slow disk.
    """
    sequence = sequence_of(Path(path))
    if sequence is None:
        return _sha256(path, on_progress).hexdigest()[:_ID_DIGITS]
    digest = hashlib.sha256(f"{sequence.fps!r} pictures a second".encode())
    for frame, file in sequence.frames()[0]:
        digest.update(f" {frame} {_sha256(file, on_progress).hexdigest()}".encode())
    return digest.hexdigest()[:_ID_DIGITS]


def _sha256(path: str | Path, on_progress: Callable[[], None]) -> Any:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_progress()
    return digest


def with_stream(content: str, stream: int | None) -> str:
    """The video_id of one video stream of a file, such as ``0123456789abcdef-v1``.

    Args:
        content: the file's video_id, as ``video_id_of`` gives it.
        stream: number of the stream, from 0; None for the one that players show, whose id is the file's own.
    """
    return content if stream is None else f"{content}{_STREAM}{stream}"


def content_of_video(video_id: str) -> str:
    """The content that a video_id names, without its stream."""
    return video_id.partition(_STREAM)[0]


def stream_of_video(video_id: str) -> int | None:
    """The number of the stream that a video_id names; None for the one that players show."""
    number = video_id.partition(_STREAM)[2]
    return int(number) if number else None


def video_name(file_name: str, video_id: str | None) -> str:
    """What people call a video: the file's name, with the stream where it is not the one that players show."""
    stream = None if video_id is None else stream_of_video(video_id)
    return file_name if stream is None else f"{file_name}, stream {stream}"


def canonical_json(settings: Mapping[str, Any]) -> str:
    """JSON with sorted keys and without spaces: equal settings give equal text. Raises TypeError or ValueError
    for what JSON cannot hold (NaN, infinity, objects): a hash of a repr would change from version to version."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:_ID_DIGITS]


def faces_id(settings: Mapping[str, Any]) -> str:
    """16 hex digits of all settings but the decoder, together with their algorithm versions; never device, decoder or
    library versions."""
    return _hash({"faces": settings})


def analysis_id(faces_id: str, model_id: str, crop: Mapping[str, Any]) -> str:
    """16 hex digits of what decides the scores: the faces, the model and the crop contract."""
    return _hash({"faces_id": faces_id, "model_id": model_id, "crop": crop})


def path_text(path: str | StoragePath) -> str:
    """A path as text that a table can hold: bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def printable(text: str, keep: str = "") -> str:
    """Text for a terminal or a log line: what would move the cursor, end the line or turn the writing is escaped.

    ``keep`` are characters that are let through all the same, such as a line's end in a message of several lines.
    """
    return "".join(
        char
        if char in keep or char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def path_shown(path: str | StoragePath) -> str:
    """A path for a terminal or a log line: file names may hold anything but a slash."""
    return printable(path_text(path))


def composed(text: str) -> str:
    """One form for names that look the same: Macs store accents apart from their letters, people type them as one."""
    return unicodedata.normalize("NFC", text)


def as_stored(path: str | Path) -> Path:
    """The file or folder that a path means: itself where it exists, else one whose name looks the same."""
    path = Path(path)
    if os.path.lexists(path) or path.parent == path:
        return path
    parent = as_stored(path.parent)
    try:
        names = os.listdir(parent)
    except OSError:
        return path
    same = sorted(name for name in names if composed(name) == composed(path.name))
    return parent / same[0] if same else path
