"""docs/tables.md is complete, and its questions have answers."""

from __future__ import annotations

import re
from pathlib import Path

import lake_rows as rows
import pytest

from storage.catalog import renew
from storage.lake import Lake
from storage.views import run_sql

DOCUMENT = Path(__file__).parents[2] / "docs" / "tables.md"
QUESTIONS = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.open(tmp_path_factory.mktemp("docs") / "lake", create=True)
    rows.add_video(lake, 1, rows.face_rows(500))  # the leading expression changes every 60 frames
    rows.add_video(lake, 1, rows.face_rows(490, seed=5), analysis_id=rows.ANALYSIS_B, model_id=rows.MODEL_B)
    return lake


def test_every_view_table_and_column_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert renew(text) == text, "run `python -m storage.catalog docs/tables.md`"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_of_the_documentation_has_an_answer(lake: Lake, question: str) -> None:
    assert len(run_sql(lake, question)) > 0


def test_there_are_several_questions() -> None:
    assert len(QUESTIONS) >= 6
