"""What people add to a lake, and how the views honour it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.edits import add_edit, add_label, undo_edit
from storage.lake import Lake
from storage.views import connect, run_sql
from tests.storage.lake_rows import FACES, add_video, face_rows, video_id

VIDEO = video_id(1)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two faces for four seconds in each of two videos."""
    lake = Lake.open(tmp_path / "lake", create=True)
    for number in (1, 2):
        add_video(lake, number, face_rows(100, n_faces=2, seed=number))
    return lake


def ask(lake: Lake, query: str) -> Any:
    return [tuple(row.values()) for row in run_sql(lake, query).to_pylist()]


def seen(lake: Lake, number: int = 1) -> dict[int, set[float]]:
    """Times at which each track of a video is in ``scores``."""
    rows = ask(lake, f"SELECT track_id, time_s FROM scores WHERE video_id = '{video_id(number)}'")
    return {track: {time_s for number, time_s in rows if number == track} for track, _ in rows}


def test_excluded_stretch_leaves_scores_and_what_follows_from_them(lake: Lake) -> None:
    whole = seen(lake)
    edit = add_edit(lake, VIDEO, "exclude", start_s=1.0, end_s=2.2)
    left = {time_s for time_s in whole[0] if not 1.0 <= time_s < 2.2}
    assert seen(lake) == {0: left, 1: left}
    assert seen(lake, 2) == whole
    assert ask(lake, f"SELECT DISTINCT second FROM seconds WHERE video_id = '{VIDEO}' ORDER BY 1") == [(0,), (3,)]
    assert not ask(lake, f"SELECT * FROM episodes WHERE video_id = '{VIDEO}' AND start_s < 2.2 AND end_s > 1.0")
    assert ask(lake, f"SELECT count(*) FROM scores_all WHERE video_id = '{VIDEO}'") == [(200,)]
    undo_edit(lake, VIDEO, edit)
    assert seen(lake) == whole
    assert ask(lake, "SELECT * FROM edits") == []


def test_one_face_can_be_excluded_and_overlapping_stretches_count_once(lake: Lake) -> None:
    for start_s, end_s in ((0.0, 2.0), (1.0, 3.0)):
        add_edit(lake, VIDEO, "exclude", faces_id=FACES, track_id=1, start_s=start_s, end_s=end_s)
    add_edit(lake, VIDEO, "exclude", faces_id="f" * 16, track_id=0)  # tracks of other settings: not these
    times = seen(lake)
    assert len(times[0]) == 100
    assert min(times[1]) == 3.0
    add_edit(lake, VIDEO, "exclude")
    assert seen(lake) == {}


def test_names_and_merges_are_one_person(lake: Lake) -> None:
    add_edit(lake, VIDEO, "name", faces_id=FACES, track_id=0, value="Bob")
    add_edit(lake, VIDEO, "name", faces_id=FACES, track_id=0, value="Ann")
    add_edit(lake, VIDEO, "merge", faces_id=FACES, track_id=1, value="0")
    assert ask(lake, "SELECT track_id, person, name FROM people ORDER BY 1") == [(0, 0, "Ann"), (1, 0, "Ann")]


@pytest.mark.parametrize(
    ("kind", "parts", "reason"),
    [
        ("paint", {}, "one of"),
        ("name", {"value": "Ann"}, "needs a track_id"),
        ("name", {"track_id": 0, "value": "Ann"}, "faces_id"),
        ("name", {"track_id": 0, "faces_id": FACES, "value": " "}, "text"),
        ("merge", {"track_id": 0, "faces_id": FACES, "value": "0"}, "another track"),
        ("event", {"value": "smile"}, "start_s"),
        ("exclude", {"start_s": 2.0, "end_s": 1.0}, "not after"),
    ],
)
def test_what_is_no_edit_is_refused(lake: Lake, kind: str, parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        add_edit(lake, VIDEO, kind, **parts)
    assert ask(lake, "SELECT * FROM edits") == []


def test_last_judgement_of_each_rater_counts_and_can_be_withdrawn(lake: Lake) -> None:
    face = {"video_id": VIDEO, "faces_id": FACES, "frame_index": 3, "time_s": 0.12, "face_index": 1, "track_id": 1}
    add_label(lake, face, "expression", "fear", "ann")
    add_label(lake, face, "expression", "surprise", " ann ")
    add_label(lake, face, "not_a_face", None, "bob")
    found = "SELECT file_name, rater, verdict, expression FROM labels ORDER BY rater"
    ann, bob = ("clip 1.mp4", "ann", "expression", "surprise"), ("clip 1.mp4", "bob", "not_a_face", None)
    assert ask(lake, found) == [ann, bob]
    add_label(lake, face, "withdrawn", None, "ann")
    assert ask(lake, found) == [bob]
    for verdict, expression, rater in (("expression", "joy", "a"), ("undecided", "fear", "a"), ("undecided", None, "")):
        with pytest.raises(ValueError, match=r"verdict|judge"):
            add_label(lake, face, verdict, expression, rater)


def test_views_of_some_videos_show_all_of_their_rows(lake: Lake) -> None:
    with connect(lake, [VIDEO]) as con:
        query = f"SELECT count(*) FROM scores WHERE video_id = '{VIDEO}'"
        assert con.execute(query).fetchone() == (200,)
        assert con.execute("SELECT count(DISTINCT video_id) FROM scores").fetchone() == (1,)  # one file per video here
