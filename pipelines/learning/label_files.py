"""Read judgements from files of people and other programs: CSV, JSON lines and Parquet with named columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mfer.classes import class_name
from mfer.errors import ConfigError
from storage.annotations.labels import Judgement, Refusal
from storage.errors import LakeError
from storage.lake import Lake
from storage.sql.selection import choose_videos
from storage.sql.views import connect

__all__ = ["COLUMNS", "read_judgements"]

#: What a file may have; the others are ignored. ``video`` is a path, a file name or a video_id.
COLUMNS = (
    "video",
    "video_id",
    "faces_id",
    "frame_index",
    "time_s",
    "face_index",
    "track_id",
    "expression",
    "rater",
    "note",
)
_SUFFIXES = (".csv", ".jsonl", ".parquet")
_OTHER_VERDICTS = ("not_a_face", "undecided")


def read_judgements(lake: Lake, path: Path, rater: str) -> tuple[list[Judgement], list[Refusal], int]:
    """Read the judgements of one file, or of every file of a folder.

    Args:
        lake: says which videos there are.
        path: .csv, .jsonl or .parquet with the columns of ``COLUMNS``: ``video`` or ``video_id``, ``frame_index`` or
            ``time_s``, and ``expression``, which is an expression, not_a_face or undecided.
        rater: who judged, where the file does not say.

    Returns:
        The judgements, the refused rows with the reason, and the number of rows that have no expression yet.

    Raises:
        ConfigError: there is no such file, or its content does not fit its suffix.
    """
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ConfigError(f"{path}: no file of labels; expected {', '.join(_SUFFIXES)}, or a folder of such files")
    found: list[Judgement] = []
    refused: list[Refusal] = []
    n_empty = 0
    videos: dict[str, str | None] = {}
    for file in files:
        for where, row in _rows(file):
            if not row.get("expression"):
                n_empty += 1
                continue
            try:
                found.append(_judgement(where, row, rater, lambda name: _video_id(lake, name, videos)))
            except ValueError as error:  # a ConfigError is one
                refused.append(Refusal(where, str(error)))
    return found, refused, n_empty


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, row) with the columns that we know; empty fields are left out."""
    try:
        if file.suffix.lower() == ".csv":
            with file.open(newline="", encoding="utf-8-sig") as lines:
                rows: Sequence[dict[str, Any]] = list(csv.DictReader(lines))
        elif file.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        elif file.suffix.lower() == ".parquet":
            rows = pq.read_table(file).to_pylist()
        else:
            raise ConfigError(f"{file}: labels come as {', '.join(_SUFFIXES)}")
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file} cannot be read as {file.suffix}: {error}") from error
    if rows and not (isinstance(rows[0], dict) and "expression" in rows[0] and {"video", "video_id"} & set(rows[0])):
        columns = ", ".join(map(str, rows[0])) if isinstance(rows[0], dict) else "no columns"
        raise ConfigError(
            f"{file} has {columns}; needed are expression and video (or video_id), and one of frame_index and time_s"
        )
    for number, row in enumerate(rows, start=2 if file.suffix.lower() == ".csv" else 1):
        yield f"{file.name}:{number}", {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}


def _judgement(where: str, row: dict[str, Any], rater: str, video_id_of: Any) -> Judgement:
    label = str(row["expression"]).strip()
    verdict = label.lower() if label.lower() in _OTHER_VERDICTS else "expression"
    name = row.get("video_id") or row.get("video")
    if name is None:
        raise ValueError("no video is named")
    video_id = video_id_of(str(name))
    if video_id is None:
        raise ValueError(f"{name} is no finished video of this lake")
    whole = {k: int(float(row[k])) for k in ("frame_index", "face_index", "track_id") if k in row}
    return Judgement(
        where=where,
        video_id=video_id,
        verdict=verdict,
        expression=class_name(label) if verdict == "expression" else None,
        rater=str(row.get("rater") or rater),
        time_s=float(row["time_s"]) if "time_s" in row else None,
        faces_id=row.get("faces_id"),
        note=row.get("note"),
        **whole,
    )


def _video_id(lake: Lake, name: str, known: dict[str, str | None]) -> str | None:
    if name not in known:
        with connect(lake) as con:
            try:
                chosen = choose_videos(con, [name])
            except LakeError as error:
                if error.code != "unknown_video":
                    raise
                chosen = []
        if len(chosen) > 1:
            raise ValueError(f"{name} stands for {len(chosen)} videos; name one by its path or video_id")
        known[name] = chosen[0].video_id if chosen else None
    return known[name]
