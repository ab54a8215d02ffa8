"""The Compare page: whose band is whose, differences with their intervals, reweighting, and what is left out."""

from __future__ import annotations

import base64
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import flask.testing
import numpy as np
import pytest

from dashboards.web.app import create_app
from dashboards.web.data import library, mean_expressions, strips
from dashboards.web.groups import VideoMeans, by_condition, left_out, read_conditions, read_means
from dashboards.web.pages import compare
from dashboards.web.source import LakeSource
from storage.annotations.edits import add_edit
from storage.lake import Lake
from storage.records import RunManifest, VideoOutcome
from storage.schema import EXPRESSIONS
from storage.sql.statistics import bootstrap_means
from storage.sql.views import run_sql
from tests.storage.lake_rows import FACES, MODEL_A, MODEL_B, SETTINGS, add_video, face_rows, video_id

#: Three common expressions and five rare ones.
SHARES = dict(zip(EXPRESSIONS, (0.36, 0.27, 0.13, 0.12, 0.09, 0.01, 0.015, 0.005), strict=True))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six videos in the folders a and b, whose model says what it learned from."""
    lake = Lake.open(tmp_path / "lake", create=True)
    for number in range(6):
        rows = face_rows(100, n_faces=1 + number % 2, seed=number)
        path = f"/films/{'ab'[number % 2]}/clip {number}.mp4"
        add_video(lake, number, rows, path=path, duration_s=4.0, settings=SETTINGS | {"class_shares": SHARES})
    return lake


def folders(means: VideoMeans) -> dict[str, str]:
    return {path: path.split("/")[2] for paths in means.paths for path in paths}


def query(client: flask.testing.FlaskClient, output: str, inputs: dict[str, object], state: dict[str, object]) -> dict:
    """What a callback of the page answers in the browser's own words, by its outputs."""
    layout = {row["output"]: row for row in client.get("/_dash-dependencies").get_json()}
    (row,) = [row for name, row in layout.items() if output in name]

    def values(parts: list[dict[str, str]]) -> list[dict[str, object]]:
        given = inputs | state
        return [part | {"value": given[f"{part['id']}.{part['property']}"]} for part in parts]

    outputs = [
        dict(zip(("id", "property"), name.split("."), strict=True)) for name in row["output"].strip(".").split("...")
    ]
    body = {
        "output": row["output"],
        "outputs": outputs if len(outputs) > 1 else outputs[0],
        "inputs": values(row["inputs"]),
        "state": values(row["state"]),
        "changedPropIds": [next(iter(inputs))],
    }
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code == 200, answer.text
    return answer.get_json()["response"]


def test_people_are_compared_over_their_videos(lake: Lake) -> None:
    """Ann is the first face of three videos, Bob the second of one of them."""
    for number, track_id, name in ((1, 0, "Ann"), (3, 0, "Ann"), (4, 0, "Ann"), (3, 1, "Bob")):
        add_edit(lake, video_id(number), "name", faces_id=FACES, track_id=track_id, value=name)
    source = LakeSource(lake)
    means = read_means(source, by_person=True)
    groups = by_condition(means, {})
    assert {name: [means.video_ids[k] for k in rows] for name, rows in groups.items()} == {
        "Ann": [video_id(1), video_id(3), video_id(4)],
        "Bob": [video_id(3)],
    }
    (bob,) = source.dicts(
        "SELECT avg(p_happiness) AS p FROM scores WHERE person_id = 'Bob'"  # every frame lasts as long
    )
    assert means.mean[groups["Bob"]][0, EXPRESSIONS.index("happiness")] == pytest.approx(bob["p"], abs=1e-6)
    missing = left_out(source, {}, ["Bob"], by_person=True)
    assert {reason: len(paths) for reason, paths in missing.items()} == {
        "nobody in it was named, merged or found": 3,
        "none of its people is chosen": 2,
    }
    client = create_app(lake).server.test_client()
    inputs = {"compare-conditions.data": {}, "compare-options.value": ["person", "reweighted"]}
    payload = query(client, "compare-groups.options", inputs, {"compare-groups.value": None})
    assert payload["compare-groups"]["value"] == ["Ann", "Bob"]


@pytest.mark.parametrize("view", ["scores", "reweighted()"])
def test_means_weigh_each_face_by_its_time_however_short_the_video(tmp_path: Path, view: str) -> None:
    """The last second of each is not whole; that of the third is seen by no part of the curve."""
    lake = Lake.open(tmp_path / "lake", create=True)
    settings = SETTINGS | {"class_shares": SHARES}
    for number, n_frames in enumerate((38, 70, 61, 1138)):
        rows = face_rows(n_frames, n_faces=2, first_frame=40, seed=number)
        add_video(lake, number, rows, duration_s=(40 + n_frames) / 25, settings=settings)
        add_edit(lake, video_id(number), "name", faces_id=FACES, track_id=0, value="Ann")
    source, reweighted = LakeSource(lake), view != "scores"
    means = ", ".join(f"sum(s.p_{name} * s.duration_s) / sum(s.duration_s) AS {name}" for name in EXPRESSIONS)

    def of_faces(joined: str = "") -> np.ndarray:
        rows = run_sql(lake, f"SELECT {means} FROM {view} s {joined} GROUP BY video_id ORDER BY video_id")
        return np.array([list(row.values()) for row in rows.to_pylist()])

    every, anns = of_faces(), of_faces("JOIN people USING (video_id, track_id)")
    assert len(every) == 4
    assert read_means(source, reweighted=reweighted).mean == pytest.approx(every, abs=1e-6)
    assert read_means(source, reweighted=reweighted, by_person=True).mean == pytest.approx(anns, abs=1e-6)
    if not reweighted:
        library = [list(mean.values()) for _, mean in sorted(mean_expressions(source).items())]
        assert read_means(source).mean == pytest.approx(np.array(library), abs=1e-12)


