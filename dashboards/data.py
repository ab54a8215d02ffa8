"""What each page asks of the lake."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dashboards.curves import Curves, Frames, read_curves, read_frames
from dashboards.source import LakeSource
from storage.schema import EXPRESSIONS

__all__ = [
    "VideoTracks",
    "folder_of",
    "health",
    "library",
    "remedies",
    "strips",
    "tracks_of",
    "trusted_shares",
    "uncertain_faces",
    "video_edits",
    "video_facts",
]

_SUMS = ", ".join(f"sum(sum_p_{name}_s) AS {name}" for name in EXPRESSIONS)
#: Videos whose faces stay in memory: three hours with one face are 25 MB.
_MAX_VIDEOS = 4


def folder_of(path: str) -> str:
    return os.path.dirname(path) or "."


def library(source: LakeSource) -> list[dict[str, Any]]:
    """Every path with outcome, counts, when it was analysed, and its mean probabilities and leading expression."""

    def ask() -> list[dict[str, Any]]:
        rows = source.dicts(f"""
            WITH shown AS (
                SELECT video_id, sum(screen_time_s) AS seen_s, {_SUMS} FROM seconds GROUP BY video_id
            ), ended AS (SELECT run_id, max(finished_utc) AS analysed_utc FROM runs GROUP BY run_id)
            SELECT v.*, s.seen_s, {", ".join(EXPRESSIONS)}, e.analysed_utc
            FROM videos v LEFT JOIN shown s USING (video_id) LEFT JOIN ended e USING (run_id) ORDER BY v.path
        """)
        for row in rows:
            row["folder"] = folder_of(row["path"])
            sums = {name: row.pop(name) or 0.0 for name in EXPRESSIONS}
            row["means"] = {name: value / row["seen_s"] for name, value in sums.items()} if row["seen_s"] else {}
            row["leading"] = max(row["means"], key=row["means"].get) if row["means"] else None
            row["share"] = row["n_frames_with_face"] / row["n_frames"] if row["n_frames"] else None
        return rows

    return source.kept(("library",), ask)


def trusted_shares(source: LakeSource) -> dict[str, float]:
    """The share of each video's faces that are of good quality (``quality_ok``), by video_id; reads every face once."""

    def ask() -> dict[str, float]:
        rows = source.dicts("SELECT video_id, avg(CAST(quality_ok AS INTEGER)) AS share FROM scores GROUP BY video_id")
        return {row["video_id"]: row["share"] for row in rows if row["share"] is not None}

    return source.kept(("trusted",), ask)


def strips(source: LakeSource, videos: list[dict[str, Any]], n_parts: int = 60) -> dict[str, list[str | None]]:
    """The leading expression of each part of some videos, None where no face was seen, by video_id.

    The leading expression of a part is the one with the highest mean over all faces, weighted by time.
    """
    lasting = {row["video_id"]: row["duration_s"] for row in videos if row["video_id"] and row["duration_s"]}
    if not lasting:
        return {}
    listed = ", ".join(f"('{name}', {max(float(seconds), 1e-3)!r})" for name, seconds in lasting.items())
    rows = source.dicts(f"""
        WITH asked(video_id, lasts_s) AS (VALUES {listed})
        SELECT s.video_id, least(CAST(floor(second * {n_parts} / lasts_s) AS INTEGER), {n_parts - 1}) AS part, {_SUMS}
        FROM seconds s JOIN asked a USING (video_id)
        WHERE s.video_id IN ({", ".join(f"'{name}'" for name in lasting)}) GROUP BY ALL
    """)
    found: dict[str, dict[int, str]] = {name: {} for name in lasting}
    for row in rows:
        found[row["video_id"]][row["part"]] = max(EXPRESSIONS, key=lambda name: row[name] or 0.0)
    strips: dict[str, list[str | None]] = {}
    for name, parts in found.items():
        seconds = max(lasting[name], 1e-3)  # a short video has more parts than seconds: each shows its second's
        starts = [int(int(part * seconds / n_parts) * n_parts / seconds) for part in range(n_parts)]
        strips[name] = [parts.get(part, parts.get(start)) for part, start in zip(range(n_parts), starts, strict=True)]
    return strips


