"""The questions that are measured are the ones that the documentation names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.scale import QUESTIONS

COOKBOOK = Path(__file__).resolve().parents[1] / "docs" / "cookbook.md"


def plain(sql: str) -> str:
    return re.sub(r"path = '[^']*'", "path = ''", " ".join(sql.split()))


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_measured_question_is_in_the_cookbook_word_for_word(name: str) -> None:
    blocks = {plain(sql) for sql in re.findall(r"```sql\n(.*?)```", COOKBOOK.read_text(encoding="utf-8"), re.DOTALL)}
    assert plain(QUESTIONS[name]) in blocks
