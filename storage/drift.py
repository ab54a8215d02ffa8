"""Have recent videos become other than earlier ones? A two-sample test over videos, with a size that matters.

The unit is the video, not the frame: the frames of one video are one witness, and of the hundred thousand frames of a
week every difference is significant and none means anything. Each video gives one value of each measure; the test is
Kolmogorov and Smirnov's, because a change of spread (half of the cameras are out of focus) counts as much as one of
the middle. Its statistic D, the largest difference between the two cumulative shares of videos, has to reach a size
that matters *and* what chance alone gives once in twenty checks, all measures and sources of a check taken together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from storage.delta.relations import read_errors, relation_sql, rows_of, shared_connection
from storage.lake import Lake
from storage.schema import EXPRESSIONS, TABLES
from storage.sql.views import connect

__all__ = [
    "ALL_SOURCES",
    "MEASURES",
    "DriftFinding",
    "DriftReport",
    "DriftRules",
    "check_drift",
    "compare_videos",
    "write_drift",
]

#: One value per video. Shares of expressions are of the time that faces are seen, the others of frames or faces.
MEASURES = (
    "share_without_face",
    "face_px",
    "sharpness",
    "confidence",
    "entropy",
    *(f"share_{name}" for name in EXPRESSIONS),
)
ALL_SOURCES = "all sources"


@dataclass(frozen=True)
class DriftRules:
    """``min_effect``: D from which a change matters; ``alpha``: how often a check without any change may find one;
    ``min_videos``: on either side, to be judged."""

    min_effect: float = 0.3
    alpha: float = 0.05
    min_videos: int = 8

    def __post_init__(self) -> None:
        if not (0 < self.min_effect <= 1 and 0 < self.alpha < 1 and self.min_videos >= 2):
            raise ValueError(
                f"drift rules: min_effect {self.min_effect} (allowed: above 0, to 1), alpha {self.alpha} (0 to 1),"
                f" min_videos {self.min_videos} (2 or more)"
            )


@dataclass(frozen=True)
class DriftFinding:
    """One measure of one source: the statistic D, the value from which it is drift, and the medians of both sides."""

    source: str
    measure: str
    value: float
    threshold: float
    n_recent: int
    n_reference: int
    median_recent: float
    median_reference: float

    @property
    def drifted(self) -> bool:
        return self.value >= self.threshold

    def __str__(self) -> str:
        return (
            f"{self.measure} of {self.source}: {self.median_reference:.3g} -> {self.median_recent:.3g}"
            f" (medians of {self.n_reference} and {self.n_recent} videos), D {self.value:.2f},"
            f" drift from {self.threshold:.2f}"
        )


@dataclass(frozen=True)
class DriftReport:
    """What was compared and found. ``unjudged`` are sources with too few videos, and how many they have."""

    analysis_id: str | None
    model_id: str | None
    window_start_utc: datetime
    window_end_utc: datetime
    reference_start_utc: datetime
    findings: tuple[DriftFinding, ...]
    unjudged: tuple[str, ...]

    @property
    def drifted(self) -> tuple[DriftFinding, ...]:
        return tuple(sorted((f for f in self.findings if f.drifted), key=lambda f: -f.value))

    @property
    def summary(self) -> str:
        if not self.findings:
            return "nothing to compare: " + ("; ".join(self.unjudged) or "no video came in the recent window")
        found = "; ".join(map(str, self.drifted)) or "no drift"
        n_sources = len({finding.source for finding in self.findings})
        return f"{len(self.findings)} measures of {n_sources} sources compared: {found}"


def check_drift(
    lake: Lake,
    *,
    recent_days: float = 7,
    reference_days: float = 56,
    until_utc: datetime | None = None,
    rules: DriftRules | None = None,
) -> DriftReport:
    """Compare the videos that came in a recent window with those before it, and write what was measured into ``drift``.

    A video came when a run first finished it, or found it finished; its source is its folder. Only videos of one
    analysis are compared (the same faces settings and model, that with most recent videos): another model is another
    yardstick.

    Args:
        lake: the lake.
        recent_days: length of the recent window.
        reference_days: length of the reference window, which ends where the recent one begins.
        until_utc: end of the recent window, not included; default: now.
        rules: when a change is drift.

    Raises:
        ValueError: a window without length. LakeError: the lake cannot be read or written.
    """
    if not (recent_days > 0 and reference_days > 0):
        raise ValueError(f"windows of {recent_days} and {reference_days} days; both must be longer than 0")
    rules = rules or DriftRules()
    end = until_utc or datetime.now(UTC)
    start = end - timedelta(days=recent_days)
    reference = start - timedelta(days=reference_days)
    videos = _videos_between(lake, reference, end)
    analysis = _most_recent_analysis(videos, start)
    ours = [video for video in videos if video["analysis_id"] == analysis]
    recent = [video for video in ours if video["came_utc"] >= start]
    before = [video for video in ours if video["came_utc"] < start]
    findings, unjudged = compare_videos(recent, before, _measure(lake, analysis, ours), rules) if analysis else ((), ())
    model_id = ours[0]["model_id"] if ours else None
    report = DriftReport(analysis, model_id, start, end, reference, findings, unjudged)
    write_drift(lake, report, recent)
    return report


def _videos_between(lake: Lake, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Every finished analysis of the videos that came between two moments."""
    with read_errors(lake.location), connect(lake) as con:
        rows: list[dict[str, Any]] = rows_of(
            con,
            """
            WITH first_seen AS (  -- a video that a killed run finished without a record was skipped by a later run
                SELECT video_id, min(finished_utc) AS first_utc FROM raw.runs
                WHERE status IN ('ok', 'partial') OR (status = 'skipped' AND code IS NULL) GROUP BY video_id
            ), came AS (
                SELECT v.*, coalesce(t.first_utc, make_timestamptz(v.mtime_ns // 1000)) AS came_utc
                FROM raw.videos v LEFT JOIN first_seen t USING (video_id)
            )
            SELECT video_id, analysis_id, model_id, n_faces, n_frames, n_frames_with_face, n_frames_undecodable,
                   came_utc, parse_dirpath(path, 'forward_slash') AS source
            FROM came WHERE came_utc >= ? AND came_utc < ? ORDER BY video_id, analysis_id
            """,
            [start, end],
        ).to_pylist()
    return rows


