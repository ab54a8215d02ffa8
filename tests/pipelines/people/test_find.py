"""The same person over cuts and videos: two real people in two short films, and nothing that nobody asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import storage
from flows.cli.main import main
from pipelines.people import find
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.annotations.edits import add_edit, undo_edit
from storage.annotations.people import accept_person, found_tracks
from storage.lake import Lake
from storage.sql.views import connect, run_sql
from tests.films import FILMS, FRAMES_PER_SHOT, write_film


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A folder with the films and a lake of them; do not change it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("people")
    scorer, settings = Scorer(model), AnalysisSettings(detector=DetectorSettings(min_face_px=36))
    analyzer = VideoAnalyzer(Lake.open(folder / "lake", create=True), settings, scorer)
    for name, shots in FILMS.items():
        write_film(folder / name, shots)
        assert analyzer(VideoFile(folder / name)).status == "ok"
    return folder


@pytest.fixture
def lake(studied: Path, tmp_path: Path) -> Lake:
    """A copy of that lake, whose videos lie where they were."""
    return Lake.open(shutil.copytree(studied / "lake", tmp_path / "lake"))


def mfer(lake: Lake, *words: str) -> str:
    done = CliRunner().invoke(main, ["people", *words, "--lake", str(lake.location)])
    assert done.exit_code == 0, done.output
    return done.output


def ask(lake: Lake, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run_sql(lake, query).to_pylist()
    return rows


def shown(lake: Lake) -> dict[tuple[str, int], str]:
    """Who each track really shows, by file name and number."""
    faces = ask(lake, "SELECT file_name, track_id, frame_index, (box_x1_px + box_x2_px) / 2 AS x FROM scores")
    found: dict[tuple[str, int], str] = {}
    for face in faces:
        who = FILMS[face["file_name"]][face["frame_index"] // FRAMES_PER_SHOT][face["x"] > 176]
        assert who is not None
        assert found.setdefault((face["file_name"], face["track_id"]), who) == who  # no track shows two
    return found


def people_of(lake: Lake) -> dict[str, set[str]]:
    """The ids under which the view ``scores`` shows each person."""
    who, found = shown(lake), dict[str, set[str]]()
    for row in ask(lake, "SELECT DISTINCT file_name, track_id, person_id FROM scores"):
        found.setdefault(who[row["file_name"], row["track_id"]], set()).add(row["person_id"])
    return found


def edits(lake: Lake) -> list[tuple[Any, ...]]:
    rows = ask(lake, "SELECT video_id, track_id, value, confidence FROM edits ORDER BY ALL")
    return [tuple(row.values()) for row in rows]


def test_people_are_found_over_cuts_and_videos_in_any_order_once_and_taken_back(lake: Lake, studied: Path) -> None:
    tables = {name: ask(lake, f"SELECT * FROM raw.{name} ORDER BY ALL") for name in ("tracks", "observations")}
    n = len(shown(lake))
    assert n >= 7
    assert people_of(lake) == {"man": {None}, "woman": {None}}
    assert f"4 people in {n} tracks of 2 videos\n" in mfer(lake, "find")
    within = people_of(lake)
    assert {name: len(ids) for name, ids in within.items()} == {"man": 2, "woman": 2}  # one in each video
    assert not within["man"] & within["woman"]
    ((author, sure),) = {
        (r["author"], r["confidence"] > 0.9) for r in ask(lake, "FROM edits SELECT author, confidence")
    }
    assert (author, sure) == ("mfer people find", True)
    before = edits(lake)
    assert "0 people in 0 tracks of 0 videos (2 videos done before)" in mfer(lake, "find")
    assert edits(lake) == before

    assert f"2 people in {n} tracks of 2 videos" in mfer(lake, "find", "--across", "two.mp4", "one.mp4")
    across = people_of(lake)
    assert {name: len(ids) for name, ids in across.items()} == {"man": 1, "woman": 1}
    assert across["man"] != across["woman"]
    before = edits(lake)
    assert "0 tracks written, 0 earlier ones" in mfer(lake, "find", "--across", "one.mp4", str(studied))
    assert edits(lake) == before
    with storage.connect(str(lake.location)) as con:
        assert con.execute("SELECT count(DISTINCT person_id), count(*) FROM people").fetchone() == (2, n)
        shares = con.execute(
            "SELECT group_name, n_videos FROM expression_shares(by := 'person') GROUP BY ALL"
        ).fetchall()
        assert sorted(shares) == sorted((name, 2) for (name,) in across.values())
    listed = mfer(lake, "list")
    assert "2 people" in listed
    assert all(f"{name} " in listed for (name,) in across.values())

    assert not list(lake.location.glob("embeddings/*.parquet"))  # nobody asked to keep them
    assert f"{n} tracks taken back, 0 embeddings erased" in mfer(lake, "forget")
    assert people_of(lake) == {"man": {None}, "woman": {None}}
    assert f"4 people in {n} tracks" in mfer(lake, "find")  # and found again
    assert people_of(lake) == within
    assert {name: ask(lake, f"SELECT * FROM raw.{name} ORDER BY ALL") for name in tables} == tables


def test_what_people_say_wins_and_stays(lake: Lake) -> None:
    who = shown(lake)
    video = {r["file_name"]: (r["video_id"], r["faces_id"]) for r in ask(lake, "FROM videos")}

    def say(kind: str, file_name: str, track_id: int, value: str | None = None) -> str:
        video_id, faces_id = video[file_name]
        return add_edit(lake, video_id, kind, faces_id=faces_id, track_id=track_id, value=value)

    find.find_people(lake, across=True)
    (woman,) = people_of(lake)["woman"]
    men = [track for (name, track), person in sorted(who.items()) if (name, person) == ("one.mp4", "man")]
    women = [track for (name, track), person in sorted(who.items()) if (name, person) == ("one.mp4", "woman")]
    say("name", "one.mp4", men[0], "Bob")
    assert people_of(lake) == {"man": {"Bob"}, "woman": {woman}}  # in the other video too
    with connect(lake, [video["two.mp4"][0]]) as con:
        query = "SELECT DISTINCT person_id FROM scores WHERE file_name = 'two.mp4' ORDER BY 1"
        assert con.execute(query).fetchall() == sorted([("Bob",), (woman,)])

    twin = say("name", "one.mp4", men[1], "Rob")  # it is somebody else, a person says
    names = {
        r["track_id"]: r["name"] for r in ask(lake, "SELECT track_id, name FROM people WHERE file_name = 'one.mp4'")
    }
    assert [names[track] for track in men] == ["Bob", "Rob", None]  # whose the third is, nobody knows until asked again
    find.find_people(lake, across=True)
    assert {"Bob", "Rob"} <= people_of(lake)["man"]
    undo_edit(lake, video["one.mp4"][0], twin)
    find.find_people(lake, across=True)
    assert people_of(lake)["man"] == {"Bob"}

    alone = say("person", "one.mp4", women[0])
    assert people_of(lake)["woman"] == {woman, f"{video['one.mp4'][0]}/{women[0]}"}
    find.find_people(lake, across=True)
    left = {
        track.person_id
        for track in found_tracks(lake).values()
        if track.key[2] in women[1:] and track.key[0] == video["one.mp4"][0]
    }
    assert len(left) == 1
    undo_edit(lake, video["one.mp4"][0], alone)
    find.find_people(lake, across=True)
    assert people_of(lake)["woman"] == {woman}

    assert accept_person(lake, video["one.mp4"][0], woman, "ann") == len(women)
    with pytest.raises(ValueError, match="waits to be accepted"):
        accept_person(lake, video["one.mp4"][0], woman, "ann")
    mfer(lake, "forget")
    assert people_of(lake)["woman"] == {woman, None}  # what was accepted stays, in that video
    say("merge", "one.mp4", women[0], str(men[0]))  # in jest
    assert ask(lake, "SELECT DISTINCT name FROM people WHERE file_name = 'one.mp4'") == [{"name": "Bob"}]
    with connect(lake, as_found=True) as con:
        assert con.execute("SELECT count(*) FROM people").fetchone() == (0,)
        assert con.execute("SELECT count(person_id), bool_and(person = track_id) FROM scores").fetchone() == (0, True)


def test_embeddings_are_kept_when_asked_for_and_forgotten_to_the_last_byte(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(shown(lake))
    assert f"{n} tracks written" in mfer(lake, "find", "--across", "--keep-embeddings")
    found = edits(lake)
    files = list(lake.location.glob("embeddings/*.parquet"))
    assert len(files) == 2  # one by each video
    assert sum(file.stat().st_size for file in files) > n * 128 * 4
    with storage.connect(str(lake.location)) as con, pytest.raises(Exception, match="embeddings"):
        con.execute("FROM raw.embeddings")

    def gone() -> None:
        raise AssertionError("the network was asked again")

    monkeypatch.setattr(find, "load_identity", gone)  # what was kept is enough
    assert "0 tracks written, 0 earlier" in mfer(lake, "find", "--across", "--keep-embeddings")
    assert edits(lake) == found
    monkeypatch.undo()
    video = ask(lake, "SELECT video_id FROM videos WHERE file_name = 'one.mp4'")[0]["video_id"]
    done = CliRunner().invoke(main, ["lake", "forget", video, "--yes", "--lake", str(lake.location)])
    assert (done.exit_code, "rows of embeddings" in done.output, "nothing found" in done.output) == (0, True, True)
    assert "3 tracks taken back, 3 embeddings erased" in mfer(lake, "forget")
    assert not list(lake.location.glob("embeddings/*.parquet"))
    monkeypatch.setattr("mfer.pretrained.files._DLIB_MODULE", "no_such_package")
    done = CliRunner().invoke(main, ["people", "find", "--lake", str(lake.location)])
    assert (done.exit_code, "pip install 'mfer[teacher]'" in done.output) == (2, True)
