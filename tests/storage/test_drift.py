"""Drift is a change between videos that matters and is no chance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.delta.relations import rows_of
from storage.drift import ALL_SOURCES, MEASURES, DriftRules, check_drift, compare_videos
from storage.lake import Lake
from storage.records import RunManifest, VideoOutcome
from storage.sql.views import connect
from tests.storage.lake_rows import ANALYSIS_B, MODEL_A, MODEL_B, add_video, face_rows, video_id

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def films(
    values: np.ndarray, first: int, source: str = "/a"
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    ids = [f"{first + k:016x}" for k in range(len(values))]
    return [{"video_id": i, "source": source} for i in ids], {
        i: {"sharpness": float(v)} for i, v in zip(ids, values, strict=True)
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(8, 80), m=st.integers(30, 200))
def test_a_large_shift_of_enough_videos_is_drift_in_either_direction(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    for shift in (-5.0, 5.0):
        recent, a = films(rng.normal(shift, 1, n), 0)
        reference, b = films(rng.normal(0, 1, m), 1000)
        (finding,), _ = compare_videos(recent, reference, a | b, DriftRules())
        assert finding.drifted
        assert (finding.median_recent > finding.median_reference) is (shift > 0)


def test_without_a_change_a_check_cries_wolf_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(0)
    n_found = 0
    for _ in range(400):
        measures = rng.normal(0, 1, (13, 92))
        ids = [f"{k:016x}" for k in range(92)]
        values = {i: dict(zip(MEASURES, measures[:, k], strict=True)) for k, i in enumerate(ids)}
        recent, reference = ([{"video_id": i, "source": "/a"} for i in part] for part in (ids[:12], ids[12:]))
        findings, _ = compare_videos(recent, reference, values, DriftRules())
        assert len(findings) == len(MEASURES)
        n_found += any(finding.drifted for finding in findings)
    assert n_found <= 0.05 * 400


def test_a_significant_change_that_is_small_is_no_drift() -> None:
    rng = np.random.default_rng(1)
    recent, a = films(rng.normal(0.3, 1, 3000), 0)
    reference, b = films(rng.normal(0, 1, 3000), 10_000)
    (finding,), _ = compare_videos(recent, reference, a | b, DriftRules())
    assert 0.09 < finding.value < 0.2  # chance gives 0.035
    assert finding.threshold == 0.3
    assert not finding.drifted


def test_a_change_of_spread_alone_is_drift() -> None:
    rng = np.random.default_rng(2)
    recent, a = films(rng.normal(0, 6, 100), 0)
    reference, b = films(rng.normal(0, 1, 300), 1000)
    (finding,), _ = compare_videos(recent, reference, a | b, DriftRules())
    assert finding.drifted


def test_one_source_that_drifts_is_named_and_one_with_few_videos_is_not_judged() -> None:
    rng = np.random.default_rng(3)
    values: dict[str, dict[str, float]] = {}
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for first, source, shift, n, m in ((0, "/a", 0, 60, 200), (1000, "/b", 4, 20, 200), (2000, "/c", 9, 3, 9)):
        for at, side, size, mean in ((0, sides[0], n, shift), (500, sides[1], m, 0)):
            rows, some = films(rng.normal(mean, 1, size), first + at, source)
            side.extend(rows)
            values |= some
    findings, unjudged = compare_videos(*sides, values, DriftRules())
    assert {f.source: f.drifted for f in findings} == {ALL_SOURCES: False, "/a": False, "/b": True}
    assert unjudged == ("/c: 3 recent and 9 reference videos, 8 are needed",)


# -- in a lake --------------------------------------------------------------------------------------------------------


def darkened(rows: pa.Table) -> pa.Table:
    """The same faces, half as sharp."""
    at = rows.column_names.index("sharpness")
    return rows.set_column(at, "sharpness", pc.divide(rows["sharpness"], 3).cast(pa.float32()))


def film(lake: Lake, number: int, came: datetime, change: Any = None, payload: str = "ok", **more: Any) -> None:
    rows = face_rows(12, seed=number, without_face=(0,), model_id=more.get("model_id", MODEL_A))
    path = f"/cam{number % 2}/{number}.mp4"
    add_video(lake, number, rows if change is None else change(rows), path=path, **more)
    if payload:
        outcome = VideoOutcome(video_id(number), path, payload)
        lake.append_run(RunManifest(f"run{number}{more}", came, came, {}, "m@1"), [outcome])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Ten videos of earlier weeks, nine of this week that are less sharp, and one that is too old to count."""
    lake = Lake.open(tmp_path_factory.mktemp("drift") / "lake", create=True)
    for number in range(10):
        film(lake, number, NOW - timedelta(days=10 + 4 * number))
    yesterday = NOW - timedelta(days=1)
    for number in range(10, 17):
        film(lake, number, yesterday, darkened)
    film(lake, 17, yesterday, darkened, "skipped")  # the run that finished it was killed, the next found it done
    film(lake, 18, yesterday, darkened, "", mtime_ns=int(yesterday.timestamp()) * 10**9)  # there was no next one
    film(lake, 30, NOW - timedelta(days=200), darkened)
    film(lake, 0, NOW - timedelta(days=2), analysis_id=ANALYSIS_B, model_id=MODEL_B)
    return lake


