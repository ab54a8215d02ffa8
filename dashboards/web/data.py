"""What each page asks of the lake."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dashboards.outputs.shares import share_with_face
from dashboards.web.curves import Curves, Frames, read_curves, read_frames
from dashboards.web.source import LakeSource
from storage.annotations.track_splits import shown_spans, splits_of
from storage.identity import video_name
from storage.schema import EXPRESSIONS

__all__ = [
    "TIME_SUMS",
    "Agreement",
    "Strip",
    "VideoTracks",
    "face_at",
    "folder_of",
    "health",
    "library",
    "mean_brightness",
    "mean_expressions",
    "rater_agreement",
    "remedies",
    "strips",
    "tracks_of",
    "trusted_shares",
    "video_edits",
    "video_facts",
]

#: Over rows of ``seconds``: the time that faces were seen, and each class's probability summed over it, NULL where the
#: model lacks the class. A mean weighted by time is the one over the other.
TIME_SUMS = ", ".join(["sum(screen_time_s) AS seen_s", *(f"sum(sum_p_{name}_s) AS {name}" for name in EXPRESSIONS)])
#: Videos whose faces stay in memory: three hours with one face are 25 MB.
_MAX_VIDEOS = 4


def folder_of(path: str) -> str:
    return os.path.dirname(path) or "."


def library(source: LakeSource) -> list[dict[str, Any]]:
    """Every path with outcome, counts, share of frames with a face, folder, ``analysed_utc``, and ``unscored``: whether
    only models have scored it that are not shown.

    ``analysed_utc`` is the end of the run in which the model that is shown scored the content, or in which the path
    failed. A killed run leaves no such row: then it is the end of the first run that found the video finished.
    """

    def ask() -> list[dict[str, Any]]:
        rows = source.dicts("""
            WITH scored AS (
                SELECT video_id, model_id,
                       coalesce(max(finished_utc) FILTER (status <> 'skipped'), min(finished_utc)) AS scored_utc
                FROM runs WHERE status IN ('ok', 'partial') OR (status = 'skipped' AND code IS NULL) GROUP BY ALL
            ), ended AS (
                SELECT run_id, max(finished_utc) AS ended_utc FROM runs GROUP BY run_id
            )
            SELECT v.*, coalesce(scored_utc, CASE WHEN last_run_status = 'failed' THEN ended_utc END) AS analysed_utc,
                   v.analysis_id IS NULL AND v.video_id IN (FROM raw.finished SELECT video_id) AS unscored
            FROM videos v LEFT JOIN scored USING (video_id, model_id) LEFT JOIN ended USING (run_id) ORDER BY v.path
        """)
        for row in rows:
            row["folder"] = folder_of(row["path"])
            row["title"] = video_name(row["file_name"], row["video_id"])
            row["share"] = share_with_face(row["n_frames_with_face"], row["n_frames"], row["n_frames_undecodable"])
        return rows

    return source.kept(("library",), ask)


def mean_expressions(source: LakeSource) -> dict[str, dict[str, float]]:
    """The mean probabilities over all faces of each video that shows one, weighted by time, by video_id; without the
    classes that the model lacks."""

    def ask() -> dict[str, dict[str, float]]:
        rows = source.dicts(f"SELECT video_id, {TIME_SUMS} FROM seconds GROUP BY video_id")
        return {row["video_id"]: _means(row) for row in rows if row["seen_s"]}

    return source.kept(("means",), ask)


def _means(sums: Mapping[str, Any]) -> dict[str, float]:
    return {name: sums[name] / sums["seen_s"] for name in EXPRESSIONS if sums[name] is not None}


def trusted_shares(source: LakeSource) -> dict[str, float]:
    """The share of each video's faces that are of good quality (``quality_ok``), by video_id."""

    def ask() -> dict[str, float]:
        rows = source.dicts("SELECT video_id, sum(n_faces_ok) / sum(n_faces) AS share FROM seconds GROUP BY video_id")
        return {row["video_id"]: row["share"] for row in rows}

    return source.kept(("trusted",), ask)


def mean_brightness(source: LakeSource) -> dict[str, float]:
    """The mean brightness of each video's faces, by video_id."""

    def ask() -> dict[str, float]:
        query = "SELECT video_id, sum(mean_brightness * n_faces) / sum(n_faces) AS mean FROM seconds GROUP BY ALL"
        return {row["video_id"]: row["mean"] for row in source.dicts(query)}

    return source.kept(("brightness",), ask)


