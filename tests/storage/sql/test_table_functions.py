"""Smoothing, baselines, events, synchrony, projections and shares, against hand-computed tables and numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import storage
from mfer.metrics import REWEIGHT_POWER, reweight
from storage.annotations.edits import add_edit
from storage.errors import LakeError
from storage.lake import Lake
from storage.schema import EXPRESSIONS
from storage.sql.table_functions import FUNCTIONS
from storage.sql.views import run_sql
from tests.storage import lake_rows as rows


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def ask(lake: Lake, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_sql(lake, query).to_pylist()
    return found


def set_column(table: pa.Table, name: str, values: pa.Array | np.ndarray | Sequence[Any]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, pa.array(values, table.schema.field(name).type))


def curve(
    happiness: Sequence[float], time_s: Sequence[float] | None = None, duration_s: Sequence[float] | float = 0.1
) -> pa.Table:
    """A face whose p_happiness is as given and whose p_neutral is the rest, in the lake's own steps of 2^-12."""
    n = len(happiness)
    table = rows.face_rows(n)
    p = np.round(np.asarray(happiness) * 4096) / 4096
    for name in EXPRESSIONS:
        table = set_column(table, f"p_{name}", {"happiness": p, "neutral": 1 - p}.get(name, np.zeros(n)))
    table = set_column(table, "time_s", np.arange(n) * 0.1 if time_s is None else time_s)
    table = set_column(table, "duration_s", np.broadcast_to(np.asarray(duration_s, float), (n,)))
    return set_column(table, "expression", np.where(p > 0.5, "happiness", "neutral").tolist())


def test_smoothing_is_the_raised_cosine_in_time_and_stops_at_gaps(lake: Lake) -> None:
    rng = np.random.default_rng(0)
    step_s = rng.choice([0.02, 0.05, 0.1], 60)
    time_s = np.concatenate([[0.0], np.cumsum(step_s)[:-1]])
    time_s[30:] += 3  # not seen for three seconds
    p = np.round(rng.uniform(0, 1, 60) * 4096) / 4096
    rows.add_video(lake, 1, curve(p, time_s, step_s))
    found = ask(lake, "SELECT * FROM smoothed(width_s := 0.4) ORDER BY frame_index")
    for k in range(60):
        near = np.abs(time_s - time_s[k]) <= 0.4
        near &= (np.arange(60) < 30) == (k < 30)
        weight = step_s[near] * (1 + np.cos(np.pi * (time_s[near] - time_s[k]) / 0.4))
        assert found[k]["p_happiness"] == pytest.approx(weight @ p[near] / weight.sum(), abs=1e-9)
        assert found[k]["p_happiness"] + found[k]["p_neutral"] == pytest.approx(1)
        assert found[k]["expression"] == ("happiness" if found[k]["p_happiness"] > 0.5 else "neutral")
    assert [row["span"] for row in found] == [1] * 30 + [2] * 30


def test_smoothing_a_lone_picture_and_a_missing_class(lake: Lake) -> None:
    rows.add_video(lake, 1, curve([0.75], duration_s=0.0))
    rows.add_video(lake, 2, rows.face_rows(5, lacks=("contempt",)))
    found = ask(lake, "SELECT p_happiness, p_contempt FROM smoothed() ORDER BY path, frame_index")
    assert found[0]["p_happiness"] == pytest.approx(0.75)
    assert [row["p_contempt"] for row in found[1:]] == [None] * 5


def test_smoothing_keeps_tracks_and_videos_apart(lake: Lake) -> None:
    rows.add_video(lake, 1, rows.face_rows(50, n_faces=2))
    rows.add_video(lake, 2)
    wide = ask(
        lake, "SELECT video_id, track_id, min(p_fear) AS a, max(p_fear) AS b FROM smoothed(width_s := 1e6) GROUP BY ALL"
    )
    means = ask(lake, "SELECT video_id, track_id, avg(p_fear) AS p FROM scores GROUP BY ALL")
    by_track = {(row["video_id"], row["track_id"]): row["p"] for row in means}
    assert len(wide) == 3
    for row in wide:
        assert row["a"] == pytest.approx(row["b"])
        assert row["a"] == pytest.approx(by_track[row["video_id"], row["track_id"]])