def test_what_has_drifted_in_a_lake_is_found_and_written_down(lake: Lake) -> None:
    report = check_drift(lake, until_utc=NOW)
    assert [finding.measure for finding in report.drifted] == ["sharpness"]
    (finding,) = report.drifted
    assert (finding.n_recent, finding.n_reference, finding.source) == (9, 10, ALL_SOURCES)
    assert finding.median_recent == pytest.approx(finding.median_reference / 3, rel=0.3)
    assert report.model_id == MODEL_A
    assert {f.measure for f in report.findings} == set(MEASURES)
    assert len(report.unjudged) == 2  # each camera alone has too few
    with_face = next(f for f in report.findings if f.measure == "share_without_face")
    assert (with_face.value, with_face.median_recent) == (0.0, pytest.approx(1 / 12))
    rows = _drift_rows(lake)
    assert len(rows) == len(MEASURES)
    payload = next(row for row in rows if row["column_name"] == "sharpness")
    assert payload["value"] >= payload["threshold"]
    assert (payload["measure"], payload["n_rows"], payload["window_end_utc"]) == ("ks", 9 * 11, NOW)
    assert "10 videos from 2025-12-29 to 2026-02-23" in payload["reference"]
    check_drift(lake, until_utc=NOW)
    assert _drift_rows(lake) == rows  # the same check again is the same rows


def test_a_window_without_videos_is_nothing_to_compare(lake: Lake) -> None:
    before = _drift_rows(lake)
    report = check_drift(lake, until_utc=NOW + timedelta(days=300))
    assert (report.findings, report.summary) == ((), "nothing to compare: no video came in the recent window")
    assert _drift_rows(lake) == before
    few = check_drift(lake, until_utc=NOW, rules=DriftRules(min_videos=10))
    assert few.summary.startswith("nothing to compare: all sources: 9 recent and 10 reference videos, 10 are needed")


@pytest.mark.parametrize("wrong", [{"min_effect": 0}, {"alpha": 1}, {"min_videos": 1}])
def test_rules_and_windows_that_cannot_be_are_refused(lake: Lake, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DriftRules(**wrong)
    with pytest.raises(ValueError, match="windows of 0"):
        check_drift(lake, recent_days=0)


def _drift_rows(lake: Lake) -> list[dict[str, Any]]:
    with connect(lake) as con:
        rows: list[dict[str, Any]] = rows_of(con, "SELECT * FROM raw.drift ORDER BY ALL").to_pylist()
        return rows