def _most_recent_analysis(videos: Sequence[dict[str, Any]], start: datetime) -> str | None:
    counts: dict[str, int] = {}
    for video in videos:
        counts[video["analysis_id"]] = counts.get(video["analysis_id"], 0) + (video["came_utc"] >= start)
    recent = {analysis: n for analysis, n in counts.items() if n}
    return max(sorted(recent), key=lambda analysis: recent[analysis]) if recent else None


def _measure(lake: Lake, analysis_id: str, videos: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """video_id to its value of every measure; a measure that it has no value of is missing."""
    shares = ", ".join(
        f"sum(duration_s) FILTER (expression = '{name}') / nullif(sum(duration_s), 0) AS share_{name}"
        for name in EXPRESSIONS
    )
    ids = sorted(video["video_id"] for video in videos)
    source = relation_sql(lake.location, "observations", analysis_id=analysis_id, video_ids=ids)
    with read_errors(lake.location), shared_connection() as con:
        rows = rows_of(
            con,
            f"""
            SELECT video_id, median(face_px) AS face_px, median(sharpness) AS sharpness, avg(confidence) AS confidence,
                   avg(entropy) AS entropy, {shares}
            FROM ({source}) WHERE analysis_id = ? AND video_id IN ? AND face_index IS NOT NULL GROUP BY video_id
            """,
            [analysis_id, ids],
        ).to_pylist()
    values: dict[str, dict[str, float]] = {}
    for video in videos:
        readable = video["n_frames"] - video["n_frames_undecodable"]
        if readable > 0:
            values[video["video_id"]] = {"share_without_face": 1 - video["n_frames_with_face"] / readable}
    for row in rows:
        shown = {name: row[name] or 0.0 if name.startswith("share_") else row[name] for name in MEASURES if name in row}
        values.setdefault(row["video_id"], {}).update({k: float(v) for k, v in shown.items() if v is not None})
    return values


def compare_videos(
    recent: Sequence[dict[str, Any]],
    reference: Sequence[dict[str, Any]],
    values: dict[str, dict[str, float]],
    rules: DriftRules,
) -> tuple[tuple[DriftFinding, ...], tuple[str, ...]]:
    """Compare two groups of videos, all together and source by source.

    Args:
        recent, reference: video_id and source of each video.
        values: video_id to measures.
        rules: when a change is drift.

    Returns:
        A finding for each measure of each source with enough videos, and the sources without.
    """
    sources = sorted({video["source"] for video in recent})
    pairs: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    unjudged = []
    for source in (ALL_SOURCES, *(sources if len(sources) > 1 else ())):
        sides = [[v["video_id"] for v in side if source in (ALL_SOURCES, v["source"])] for side in (recent, reference)]
        if min(map(len, sides)) < rules.min_videos:
            unjudged.append(
                f"{source}: {len(sides[0])} recent and {len(sides[1])} reference videos, {rules.min_videos} are needed"
            )
            continue
        for measure in MEASURES:
            a, b = (np.array([values[v][measure] for v in side if measure in values.get(v, {})]) for side in sides)
            if min(len(a), len(b)) >= rules.min_videos:
                pairs.append((source, measure, a, b))
    findings = tuple(
        DriftFinding(
            source,
            measure,
            _largest_difference(a, b),
            max(rules.min_effect, _chance(len(a), len(b), rules.alpha / len(pairs))),
            len(a),
            len(b),
            float(np.median(a)),
            float(np.median(b)),
        )
        for source, measure, a, b in pairs
    )
    return findings, tuple(unjudged)


def _largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov and Smirnov's D of two samples."""
    at = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(side), at, side="right") / len(side) for side in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def _chance(n: int, m: int, alpha: float) -> float:
    """The D that two samples of one distribution exceed with probability alpha (Smirnov 1948), which errs towards the
    larger for few values and for equal ones."""
    return math.sqrt(-math.log(alpha / 2) / 2 * (n + m) / (n * m))