def video_facts(source: LakeSource, video_id: str) -> dict[str, Any] | None:
    """A video as its page needs it, with its analyses, tracks (longest first), names and episodes; None: unknown."""
    rows = source.dicts("SELECT * FROM videos WHERE video_id = ? ORDER BY path", [video_id], video_id=video_id)
    rows = [row for row in rows if row["analysis_id"]]
    if not rows:
        return None
    facts = rows[0] | {"paths": [row["path"] for row in rows]}
    one: dict[str, Any] = {"values": [video_id], "video_id": video_id}
    facts["analyses"] = source.dicts(
        "SELECT analysis_id, model_id, n_frames, faces_id, chosen FROM raw.finished WHERE video_id = ?"
        " ORDER BY chosen DESC, model_id, analysis_id",
        **one,
    )
    facts["tracks"] = source.dicts(
        "SELECT track_id, start_s, end_s, n_faces FROM tracks WHERE video_id = ?"
        " ORDER BY end_s - start_s DESC, track_id",
        **one,
    )
    facts["episodes"] = source.dicts(
        "SELECT track_id, start_s, end_s, expression, mean_confidence FROM episodes WHERE video_id = ?"
        " ORDER BY start_s",
        **one,
    )
    return facts


def video_edits(source: LakeSource, video_id: str) -> dict[str, Any]:
    """What people said about a video: edits that stand, oldest first, and the name and person of each track."""
    edits = source.dicts(
        "SELECT edit_id, kind, value, track_id, start_s, end_s, author FROM edits WHERE video_id = ?"
        " ORDER BY created_utc",
        [video_id],
        video_id=video_id,
    )
    people = source.dicts("SELECT track_id, person, name FROM people WHERE video_id = ?", [video_id], video_id=video_id)
    return {"edits": edits, "people": people}


@dataclass(frozen=True)
class VideoTracks:
    """Every face and frame of one analysis of one video, in memory; ``frames`` are those of the chosen analysis."""

    curves: dict[int, Curves]
    frames: Frames

    def __len__(self) -> int:
        return sum(len(track) for track in self.curves.values())


def tracks_of(source: LakeSource, video_id: str, analysis_id: str) -> VideoTracks:
    """Read a video once; the last ones that were looked at stay in memory."""

    def read() -> VideoTracks:
        classes = ", ".join(f"p_{name}" for name in EXPRESSIONS)
        faces = source.rows(
            f"SELECT coalesce(p.part, s.track_id) AS track_id, time_s, duration_s, quality_ok, frame_index, face_index,"
            f" {classes}, box_x1_px, box_y1_px, box_x2_px, box_y2_px FROM scores_all s LEFT JOIN raw.parts p"
            " ON s.video_id = p.video_id AND s.analysis_id = p.analysis_id AND s.track_id = p.track_id"
            " AND time_s >= p.from_s AND time_s < p.until_s WHERE s.video_id = ? AND s.analysis_id = ?"
            " ORDER BY 1, time_s",
            [video_id, analysis_id],
            video_id=video_id,
        )
        frames = source.rows(
            "SELECT time_s, duration_s, frame_index, frame_status FROM frames WHERE video_id = ? ORDER BY time_s",
            [video_id],
            video_id=video_id,
        )
        return VideoTracks(read_curves(faces), read_frames(frames))

    return source.kept(("tracks", video_id, analysis_id), read, _MAX_VIDEOS)


_PROBS = [f"p_{name}" for name in EXPRESSIONS]
#: How unsure a model is of a face, highest first.
_UNSURE = {
    "entropy": "entropy",
    "margin": f"1 - (confidence - list_reverse_sort([coalesce(p, 0) FOR p IN [{', '.join(_PROBS)}]])[2])",
    "random": "hash(video_id || '/' || frame_index || '/' || face_index) / 18446744073709551615.0",
}
#: Candidates for one queue: the most unsure ones, of which neighbours in time are then left out.
_MAX_CANDIDATES = 4000


