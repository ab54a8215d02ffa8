"""Labels as a training run reads them, judgements from files, and which faces to ask about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.annotations.edits import add_edit, add_label
from storage.annotations.labels import (
    Judgement,
    add_labels,
    least_certain_faces,
    read_labels,
    suggested_faces,
    uncertain_seconds,
)
from storage.delta.relations import rows_of
from storage.lake import Lake
from storage.maintenance.forget import forget_video
from storage.schema import EXPRESSIONS
from storage.sql.views import connect, run_sql
from tests.storage.lake_rows import ANALYSIS_B, FACES, MODEL_B, add_video, face_rows, video_id


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two faces for two seconds in each of three videos."""
    lake = Lake.open(tmp_path / "lake", create=True)
    for number in (1, 2, 3):
        add_video(lake, number, face_rows(50, n_faces=2, seed=number))
    return lake


def judge(lake: Lake, video: int, frame: int, face: int, output: str, rater: str = "ann") -> None:
    place = {"video_id": video_id(video), "faces_id": FACES, "frame_index": frame, "face_index": face}
    verdict = output if output in ("not_a_face", "undecided", "withdrawn") else "expression"
    add_label(
        lake,
        {**place, "time_s": frame / 25, "track_id": face},
        verdict,
        output if verdict == "expression" else None,
        rater,
    )


def output(**parts: Any) -> Judgement:
    defaults: dict[str, Any] = {"where": "x:1", "video_id": video_id(1), "verdict": "expression", "expression": "fear"}
    return Judgement(**(defaults | {"rater": "ann", "frame_index": 3, "face_index": 0} | parts))


def test_votes_of_raters_are_counted_and_faces_without_a_majority_are_named(lake: Lake) -> None:
    for rater, what in (("ann", "fear"), ("bob", "fear"), ("cy", "surprise")):
        judge(lake, 1, 3, 1, what, rater)
    judge(lake, 1, 4, 0, "anger")
    judge(lake, 1, 4, 0, "happiness")  # she thought again
    for rater, what in (("ann", "fear"), ("bob", "surprise")):
        judge(lake, 1, 5, 0, what, rater)
    judge(lake, 2, 6, 0, "not_a_face")
    judge(lake, 2, 7, 0, "undecided")
    judge(lake, 2, 8, 0, "fear")
    judge(lake, 2, 8, 0, "withdrawn")
    judge(lake, 3, 999, 0, "fear")
    found = read_labels(lake)
    assert {(face.frame_index, face.face_index): dict(face.votes) for face in found.faces} == {
        (3, 1): {"fear": 2, "surprise": 1},
        (4, 0): {"happiness": 1},
    }
    assert found.dropped == {
        "raters divided evenly": 1,
        "not a face": 1,
        "undecided": 1,
        "no such face in the lake any more": 1,
    }


def test_a_labelled_face_lies_where_the_lake_found_it_whichever_model_scored_it(lake: Lake) -> None:
    add_video(lake, 1, face_rows(50, n_faces=2, seed=1), analysis_id=ANALYSIS_B, model_id=MODEL_B)
    judge(lake, 1, 3, 1, "fear")
    (face,) = read_labels(lake).faces
    query = "SELECT box_x1_px, right_eye_y_px, pts_s FROM scores_all WHERE frame_index = 3 AND face_index = 1"
    where = run_sql(lake, f"{query} AND video_id = '{video_id(1)}'").to_pylist()
    assert {(face.box_px[0], face.landmarks_px[3], face.pts_s)} == {tuple(row.values()) for row in where}
    assert (face.track_id, len(face.box_px), len(face.landmarks_px)) == (1, 4, 10)


def test_names_of_people_come_with_their_videos(lake: Lake) -> None:
    add_edit(lake, video_id(1), "name", faces_id=FACES, track_id=0, value="Ann")
    add_edit(lake, video_id(2), "name", faces_id=FACES, track_id=1, value="Ann")
    assert read_labels(lake).persons == {video_id(1): {"Ann"}, video_id(2): {"Ann"}}


