"""Groups of videos side by side: means with intervals by bootstrap over videos, not frames.

Frames of one video are not independent of each other; the video is what was sampled, so videos are drawn again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.web.source import LakeSource
from storage.schema import EXPRESSIONS

__all__ = ["VideoMeans", "by_condition", "read_conditions", "read_means", "videos_without_face"]

#: Parts into which each video is cut for the curves, whatever its length.
N_PARTS = 40


@dataclass(frozen=True)
class VideoMeans:
    """V videos: their paths, mean probabilities float64 [V,8], and the same over their parts float64 [V,N_PARTS,8],
    NaN where no face was seen; weighted by time over all their faces."""

    video_ids: tuple[str, ...]
    paths: tuple[str, ...]
    mean: np.ndarray
    parts: np.ndarray


#: The rows of ``seconds`` made from reweighted probabilities; their sums are not kept, so every face is read.
_REWEIGHTED_SECONDS = f"""
    SELECT path, video_id, CAST(floor(time_s) AS INTEGER) AS second, sum(duration_s) AS screen_time_s,
           {", ".join(f"sum(p_{name} * duration_s) AS sum_p_{name}_s" for name in EXPRESSIONS)}
    FROM reweighted() GROUP BY ALL
"""


def read_means(source: LakeSource, *, reweighted: bool = False) -> VideoMeans:
    """The means of every finished video that shows a face; excluded spans are left out, as in the view ``seconds``.

    ``reweighted`` takes the probabilities of the SQL function of that name, with its default power.
    """

    def read() -> VideoMeans:
        sums = ", ".join(f"sum(sum_p_{name}_s) AS {name}" for name in EXPRESSIONS)
        # a video with fewer seconds than parts shows each part its second
        rows = source.rows(f"""
            WITH seconds_used AS (
                {_REWEIGHTED_SECONDS if reweighted else "SELECT * FROM seconds"}
            ), lasting AS (
                SELECT video_id, min(path) AS path, greatest(any_value(duration_s), 0.001) AS lasts_s
                FROM videos WHERE analysis_id IS NOT NULL GROUP BY video_id
            ), parted AS (
                SELECT l.path, l.video_id, CAST(floor((s.second + 0.5) * {N_PARTS} / lasts_s) AS INTEGER) AS part,
                       s.* EXCLUDE (path, video_id)
                FROM lasting l JOIN seconds_used s USING (video_id) WHERE lasts_s >= {N_PARTS}
                UNION ALL
                SELECT l.path, l.video_id, CAST(p.part AS INTEGER), s.* EXCLUDE (path, video_id)
                FROM lasting l CROSS JOIN range({N_PARTS}) p(part)
                     JOIN seconds_used s ON s.video_id = l.video_id
                          AND s.second = floor((p.part + 0.5) * lasts_s / {N_PARTS})
                WHERE lasts_s < {N_PARTS}
            )
            SELECT path, video_id, least(part, {N_PARTS - 1}) AS part, sum(screen_time_s) AS seen_s, {sums}
            FROM parted GROUP BY ALL ORDER BY path, part
        """)
        ids = rows["video_id"].to_pylist()
        paths = dict(zip(ids, rows["path"].to_pylist(), strict=True))
        row_of = {video_id: k for k, video_id in enumerate(paths)}
        total = np.zeros((len(paths), N_PARTS, len(EXPRESSIONS)))
        seen = np.zeros((len(paths), N_PARTS, 1))
        at = (np.array([row_of[name] for name in ids], dtype=int), rows["part"].to_numpy())
        total[at] = np.stack([rows[name].to_numpy().astype(np.float64) for name in EXPRESSIONS], axis=1)
        seen[at] = rows["seen_s"].to_numpy()[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return VideoMeans(tuple(paths), tuple(paths.values()), total.sum(1) / seen.sum(1), total / seen)

    return source.kept(("means of videos", str(reweighted)), read)


def by_condition(videos: VideoMeans, condition_of: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Rows of each condition, by its name, in the order of video_id; ``condition_of`` maps paths to conditions."""
    rows: dict[str, list[int]] = {}
    for k in sorted(range(len(videos.paths)), key=videos.video_ids.__getitem__):
        path = videos.paths[k]
        if path in condition_of:
            rows.setdefault(condition_of[path], []).append(k)
    return {name: np.array(rows[name]) for name in sorted(rows)}


def videos_without_face(source: LakeSource) -> dict[str, str]:
    """Paths of the videos that no mean can be made of, and why: nothing was seen in them, or they were not analysed."""
    return {
        row["path"]: "no face" if row["analysis_id"] else row["code"] or "not analysed"
        for row in source.dicts("""
            SELECT min(path) AS path, any_value(analysis_id) AS analysis_id, any_value(code) AS code FROM videos
            WHERE video_id IS NULL OR video_id NOT IN (SELECT video_id FROM seconds)
            GROUP BY coalesce(video_id, path) ORDER BY 1
        """)
    }


def read_conditions(text: str, paths: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Which condition each path has, from a CSV with a column ``condition`` and one of ``path`` or ``file_name``.

    Args:
        text: the CSV, with a head line; comma, semicolon or tab.
        paths: those of the lake.

    Returns:
        Path to condition, and the names of the CSV that no path has.

    Raises:
        ValueError: the columns are missing; the message names those that are there.
    """
    try:
        dialect: Any = csv.Sniffer().sniff(text[:2000], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")), dialect=dialect)
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names
    key = next((name for name in ("path", "file_name") if name in names), None)
    if key is None or "condition" not in names:
        raise ValueError(
            f"the CSV needs a column condition and one of path or file_name; it has {', '.join(names) or 'none'}"
        )
    known: dict[str, list[str]] = {}
    for path in paths:
        known.setdefault(path if key == "path" else path.rpartition("/")[2], []).append(path)
    found: dict[str, str] = {}
    unknown = []
    for row in reader:
        name, condition = (row[key] or "").strip(), (row["condition"] or "").strip()
        if name in known and condition:
            found |= dict.fromkeys(known[name], condition)
        elif name:
            unknown.append(name)
    return found, unknown
