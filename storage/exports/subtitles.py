"""Episodes as time-aligned text: ELAN's annotation files and SubRip subtitles."""

from __future__ import annotations

import re
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.sql.selection import ChosenVideo

__all__ = ["write_elan", "write_srt"]

_MIME_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".avi": "video/x-msvideo",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SCHEMA = "http://www.w3.org/2001/XMLSchema-instance"


def _rows(batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def write_elan(video: ChosenVideo, batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Write an annotation document (EAF 3.0) with a tier per person and an annotation per episode.

    Args:
        video: the video that it is linked to, by its path.
        batches: rows of ``episodes`` by time, with ``person`` and ``name``.
        path: where to write.
    """
    episodes = _rows(batches)
    document = ET.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "",
            "DATE": datetime.now(UTC).isoformat(timespec="seconds"),
            "FORMAT": "3.0",
            "VERSION": "3.0",
            f"{{{_SCHEMA}}}noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )
    header = ET.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    ET.SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        MEDIA_URL="file://" + urllib.parse.quote(video.path),
        MIME_TYPE=_MIME_TYPES.get(Path(video.path).suffix.lower(), "video/*"),
        RELATIVE_MEDIA_URL="./" + urllib.parse.quote(video.file_name),
    )
    for name, value in (("model", video.model_id or ""), ("analysis", video.analysis_id)):
        ET.SubElement(header, "PROPERTY", NAME=f"mfer.{name}").text = _NOT_XML.sub("?", value)
    order = ET.SubElement(document, "TIME_ORDER")
    times = sorted({_ms(row[edge]) for row in episodes for edge in ("start_s", "end_s")})
    slots = {time: f"ts{number}" for number, time in enumerate(times, 1)}
    for time, slot in slots.items():
        ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time))
    number = 0
    for title, of_tier in _tiers(episodes).items():
        tier = ET.SubElement(
            document, "TIER", LINGUISTIC_TYPE_REF="apparent expression", TIER_ID=title, ANNOTATOR="mfer"
        )
        for row in of_tier:
            number += 1
            annotation = ET.SubElement(
                ET.SubElement(tier, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{number}",
                TIME_SLOT_REF1=slots[_ms(row["start_s"])],
                TIME_SLOT_REF2=slots[_ms(row["end_s"])],
            )
            ET.SubElement(annotation, "ANNOTATION_VALUE").text = row["expression"]
    ET.SubElement(
        document,
        "LINGUISTIC_TYPE",
        GRAPHIC_REFERENCES="false",
        LINGUISTIC_TYPE_ID="apparent expression",
        TIME_ALIGNABLE="true",
    )
    ET.indent(document)
    ET.ElementTree(document).write(path, encoding="UTF-8", xml_declaration=True)


def _who(row: dict[str, Any]) -> str:
    return _NOT_XML.sub("?", row["name"] or f"face {row['person']}")


def _tiers(episodes: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Episodes by the title of their tier: a person each, and more where two of its tracks are seen at one time."""
    tiers: dict[str, list[dict[str, Any]]] = {}
    owner: dict[str, int] = {}
    for row in sorted(episodes, key=lambda row: (row["person"], row["start_s"], row["track_id"])):
        titles = (_who(row), *(f"{_who(row)} ({number})" for number in range(2, 2 + len(episodes))))
        title = next(
            title
            for title in titles
            if owner.get(title, row["person"]) == row["person"]
            and (title not in tiers or tiers[title][-1]["end_s"] <= row["start_s"] + 1e-6)
        )
        owner[title] = row["person"]
        tiers.setdefault(title, []).append(row)
    return tiers


def _clock(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{ms:03}"


def write_srt(video: ChosenVideo, batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Write subtitles: the leading expression of each episode, a line per face where several are in the picture.

    Cues never overlap, because few players show two at a time: where episodes of several faces do, a new cue begins at
    each of their edges.
    """
    episodes = _rows(batches)
    several = len({row["person"] for row in episodes}) > 1 or any(row["name"] for row in episodes)
    edges = sorted({_ms(row[edge]) for row in episodes for edge in ("start_s", "end_s")})
    cues: list[tuple[int, int, str]] = []
    waiting = sorted(episodes, key=lambda row: (row["start_s"], row["track_id"]))
    now: list[dict[str, Any]] = []
    for start, end in pairwise(edges):
        while waiting and _ms(waiting[0]["start_s"]) <= start:
            now.append(waiting.pop(0))
        now = [row for row in now if _ms(row["end_s"]) > start]
        lines = [
            (f"{_who(row)}: " if several else "") + f"{row['expression']} {row['mean_confidence'] * 100:.0f} %"
            for row in sorted(now, key=lambda row: row["track_id"])
        ]
        if lines:
            cues.append((start, end, "\n".join(lines)))
    text = "\n".join(
        f"{number}\n{_clock(start)} --> {_clock(end)}\n{lines}\n" for number, (start, end, lines) in enumerate(cues, 1)
    )
    path.write_text(text, encoding="utf-8")
