"""Read judgements from files of people and other programs: tables with named columns, as programs save them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mfer.classes import class_name
from mfer.errors import ConfigError
from storage.annotations.labels import Judgement, Refusal
from storage.errors import LakeError
from storage.identity import content_of_video
from storage.lake import Lake
from storage.sql.own_tables import decoded, read_own_table, text_of_csv
from storage.sql.selection import choose_videos, several_videos
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
_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".parquet")
_SEPARATORS = ",;\t|"
_HEX_ID = re.compile(r"[0-9a-f]{16}")
#: Whole numbers of a row, and what their columns in the lake hold at most.
_WHOLE = {"frame_index": 2**63 - 1, "face_index": 2**15 - 1, "track_id": 2**31 - 1}
_OTHER_VERDICTS = ("not_a_face", "undecided")


def read_judgements(lake: Lake, path: Path, rater: str) -> tuple[list[Judgement], list[Refusal], int]:
    """Read the judgements of one file, or of every file of a folder.

    Args:
        lake: says which videos there are.
        path: one of ``_SUFFIXES`` with the columns of ``COLUMNS``, in any case: ``video`` or ``video_id``,
            ``frame_index`` or ``time_s`` (seconds or h:mm:ss), and ``expression``, which is an expression, not_a_face
            or undecided. CSV may have any usual separator, encoding and decimal mark.
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
            if isinstance(row, ValueError):
                refused.append(Refusal(where, str(row)))
                continue
            if "expression" not in row:
                n_empty += 1
                continue
            try:
                found.append(_judgement(where, row, rater, lambda name: _video_id(lake, name, videos)))
            except ValueError as error:  # a ConfigError is one
                refused.append(Refusal(where, str(error)))
    return found, refused, n_empty


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
    """(file and line, row) with the columns that we know, without empty fields; of a bad row what is wrong with it."""
    suffix = file.suffix.lower()
    rows: Sequence[tuple[int, dict[str, Any] | ValueError]]
    try:
        if suffix in (".csv", ".tsv"):
            header, rows = _csv_rows(file)
        else:
            rows = _records(file, suffix)
            header = next((list(row) for _, row in rows if isinstance(row, dict)), [])
    except (OSError, ValueError, csv.Error, pa.ArrowException, LakeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file} cannot be read as {suffix}: {error}") from error
    if not ("expression" in header and {"video", "video_id"} & set(header)):
        raise ConfigError(
            f"{file} has {', '.join(header) or 'no columns'}; needed are expression and video (or video_id),"
            " and one of frame_index and time_s"
        )
    for number, row in rows:
        if isinstance(row, dict):
            row = {name: row[name] for name in COLUMNS if not _is_empty(row.get(name))}
        yield f"{file.name}:{number}", row


def _csv_rows(file: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Header, and the line that each row begins in with its cells as text, which keeps ids of digits whole."""
    text, separator = text_of_csv(file)
    first_line = 1 + decoded(file.read_bytes()).count("\n") - text.count("\n")
    top = next((line for line in text.splitlines() if line.strip()), "")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator or max(_SEPARATORS, key=top.count))
    header: list[str] = []
    rows: list[tuple[int, dict[str, Any]]] = []
    n_read = 0
    for cells in lines:
        begins, n_read = first_line + n_read, lines.line_num
        if not header:
            header = [_column(cell) for cell in cells] if any(cells) else []
        elif cells:
            rows.append((begins, dict(zip(header, cells, strict=False))))
    return header, rows


def _records(file: Path, suffix: str) -> list[tuple[int, dict[str, Any] | ValueError]]:
    """The rows of a file that is no CSV, each with its number in the file."""
    if suffix in (".jsonl", ".ndjson"):
        lines = enumerate(decoded(file.read_bytes()).split("\n"), start=1)
        rows = [(number, _of_json(line)) for number, line in lines if line.strip()]
    elif suffix == ".json":
        listed = json.loads(decoded(file.read_bytes()))
        rows = list(enumerate(listed if isinstance(listed, list) else [listed], start=1))
    elif suffix == ".parquet":
        rows = list(enumerate(pq.read_table(file).to_pylist(), start=1))
    elif suffix == ".xlsx":
        rows = list(enumerate(read_own_table(file).to_pylist(), start=2))
    else:
        raise ConfigError(f"{file}: labels come as {', '.join(_SUFFIXES)}")
    return [(number, _named(row)) for number, row in rows]


def _of_json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return ValueError(f"the line is no JSON: {error}")


def _named(row: Any) -> dict[str, Any] | ValueError:
    if isinstance(row, dict):
        return {_column(name): value for name, value in row.items()}
    return row if isinstance(row, ValueError) else ValueError("the row has no named columns")


def _column(name: object) -> str:
    return "_".join(str(name).strip().lower().split())


def _is_empty(value: object) -> bool:
    return value is None or value != value or not str(value).strip()  # pandas writes NaN for a missing number


def _judgement(where: str, row: dict[str, Any], rater: str, video_id_of: Callable[[str], str | None]) -> Judgement:
    # lone halves of surrogate pairs, which JSON may hold, fit in no table
    row = {name: str(value).encode(errors="replace").decode().strip() for name, value in row.items()}
    label = row["expression"]
    verdict = label.lower() if label.lower() in _OTHER_VERDICTS else "expression"
    if not _HEX_ID.fullmatch(row.get("faces_id", "0" * 16)):
        raise ValueError(f"faces_id is {row['faces_id']}; needed are 16 hex digits as text, or nothing")
    return Judgement(
        where=where,
        video_id=_named_video(row, video_id_of),
        verdict=verdict,
        expression=class_name(label) if verdict == "expression" else None,
        rater=row.get("rater") or rater,
        time_s=_seconds(row["time_s"]) if "time_s" in row else None,
        faces_id=row.get("faces_id"),
        note=row.get("note"),
        **{name: _whole(name, row[name]) for name in _WHOLE if name in row},
    )


def _named_video(row: dict[str, str], video_id_of: Callable[[str], str | None]) -> str:
    """The video of a row. Spreadsheets make numbers of ids, so one that is not 16 hex digits comes after the path."""
    names = [row[name] for name in ("video_id", "video") if name in row]
    if not names:
        raise ValueError("no video is named")
    for name in sorted(
        names, key=lambda name: _HEX_ID.fullmatch(content_of_video(name)) is None and name == row.get("video_id")
    ):
        if (video_id := video_id_of(name)) is not None:
            return video_id
    raise ValueError(f"{' or '.join(names)} is no finished video of this lake")


def _whole(name: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        value = _number(text)
        number = int(value) if value.is_integer() else -1  # neither inf nor nan is one
    if not 0 <= number <= _WHOLE[name]:
        raise ValueError(f"{name} is {text}; needed is a whole number from 0 to {_WHOLE[name]}")
    return number


def _seconds(text: str) -> float:
    """Seconds from a number, or from hours, minutes and seconds with colons; decimals after a point or a comma."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + _number(part)
    if not (math.isfinite(seconds) and seconds >= 0 and text.count(":") <= 2):
        raise ValueError(f"time_s is {text}; needed are seconds, or hours:minutes:seconds")
    return seconds


def _number(text: str) -> float:
    """A number with a decimal point or comma; NaN, which no range holds, for anything else."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


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
            raise ValueError(str(several_videos(name, [(video.video_id, video.path) for video in chosen])))
        known[name] = chosen[0].video_id if chosen else None
    return known[name]