def test_reweighting_divides_by_the_shares_of_the_training_faces_and_norms(lake: Lake) -> None:
    shares = dict(zip(EXPRESSIONS, (0.36, 0.27, 0.13, 0.12, 0.09, 0.01, 0.015, 0.005), strict=True))
    rows.add_video(lake, 1, settings=rows.SETTINGS | {"class_shares": shares})
    scores = ask(lake, "SELECT * FROM scores ORDER BY frame_index")
    for power, output in ((0.5, ""), (1.0, "power := 1"), (0.0, "power := 0")):
        found = ask(lake, f"SELECT * FROM reweighted({output}) ORDER BY frame_index")
        prob = np.array([[row[f"p_{name}"] for name in EXPRESSIONS] for row in scores])
        expected = reweight(prob, np.array([*shares.values()]), power)
        np.testing.assert_allclose([[row[f"p_{name}"] for name in EXPRESSIONS] for row in found], expected, atol=1e-12)
        assert [row["expression"] for row in found] == [EXPRESSIONS[k] for k in expected.argmax(1)]
    assert FUNCTIONS["reweighted"].parameters == {"power": str(REWEIGHT_POWER)}


def test_reweighting_keeps_a_missing_class_out_and_says_nothing_where_the_shares_are_unknown(lake: Lake) -> None:
    known = {name: 0.2 for name in EXPRESSIONS if name not in ("fear", "contempt", "disgust")} | {
        "disgust": 0.05,
        "fear": 0.1,
    }
    rows.add_video(lake, 1, rows.face_rows(5, lacks=("contempt",)), settings=rows.SETTINGS | {"class_shares": known})
    rows.add_video(lake, 2, settings=rows.SETTINGS | {"class_shares": None}, analysis_id="b" * 16)
    found = ask(lake, "SELECT * FROM reweighted() ORDER BY path, frame_index")
    for row in found[:5]:
        assert row["p_contempt"] is None
        assert sum(row[f"p_{name}"] for name in known) == pytest.approx(1)
    assert {row["p_neutral"] for row in found[5:]} == {row["expression"] for row in found[5:]} == {None}


def test_affect_projects_with_the_documented_coefficients(lake: Lake) -> None:
    rows.add_video(lake, 1, curve([0.0, 0.5, 1.0]))
    found = ask(lake, "SELECT valence, arousal FROM affect() ORDER BY frame_index")
    assert [(r["valence"], r["arousal"]) for r in found] == [
        (pytest.approx(p * 0.81), pytest.approx(p * 0.51)) for p in (0, 0.5, 1)
    ]


def test_baselines_are_the_median_and_the_calmest_share(lake: Lake) -> None:
    happiness = [0.0, 0.25, 0.125, 1.0, 0.75, 0.5, 0.0, 0.25, 0.5, 1.0]
    rows.add_video(lake, 1, curve(happiness))
    (found,) = ask(lake, "SELECT * FROM baselines(share := 0.3)")
    assert found["n_faces"] == 10
    assert found["median_p_happiness"] == pytest.approx(np.median(happiness))
    assert found["calm_p_happiness"] == pytest.approx((0 + 0 + 0.125) / 3)
    above = ask(lake, "SELECT d_happiness, d_neutral FROM above_baseline() ORDER BY frame_index")
    assert [row["d_happiness"] for row in above] == pytest.approx(np.array(happiness) - 0.375)
    assert above[3]["d_neutral"] == pytest.approx(-0.625)


@pytest.mark.parametrize("fps", [6, 10, 24, 25, 30, 50, 60])
def test_the_calmest_share_has_as_many_equal_frames_as_it_says(lake: Lake, fps: int) -> None:
    happiness = np.arange(25) / 32
    rows.add_video(lake, 1, curve(list(happiness), np.arange(25) / fps, 1 / fps))
    for n in range(1, 25):
        (found,) = ask(lake, f"SELECT calm_p_happiness AS p FROM baselines(share := {n / 25})")
        assert found["p"] == pytest.approx(happiness[:n].mean())


