"""Where a command writes to: missing folders are made without a word, and an impossible place is named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from flows.cli.main import main
from storage.lake import Lake
from tests.storage import lake_rows as rows

COMMANDS = {
    "sql csv": ["sql", "SELECT 1 AS n", "--format", "csv"],
    "sql parquet": ["sql", "SELECT 1 AS n", "--format", "parquet"],
    "export csv": ["export", "--format", "csv"],
    "export srt": ["export", "clip 1.mp4", "--format", "srt"],
    "report": ["report"],
    "labels export": ["labels", "export"],
    "labels suggest": ["labels", "suggest"],
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.open(tmp_path_factory.mktemp("outputs") / "lake", create=True)
    rows.add_video(lake, 1)
    return lake


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_folders_of_an_output_are_made(lake: Lake, tmp_path: Path, command: str) -> None:
    output = tmp_path / "not" / "yet" / "there.csv"
    done = CliRunner().invoke(main, [*COMMANDS[command], "-o", str(output), "--lake", str(lake.location)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert output.stat().st_size > 0
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_below_a_file_is_refused_in_one_line(lake: Lake, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("kept")
    output = tmp_path / "file" / "there.csv"
    done = CliRunner().invoke(main, [*COMMANDS[command], "-o", str(output), "--lake", str(lake.location)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"mfer: cannot write {output}")
    assert "name another" in done.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_what_is_no_plain_file_is_written_and_not_replaced(lake: Lake) -> None:
    query = ["sql", "SELECT 1 AS n", "--format", "csv", "-o", "/dev/null", "--lake", str(lake.location)]
    assert CliRunner().invoke(main, query).exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_columns_of_one_name_and_intervals_are_kept_in_every_form(lake: Lake, tmp_path: Path) -> None:
    query = "SELECT 1 AS a, 2 AS a, TIMESTAMP '2026-01-02' - TIMESTAMP '2026-01-01' AS took, [1] AS list"
    expected = {"a": 1, "a_1": 2, "took": "1 day", "list": [1]}
    for form in ("json", "parquet"):
        run = ["sql", query, "--lake", str(lake.location), "--format", form, "--output", str(tmp_path / form)]
        assert CliRunner().invoke(main, run).exit_code == 0
    assert json.loads((tmp_path / "json").read_text()) == [expected]
    assert pq.read_table(tmp_path / "parquet").to_pylist() == [expected]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("[INTERVAL 1 day]", "[1 day]"),
        ("{'a': [INTERVAL 1 day]}", "{'a': [1 day]}"),
        ("union_value(n := 1)", "1"),
        ("[union_value(n := 1)]", "[1]"),
        ("{}", "{}"),
    ],
)
def test_what_parquet_cannot_hold_is_written_as_text(lake: Lake, tmp_path: Path, value: str, text: str) -> None:
    run = [
        "sql",
        f"SELECT {value} AS v",
        "--lake",
        str(lake.location),
        "--format",
        "parquet",
        "-o",
        str(tmp_path / "x"),
    ]
    assert CliRunner().invoke(main, run).exit_code == 0
    assert pq.read_table(tmp_path / "x").to_pylist() == [{"v": text}]
