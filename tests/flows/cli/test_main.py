"""The command line as people use it: analyse, ask, inspect, choose a model."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import storage
from flows.cli.main import main
from flows.cli.results import write_result
from mfer.card import packaged_models, read_card
from storage.annotations.edits import add_edit
from storage.identity import video_id_of
from storage.lake import Lake
from storage.models import PACKAGE_MODEL, ModelStore
from tests.clips import write_clip
from tests.models import tiny_model

OPTIONS = ("--min-face", "36", "--device", "cpu", "--workers", "1")


def mfer(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, talk: Path) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "my videos"
    folder.mkdir()
    shutil.copy(talk, folder)
    write_clip(folder / "bars.mp4", n_frames=3)
    return folder


@pytest.fixture(scope="module")
def analyzed(folder: Path, model: Path) -> Result:
    return mfer("analyze", folder, "--lake", folder.parent / "my lake", "--model", model, *OPTIONS)


@pytest.fixture(scope="module")
def lake(folder: Path, analyzed: Result) -> Path:
    return folder.parent / "my lake"


@pytest.mark.full
def test_analyze_says_where_the_time_went(talk: Path, model: Path, tmp_path: Path) -> None:
    words = ("analyze", talk, "--lake", tmp_path / "lake", "--model", model, *OPTIONS)
    output = mfer(*words, "--detect", "exact", "--runtime", "torch", "--profile").stdout
    rows = {line.split()[0]: line.split()[1:] for line in output[output.index("stage ") :].splitlines()}
    assert {"start", "decode", "detect", "score", "write", "commit", "all"} <= rows.keys()
    assert "Bound by " in output
    assert float(rows["detect"][0]) > 0
    assert sum(float(seconds) for name, (seconds, *_) in rows.items() if name not in ("stage", "all")) == pytest.approx(
        float(rows["all"][0]), abs=0.2
    )
    again = mfer(*words, "--min-face", "5%").stdout  # other settings: another analysis
    assert "1 ok" in again


def test_analyze_sums_up_and_names_the_next_query_which_works(analyzed: Result, lake: Path) -> None:
    assert analyzed.stderr == ""  # no progress where nobody watches
    counts, frames, ask = analyzed.stdout.splitlines()
    assert counts == "2 videos: 2 ok, 0 partial, 0 failed, 0 skipped; 0 other files ignored"
    assert frames.startswith("13 frames, 53.8% with a face, 7 faces, ")
    assert "frames/s, model mfer_atto.random_v1@" in frames
    query = ask.removeprefix("Next: ")
    shown = subprocess.run(
        f'PATH="{Path(sys.executable).parent}:$PATH" {query}', shell=True, capture_output=True, text=True, check=True
    ).stdout
    assert shown.split()[:5:2] == ["file_name", "expression", "seconds"]
    assert "talk.mp4" in shown


def test_second_analyze_skips_and_its_json_parses(lake: Path, folder: Path, model: Path) -> None:
    output = mfer("analyze", folder, "--lake", lake, "--model", model, "--json", *OPTIONS)
    facts = json.loads(output.stdout)
    assert (facts["ok"], facts["skipped"], facts["frames"]) == (0, 2, 0)
    assert facts["share_of_frames_with_face"] is None
    assert [video["status"] for video in facts["videos"]] == ["skipped", "skipped"]
    assert output.stderr == ""


def test_lake_is_the_one_of_the_environment_or_the_folder_named_lake(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = ("sql", "SELECT count(*) AS n FROM frames", "--format", "csv")
    monkeypatch.setenv("MFER_LAKE", str(lake))
    assert mfer(*query).stdout == "n\n13\n"
    monkeypatch.setenv("MFER_LAKE", "")
    monkeypatch.chdir(lake.parent)
    assert f"{lake.parent / 'lake'} is not a lake" in mfer(*query, code=2).stderr
    shutil.copytree(lake, "lake")
    assert mfer(*query).stdout == "n\n13\n"


@pytest.mark.full
def test_progress_shows_on_a_terminal(tmp_path: Path, folder: Path, model: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "analyze", folder / "talk.mp4"]
    command += ["--lake", tmp_path / "lake", "--model", model, *OPTIONS]
    words = [str(word) for word in command]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, text=True, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # at the end: nobody has the other side any more
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    printed, _ = run.communicate()
    assert run.returncode == 0, shown
    assert b"videos" in shown
    assert b"frames (talk.mp4)" in shown
    assert printed.startswith("1 video: 1 ok")
    assert "frames (talk.mp4)" not in printed


# -- sql --------------------------------------------------------------------------------------------------------------

QUERY = (
    "SELECT file_name, count(*) AS n, sum(n_faces) AS faces, avg(duration_s) AS mean_s,"
    " bool_and(n_faces > 0) AS always, NULL AS nothing FROM frames GROUP BY file_name ORDER BY file_name"
)


def test_sql_prints_a_table(lake: Path) -> None:
    lines = mfer("sql", QUERY, "--lake", lake).stdout.splitlines()
    assert [cell.strip() for cell in lines[0].split("┃")] == ["file_name", "n", "faces", "mean_s", "always", "nothing"]
    assert [cell.strip() for cell in lines[2].split("│")] == ["bars.mp4", "3", "0", "0.04", "False", ""]
    assert [cell.strip() for cell in lines[3].split("│")] == ["talk.mp4", "10", "7", "0.04", "False", ""]
    assert len(lines) == 4


def test_sql_prints_csv(lake: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(mfer("sql", QUERY, "--lake", lake, "--format", "csv").stdout)))
    assert [(row["file_name"], row["n"], row["faces"], row["nothing"]) for row in rows] == [
        ("bars.mp4", "3", "0", ""),
        ("talk.mp4", "10", "7", ""),
    ]
    assert float(rows[0]["mean_s"]) == pytest.approx(0.04)


def test_sql_prints_json_with_numbers_as_numbers(lake: Path) -> None:
    rows = json.loads(mfer("sql", QUERY, "--lake", lake, "--format", "json").stdout)
    mean_s = pytest.approx(0.04)
    assert rows == [
        {"file_name": "bars.mp4", "n": 3, "faces": 0, "mean_s": mean_s, "always": False, "nothing": None},
        {"file_name": "talk.mp4", "n": 10, "faces": 7, "mean_s": mean_s, "always": False, "nothing": None},
    ]
    odd = "SELECT 'nan'::FLOAT AS a, 1.5::DECIMAL(5, 2) AS b, {'x': [2::HUGEINT, NULL]} AS c, DATE '2026-01-02' AS d"
    assert json.loads(mfer("sql", odd, "--lake", lake, "--format", "json").stdout, parse_constant=pytest.fail) == [
        {"a": None, "b": 1.5, "c": {"x": [2, None]}, "d": "2026-01-02"}
    ]


@pytest.mark.parametrize("form", ["table", "csv", "json", "parquet"])
def test_sql_writes_a_file(tmp_path: Path, lake: Path, form: str) -> None:
    out = tmp_path / "answer"
    assert mfer("sql", QUERY, "--lake", lake, "--format", form, "--output", out).output == ""
    if form == "parquet":
        assert pq.read_table(out).select(["file_name", "n"]).to_pylist() == [
            {"file_name": "bars.mp4", "n": 3},
            {"file_name": "talk.mp4", "n": 10},
        ]
    else:
        assert out.read_text() == mfer("sql", QUERY, "--lake", lake, "--format", form).stdout


ODD = """SELECT INTERVAL '1 month 2 days' AS i, TIMESTAMP_NS '2020-01-01 00:00:00.123456789' AS n,
    DATE '10000-01-01' AS d, TIMESTAMPTZ '2020-01-01 00:00:00+00' AS t, TIME '12:00:00' AS c, '\\xAA'::BLOB AS b,
    [INTERVAL 1 DAY] AS l, {'a': DATE '2020-01-01'} AS s, MAP {'k': 1} AS m, union_value(num := 2) AS u,
    'x'::ENUM('x', 'y') AS e"""


def test_sql_prints_every_type(lake: Path) -> None:
    plain = {
        "i": "1 month 2 days",
        "n": "2020-01-01 00:00:00.123456789",
        "d": "10000-01-01",
        "t": "2020-01-01 00:00:00+00:00",
        "c": "12:00:00",
        "b": "\\xAA",
        "e": "x",
    }
    (row,) = json.loads(mfer("sql", ODD, "--lake", lake, "--format", "json").stdout)
    assert row == plain | {"l": ["1 day"], "s": {"a": "2020-01-01"}, "m": {"k": 1}, "u": {"num": 2}}
    (cells,) = csv.DictReader(io.StringIO(mfer("sql", ODD, "--lake", lake, "--format", "csv").stdout))
    assert {name: cells[name] for name in plain} == plain
    assert "2020-01-01 00:00:00.123456789" in mfer("sql", ODD, "--lake", lake).stdout


def test_sql_of_nothing_says_so_and_points_stand_in_a_line(lake: Path) -> None:
    assert mfer("sql", "SELECT * FROM scores WHERE false", "--lake", lake).stdout.splitlines()[-1] == "0 rows"
    shown = mfer("sql", "SELECT unnest([1.5, 22.25, NULL, 100]::DOUBLE[]) AS x", "--lake", lake).stdout
    assert [line.rstrip() for line in shown.splitlines()[2:]] == ["  1.50", " 22.25", "", "100.00"]


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("n_rows", [2, 30])
def test_an_answer_that_is_wider_than_the_screen_can_be_read(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    write_result(pa.table({f"column_{k}": [k] * n_rows for k in range(40)}), "table", None)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in screen.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    if n_rows == 2:
        assert lines[39] == "column_39  39"
        assert lines[40] == ""
    else:
        assert lines[0].startswith("column_0")
        assert lines[0].endswith("…")
        assert re.fullmatch(r"\d of 40 columns; name those that you want, or --format csv gives all", lines[-1])


def test_sql_may_begin_with_a_comment_and_join_a_table_of_ones_own(lake: Path, tmp_path: Path) -> None:
    path = tmp_path / "participants.csv"
    path.write_text("file_name;Alter\ntalk.mp4;31\nbars.mp4;40\n")
    query = "-- by age\nSELECT p.*, n_frames FROM participants p JOIN videos USING (file_name) ORDER BY ALL"
    answer = mfer("sql", query, "--table", f"participants={path}", "--lake", lake, "--format", "json")
    assert json.loads(answer.stdout) == [
        {"file_name": "bars.mp4", "Alter": 40, "n_frames": 3},
        {"file_name": "talk.mp4", "Alter": 31, "n_frames": 10},
    ]
    assert "give a name and a file" in mfer("sql", "SELECT 1", "--table", "x", "--lake", lake, code=2).stderr
    assert "a table is one of" in mfer("sql", "SELECT 1", "--table", "x=a.doc", "--lake", lake, code=2).stderr


def test_sql_is_read_from_a_file_or_from_standard_input(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("\ufeff-- from a file\nSELECT 17 AS x;\n", encoding="utf-8")
    assert "17" in mfer("sql", "-f", tmp_path / "q.sql", "--lake", lake).stdout
    piped = CliRunner().invoke(main, ["sql", "--file", "-", "--lake", str(lake)], input="SELECT 18 AS x")
    assert "18" in piped.stdout
    for words in ([], ["SELECT 1", "-f", str(tmp_path / "q.sql")]):
        assert mfer("sql", "--lake", lake, *words, code=2).stdout == ""


def test_ctrl_c_claims_that_something_is_kept_only_where_it_is(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("storage.sql.sandbox.run_sql_sandboxed", stop)
    monkeypatch.setattr("flows.refresh.refresh_model", stop)
    assert mfer("sql", "SELECT 1", "--lake", lake, code=130).stderr == "mfer: stopped\n"
    assert "finished work is kept" in mfer("models", "refresh", "--data", "x", "--lake", lake, code=130).stderr


def test_runs_name_the_version_of_the_program(lake: Path) -> None:
    with storage.connect(lake) as con:
        assert con.sql("SELECT DISTINCT program_version FROM runs").fetchall() == [(metadata.version("mfer"),)]


def test_answers_become_frames_of_pandas_and_polars(lake: Path) -> None:
    with storage.connect(lake) as con:
        answer = con.sql("SELECT file_name, p_fear FROM scores")
        assert list(answer.df().columns) == list(answer.pl().columns) == ["file_name", "p_fear"]


def test_sql_table_is_cut_with_a_word_and_csv_is_not(lake: Path) -> None:
    shown = mfer("sql", "SELECT * FROM range(300)", "--lake", lake).stdout.splitlines()
    assert len(shown) == 203
    assert shown[-1] == "... 200 of 300 rows; --format csv, json or parquet gives all"
    assert len(mfer("sql", "SELECT * FROM range(300)", "--lake", lake, "--format", "csv").stdout.splitlines()) == 301


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SELECT nonsense FROM scores"], "nonsense"),
        (["DELETE FROM scores"], "one SELECT"),
        (["SELECT 1", "--format", "parquet"], "add --output FILE.parquet"),
        (["SELECT 1", "--format", "parquet", "--output", "/dev/null/x"], "cannot write /dev/null/x"),
        (["SELECT 1", "--format", "csv", "--output", "/dev/null/x"], "cannot write /dev/null/x"),
        (["SELECT 1", "--lake", "nowhere"], "nowhere is not a lake"),
    ],
    ids=["column", "delete", "parquet", "parquet folder", "csv folder", "lake"],
)
def test_sql_that_cannot_be_answered_says_why(lake: Path, words: list[str], message: str) -> None:
    result = mfer("sql", "--lake", lake, *words, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("mfer: ")
    assert message in result.stderr


# -- inspect ----------------------------------------------------------------------------------------------------------


def inspect(lake: Path, *words: str | Path, code: int = 0) -> list[str]:
    return mfer("inspect", *words, "--lake", lake, code=code).stdout.splitlines()


def test_inspect_describes_the_file_and_what_the_lake_has_of_it(lake: Path, folder: Path) -> None:
    lines = inspect(lake, folder / "talk.mp4")
    assert lines[0] == str(folder / "talk.mp4")
    output = dict(line.strip().split(None, 1) for line in lines[1:])
    assert output["file"] == "mov,mp4,m4a,3gp,3g2,mj2, h264, 176x144 px as shown"
    assert output["time"] == "10 frames, 0.400 s, starts at 0.000 s"
    assert output["video_id"] == video_id_of(folder / "talk.mp4")
    assert output["lake"].startswith("ok: 10 frames, 7 with a face, 7 faces, 2 tracks, model mfer_atto.random_v1@")


def test_inspect_shows_the_scores_of_a_moment_within_a_frame(lake: Path, folder: Path) -> None:
    lines = inspect(lake, folder / "talk.mp4", "--at", "0.1")
    at = lines.index("  at 0.100 s: frame 2, shown 0.080 s for 0.040 s")
    assert lines[at + 1].startswith("    face 0 (track 0): ")
    prob = [float(part.split()[1]) for part in lines[at + 1].partition("): ")[2].split(", ")]
    assert prob == sorted(prob, reverse=True)
    assert "detector 1.00; quality good" in lines[at + 2] or "quality low" in lines[at + 2]


@pytest.mark.parametrize(
    ("at", "message", "code"),
    [
        ("0.2", "no score: the detector found no face", 0),
        ("0.4", "after the last frame, which ends at 0.400 s", 1),
        ("99", "after the last frame, which ends at 0.400 s", 1),
        ("-1", "the lake has no frame of this video at or before that time", 1),
    ],
)
def test_inspect_says_why_a_moment_has_no_score(lake: Path, folder: Path, at: str, message: str, code: int) -> None:
    assert message in inspect(lake, folder / "talk.mp4", "--at", at, code=code)[-1]


def test_inspect_names_faces_that_a_person_excluded(lake: Path, folder: Path, tmp_path: Path) -> None:
    own, video = Path(shutil.copytree(lake, tmp_path / "lake")), video_id_of(folder / "talk.mp4")
    shown = inspect(own, folder / "talk.mp4", "--at", "0.1")
    add_edit(Lake.open(own), video, "exclude", start_s=0.08, end_s=0.16, author="ann", value="a passer-by")
    hidden = inspect(own, folder / "talk.mp4", "--at", "0.1")
    reason = "    face 0: no score: ann excluded the whole picture from 0.080 s until 0.160 s: a passer-by"
    assert hidden == [*shown[:-2], reason]
    assert inspect(own, folder / "talk.mp4", "--at", "0.04")[-2].startswith("    face 0 (track 0): ")


@pytest.mark.parametrize("at", ["nan", "inf", "-inf"])
def test_inspect_refuses_a_moment_that_is_no_number(lake: Path, folder: Path, at: str) -> None:
    result = mfer("inspect", folder / "talk.mp4", "--at", at, "--lake", lake, code=2)
    assert (result.stdout, "--at needs a moment in seconds" in result.stderr) == ("", True)


def test_inspect_and_explain_take_a_path_a_file_name_and_a_video_id(lake: Path, folder: Path, tmp_path: Path) -> None:
    video, out = folder / "talk.mp4", tmp_path / "explained.png"
    by_path = inspect(lake, video, "--at", "0.1")
    drawn = mfer("explain", video, "--at", "0.1", "--lake", lake, "-o", out).stdout
    assert drawn.startswith("frame 2 at 0.080 s, face 0: ")
    for name in ("talk.mp4", video_id_of(video)):
        assert inspect(lake, name, "--at", "0.1") == by_path
        assert mfer("explain", name, "--at", "0.1", "--lake", lake, "-o", out).stdout == drawn
    assert out.read_bytes().startswith(b"\x89PNG")


def test_inspect_and_explain_that_cannot_answer_do_not_end_with_0(lake: Path, folder: Path, tmp_path: Path) -> None:
    assert inspect(lake, "nobody.mp4", code=1)[1].startswith("  cannot be read: missing: ")
    assert "nobody.mp4 is no finished video" in mfer("explain", "nobody.mp4", "--at", 0, "--lake", lake, code=2).stderr
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_clip(tmp_path / name / "same.mp4", n_frames=1 + len(list(tmp_path.iterdir())))
    twins = tmp_path / "lake"
    mfer("analyze", tmp_path / "a", tmp_path / "b", "--lake", twins, "--model", tiny_model(tmp_path / "m"), *OPTIONS)
    for command in ("inspect", "explain"):
        output = mfer(command, "same.mp4", "--at", 0, "--lake", twins, code=2).stderr
        assert "same.mp4 stands for 2 videos; name one by its path or video_id" in output


def test_inspect_says_that_a_frame_could_not_be_read(tmp_path: Path, model: Path) -> None:
    clip = write_clip(tmp_path / "x.mp4", n_frames=50, container_options={"movflags": "faststart"}, options={"g": "5"})
    clip.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.6)])
    mfer("analyze", clip, "--lake", tmp_path / "lake", "--model", model, *OPTIONS, code=1)
    lines = inspect(tmp_path / "lake", clip, "--at", "1.9")
    assert any(line.startswith("  lake      partial (truncated: the file ends") for line in lines)
    assert lines[-1] == "    no score: this frame of the file could not be read"


def test_inspect_knows_a_copy_and_a_file_that_is_gone(tmp_path: Path, lake: Path, folder: Path, model: Path) -> None:
    copy = Path(shutil.copy(folder / "talk.mp4", tmp_path / "copy.mp4"))
    assert any("ok: 10 frames" in line for line in inspect(lake, copy))
    own = tmp_path / "lake"
    mfer("analyze", copy, "--lake", own, "--model", model, *OPTIONS)
    copy.unlink()
    lines = inspect(own, copy, "--at", "0")
    assert lines[1].startswith("  cannot be read: missing: ")
    assert lines[2].startswith("  lake      ok: 10 frames")
    assert lines[4].startswith("    face 0 (track 0): ")


def test_inspect_without_an_analysis_says_how_to_get_one(tmp_path: Path, lake: Path) -> None:
    clip = write_clip(tmp_path / "new one.mp4", n_frames=2)
    assert inspect(lake, clip, "--at", "0", code=1)[-1] == f"  lake      not analysed yet in {lake}"
    hint = inspect(tmp_path / "none", clip)[-1]
    assert hint.endswith(f"run `mfer analyze '{clip}' --lake {tmp_path / 'none'}`")
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    assert inspect(lake, broken, code=1)[1].startswith("  cannot be read: not_a_video: ")


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stocked(tmp_path: Path) -> Path:
    """A lake with two published models, the second in production."""
    store = ModelStore(Lake.open(tmp_path / "lake", create=True))
    for seed in (1, 2):
        folder = tiny_model(tmp_path / f"model{seed}", name=f"mfer_atto.tiny_v{seed}", seed=seed)
        store.publish(f"mfer_atto.tiny_v{seed}", folder / "weights.safetensors", read_card(folder).to_dict())
    store.promote("mfer_atto.tiny_v2")
    return tmp_path / "lake"


def test_models_list_names_every_model_and_marks_the_default(stocked: Path) -> None:
    heading, *lines = mfer("models", "list", "--lake", stocked).stdout.splitlines()
    assert heading.split()[:5] == ["model", "from", "classes", "side", "accuracy"]
    assert heading.split()[5] == "n"
    own = {line[2:].split()[0].partition("@")[0]: line for line in lines if "tiny" in line}
    assert own.keys() == {"mfer_atto.tiny_v1", "mfer_atto.tiny_v2"}
    assert [line[0] for line in own.values()] == [" ", "*"]
    assert [line[2:].split()[1] for line in own.values()] == ["lake", "production"]
    assert [line[0] for line in lines].count("*") == 1


def test_models_list_works_without_a_lake(tmp_path: Path) -> None:
    lines = mfer("models", "list", "--lake", tmp_path / "none").stdout.splitlines()
    assert len(lines) == 1 + len(packaged_models())


def test_models_show_prints_the_card_of_default_name_id_or_folder(stocked: Path) -> None:
    card = json.loads(mfer("models", "show", "--json", "--lake", stocked).stdout)
    assert card["name"] == "mfer_atto.tiny_v2"
    for name in ("mfer_atto.tiny_v2", card["model_id"], stocked.parent / "model2"):
        assert json.loads(mfer("models", "show", name, "--json", "--lake", stocked).stdout) == card
    assert "no model 'nope'; there are default, " in mfer("models", "show", "nope", "--lake", stocked, code=2).stderr


def test_models_show_prints_a_card_to_read_with_the_number_of_faces_behind_its_figures(tmp_path: Path) -> None:
    shown = mfer("models", "show", "--lake", tmp_path / "none").stdout
    card = read_card(packaged_models()[PACKAGE_MODEL.partition("@")[0]])
    assert shown.startswith(f"{card.model_id}\n")
    assert f"on {card.metrics['n']:,} faces" in shown
    assert f"{card.metrics['accuracy']:.4f}" in shown
    assert "{" not in shown
    listed = mfer("models", "list", "--lake", tmp_path / "none").stdout
    assert f"{card.metrics['accuracy']:.4f} {card.metrics['n']:>6}" in listed


def test_default_model_is_the_one_in_production(stocked: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "bars.mp4", n_frames=2)
    output = mfer("analyze", clip, "--lake", stocked, "--json", *OPTIONS)
    assert json.loads(output.stdout)["model_id"].startswith("mfer_atto.tiny_v2@")


# -- demo -------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.skipif(not packaged_models(), reason="the demo uses the package's model, and there is none yet")
def test_demo_answers_three_questions_and_draws_a_timeline(tmp_path: Path) -> None:
    output = mfer("demo", "--out", tmp_path / "demo").stdout
    assert "analysed 2 videos, 0 were done before; 547 frames, " in output
    assert output.count('  mfer sql "SELECT ') == 3
    assert "astronaut.mp4" in output
    assert "crying.mp4" in output
    assert (tmp_path / "demo" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    again = mfer("demo", "--out", tmp_path / "demo").stdout
    assert "analysed 0 videos, 2 were done before" in again
