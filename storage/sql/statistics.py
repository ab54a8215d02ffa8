"""The table functions' smoothing, baseline and bootstrap for arrays in memory, with the same numbers.

The dashboard and the report keep a video's faces in memory and get their numbers here: from the SQL of
``storage.sql.table_functions``, but for the smoothing, which tests hold to the SQL.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import cache

import duckdb
import numpy as np
import pyarrow as pa

from storage.delta.relations import memory_connection, rows_of
from storage.schema import EXPRESSIONS
from storage.sql.table_functions import DRAW_SQL, REPLICATES, SHORTEST_S, create_function
from storage.stitch import SPAN_MAX_GAP_S, TIME_DIGITS

__all__ = ["Estimate", "baseline", "bootstrap_difference", "bootstrap_means", "smooth"]


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` videos with its 95 % interval; NaN where nothing is known. Arrays have the values' shape."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


@cache
def _engine(pid: int) -> duckdb.DuckDBPyConnection:
    return memory_connection()


def smooth(time_s: np.ndarray, duration_s: np.ndarray, prob: np.ndarray, width_s: float) -> np.ndarray:
    """``smoothed(width_s)`` of one track, by the same three moving sums: SQL takes seconds for a long track.

    Args:
        time_s, duration_s: float64 [N], ascending times.
        prob: float [N,K], NaN where the model lacks the class.
        width_s: width of the window at half height; 0 changes nothing.

    Returns:
        float32 [N,K].
    """
    if width_s <= 0 or len(time_s) < 2:
        return prob.astype(np.float32)
    begins = np.append(True, (time_s[1:] - (time_s[:-1] + duration_s[:-1])).round(TIME_DIGITS) > SPAN_MAX_GAP_S)
    span = np.cumsum(begins) - 1
    edges = np.append(np.flatnonzero(begins), len(time_s))
    first = np.maximum(np.searchsorted(time_s, time_s - width_s), edges[span])
    last = np.minimum(np.searchsorted(time_s, time_s + width_s, side="right"), edges[span + 1])
    angle = np.pi * time_s / width_s
    weighted = np.maximum(duration_s, SHORTEST_S)[:, None] * np.column_stack([np.ones(len(time_s)), prob])

    def near(values: np.ndarray) -> np.ndarray:
        total = np.vstack([np.zeros(values.shape[1]), np.cumsum(values, axis=0, dtype=np.float64)])
        return total[last] - total[first]

    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    summed = near(weighted) + c * near(weighted * c) + s * near(weighted * s)
    return (summed[:, 1:] / summed[:, :1]).astype(np.float32)


def baseline(time_s: np.ndarray, duration_s: np.ndarray, prob: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """The medians of ``baselines()`` of one track.

    Args:
        time_s, duration_s: float64 [N].
        prob: float [N,8], NaN where the model lacks the class.
        ok: bool [N], quality_ok.

    Returns:
        float64 [8]; NaN where nothing is known.
    """
    n = len(time_s)
    if not n:
        return np.full(len(EXPRESSIONS), np.nan)
    columns = {
        **dict.fromkeys(("file_name", "path", "video_id", "analysis_id", "expression"), pa.repeat("", n)),
        **dict.fromkeys(("track_id", "frame_index"), pa.repeat(0, n)),
        "person_id": pa.nulls(n, pa.string()),
        "time_s": pa.array(time_s, pa.float64()),
        "duration_s": pa.array(duration_s, pa.float64()),
        "quality_ok": pa.array(ok, pa.bool_()),
        **{f"p_{name}": pa.array(prob[:, k], from_pandas=True) for k, name in enumerate(EXPRESSIONS)},
    }
    con = _engine(os.getpid()).cursor()  # by process: an engine does not survive a fork
    con.register("scores", pa.table(columns))
    create_function(con, "baselines", temporary=True)
    found = rows_of(con, "FROM baselines()").to_pylist()[0]
    return np.array([found[f"median_p_{name}"] for name in EXPRESSIONS], dtype=np.float64)


@cache
def _draws(n: int, group: str, seed: int, replicates: int) -> np.ndarray:
    """Which videos each replicate draws, int64 [replicates, n]; those of ``expression_shares``."""
    sql = f"""
        SELECT {DRAW_SQL} AS place
        FROM (SELECT ? AS seed, ? AS group_name, CAST(? AS BIGINT) AS n), range({int(replicates)}) r(replicate),
             range({int(n)}) d(draw)
        ORDER BY replicate, draw
    """
    places = rows_of(_engine(os.getpid()).cursor(), sql, [seed, group, n])["place"]
    return places.to_numpy().astype(np.int64).reshape(replicates, n)


def bootstrap_means(values: np.ndarray, group: str = "", *, seed: int = 0, level: float = 0.95) -> Estimate:
    """The mean over videos with the percentile bootstrap interval of ``expression_shares``.

    Args:
        values: float64 [V,...], a row per video in the order of video_id; NaN where a video has no value, which then
            counts nowhere.
        group: name of the group of videos; part of what the draws are made from.
        seed: of the draws; the same gives the same interval.
        level: of the interval.

    Returns:
        Arrays of shape [...]; the interval is NaN where fewer than two videos have a value.
    """
    found = _Replicates.of(values, group, seed)
    low, high = _interval(found.means, level)
    return Estimate(found.mean, low, high, found.n)


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, groups: tuple[str, str], *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """The mean of a first group of videos minus that of a second, with its percentile bootstrap interval.

    Args:
        first, second: float64 [V,...] each, as in ``bootstrap_means``; each group's videos are drawn by themselves.
        groups: their names, which differ.
        seed, level: as in ``bootstrap_means``.

    Returns:
        Arrays of shape [...]; ``n`` counts the videos of both.
    """
    one, other = (_Replicates.of(values, name, seed) for values, name in zip((first, second), groups, strict=True))
    low, high = _interval(one.means - other.means, level)
    return Estimate(one.mean - other.mean, low, high, one.n + other.n)


@dataclass(frozen=True)
class _Replicates:
    """The mean [...] over n videos, and that of each bootstrap replicate [replicates,...]; NaN where unknown."""

    mean: np.ndarray
    means: np.ndarray
    n: int

    @classmethod
    def of(cls, values: np.ndarray, group: str, seed: int) -> _Replicates:
        values = values[~np.isnan(values.reshape(len(values), -1)).all(1)]
        n = len(values)
        there = ~np.isnan(values)
        filled, counted = np.where(there, values, 0.0), there.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = filled.sum(0) / counted
            if n < 2:
                return cls(mean, np.full((1, *mean.shape), np.nan), n)
            drawn = _draws(n, group, seed, REPLICATES)
            times = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)  # [replicates,V]
            means = (times @ filled.reshape(n, -1)) / (times @ there.reshape(n, -1).astype(np.float64))
        means[:, (counted < 2).reshape(-1)] = np.nan
        return cls(mean, means.reshape(-1, *mean.shape), n)


def _interval(means: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles over the first axis, NaN where every replicate is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of slices that are all NaN
        low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