def write_drift(lake: Lake, report: DriftReport, recent: Sequence[dict[str, Any]]) -> None:
    """Write every finding as a row of ``drift``; the same report twice is one. ``recent`` are the videos compared."""
    if not report.findings:
        return
    now = datetime.now(UTC)
    rows = []
    for f in report.findings:
        reference = (
            f"{f.source}; {f.n_reference} videos from {report.reference_start_utc:%Y-%m-%d} to"
            f" {report.window_start_utc:%Y-%m-%d}, median {f.median_reference:.4g}; recent: {f.n_recent} videos, median"
            f" {f.median_recent:.4g}; analysis {report.analysis_id}"
        )
        name = hashlib.sha256(f"{reference}/{f.measure}/{report.window_end_utc.isoformat()}".encode()).hexdigest()[:32]
        rows.append(
            {
                "drift_id": name,
                "model_id": report.model_id,
                "reference": reference,
                "window_start_utc": report.window_start_utc,
                "window_end_utc": report.window_end_utc,
                "measure": "ks",
                "column_name": f.measure,
                "value": f.value,
                "threshold": f.threshold,
                "n_rows": sum(v["n_faces"] for v in recent if f.source in (ALL_SOURCES, v["source"])),
                "created_utc": now,
            }
        )
    transaction = hashlib.sha256("".join(str(row["drift_id"]) for row in rows).encode()).hexdigest()
    table = pa.Table.from_pylist(rows, schema=TABLES["drift"].schema)
    lake.append("drift", table, transaction=transaction)
