"""What people add to a lake, and how the views honour it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.annotations.edits import add_edit, add_label, undo_edit
from storage.lake import Lake
from storage.sql.views import VIEWS, connect, run_sql
from tests.storage.lake_rows import ANALYSIS_B, FACES, add_video, face_rows, video_id

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


def test_excluded_span_leaves_scores_and_what_follows_from_them(lake: Lake) -> None:
    whole = seen(lake)
    edit = add_edit(lake, VIDEO, "exclude", start_s=1.0, end_s=2.2)
    left = {time_s for time_s in whole[0] if not 1.0 <= time_s < 2.2}
    assert seen(lake) == {0: left, 1: left}
    assert seen(lake, 2) == whole
    assert ask(lake, f"SELECT DISTINCT second FROM seconds WHERE video_id = '{VIDEO}' ORDER BY 1") == [
        (0,),
        (2,),
        (3,),
    ]
    of_third = f"FROM seconds WHERE video_id = '{VIDEO}' AND second = 2"
    assert ask(lake, f"SELECT DISTINCT n_faces {of_third}") == [(20,)]  # frames from 2.2 s on
    assert not ask(lake, f"SELECT * FROM episodes WHERE video_id = '{VIDEO}' AND start_s < 2.2 AND end_s > 1.0")
    assert ask(lake, f"SELECT count(*) FROM scores_all WHERE video_id = '{VIDEO}'") == [(200,)]
    undo_edit(lake, VIDEO, edit)
    assert seen(lake) == whole
    assert ask(lake, "SELECT * FROM edits") == []


def test_one_face_can_be_excluded_and_overlapping_spans_count_once(lake: Lake) -> None:
    for start_s, end_s in ((0.0, 2.0), (1.0, 3.0)):
        add_edit(lake, VIDEO, "exclude", faces_id=FACES, track_id=1, start_s=start_s, end_s=end_s)
    add_video(lake, 1, face_rows(50, n_faces=2), analysis_id=ANALYSIS_B, faces_id="f" * 16, model_id="other@1")
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


PEOPLE = "SELECT track_id, person, name FROM people ORDER BY 1"


@pytest.fixture
def crowd(tmp_path: Path) -> Lake:
    """Six faces in one video."""
    lake = Lake.open(tmp_path / "crowd", create=True)
    add_video(lake, 1, face_rows(25, n_faces=6))
    return lake


def merge(lake: Lake, track_id: int, other: str) -> str:
    return add_edit(lake, VIDEO, "merge", faces_id=FACES, track_id=track_id, value=other)


def test_merges_over_several_steps_are_one_person_and_a_circle_ends(crowd: Lake) -> None:
    for track_id, other in ((1, "0"), (2, "1"), (4, "5"), (5, "4")):
        merge(crowd, track_id, other)
    add_edit(crowd, VIDEO, "name", faces_id=FACES, track_id=2, value="Ann")
    circle = [(4, 4, None), (5, 4, None)]
    assert ask(crowd, PEOPLE) == [(0, 0, "Ann"), (1, 0, "Ann"), (2, 0, "Ann"), *circle]


def test_several_merges_of_one_face_hold_together_until_each_is_taken_back(crowd: Lake) -> None:
    merge(crowd, 3, "1")
    second = merge(crowd, 3, " 4 ")
    add_edit(crowd, VIDEO, "name", faces_id=FACES, track_id=4, value="Ann")
    assert ask(crowd, PEOPLE) == [(1, 1, "Ann"), (3, 1, "Ann"), (4, 1, "Ann")]
    undo_edit(crowd, VIDEO, second)
    assert ask(crowd, PEOPLE) == [(1, 1, None), (3, 1, None), (4, 4, "Ann")]


def test_a_face_whose_split_was_taken_back_is_nobody(lake: Lake) -> None:
    split = add_edit(lake, VIDEO, "split", faces_id=FACES, track_id=0, start_s=2.0)
    add_edit(lake, VIDEO, "name", faces_id=FACES, track_id=2, value="Bea")
    merge(lake, 1, "2")
    assert ask(lake, PEOPLE) == [(1, 2, "Bea"), (2, 2, "Bea")]
    undo_edit(lake, VIDEO, split)
    assert ask(lake, PEOPLE) == []
    with pytest.raises(ValueError, match="no face 2: its faces are 0, 1"):
        merge(lake, 1, "2")


def test_a_split_track_is_two_in_every_view_until_it_is_taken_back(lake: Lake) -> None:
    whole, tracks = seen(lake), ask(lake, "SELECT * FROM tracks ORDER BY ALL")
    first = add_edit(lake, VIDEO, "split", faces_id=FACES, track_id=0, start_s=2.5)
    add_edit(lake, VIDEO, "split", faces_id=FACES, track_id=2, start_s=3.0)
    pieces = {0: (0.0, 2.5), 2: (2.5, 3.0), 3: (3.0, 4.0)}
    parted = {track: {t for t in whole[0] if a <= t < b} for track, (a, b) in pieces.items()}
    assert seen(lake) == {**parted, 1: whole[1]}
    found = (
        f"SELECT track_id, start_s, end_s, n_faces FROM tracks WHERE video_id = '{VIDEO}' AND track_id <> 1 ORDER BY 1"
    )
    rows = [(0, 0.0, 2.48 + 0.04, 63), (2, 2.52, 3.0, 12), (3, 3.0, 4.0, 25)]
    assert [pytest.approx(row) for row in ask(lake, found)] == rows
    second_2 = f"SELECT track_id, n_faces FROM seconds WHERE video_id = '{VIDEO}' AND second = 2 AND track_id <> 1"
    assert sorted(ask(lake, second_2)) == [(0, 13), (2, 12)]
    crossing = "SELECT 1 FROM spans WHERE track_id IN (0, 2, 3) AND start_s < 2.5 AND end_s > 2.6"
    assert not ask(lake, f"{crossing} AND video_id = '{VIDEO}'")
    add_edit(lake, VIDEO, "name", faces_id=FACES, track_id=3, value="Bea")
    named = "SELECT count(*) FROM scores JOIN people USING (video_id, track_id) WHERE name = 'Bea'"
    assert ask(lake, named) == [(25,)]
    undo_edit(lake, VIDEO, first)
    assert seen(lake) == {0: parted[0] | parted[2], 3: parted[3], 1: whole[1]}
    undo_edit(lake, VIDEO, ask(lake, "SELECT edit_id FROM edits WHERE kind = 'split'")[0][0])
    assert ask(lake, "SELECT * FROM tracks ORDER BY ALL") == tracks


def test_a_part_is_excluded_alone_and_stays_so_when_it_is_split_again(lake: Lake) -> None:
    whole = seen(lake)
    add_edit(lake, VIDEO, "split", faces_id=FACES, track_id=0, start_s=2.0)
    add_edit(lake, VIDEO, "exclude", faces_id=FACES, track_id=2)
    add_edit(lake, VIDEO, "split", faces_id=FACES, track_id=2, start_s=3.0)
    assert seen(lake) == {0: {t for t in whole[0] if t < 2.0}, 1: whole[1]}


def test_a_lake_as_found_knows_no_edit(lake: Lake) -> None:
    with connect(lake) as con:
        before = {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in VIEWS}
    add_edit(lake, VIDEO, "split", faces_id=FACES, track_id=0, start_s=2.0)
    add_edit(lake, VIDEO, "exclude", start_s=1.0, end_s=1.5)
    add_edit(lake, VIDEO, "name", faces_id=FACES, track_id=1, value="Ann")
    with connect(lake, as_found=True) as con:
        assert {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in VIEWS} == before


def test_what_was_summed_at_commit_is_what_the_faces_add_up_to(lake: Lake) -> None:
    """The corrected views of an edit that changes nothing give every row of the plain ones."""
    names = ("seconds", "spans", "episodes", "tracks", "scores")
    with connect(lake) as con:
        stored = {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in names}
    for number in (1, 2):
        add_edit(lake, video_id(number), "exclude", start_s=100.0, end_s=101.0)
    with connect(lake) as con:
        again = {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in names}
    for name in names:
        assert len(stored[name]) == len(again[name]) > 0
        for row, other in zip(stored[name], again[name], strict=True):
            assert row == pytest.approx(other), name


@pytest.mark.parametrize(
    ("kind", "parts", "reason"),
    [
        ("paint", {}, "one of"),
        ("name", {"value": "Ann"}, "needs a track_id"),
        ("name", {"track_id": 0, "value": "Ann"}, "faces_id"),
        ("name", {"track_id": 0, "faces_id": FACES, "value": " "}, "text"),
        ("merge", {"track_id": 0, "faces_id": FACES, "value": "0"}, "another track"),
        ("merge", {"track_id": 0, "faces_id": FACES, "value": "9"}, "no face 9: its faces are 0, 1"),
        ("merge", {"track_id": 9, "faces_id": FACES, "value": "0"}, "no face 9"),
        ("merge", {"track_id": 0, "faces_id": "f" * 16, "value": "1"}, "none with these settings"),
        ("merge", {"track_id": 0, "faces_id": FACES, "value": "99999999999"}, "no face 99999999999"),
        ("merge", {"track_id": 0, "faces_id": FACES, "value": "²"}, "another track"),
        ("merge", {"track_id": 0, "faces_id": FACES, "value": "-1"}, "another track"),
        ("merge", {"track_id": 0, "faces_id": FACES, "value": 1}, "is text"),
        ("name", {"track_id": 9, "faces_id": FACES, "value": "Ann"}, "no face 9"),
        ("event", {"track_id": 9, "faces_id": FACES, "value": "smile", "start_s": 1.0}, "no face 9"),
        ("exclude", {"track_id": 9, "faces_id": FACES}, "no face 9"),
        ("event", {"value": "smile"}, "start_s"),
        ("exclude", {"start_s": 2.0, "end_s": 1.0}, "not after"),
        ("split", {"track_id": 0, "faces_id": FACES}, "start_s"),
        ("split", {"track_id": 9, "faces_id": FACES, "start_s": 1.0}, "no face 9"),
        ("split", {"track_id": 0, "faces_id": FACES, "start_s": 4.0}, "in between"),
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
