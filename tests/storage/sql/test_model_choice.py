"""No answer mixes models without a word: which model the views show, how to choose one, and the note of a mixture."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

import storage
from dashboards.outputs.report import write_report
from flows.cli.main import main
from mfer.card import packaged_models, read_card
from pipelines.scoring.lookup import DEFAULT_MODEL
from storage.errors import LakeError
from storage.exports.formats import export_videos
from storage.lake import Lake
from storage.models import PACKAGE_MODEL, ModelStore
from storage.schema import EXPRESSIONS
from storage.sql.sandbox import run_sql_sandboxed
from storage.sql.views import connect, note_of, run_sql
from tests.storage import lake_rows as rows

TOY = "toy@aaaaaaaaaaaa"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two videos by the package's model, and the second by a toy too, later and more densely."""
    lake = Lake.open(tmp_path / "lake", create=True)
    for number in (1, 2):
        rows.add_video(lake, number, model_id=PACKAGE_MODEL)
    rows.add_video(lake, 2, rows.face_rows(60, model_id=TOY), analysis_id=rows.ANALYSIS_B, model_id=TOY)
    return lake


def only_toy(lake: Lake) -> None:
    """A third video that the toy alone has scored."""
    rows.add_video(lake, 3, rows.face_rows(60, model_id=TOY), analysis_id=rows.ANALYSIS_B, model_id=TOY)


def shown(lake: Lake, **how: str) -> list[tuple[object, ...]]:
    with connect(lake, **how) as con:
        return con.execute("SELECT DISTINCT file_name, model_id FROM scores ORDER BY ALL").fetchall()


def test_the_named_package_model_is_that_of_the_package() -> None:
    card = read_card(packaged_models()[DEFAULT_MODEL])
    assert card.model_id == PACKAGE_MODEL, "storage.models.PACKAGE_MODEL names another model than the package has"


def test_the_packages_model_is_in_production_until_something_is_promoted(lake: Lake, tmp_path: Path) -> None:
    assert shown(lake) == [("clip 1.mp4", PACKAGE_MODEL), ("clip 2.mp4", PACKAGE_MODEL)]
    (tmp_path / "w").write_bytes(b"weights")
    store = ModelStore(lake)
    better = store.publish("better", tmp_path / "w", {"classes": list(EXPRESSIONS)})
    rows.add_video(lake, 1, analysis_id="eeeeeeeeeeeeeeee", model_id=better)
    assert shown(lake)[0] == ("clip 1.mp4", PACKAGE_MODEL)
    store.promote(better)
    assert shown(lake)[0] == ("clip 1.mp4", better)
    store.rollback()
    assert shown(lake)[0] == ("clip 1.mp4", PACKAGE_MODEL)
    with connect(lake) as con:
        found = con.execute("SELECT model_id, in_production FROM analyses ORDER BY ALL").fetchall()
    assert found == [(better, False), (PACKAGE_MODEL, True), (TOY, False)]


def test_one_model_can_be_chosen_and_videos_without_it_are_left_out(lake: Lake, tmp_path: Path) -> None:
    for name in ("toy", TOY):
        assert shown(lake, model=name) == [("clip 2.mp4", TOY)]
    assert len(shown(lake, model="default")) == 2
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "card.json").write_text(f'{{"model_id": "{TOY}"}}')
    assert shown(lake, model=str(tmp_path / "folder")) == [("clip 2.mp4", TOY)]
    with storage.connect(lake.location, model="toy") as con:
        assert con.execute("SELECT count(*) FROM scores").fetchone() == (60,)
        assert con.execute("SELECT count(DISTINCT video_id) FROM expression_events()").fetchone() == (1,)
    with pytest.raises(LakeError, match=r"no finished video .* of the model none; it has scores of mfer.*, toy@"):
        storage.connect(lake.location, model="none")


def test_a_name_of_two_models_is_not_enough(lake: Lake) -> None:
    rows.add_video(lake, 1, analysis_id="eeeeeeeeeeeeeeee", model_id="toy@bbbbbbbbbbbb")
    with pytest.raises(LakeError, match=r"2 models are called 'toy'; name one of toy@a+, toy@b+"):
        connect(lake, model="toy")


def test_python_and_sql_say_so_where_models_are_mixed(lake: Lake) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        storage.connect(lake.location).close()
    assert note_of(run_sql(lake, "SELECT count(*) FROM scores")) == ""
    only_toy(lake)
    with pytest.warns(UserWarning, match=r"2 models are mixed here.*ferplus.*\(2 videos\), toy@a+ \(1 video\)"):
        storage.connect(lake.location).close()
    for query in ("SELECT count(*) FROM scores", "FROM Expression_Shares()", "SELECT max(second) FROM seconds"):
        assert "2 models are mixed" in note_of(run_sql(lake, query))
    assert "2 models are mixed" in note_of(run_sql_sandboxed(lake, "SELECT count(*) FROM scores"))
    assert note_of(run_sql(lake, "SELECT count(*) FROM scores", model="toy")) == ""
    assert note_of(run_sql(lake, "SELECT count(*) FROM runs")) == ""


def test_report_and_export_say_so_of_the_videos_that_they_show(lake: Lake, tmp_path: Path) -> None:
    only_toy(lake)
    seen: list[str] = []
    page = write_report(lake, tmp_path / "a.html", tell=seen.append).read_text()
    export_videos(lake, "csv", tmp_path / "a.csv", tell=seen.append)
    assert "2 models are mixed here" in page
    assert [bool(note) for note in seen] == [True, True]
    two = [rows.video_id(1), rows.video_id(2)]
    page = write_report(lake, tmp_path / "b.html", two, tell=seen.append).read_text()
    page += write_report(lake, tmp_path / "c.html", model="toy", tell=seen.append).read_text()
    export_videos(lake, "csv", tmp_path / "b.csv", two, tell=seen.append)
    assert "models are mixed" not in page
    assert seen[2:] == ["", "", ""]


def test_commands_take_a_model_and_note_a_mixture(lake: Lake, tmp_path: Path) -> None:
    only_toy(lake)
    runner, where = CliRunner(), ["--lake", str(lake.location)]
    request = ["sql", "SELECT count(*) AS n FROM scores", "--format", "csv", *where]
    mixed, toy = runner.invoke(main, request), runner.invoke(main, [*request, "--model", "toy"])
    assert (mixed.stdout, toy.stdout) == ("n\n160\n", "n\n120\n")
    assert "note: scores of 2 models are mixed here" in mixed.stderr
    assert toy.stderr == ""
    exported = runner.invoke(main, ["export", "--format", "csv", "-o", str(tmp_path / "x/y/all.csv"), *where])
    assert "2 models are mixed here" in exported.stderr
    unknown = runner.invoke(main, ["report", "-o", str(tmp_path / "r.html"), "--model", "none", *where])
    assert unknown.exit_code == 2
    assert "no finished video" in unknown.stderr
