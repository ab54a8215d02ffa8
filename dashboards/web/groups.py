"""Groups of videos side by side: means with intervals by bootstrap over videos, not frames.

Frames of one video are not independent of each other; the video is what was sampled, so videos are drawn again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.web.data import TIME_SUMS, library
from dashboards.web.source import LakeSource
from storage.identity import composed
from storage.schema import EXPRESSIONS

__all__ = ["VideoMeans", "by_condition", "left_out", "read_conditions", "read_means"]

#: Parts into which each video is cut for the curves, whatever its length.
N_PARTS = 40


@dataclass(frozen=True)
class VideoMeans:
    """V videos in the order of video_id: the paths of each, its mean probabilities float64 [V,8], and the same over its
    parts float64 [V,N_PARTS,8], NaN where no face was seen; weighted by time over all its faces. NaN too for a class
    that the model lacks. With ``people`` a row is one person in one video, and the faces are theirs."""

    video_ids: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    mean: np.ndarray
    parts: np.ndarray
    people: tuple[str, ...] = ()


#: Sums of the faces of each video and part, and of all of them under the part N_PARTS. A video with fewer seconds than
#: parts shows each part its second, so its parts do not add up to all.
_FROM_SECONDS = f"""
    WITH lasting AS (
        SELECT video_id, greatest(any_value(duration_s), 0.001) AS lasts_s
        FROM videos WHERE analysis_id IS NOT NULL GROUP BY video_id
    ), parted AS (
        SELECT {N_PARTS} AS part, s.* FROM seconds s SEMI JOIN lasting USING (video_id)
        UNION ALL
        SELECT least(CAST(floor((s.second + 0.5) * {N_PARTS} / lasts_s) AS INTEGER), {N_PARTS - 1}), s.*
        FROM lasting l JOIN seconds s USING (video_id) WHERE lasts_s >= {N_PARTS}
        UNION ALL
        SELECT CAST(p.part AS INTEGER), s.*
        FROM lasting l CROSS JOIN range({N_PARTS}) p(part)
             JOIN seconds s ON s.video_id = l.video_id AND s.second = floor((p.part + 0.5) * lasts_s / {N_PARTS})
        WHERE lasts_s < {N_PARTS}
    )
    SELECT video_id, {{person}} AS person, part, {TIME_SUMS} FROM parted {{people}} GROUP BY ALL
"""
#: What a row of the answer is about: a video, or a person in it who was named, merged or found.
_OF_VIDEOS = {"person": "''", "people": ""}
_OF_PEOPLE = {
    "person": "w.person_id",
    "people": "JOIN (SELECT video_id, track_id, person_id FROM people) w USING (video_id, track_id)",
}
#: ``seconds`` as it would be if the model's probabilities were the reweighted ones: a row a face is read for it.
_REWEIGHTED = (
    "WITH seconds AS MATERIALIZED (SELECT video_id, track_id, CAST(floor(time_s) AS INTEGER) AS second,"
    " sum(duration_s) AS screen_time_s, "
    + ", ".join(f"sum(p_{name} * duration_s) AS sum_p_{name}_s" for name in EXPRESSIONS)
    + f" FROM reweighted() GROUP BY ALL) FROM ({_FROM_SECONDS})"
)


def read_means(source: LakeSource, *, reweighted: bool = False, by_person: bool = False) -> VideoMeans:
    """Means of every finished video that shows a face; excluded spans are left out, as in the view ``seconds``.

    ``by_person``: of every person in each video who was named, merged or found. With ``reweighted``, those of the table
    function of that name, without videos whose model does not say what it learned from.
    """

    def read() -> VideoMeans:
        query = _REWEIGHTED if reweighted else _FROM_SECONDS
        rows = source.rows(query.format(**(_OF_PEOPLE if by_person else _OF_VIDEOS)))
        ids = list(zip(rows["video_id"].to_pylist(), rows["person"].to_pylist(), strict=True))
        order = sorted(set(ids))
        row_of = {which: k for k, which in enumerate(order)}
        total = np.zeros((len(row_of), N_PARTS + 1, len(EXPRESSIONS)))
        seen = np.zeros((len(row_of), N_PARTS + 1, 1))
        at = (np.array([row_of[which] for which in ids], dtype=int), rows["part"].to_numpy())
        total[at] = np.stack([rows[name].to_numpy().astype(np.float64) for name in EXPRESSIONS], axis=1)
        seen[at] = rows["seen_s"].to_numpy()[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = total / seen
        parts, mean = means[:, :N_PARTS], means[:, N_PARTS]
        known = np.flatnonzero(~np.isnan(mean).all(axis=1))
        paths: dict[str, list[str]] = {}
        for row in library(source):
            paths.setdefault(row["video_id"], []).append(row["path"])
        kept = [order[k] for k in known]
        video_ids = tuple(video_id for video_id, _ in kept)
        people = tuple(person for _, person in kept) if by_person else ()
        return VideoMeans(
            video_ids, tuple(tuple(sorted(paths[name])) for name in video_ids), mean[known], parts[known], people
        )

    return source.kept(("means by part", str(reweighted), str(by_person)), read)


def _condition(paths: Sequence[str], condition_of: Mapping[str, str]) -> tuple[str, str] | None:
    """The first of a video's paths that has a condition, and the condition; None where none has one."""
    return next(((path, condition_of[path]) for path in paths if path in condition_of), None)