def test_a_person_is_all_of_their_tracks_over_all_videos(lake: Lake) -> None:
    shown = {1: [0.0, 0.25, 0.125], 2: [1.0, 0.75, 0.5, 0.625], 3: [0.875, 1.0]}
    for number, happiness in shown.items():
        rows.add_video(lake, number, curve(happiness))
    with pytest.raises(ValueError, match="accept_person"):
        add_edit(lake, rows.video_id(1), "person", faces_id=rows.FACES, track_id=0, value="0" * 16)
    for number in (1, 2):
        add_edit(lake, rows.video_id(number), "name", faces_id=rows.FACES, track_id=0, value="Ann")
    both = shown[1] + shown[2]
    found = ask(lake, "SELECT n_faces, median_p_happiness AS p FROM baselines(by := 'person') ORDER BY path")
    assert [row["n_faces"] for row in found] == [7, 7, 2]
    assert [row["p"] for row in found] == pytest.approx([np.median(both), np.median(both), 0.9375])
    above = ask(lake, "SELECT d_happiness FROM above_baseline(by := 'person') ORDER BY path, frame_index")
    wanted = [*(np.array(both) - np.median(both)), *(np.array(shown[3]) - 0.9375)]
    assert [row["d_happiness"] for row in above] == pytest.approx(wanted)
    (share,) = ask(lake, "FROM expression_shares(by := 'person') WHERE expression = 'happiness'")
    assert (share["group_name"], share["n_videos"]) == ("Ann", 2)  # nobody knows who is in the third
    assert share["share"] == pytest.approx((0 + 3 / 4) / 2)
    assert share["share_of_time"] == pytest.approx(3 / 7)
    for function in ("baselines", "expression_shares"):
        with pytest.raises(Exception, match="by is"):
            ask(lake, f"FROM {function}(by := 'folder')")


def test_an_event_has_onset_apex_and_offset_and_must_reach_the_upper_threshold(lake: Lake) -> None:
    happiness = [0, 0.3, 0.6, 0.9, 0.7, 0.3, 0.1, 0.3, 0.4, 0.3, 0, 0.8, 0]
    rows.add_video(lake, 1, curve(happiness))
    query = "SELECT * FROM expression_events(width_s := 0.01) WHERE expression = 'happiness' ORDER BY onset_s"
    (found,) = ask(lake, query)  # the second hill stays low, the third is too short
    assert (found["onset_s"], found["apex_s"], found["offset_s"]) == pytest.approx((0.1, 0.3, 0.6))
    assert (found["rise_s"], found["fall_s"], found["n_faces"]) == pytest.approx((0.2, 0.3, 5))
    assert found["apex_p"] == pytest.approx(0.9, abs=2**-12)
    assert found["mean_p"] == pytest.approx(np.mean([0.3, 0.6, 0.9, 0.7, 0.3]), abs=2**-12)
    assert len(ask(lake, query.replace("0.01", "0.01, min_s := 0.05"))) == 2
    assert len(ask(lake, query.replace("0.01", "0.01, on_p := 0.35"))) == 2


def test_an_event_ends_where_the_face_is_away(lake: Lake) -> None:
    time_s = np.array([0, 0.1, 0.2, 0.3, 2.0, 2.1, 2.2, 2.3])
    rows.add_video(lake, 1, curve([0.9] * 8, time_s))
    found = ask(lake, "SELECT * FROM expression_events() WHERE expression = 'happiness' ORDER BY onset_s")
    assert [(row["onset_s"], row["offset_s"]) for row in found] == [(0, pytest.approx(0.4)), (2, pytest.approx(2.4))]


def two_faces(first: np.ndarray, second: np.ndarray, fps: float = 10) -> pa.Table:
    """Two tracks in every frame."""
    table = rows.face_rows(len(first), n_faces=2, fps=fps)
    both = np.round(np.stack([first, second], 1).ravel() * 4096) / 4096
    return set_column(table, "p_happiness", both)


def test_synchrony_is_the_correlation_in_each_window(lake: Lake) -> None:
    rng = np.random.default_rng(1)
    first = rng.uniform(0, 1, 200)
    second = np.clip(0.5 * first + 0.5 * rng.uniform(0, 1, 200), 0, 1)
    rows.add_video(lake, 1, two_faces(first, second))
    found = ask(lake, "SELECT * FROM synchrony() WHERE expression = 'happiness' ORDER BY start_s")
    assert [row["start_s"] for row in found] == [0, 5, 10, 15]
    for row in found:
        window = slice(int(row["start_s"] * 10), int(row["end_s"] * 10))
        wanted = np.corrcoef(first[window], second[window])[0, 1]
        assert row["correlation"] == pytest.approx(wanted, abs=1e-3)
        assert (row["track_id"], row["other_track_id"]) == (0, 1)
        assert row["n_bins"] == len(first[window])
        assert row["coverage"] == pytest.approx(len(first[window]) / 100)


