"""docs/tables.md is complete, and the questions of the documentation have answers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.annotations.edits import add_edit
from storage.drift import DriftReport, DriftRules, compare_videos, write_drift
from storage.lake import Lake
from storage.records import RunManifest, VideoOutcome
from storage.sql.column_docs import renew
from storage.sql.views import run_sql
from tests.storage import lake_rows as rows

DOCS = Path(__file__).parents[3] / "docs"
DOCUMENT = DOCS / "tables.md"
QUESTIONS = [
    pytest.param(question, id=f"{document.stem}-{number}")
    for document in sorted(DOCS.rglob("*.md"))
    for number, question in enumerate(re.findall(r"```sql\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two groups of two videos, two faces in one of them, and a second model on another."""
    lake = Lake.open(tmp_path_factory.mktemp("docs") / "lake", create=True)
    # the leading expression changes every 60 frames
    rows.add_video(lake, 1, rows.face_rows(500, n_faces=2, without_face=(5,)), path="/study/control/a.mp4")
    rows.add_video(lake, 2, rows.face_rows(300, seed=1), path="/study/control/b.mp4")
    rows.add_video(lake, 3, rows.face_rows(500, seed=2), path="/study/treated/c.mp4")
    rows.add_video(lake, 4, rows.face_rows(200, seed=3), path="/study/treated/d.mp4")
    again = rows.face_rows(490, seed=5)
    rows.add_video(lake, 3, again, path="/study/treated/c.mp4", analysis_id=rows.ANALYSIS_B, model_id=rows.MODEL_B)
    found = run_sql(lake, "SELECT video_id, path, n_frames, n_faces, n_frames_with_face FROM videos").to_pylist()
    when = datetime(2026, 1, 1, tzinfo=UTC)
    outcomes = [VideoOutcome(status="ok", mtime_ns=1_767_225_600_000_000_000, **row) for row in found]
    lake.append_run(RunManifest("run", when, when, {}, rows.MODEL_A), outcomes)
    add_edit(lake, rows.video_id(1), "name", faces_id=rows.FACES, track_id=0, value="Ann")
    videos = [{"video_id": rows.video_id(n), "source": "/study", "n_faces": 1} for n in (1, 2, 3, 4)]
    values = {rows.video_id(n): {"sharpness": float(n)} for n in (1, 2, 3, 4)}
    rules = DriftRules(min_videos=2)
    when = datetime(2026, 3, 2, tzinfo=UTC)
    compared = compare_videos(videos[:2], videos[2:], values, rules)
    found = DriftReport(rows.ANALYSIS_A, rows.MODEL_A, when, when, when, *compared)
    write_drift(lake, found, videos[:2])
    return lake


def test_every_view_table_and_column_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert renew(text) == text, "run `python -m storage.sql.column_docs docs/tables.md`"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_of_the_documentation_has_an_answer(lake: Lake, question: str) -> None:
    assert len(run_sql(lake, question)) > 0


def test_there_are_several_questions() -> None:
    assert len(QUESTIONS) >= 40