def by_condition(means: VideoMeans, condition_of: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Rows of each condition, by its name, or of each person; ``condition_of`` maps paths to conditions.

    A video with several paths counts once, under the first of them that has a condition.
    """
    rows: dict[str, list[int]] = {}
    for k, person in enumerate(means.people):
        rows.setdefault(person, []).append(k)
    for k, paths in enumerate(() if means.people else means.paths):
        if found := _condition(paths, condition_of):
            rows.setdefault(found[1], []).append(k)
    return {name: np.array(rows[name]) for name in sorted(rows)}


def left_out(
    source: LakeSource,
    condition_of: Mapping[str, str],
    shown: Collection[str],
    *,
    reweighted: bool = False,
    by_person: bool = False,
) -> dict[str, list[str]]:
    """Paths of the lake that a comparison leaves out, by the reason; ``shown`` are the groups that it shows."""
    means = read_means(source, reweighted=reweighted)
    people = read_means(source, reweighted=reweighted, by_person=True) if by_person else means
    with_shown = {video_id for video_id, who in zip(people.video_ids, people.people, strict=False) if who in shown}
    paths_of = dict(zip(means.video_ids, means.paths, strict=True))
    plain = set(read_means(source).video_ids)
    found: dict[str, list[str]] = {}
    for row in library(source):
        path, video_id = row["path"], row["video_id"]
        counted = _condition(paths_of.get(video_id, ()), condition_of)
        if row["unscored"]:
            reason = f"no scores of {source.model}"
        elif row["analysis_id"] is None:
            reason = f"not analysed ({row['code'] or row['status']})"
        elif not row["n_faces"]:
            reason = "no face was found"
        elif video_id not in plain:
            reason = "every face is excluded"
        elif video_id not in paths_of:
            reason = "the model does not say what it learned from, so its scores cannot be reweighted"
        elif by_person:
            if video_id in with_shown:
                continue
            chosen = video_id in people.video_ids
            reason = "none of its people is chosen" if chosen else "nobody in it was named, merged or found"
        elif counted is None:
            reason = "no condition"
        elif counted[1] not in shown:
            reason = "the group is not chosen"
        elif condition_of.get(path, counted[1]) != counted[1]:
            reason = f"the same video as {counted[0]}, where it is counted"
        else:
            continue
        found.setdefault(reason, []).append(path)
    return found


def read_conditions(text: str, paths: Sequence[str], separator: str | None = None) -> tuple[dict[str, str], list[str]]:
    """Which condition each path has, from a CSV with a column ``condition`` and one of ``path`` or ``file_name``.

    Args:
        text: the CSV, with a head line.
        paths: those of the lake.
        separator: what separates its columns; None: comma, semicolon or tab, whichever it looks like.

    Returns:
        Path to condition, and the names of the CSV that no path has.

    Raises:
        ValueError: the columns are missing; the message names those that are there.
    """
    text = text.lstrip("\ufeff")
    dialect: Any = csv.excel
    if separator is None:
        with suppress(csv.Error):
            dialect = csv.Sniffer().sniff(text[:2000], delimiters=",;\t")
    reader = csv.DictReader(io.StringIO(text), dialect=dialect, delimiter=separator or dialect.delimiter)
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names
    key = next((name for name in ("path", "file_name") if name in names), None)
    if key is None or "condition" not in names:
        raise ValueError(
            f"the CSV needs a column condition and one of path or file_name; it has {', '.join(names) or 'none'}"
        )
    known: dict[str, list[str]] = {}
    for path in paths:
        known.setdefault(composed(path if key == "path" else path.rpartition("/")[2]), []).append(path)
    found: dict[str, str] = {}
    unknown = []
    for row in reader:
        name, condition = (row[key] or "").strip(), (row["condition"] or "").strip()
        if composed(name) in known and condition:
            found |= dict.fromkeys(known[composed(name)], condition)
        elif name and condition:
            unknown.append(name)
    return found, unknown