def test_synchrony_finds_a_lag_and_is_null_where_nothing_changes(lake: Lake) -> None:
    first = np.random.default_rng(2).uniform(0, 1, 200)
    rows.add_video(lake, 1, two_faces(first, np.roll(first, 5)))
    rows.add_video(lake, 2, two_faces(first, np.full(200, 0.5)))
    query = "SELECT correlation FROM synchrony(window_s := 10{}) WHERE expression = 'happiness' AND start_s = 5 AND "
    of_first, of_second = (f"video_id = '{rows.video_id(k)}'" for k in (1, 2))
    assert ask(lake, query.format(", lag_s := 0.5") + of_first)[0]["correlation"] == pytest.approx(1)
    assert abs(ask(lake, query.format("") + of_first)[0]["correlation"]) < 0.5
    assert ask(lake, query.format("") + of_second)[0]["correlation"] is None


def test_a_lag_pairs_every_frame_also_where_its_middle_is_the_edge_of_a_bin(lake: Lake) -> None:
    first = np.random.default_rng(3).uniform(0, 1, 100)
    rows.add_video(lake, 1, two_faces(first, np.roll(first, 2), fps=5))
    query = "FROM synchrony(window_s := 20, step_s := 20, lag_s := 0.4) WHERE expression = 'happiness'"
    (found,) = ask(lake, query)
    assert found["n_bins"] == 98
    assert found["correlation"] == pytest.approx(1)


def test_windows_of_synchrony_do_not_include_their_end(lake: Lake) -> None:
    first = np.random.default_rng(4).uniform(0, 1, 100)
    rows.add_video(lake, 1, two_faces(first, first))
    found = ask(lake, "FROM synchrony(window_s := 1, step_s := 0.25) WHERE expression = 'happiness' AND start_s < 9")
    assert {row["n_bins"] for row in found} == {10}


def add_shares(lake: Lake, shares: Sequence[float], folder: str, first: int) -> None:
    """Videos of 16 frames, of which the given share shows happiness."""
    for k, share in enumerate(shares):
        happy = np.arange(16) < round(share * 16)
        rows.add_video(lake, first + k, curve(happy * 0.9), path=f"/study/{folder}/{k}.mp4")


def test_shares_of_groups_have_bootstrap_intervals_over_videos(lake: Lake) -> None:
    happy, calm = [1.0, 0.5, 0.75, 0.25, 0.5, 1.0, 0.75, 0.0], [0.25, 0.0, 0.25, 0.5, 0.0]
    add_shares(lake, happy, "happy", 0)
    add_shares(lake, calm, "calm", 100)
    pattern = "group_pattern := '([^/]*)/[^/]*$'"
    found = ask(lake, f"SELECT * FROM expression_shares({pattern}, replicates := 4000) WHERE expression = 'happiness'")
    rng = np.random.default_rng(0)
    for row, shares in zip(sorted(found, key=lambda row: row["group_name"]), (calm, happy), strict=True):
        assert row["n_videos"] == len(shares)
        assert row["share"] == pytest.approx(np.mean(shares))
        means = rng.choice(shares, (20_000, len(shares))).mean(1)
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.04)
    (apart,) = ask(
        lake, f"SELECT * FROM share_differences({pattern}, replicates := 4000) WHERE expression = 'happiness'"
    )
    draws = [rng.choice(shares, (20_000, len(shares))).mean(1) for shares in (calm, happy)]
    assert (apart["group_name"], apart["other_group"]) == ("calm", "happy")
    assert apart["difference"] == pytest.approx(np.mean(calm) - np.mean(happy))
    wanted = tuple(np.quantile(draws[0] - draws[1], [0.025, 0.975]))
    assert (apart["low"], apart["high"]) == pytest.approx(wanted, abs=0.04)


def test_shares_come_out_the_same_each_time_and_change_with_the_seed(lake: Lake) -> None:
    add_shares(lake, [1.0, 0.5, 0.75, 0.25, 0.5, 0.0, 0.125], "x", 0)
    query = "SELECT low, high FROM expression_shares(seed := {}, replicates := 50) WHERE expression = 'happiness'"
    assert ask(lake, query.format(0)) == ask(lake, query.format(0))
    assert len({tuple(ask(lake, query.format(seed))[0].values()) for seed in range(4)}) > 1


def test_a_class_that_a_model_lacks_has_no_share(lake: Lake) -> None:
    rows.add_video(lake, 1, rows.face_rows(5, lacks=("contempt",)))
    for function in ("video_shares", "expression_shares"):
        found = {row["expression"]: row["share"] for row in ask(lake, f"SELECT expression, share FROM {function}()")}
        assert found.pop("contempt") is None
        assert sum(found.values()) == pytest.approx(1)
    rows.add_video(lake, 2)
    found = ask(lake, "SELECT file_name, share FROM video_shares() WHERE expression = 'contempt' ORDER BY file_name")
    assert [row["share"] is None for row in found] == [True, False]
    found = ask(lake, "SELECT expression, share, low FROM expression_shares() WHERE expression IN ('contempt', 'fear')")
    of = {row["expression"]: row for row in found}
    assert of["contempt"]["share"] is not None
    assert of["contempt"]["low"] is None  # one video says nothing of the spread
    assert of["fear"]["low"] is not None