def test_a_class_that_the_model_lacks_is_missing_and_not_0(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    rows = face_rows(50, lacks=("contempt", "fear"))
    add_video(lake, 1, rows, path="/films/a/clip.mp4", duration_s=2.0)
    source = LakeSource(lake)
    means = read_means(source)
    lacking = [name in ("contempt", "fear") for name in EXPRESSIONS]
    assert np.isnan(means.mean).tolist() == [lacking]
    groups = by_condition(means, folders(means))
    assert [p is None for p in compare.bars(means, groups)["data"][0]["y"]] == lacking
    (of_library,) = mean_expressions(source).values()
    (strip,) = strips(source, library(source)).values()
    assert {*of_library} == {*strip.means} == {*EXPRESSIONS} - {"contempt", "fear"}


def test_each_band_has_its_groups_colour_and_goes_with_its_line(lake: Lake) -> None:
    means = read_means(LakeSource(lake))
    data = compare.curves(means, by_condition(means, folders(means)), "fear")["data"]
    for k, name in enumerate("ab"):
        high, low, line = data[3 * k : 3 * k + 3]
        assert high["line"]["color"] == low["line"]["color"] == line["line"]["color"] == low["fillcolor"][:7]
        assert {trace["legendgroup"] for trace in (high, low, line)} == {name}  # hidden together
        assert "to" in line["customdata"][0]
    assert data[1]["fillcolor"] != data[4]["fillcolor"]


def test_the_difference_of_two_groups_has_the_interval_of_both_drawn_on_their_own(lake: Lake) -> None:
    means = read_means(LakeSource(lake))
    groups = by_condition(means, folders(means))
    (found,) = compare.differences(means, groups, "b").values()
    a, b = (bootstrap_means(means.mean[groups[name]], name) for name in "ab")
    assert found.mean == pytest.approx(a.mean - b.mean)
    assert (found.low <= found.mean).all()
    assert (found.mean <= found.high).all()
    assert (found.high - found.low <= (a.high - a.low) + (b.high - b.low) + 1e-12).all()
    assert (found.high - found.low >= np.maximum(a.high - a.low, b.high - b.low) * 0.8).all()
    chart = compare.difference_chart({"a": found}, ["a", "b"])
    assert [trace["name"] for trace in chart["data"]] == ["a"]
    assert chart["layout"]["yaxis"]["zeroline"]
    one = compare.difference_chart({}, ["a"])
    assert not one["data"]
    assert not one["layout"]["xaxis"]["visible"]  # no invented axes


def test_reweighting_counts_no_video_whose_model_does_not_say_what_it_learned_from(lake: Lake) -> None:
    unknown = SETTINGS | {"class_shares": None}
    add_video(lake, 8, face_rows(50), path="/films/b/old.mp4", analysis_id="c" * 16, settings=unknown, duration_s=2.0)
    source = LakeSource(lake)
    plain, found = read_means(source), read_means(source, reweighted=True)
    assert set(plain.video_ids) - set(found.video_ids) == {video_id(8)}
    groups = by_condition(found, folders(found))
    assert [trace["name"] for trace in compare.bars(found, groups)["data"]] == ["a (n = 3)", "b (n = 3)"]
    rare = EXPRESSIONS.index("contempt")
    means = dict(zip(plain.video_ids, plain.mean[:, rare], strict=True))
    assert all(p > means[name] for name, p in zip(found.video_ids, found.mean[:, rare], strict=True))


def test_what_a_comparison_leaves_out_is_named_with_the_reason(lake: Lake) -> None:
    add_video(lake, 6, face_rows(50, without_face=tuple(range(50))), path="/films/a/empty.mp4", duration_s=2.0)
    add_video(lake, 7, face_rows(50), path="/films/a/hidden.mp4", duration_s=2.0, settings=SETTINGS)
    add_edit(lake, video_id(7), "exclude", faces_id=FACES, start_s=0.0, end_s=2.0, author="ann")
    unknown = SETTINGS | {"class_shares": None}
    add_video(lake, 8, face_rows(50), path="/films/b/old.mp4", analysis_id="c" * 16, settings=unknown, duration_s=2.0)
    times = {"started_utc": datetime(2026, 1, 1, tzinfo=UTC), "finished_utc": datetime(2026, 1, 2, tzinfo=UTC)}
    failed = VideoOutcome(None, "/films/broken.mp4", "failed", "empty_file", "open", "no bytes")
    lake.append_run(RunManifest("run", config={}, model_id=MODEL_A, **times), [failed])
    source = LakeSource(lake)
    conditions = dict.fromkeys(("/films/a/clip 0.mp4", "/films/a/empty.mp4", "/films/b/old.mp4"), "a")
    conditions |= {"/films/a/hidden.mp4": "a", "/films/a/clip 2.mp4": "b"}
    found = left_out(source, conditions, ["a"])
    assert found == {
        "not analysed (empty_file)": ["/films/broken.mp4"],
        "the group is not chosen": ["/films/a/clip 2.mp4"],
        "no condition": ["/films/a/clip 4.mp4", *(f"/films/b/clip {k}.mp4" for k in (1, 3, 5))],
        "no face was found": ["/films/a/empty.mp4"],
        "every face is excluded": ["/films/a/hidden.mp4"],
    }
    more = left_out(source, conditions, ["a", "b"], reweighted=True)
    assert more["the model does not say what it learned from, so its scores cannot be reweighted"] == [
        "/films/b/old.mp4"
    ]
    assert "the group is not chosen" not in more


def test_videos_that_the_chosen_model_has_not_scored_are_left_out_for_that_reason(lake: Lake) -> None:
    rows, of_model = face_rows(100, model_id=MODEL_B), {"analysis_id": "b" * 16, "model_id": MODEL_B}
    add_video(lake, 2, rows, path="/films/a/clip 2.mp4", duration_s=4.0, **of_model)
    source = LakeSource(lake, lambda: MODEL_B)
    means = read_means(source)
    assert means.video_ids == (video_id(2),)
    assert [*left_out(source, folders(means), ["a"])] == [f"no scores of {MODEL_B}"]


def test_a_lake_without_a_face_has_no_axes(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    add_video(lake, 1, face_rows(50, without_face=tuple(range(50))), path="/films/nobody.mp4")
    means = read_means(LakeSource(lake))
    for figure in (compare.bars(means, {}), compare.curves(means, {}, "fear"), compare.difference_chart({}, [])):
        assert not figure["layout"]["xaxis"]["visible"]
        assert not figure["data"]


def test_a_csv_may_name_any_copy_and_accents_in_either_form() -> None:
    paths = [unicodedata.normalize("NFD", "/a/Zoë.mp4")]
    found, unknown = read_conditions(
        "file_name,condition\n" + unicodedata.normalize("NFC", "Zoë.mp4") + ",calm\n", paths
    )
    assert (found, unknown) == ({paths[0]: "calm"}, [])
    one = np.full((1, 8), 0.1)
    means = VideoMeans(("v",), (("/a/one.mp4", "/b/copy.mp4"),), one, one[:, None])
    assert list(by_condition(means, {"/b/copy.mp4": "stress"})) == ["stress"]
    assert list(by_condition(means, {"/b/copy.mp4": "stress", "/a/one.mp4": "calm"})) == ["calm"]


@pytest.mark.parametrize("head", ["sep=;\r\n", '"sep=;"\n', ""])
def test_a_csv_of_excel_gives_the_groups(lake: Lake, head: str) -> None:
    """Its first line may state the separator."""
    text = f"{head}file_name;condition\nclip 0.mp4;calm, at rest\nclip 1.mp4;stress\n"
    content = "data:text/csv;base64," + base64.b64encode(text.encode("cp1252")).decode()
    inputs = {"compare-upload.contents": content, "compare-folders.n_clicks": None}
    client = create_app(lake).server.test_client()
    found = query(client, "compare-conditions", inputs, {"compare-upload.filename": "groups.csv"})
    assert found["compare-conditions"]["data"] == {
        "/films/a/clip 0.mp4": "calm, at rest",
        "/films/b/clip 1.mp4": "stress",
    }


def test_the_page_answers_its_switches(lake: Lake) -> None:
    client = create_app(lake).server.test_client()
    conditions = folders(read_means(LakeSource(lake)))
    state = {"compare-conditions.data": conditions}
    inputs: dict[str, object] = {"compare-groups.value": ["a", "b"], "compare-options.value": []}
    plain = query(client, "compare-bars", inputs, state)
    reweighted = query(client, "compare-bars", inputs | {"compare-options.value": ["reweighted"]}, state)
    heights = [found["compare-bars"]["figure"]["data"][0]["y"] for found in (plain, reweighted)]
    assert heights[0][EXPRESSIONS.index("contempt")] < heights[1][EXPRESSIONS.index("contempt")]
    one = query(client, "compare-bars", inputs | {"compare-groups.value": ["a"]}, state)
    assert "3 of 6 files left out" in str(one["compare-left-out"])
    apart = query(client, "compare-differences", inputs | {"compare-reference.value": "b"}, state)
    assert "'children': 'a'" in str(apart["compare-difference-table"])
    assert "'children': 'b'" not in str(apart["compare-difference-table"])