@dataclass(frozen=True)
class Strip:
    """A video at a glance: the leading expression of each of its parts, None where no face was seen, and its mean
    probabilities (see ``mean_expressions``). The leading one of a part has the highest mean over all faces, weighted by
    time."""

    parts: tuple[str | None, ...]
    means: Mapping[str, float]


def strips(source: LakeSource, videos: list[dict[str, Any]], n_parts: int = 60) -> dict[str, Strip]:
    """Some rows of ``library`` at a glance, by video_id; without those that have no length."""
    lasting = {row["video_id"]: row["duration_s"] for row in videos if row["video_id"] and row["duration_s"]}
    if not lasting:
        return {}
    listed = ", ".join(f"('{name}', {max(float(seconds), 1e-3)!r})" for name, seconds in lasting.items())
    rows = source.dicts(f"""
        WITH asked(video_id, lasts_s) AS (VALUES {listed})
        SELECT s.video_id, least(CAST(floor(second * {n_parts} / lasts_s) AS INTEGER), {n_parts - 1}) AS part,
               {TIME_SUMS}
        FROM seconds s JOIN asked a USING (video_id)
        WHERE s.video_id IN ({", ".join(f"'{name}'" for name in lasting)}) GROUP BY ALL
    """)
    found: dict[str, dict[int, str]] = {name: {} for name in lasting}
    sums: dict[str, dict[str, float | None]] = {name: dict.fromkeys(("seen_s", *EXPRESSIONS)) for name in lasting}
    for row in rows:
        found[row["video_id"]][row["part"]] = max(EXPRESSIONS, key=lambda name: row[name] or 0.0)
        total = sums[row["video_id"]]
        for name in (name for name in total if row[name] is not None):
            total[name] = (total[name] or 0.0) + row[name]
    strips: dict[str, Strip] = {}
    for name, parts in found.items():
        seconds = max(lasting[name], 1e-3)  # a short video has more parts than seconds: each shows its second's
        starts = [int(int(part * seconds / n_parts) * n_parts / seconds) for part in range(n_parts)]
        shown = tuple(parts.get(part, parts.get(start)) for part, start in zip(range(n_parts), starts, strict=True))
        strips[name] = Strip(shown, _means(sums[name]) if sums[name]["seen_s"] else {})
    return strips


def video_facts(source: LakeSource, video_id: str) -> dict[str, Any] | None:
    """A video as its page needs it, with its analyses, tracks (longest first), names and episodes; None: unknown."""
    rows = source.dicts("SELECT * FROM videos WHERE video_id = ? ORDER BY path", [video_id], video_id=video_id)
    rows = [row for row in rows if row["analysis_id"]]
    if not rows:
        return None
    facts = rows[0] | {"paths": [row["path"] for row in rows]}
    facts["title"] = video_name(facts["file_name"], video_id)
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
    """What people said about a video: edits that stand, oldest first, and the name and person of each track.

    Whom `mfer people find` found comes before them: for each person an entry of the kind ``found`` with the id as
    ``value``, the tracks as ``shown``, the least ``confidence`` and ``n_videos`` in which they are seen; not for a
    person of a single track, nor for tracks of which people said who they are. ``shown`` are the faces of the page and
    the spans that an edit is about; none where it is about faces that were found with other settings.
    """
    edits = source.dicts(
        "SELECT edit_id, kind, value, faces_id, track_id, start_s, end_s, author FROM edits WHERE video_id = ?"
        " AND confidence IS NULL ORDER BY created_utc, edit_id",
        [video_id],
        video_id=video_id,
    )
    people = source.dicts("SELECT track_id, person, name FROM people WHERE video_id = ?", [video_id], video_id=video_id)
    if edits:
        chosen = "SELECT faces_id FROM raw.finished WHERE video_id = ? AND chosen"
        faces_id = source.dicts(chosen, [video_id], video_id=video_id)[0]["faces_id"]
        pieces, _ = splits_of(source.lake, video_id, faces_id)
        for edit in edits:
            edit["shown"] = shown_spans(edit, pieces) if edit.pop("faces_id") in (None, faces_id) else []
    return {"edits": _found_people(source, video_id) + edits, "people": people}