def test_a_file_counts_only_while_it_holds_the_same_bytes(lake: Lake, tmp_path: Path) -> None:
    assert read_labels(lake).file_of(video_id(1)) is None  # /films/clip 1.mp4 is not there
    copy = tmp_path / "clip.mp4"
    copy.write_bytes(b"x" * 100)
    from storage.identity import video_id_of

    content = video_id_of(copy)
    add_video(lake, 9, video_id=content, path=str(copy), size_bytes=100, mtime_ns=1)
    assert read_labels(lake).file_of(content) == copy  # another time and the same bytes
    copy.write_bytes(b"y" * 100)
    assert read_labels(lake).file_of(content) is None


def test_judgements_of_a_file_become_the_rows_that_the_dashboard_writes(lake: Lake) -> None:
    given = [
        output(),
        output(frame_index=None, time_s=0.17, face_index=None, track_id=1, expression="anger"),
        output(video_id=video_id(2), verdict="not_a_face", expression=None, faces_id=FACES, note="a poster"),
    ]
    assert add_labels(lake, given) == (3, 0, [])
    assert add_labels(lake, given) == (0, 3, [])
    query = "SELECT video_id, faces_id, frame_index, time_s, face_index, track_id, expression, verdict, rater, note"
    rows = [
        tuple(row.values()) for row in run_sql(lake, f"{query} FROM labels ORDER BY video_id, frame_index").to_pylist()
    ]
    assert rows == [
        (video_id(1), FACES, 3, 0.12, 0, 0, "fear", "expression", "ann", None),
        (video_id(1), FACES, 4, 0.16, 1, 1, "anger", "expression", "ann", None),
        (video_id(2), FACES, 3, 0.12, 0, 0, None, "not_a_face", "ann", "a poster"),
    ]
    assert len(read_labels(lake).faces) == 2


def test_a_rater_may_come_back_to_an_earlier_label(lake: Lake) -> None:
    def says() -> list[str]:
        rows: list[dict[str, Any]] = run_sql(lake, "SELECT expression FROM labels WHERE rater = 'ann'").to_pylist()
        return [row["expression"] for row in rows]

    for expression in ("fear", "anger", "fear"):
        assert add_labels(lake, [output(expression=expression)]) == (1, 0, [])
        assert says() == [expression]
        assert add_labels(lake, [output(expression=expression)]) == (0, 1, [])
    add_labels(lake, [output(expression=None, verdict="withdrawn")])
    assert says() == []
    assert add_labels(lake, [output(expression="fear")]) == (1, 0, [])
    assert says() == ["fear"]


@pytest.mark.parametrize("expressions", [("fear", "anger"), ("anger", "fear"), ("sadness", "neutral")])
def test_of_two_rows_of_one_face_and_rater_the_later_counts_and_the_other_is_named(
    lake: Lake, expressions: tuple[str, str]
) -> None:
    given = [output(where=f"row {i}", expression=expression) for i, expression in enumerate(expressions)]
    n_written, n_known, refused = add_labels(lake, given)
    assert (n_written, n_known, [refusal.where for refusal in refused]) == (1, 0, ["row 0"])
    assert run_sql(lake, "SELECT expression FROM labels").to_pylist() == [{"expression": expressions[1]}]


def test_two_rows_that_say_the_same_are_one(lake: Lake) -> None:
    assert add_labels(lake, [output(where="row 1"), output(where="row 2")]) == (1, 0, [])


def test_the_last_judgement_counts_where_another_clock_is_ahead(lake: Lake) -> None:
    place = {"video_id": video_id(1), "faces_id": FACES, "frame_index": 3, "face_index": 0, "time_s": 0.12}
    ahead = {"created_utc": datetime.now(UTC) + timedelta(minutes=5)}
    add_label(lake, {**place, "track_id": 0}, "expression", "anger", "ann", **ahead)
    assert add_labels(lake, [output(expression="fear")]) == (1, 0, [])
    assert run_sql(lake, "SELECT expression FROM labels").to_pylist() == [{"expression": "fear"}]