def uncertain_faces(source: LakeSource, rater: str, order: str = "entropy", n: int = 100) -> list[dict[str, Any]]:
    """Faces of good quality that a rater has not judged, the least certain first, at most one per track and second.

    Args:
        source: the lake.
        rater: whose judgements count as done.
        order: ``entropy`` of the probabilities, ``margin`` between the two highest, or ``random`` (the same each time).
        n: faces, at most.
    """
    faces = f"""
        SELECT video_id, frame_index, face_index, time_s, pts_s, track_id, model_id, analysis_id, file_name,
               expression, confidence, {", ".join(_PROBS)}, box_x1_px, box_y1_px, box_x2_px, box_y2_px, unsure
        FROM (SELECT *, {_UNSURE[order]} AS unsure FROM scores WHERE quality_ok)
        ORDER BY unsure DESC, video_id, frame_index, face_index LIMIT {_MAX_CANDIDATES}
    """
    return source.dicts(
        f"""
        WITH faces AS ({faces}), fresh AS (
            SELECT * FROM faces QUALIFY row_number() OVER (
                PARTITION BY video_id, track_id, floor(time_s) ORDER BY unsure DESC, frame_index
            ) = 1
        )
        SELECT q.*, f.faces_id FROM fresh q JOIN raw.finished f USING (video_id, analysis_id)
        ANTI JOIN (FROM labels WHERE rater = ?) l ON q.video_id = l.video_id AND f.faces_id = l.faces_id
             AND q.frame_index = l.frame_index AND q.face_index = l.face_index
        ORDER BY unsure DESC, q.video_id, frame_index, face_index LIMIT {n}
        """,
        [rater],
    )


def health(source: LakeSource) -> dict[str, list[dict[str, Any]]]:
    """Runs with their throughput, failures by code, analyses, the lake's models and drift."""
    return {
        "runs": source.dicts("""
            SELECT run_id, min(started_utc) AS started_utc, count(*) AS n_paths,
                   count(*) FILTER (status = 'ok') AS ok, count(*) FILTER (status = 'partial') AS partial,
                   count(*) FILTER (status = 'failed') AS failed, count(*) FILTER (status = 'skipped') AS skipped,
                   CAST(sum(n_frames) AS BIGINT) AS n_frames, CAST(sum(n_faces) AS BIGINT) AS n_faces,
                   date_diff('millisecond', min(started_utc), max(finished_utc)) / 1000.0 AS wall_s,
                   CAST(sum(n_frames) FILTER (status <> 'skipped') AS BIGINT) AS n_new_frames,
                   any_value(device) AS device, any_value(model_id) AS model_id
            FROM runs GROUP BY run_id ORDER BY started_utc DESC LIMIT 100
        """),
        "failures": source.dicts("""
            SELECT code, status, count(*) AS n_paths, min(path) AS example, min(message) AS message
            FROM videos WHERE status IN ('failed', 'partial') GROUP BY ALL ORDER BY n_paths DESC, code
        """),
        "analyses": source.dicts("SELECT * EXCLUDE (settings) FROM analyses ORDER BY n_videos DESC, analysis_id"),
        "models": source.dicts("SELECT * FROM models ORDER BY published_utc"),
        "events": source.dicts("SELECT * EXCLUDE (card) FROM raw.models ORDER BY sequence DESC"),
        "drift": source.dicts("SELECT * FROM raw.drift ORDER BY created_utc DESC LIMIT 100"),
    }


@cache
def remedies() -> dict[tuple[str, str], tuple[str, str]]:
    """(code, status) to cause and remedy, from docs/errors.md; empty where the documents are not installed."""
    document = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
    if not document.is_file():
        return {}
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| [^|]* \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
    found = row.findall(document.read_text(encoding="utf-8"))
    return {(code, status): (cause.strip(), remedy.strip()) for code, status, cause, remedy in found}