def _found_people(source: LakeSource, video_id: str) -> list[dict[str, Any]]:
    rows = source.dicts(
        """
        WITH found AS (
            SELECT e.video_id, e.value, p.track_id, p.confidence FROM people p JOIN edits e
            ON p.video_id = e.video_id AND p.faces_id = e.faces_id AND p.track_id = e.track_id
            WHERE e.kind = 'person' AND e.confidence IS NOT NULL AND p.confidence IS NOT NULL
        )
        SELECT value, list(track_id ORDER BY track_id) FILTER (video_id = $1) AS tracks,
               min(confidence) FILTER (video_id = $1) AS confidence, count(DISTINCT video_id) AS n_videos
        FROM found GROUP BY value HAVING count(*) > 1 AND bool_or(video_id = $1) ORDER BY tracks
        """,
        [video_id],
        video_id=video_id,
    )
    return [
        {
            "edit_id": None,
            "kind": "found",
            "value": row["value"],
            "confidence": row["confidence"],
            "n_videos": row["n_videos"],
            "shown": [{"track_id": track_id, "start_s": None, "end_s": None} for track_id in row["tracks"]],
        }
        for row in rows
    ]


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree on the ``n`` faces that both judged: the share of equal verdicts, and Cohen's kappa
    (None where chance alone would make every verdict equal)."""

    raters: tuple[str, str]
    n: int
    share: float
    kappa: float | None


def rater_agreement(source: LakeSource) -> list[Agreement]:
    """Every two raters who have judged the same faces, most faces first; who is undecided has not judged."""
    rows = source.dicts("""
        WITH judged AS (
            SELECT video_id, faces_id, frame_index, face_index, rater,
                   CASE WHEN verdict = 'expression' THEN expression ELSE verdict END AS verdict FROM labels
            WHERE labels.verdict <> 'undecided'
        )
        SELECT a.rater, b.rater AS other, a.verdict, b.verdict AS other_verdict, count(*) AS n
        FROM judged a JOIN judged b USING (video_id, faces_id, frame_index, face_index)
        WHERE a.rater < b.rater GROUP BY ALL
    """)
    pairs: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for row in rows:
        counts = pairs.setdefault((row["rater"], row["other"]), Counter())
        counts[row["verdict"], row["other_verdict"]] = row["n"]
    found = []
    for raters, counts in pairs.items():
        n = counts.total()
        share = sum(k for (one, other), k in counts.items() if one == other) / n
        ones, others = Counter[str](), Counter[str]()
        for (one, other), k in counts.items():
            ones[one] += k
            others[other] += k
        chance = sum(ones[verdict] * others[verdict] for verdict in ones) / n**2
        found.append(Agreement(raters, n, share, (share - chance) / (1 - chance) if chance < 1 else None))
    return sorted(found, key=lambda pair: (-pair.n, pair.raters))


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
            f"SELECT coalesce(p.split_track_id, s.track_id) AS track_id, time_s, duration_s, quality_ok, mouth_motion,"
            f" frame_index, face_index, {classes}, box_x1_px, box_y1_px, box_x2_px, box_y2_px"
            " FROM scores_all s LEFT JOIN raw.track_splits p"
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


def face_at(
    source: LakeSource, video_id: str, faces_id: str, frame_index: int, face_index: int
) -> dict[str, Any] | None:
    """The ids, time and track of a face that an analysis of the lake found, as the table ``labels`` has them."""
    rows = source.dicts(
        """
        SELECT s.video_id, f.faces_id, s.frame_index, s.time_s, s.face_index,
               coalesce(p.split_track_id, s.track_id) AS track_id
        FROM scores_all s JOIN raw.finished f ON s.video_id = f.video_id AND s.analysis_id = f.analysis_id
             LEFT JOIN raw.track_splits p ON s.video_id = p.video_id AND s.analysis_id = p.analysis_id
             AND s.track_id = p.track_id AND s.time_s >= p.from_s AND s.time_s < p.until_s
        WHERE s.video_id = ? AND f.faces_id = ? AND s.frame_index = ? AND s.face_index = ? LIMIT 1
        """,
        [video_id, faces_id, frame_index, face_index],
        video_id=video_id,
    )
    return rows[0] if rows else None


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
    document = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
    if not document.is_file():
        return {}
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| [^|]* \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
    found = row.findall(document.read_text(encoding="utf-8"))
    return {(code, status): (cause.strip(), remedy.strip()) for code, status, cause, remedy in found}
