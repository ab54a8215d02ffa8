"""Smoothing, baseline and bootstrap of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from storage.schema import EXPRESSIONS
from storage.sql.statistics import baseline, bootstrap_means, smooth


def in_all(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, None], len(EXPRESSIONS), axis=1)


def test_smoothing_is_a_mean_over_time_and_does_not_cross_a_gap() -> None:
    time_s = np.concatenate([np.arange(50) / 25, 10 + np.arange(50) / 25])
    values = in_all(np.repeat([0.0, 1.0], 50))
    assert np.abs(smooth(time_s, np.full(100, 0.04), values, 3.0) - values).max() < 1e-6
    step = in_all(np.repeat([0.0, 1.0], 25))
    smoothed = smooth(np.arange(50) / 25, np.full(50, 0.04), step, 0.4)[:, 0]
    assert smoothed[[10, 40]] == pytest.approx([0, 1], abs=1e-6)
    assert 0.4 < smoothed[24] < 0.5
    assert (smooth(time_s, np.full(100, 0.04), values, 0.0) == values).all()


def test_a_class_that_the_model_lacks_stays_unknown() -> None:
    prob = np.full((20, 8), 0.1)
    prob[:, 7] = np.nan
    time_s, duration_s = np.arange(20) / 25, np.full(20, 0.04)
    for found in (smooth(time_s, duration_s, prob, 1.0), baseline(time_s, duration_s, prob, np.ones(20, bool))[None]):
        assert np.isnan(found[:, 7]).all()
        assert found[:, :7] == pytest.approx(0.1)


def test_a_baseline_counts_good_faces_or_all_where_none_is() -> None:
    prob = in_all(np.arange(10.0) / 10)
    time_s, duration_s = np.arange(10) / 25, np.full(10, 0.04)
    ok = np.arange(10) < 3
    assert baseline(time_s, duration_s, prob, ok) == pytest.approx(0.1)
    assert baseline(time_s, duration_s, prob, ~ok & ok) == pytest.approx(0.45)
    assert np.isnan(baseline(time_s[:0], duration_s[:0], prob[:0], ok[:0])).all()


def test_an_interval_is_over_videos_that_have_a_value() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=(30, 1))
    found = bootstrap_means(values)
    assert found.mean == pytest.approx(values.mean(0))
    assert (found.high - found.low) / (values.std(ddof=1) / np.sqrt(30)) == pytest.approx(2 * 1.96, rel=0.15)
    assert np.isnan(bootstrap_means(values[:1]).low).all()
    padded = np.vstack([values, np.full((4, 1), np.nan)])
    assert (bootstrap_means(padded).low, bootstrap_means(padded).n) == (found.low, 30)
    values[:29] = np.nan
    assert np.isnan(bootstrap_means(values).low).all()
    assert np.isnan(bootstrap_means(np.full((3, 2), np.nan)).mean).all()
