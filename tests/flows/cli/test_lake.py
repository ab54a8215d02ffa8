"""``mfer lake`` as a person uses it: exit codes, names, and nothing done without being asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli.main import main
from storage.lake import Lake
from tests.storage import lake_rows as rows


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    lake = Lake.open(tmp_path / "lake", create=True)
    for number in (1, 2):
        rows.add_video(lake, number)
    return Path(str(lake.location))


def mfer(*words: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, [*map(str, words)], input=answer)


@pytest.mark.full
def test_check_names_a_missing_file_and_repair_takes_its_video_out(lake: Path) -> None:
    assert mfer("lake", "check", "--lake", lake).exit_code == 0
    file = next((lake / "observations").rglob("*.parquet"))
    file.unlink()
    shown = mfer("lake", "check", "--lake", lake)
    assert shown.exit_code == 1
    assert f"wrong: {file} (observations) is missing" in shown.output
    assert "mfer lake check --repair" in shown.output
    query = mfer("sql", "SELECT avg(confidence) FROM scores", "--lake", lake)
    assert query.exit_code == 2
    assert file.name in query.output
    repaired = mfer("lake", "check", "--repair", "--lake", lake)
    assert repaired.exit_code == 0
    assert "repair: 1 videos were taken out" in repaired.output
    assert mfer("sql", "SELECT count(*) AS n FROM scores", "--lake", lake).exit_code == 0


def test_forget_asks_first_and_says_what_it_erased_and_searched(lake: Path) -> None:
    refused = mfer("lake", "forget", "/films/clip 1.mp4", "--lake", lake, answer="n\n")
    assert refused.exit_code == 1
    assert mfer("lake", "check", "--lake", lake).output.count("2 finished videos") == 1
    unknown = mfer("lake", "forget", "/films/other.mp4", "--lake", lake, "--yes")
    assert unknown.exit_code == 2
    assert "nothing is known of" in unknown.output
    shown = mfer("lake", "forget", "/films/clip 1.mp4", "--lake", lake, answer="y\n")
    assert "forgot /films/clip 1.mp4" in shown.output
    assert "22 rows of observations" in shown.output or "rows of observations" in shown.output
    assert "1 finished videos" in mfer("lake", "check", "--lake", lake).output


def test_compact_and_history_say_what_there_was_to_do(lake: Path) -> None:
    assert "observations       2 files -> 1" in mfer("lake", "compact", "--lake", lake).output
    shown = mfer("lake", "history", "--lake", lake, "--limit", "50").output
    assert "observations" in shown
    assert "optimize" in shown
    assert mfer("lake", "check", "--lake", lake.parent).exit_code == 2


ODD = "line\nbreak \x1b[2J\u202ebackwards.mp4"


def test_a_file_name_neither_ends_a_line_nor_moves_the_cursor(lake: Path, tmp_path: Path) -> None:
    (tmp_path / ODD).write_bytes(b"no video")
    shown = mfer("inspect", tmp_path / ODD, "--lake", lake).output
    assert "line\\nbreak \\x1b[2J\\u202ebackwards.mp4" in shown
    query = mfer("sql", f"SELECT '{ODD}' AS name", "--lake", lake).output
    refused = mfer("lake", "check", "--lake", tmp_path / ODD).output
    for text in (shown, query, refused):
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_limits_of_sql_are_errors_and_never_half_an_answer(lake: Path) -> None:
    long = mfer("sql", "SELECT * FROM scores", "--lake", lake, "--limit-rows", "5")
    assert (long.exit_code, "more than 5 rows" in long.output) == (2, True)
    slow = mfer("sql", "SELECT sleep_ms(60000)", "--lake", lake, "--timeout", "0.2")
    assert (slow.exit_code, "longer than 0.2 s" in slow.output) == (2, True)