def test_labels_of_a_forgotten_video_are_written_again(lake: Lake) -> None:
    add_labels(lake, [output()])
    forget_video(lake, video_id(1))
    assert run_sql(lake, "FROM labels").num_rows == 0
    add_video(lake, 1, face_rows(50, n_faces=2, seed=1))
    assert add_labels(lake, [output()]) == (1, 0, [])
    assert run_sql(lake, "FROM labels").num_rows == 1


def test_a_judgement_that_names_no_face_or_several_is_refused_and_the_others_are_kept(lake: Lake) -> None:
    given = [
        output(where="a", frame_index=777),
        output(where="b", face_index=None),
        output(where="c", video_id="f" * 16),
        output(where="d", frame_index=None, time_s=2.5),
        output(where="e"),
    ]
    n_written, n_known, refused = add_labels(lake, given)
    assert (n_written, n_known) == (1, 0)
    assert [refusal.where for refusal in refused] == ["a", "b", "c", "d"]
    assert "several faces there: name face_index 0 (track 0), 1 (track 1)" in refused[1].reason
    assert all("no face there" in refused[k].reason for k in (0, 2, 3))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"expression": "joy"}, "does not go"), ({"rater": " "}, "who judged"), ({"frame_index": None}, "frame_index or")],
)
def test_what_is_no_judgement_is_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        output(**wrong)


@pytest.mark.parametrize("order", ["entropy", "margin"])
def test_suggested_faces_are_spread_over_videos_and_tracks_and_begin_with_the_least_sure(
    lake: Lake, order: str
) -> None:
    faces = suggested_faces(lake, 6, order)
    assert Counter(face["video_id"] for face in faces) == {video_id(n): 2 for n in (1, 2, 3)}
    assert len({(face["video_id"], face["track_id"]) for face in faces}) == 6
    assert [face["video_id"] for face in faces[:3]] != [faces[0]["video_id"]] * 3
    if order == "entropy":
        assert faces[0]["entropy"] == max(face["entropy"] for face in suggested_faces(lake, 100))
    assert len(suggested_faces(lake, 100, order)) == 12  # a face a track and second


@pytest.mark.parametrize("order", ["entropy", "margin"])
def test_the_summary_finds_the_faces_that_a_look_at_all_of_them_finds(lake: Lake, order: str) -> None:
    probs = ", ".join(f"p_{name}" for name in EXPRESSIONS)
    unsure = {"entropy": "entropy", "margin": f"1 - (confidence - list_reverse_sort([{probs}])[2])"}[order]
    least_sure = run_sql(
        lake,
        f"SELECT video_id, frame_index, face_index, {unsure} AS unsure FROM scores WHERE quality_ok"
        " QUALIFY row_number() OVER (PARTITION BY video_id, track_id, floor(time_s) ORDER BY unsure DESC, frame_index)"
        " = 1 ORDER BY unsure DESC LIMIT 7",
    ).to_pylist()
    with connect(lake) as con:

        def ask(sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
            return rows_of(con, sql, values).to_pylist()

        seconds = uncertain_seconds(ask, 7, order)
        faces = least_certain_faces(ask, seconds, order)
    key = ("video_id", "frame_index", "face_index")
    assert [[face[name] for name in key] for face in faces] == [[face[name] for name in key] for face in least_sure]
    assert [row["unsure"] for row in seconds] == pytest.approx([face["unsure"] for face in least_sure])


def test_faces_that_somebody_judged_are_not_suggested_again(lake: Lake) -> None:
    first = suggested_faces(lake, 1)[0]
    judge(lake, int(first["video_id"], 16), first["frame_index"], first["face_index"], "fear", "bob")
    key = ("video_id", "frame_index", "face_index")
    assert [first[k] for k in key] not in [[face[k] for k in key] for face in suggested_faces(lake, 100)]
    with pytest.raises(ValueError, match="entropy, margin"):
        suggested_faces(lake, 1, "size")