@pytest.mark.parametrize("fps", [6, 10, 24, 30, 50, 60])
def test_what_lasts_as_long_as_a_limit_counts_whatever_rounding_says(lake: Lake, fps: int) -> None:
    """Half a second of happiness, at each place of a long video, and half a second without a face."""
    half = fps // 2
    p = np.full(31 * half, 0.1)
    for start in range(half, len(p), 2 * half):
        p[start : start + half] = 0.9
    rows.add_video(lake, 1, curve(list(p), np.arange(len(p)) / fps, 1 / fps))
    assert ask(lake, "SELECT count(*) AS n FROM episodes")[0]["n"] == 31
    events = ask(
        lake,
        "SELECT count(*) AS n FROM expression_events(min_s := 0.5, width_s := 0.01) WHERE expression = 'happiness'",
    )
    assert events[0]["n"] == 15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("smoothed(width_s := 0)", "width_s has to be above 0"),
        ("smoothed(max_gap_s := -1)", "max_gap_s has to be 0 or above"),
        ("reweighted(power := 'inf'::DOUBLE)", "power has to be a number"),
        ("baselines(share := 0)", "share has to be above 0 and at most 1"),
        ("baselines(share := 20)", "share has to be above 0 and at most 1"),
        ("expression_events(on_p := 50)", "on_p has to be from 0 to 1"),
        ("expression_events(off_p := -0.1)", "off_p has to be from 0 to 1"),
        ("expression_events(min_s := -1)", "min_s has to be 0 or above"),
        ("expression_events(width_s := -1)", "width_s has to be above 0"),
        ("synchrony(bin_s := 0)", "bin_s has to be above 0"),
        ("synchrony(step_s := -1)", "step_s has to be above 0"),
        ("synchrony(window_s := 0)", "window_s has to be above 0"),
        ("synchrony(lag_s := 'nan'::DOUBLE)", "lag_s has to be a number"),
        ("video_shares(by := NULL)", "by is path or person"),
        ("expression_shares(replicates := 0)", "replicates has to be a whole number above 0"),
        ("expression_shares(replicates := 2.5)", "replicates has to be a whole number above 0"),
        ("expression_shares(level := 95)", "level has to be above 0 and below 1"),
        ("share_differences(level := -0.95, group_pattern := '([0-9]).mp4')", "level has to be above 0 and below 1"),
    ],
)
def test_a_parameter_that_means_nothing_is_refused(lake: Lake, call: str, message: str) -> None:
    for number in (1, 2):
        shares = dict.fromkeys(EXPRESSIONS, 1 / 8)
        settings = rows.SETTINGS | {"class_shares": shares}
        rows.add_video(lake, number, rows.face_rows(50, n_faces=2), settings=settings)
    with pytest.raises(LakeError, match=message):
        ask(lake, f"FROM {call}")


def test_one_video_has_a_share_without_an_interval(lake: Lake) -> None:
    add_shares(lake, [0.25], "x", 0)
    (row,) = ask(lake, "SELECT * FROM expression_shares() WHERE expression = 'happiness'")
    assert (row["share"], row["low"], row["high"]) == (0.25, None, None)
    assert sum(r["share"] for r in ask(lake, "SELECT share FROM video_shares()")) == pytest.approx(1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_an_empty_lake_are_empty(lake: Lake, name: str) -> None:
    assert ask(lake, f"SELECT * FROM {name}()") == []


def test_connect_gives_a_database_that_hands_out_tables(lake: Lake) -> None:
    rows.add_video(lake, 1)
    with storage.connect(lake.location) as con:
        relation = con.sql("SELECT time_s, p_happiness FROM smoothed()")
        assert relation.to_arrow_table().column_names == ["time_s", "p_happiness"]
        assert relation.arrow().read_all().num_rows == 50


@pytest.mark.parametrize(("library", "method"), [("pandas", "df"), ("polars", "pl")])
def test_connect_gives_data_frames_where_their_library_is_installed(lake: Lake, library: str, method: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    rows.add_video(lake, 1)
    with storage.connect(lake.location) as con:
        frame = getattr(con.sql("SELECT * FROM scores"), method)()
    assert type(frame).__module__.startswith(library)
    assert len(frame) == 50
