"""Queries of docs/cookbook.md give the right values where it is easy to give wrong ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage.annotations.edits import add_edit
from storage.lake import Lake
from storage.records import RunManifest, VideoOutcome
from storage.sql.views import run_sql
from tests.storage.lake_rows import ANALYSIS_B, FACES, MODEL_A, MODEL_B, add_video, face_rows, video_id

DOCS = Path(__file__).resolve().parents[1] / "docs"
OTHER_FACES, OTHER_ANALYSIS = "f" * 16, "c" * 16


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def answer(lake: Lake, number: int) -> list[dict[str, Any]]:
    """The rows of a numbered query."""
    text = (DOCS / "cookbook.md").read_text(encoding="utf-8")
    (query,) = re.findall(rf"^\*\*{number}\. .*?```sql\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    return run_sql(lake, query).to_pylist()


def two_models_and_other_settings(lake: Lake) -> None:
    """A video that one model scored with two samplings, and another one with the first of them."""
    add_video(lake, 1, face_rows(50))
    add_video(lake, 1, face_rows(25, every=2, seed=1), analysis_id=OTHER_ANALYSIS, faces_id=OTHER_FACES)
    rows = face_rows(50, seed=2, model_id=MODEL_B)
    add_video(lake, 1, rows, analysis_id=ANALYSIS_B, model_id=MODEL_B)


def test_times_without_a_face_are_whole_at_any_sampling_and_leave_out_what_could_not_be_read(lake: Lake) -> None:
    add_video(lake, 1, face_rows(10, every=5, without_face=tuple(range(50))))
    add_video(lake, 2, face_rows(50, every=5, without_face=(5, 10, 15, 25, 100), undecodable=(20, 30)))
    found = [(row["file_name"], row["from_s"], row["until_s"]) for row in answer(lake, 4)]
    assert [name for name, *_ in found] == ["clip 1.mp4", *["clip 2.mp4"] * 3]
    spans = [(0.0, 2.0), (0.2, 0.8), (1.0, 1.2), (4.0, 4.2)]
    assert [tuple(span) for _, *span in found] == [pytest.approx(span) for span in spans]
    assert [(row["n_faces"], row["seconds"]) for row in answer(lake, 19)] == [(0, 3.0), (1, 8.6)]
    assert [row["share_with_face"] for row in answer(lake, 2)] == [round(43 / 48, 3), 0.0]


def test_frames_by_week_count_each_video_once(lake: Lake) -> None:
    """A file with two streams, and a copy of it; one week later a video by itself."""
    first = video_id(1)
    place, when = "/films/two.mkv", datetime(2026, 1, 5, tzinfo=UTC)
    add_video(lake, 1, face_rows(10, without_face=(1, 2), undecodable=(5,)), path=place, n_streams=2)
    add_video(lake, 1, face_rows(20), path=place, video_id=f"{first}-v1", stream=1, n_streams=2)
    add_video(lake, 2, face_rows(30, without_face=(1,)), path="/films/one.mp4")
    of_run = [
        *((f"{first}{stream}", path, 0) for stream in ("", "-v1") for path in (place, "/films/copy.mkv")),
        (video_id(2), "/films/one.mp4", 7),
    ]
    outcomes = [
        VideoOutcome(of_video, path, "ok", mtime_ns=int((when.timestamp() + days * 86_400) * 1e9))
        for of_video, path, days in of_run
    ]
    lake.append_run(RunManifest("run", when, when, {}, MODEL_A), outcomes)
    assert [(row["frames"], row["without_face"]) for row in answer(lake, 24)] == [(30, 2), (30, 1)]


def test_a_persons_share_is_inside_its_interval(lake: Lake) -> None:
    """Ann is seen for long without a smile, and twice for a moment with one: her share of all time is below any."""
    for number, (first, n_frames) in enumerate([(0, 900), (60, 20), (60, 20)]):
        add_video(lake, number, face_rows(n_frames, first_frame=first, seed=number), duration_s=40.0)
        add_edit(lake, video_id(number), "name", faces_id=FACES, track_id=0, value="Ann")
    (ann,) = answer(lake, 25)
    sql = "SELECT share FROM expression_shares(by := 'person') WHERE expression = 'happiness'"
    assert ann["smiling"] == round(run_sql(lake, sql)["share"][0].as_py(), 3)
    assert ann["low"] <= ann["smiling"] <= ann["high"]


def test_models_are_compared_with_each_other_on_the_same_faces(lake: Lake) -> None:
    two_models_and_other_settings(lake)
    (found,) = answer(lake, 29)
    sql = (
        "SELECT avg((a.expression <> b.expression)::INT) AS d FROM scores_all a JOIN scores_all b"
        f" USING (frame_index) WHERE a.model_id = '{MODEL_A}' AND a.analysis_id <> '{OTHER_ANALYSIS}'"
        f" AND b.model_id = '{MODEL_B}'"
    )
    assert found == {
        "file_name": "clip 1.mp4",
        "model_id": MODEL_A,
        "other_model_id": MODEL_B,
        "disagreement": run_sql(lake, sql)["d"][0].as_py(),
    }
    text = (DOCS / "tables.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"^Where do two models differ most.*?```sql\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    pairs = run_sql(lake, query).to_pylist()
    assert pairs
    assert all((row["model_id"], row["other_model_id"]) == (MODEL_A, MODEL_B) for row in pairs)
