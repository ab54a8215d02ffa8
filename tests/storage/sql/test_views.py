"""What the views show: nothing but finished videos, of the analysis that is chosen, with whole tracks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from storage.annotations.edits import add_edit
from storage.lake import Lake
from storage.models import ModelStore
from storage.records import RunManifest, VideoOutcome
from storage.schema import EXPRESSIONS, FACE_COLUMNS
from storage.sql.views import EPISODE_MIN_S, VIEWS, connect, run_sql
from tests.storage import lake_rows as rows


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def ask(lake: Lake, query: str) -> list[tuple[object, ...]]:
    with connect(lake) as con:
        return con.execute(query).fetchall()


def manifest(run_id: str) -> RunManifest:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    return RunManifest(run_id, day, day, {"every": 1}, rows.MODEL_A, {"torch": "2.9"})


def outcome(number: int | None, path: str, status: str = "ok", **changes: object) -> VideoOutcome:
    video_id = None if number is None else rows.video_id(number)
    return VideoOutcome(video_id, path, status, **changes)


def columns(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    with connect(lake) as con:
        return {name: [(r[0], r[1]) for r in con.execute(f"DESCRIBE {name}").fetchall()] for name in VIEWS}


def test_views_of_an_empty_lake_are_empty_with_the_same_types(lake: Lake) -> None:
    empty = columns(lake)
    assert ask(lake, " UNION ALL ".join(f"(SELECT count(*) FROM {name})" for name in VIEWS)) == [(0,)] * len(VIEWS)
    rows.add_video(lake, 1)
    lake.append_run(manifest("r1"), [outcome(1, "/films/clip 1.mp4")])
    assert columns(lake) == empty
    assert dict(empty["scores"])["p_fear"] == "FLOAT"
    assert dict(empty["frames"])["frame_index"] == "BIGINT"


def test_a_class_that_the_model_lacks_is_null_everywhere(lake: Lake) -> None:
    rows.add_video(lake, 1, rows.face_rows(50, lacks=("contempt",)))
    (score,) = ask(lake, "SELECT count(*), count(p_contempt), count(p_fear) FROM scores")
    assert score == (50, 0, 50)
    assert ask(lake, "SELECT count(max_p_contempt), count(mean_p_contempt) FROM seconds") == [(0, 0)]
    assert ask(lake, "SELECT mean_p_contempt FROM tracks") == [(None,)]


def test_scores_name_the_file_and_the_time_first(lake: Lake) -> None:
    rows.add_video(lake, 1)
    names = [name for name, _ in columns(lake)["scores"]]
    assert names[:5] == ["file_name", "time_s", "track_id", "expression", "confidence"]
    assert ask(lake, "SELECT file_name, path, time_s FROM scores ORDER BY frame_index LIMIT 1 OFFSET 25") == [
        ("clip 1.mp4", "/films/clip 1.mp4", 1.0)
    ]


def test_copies_and_failures_have_a_row_each(lake: Lake) -> None:
    rows.add_video(lake, 1)
    outcomes = [
        outcome(1, "/films/clip 1.mp4", n_frames=50, n_faces=50),
        outcome(1, "/films/copy.mp4", "skipped"),
        outcome(None, "/films/gone.mp4", "failed", code="unreadable", stage="open", message="no such file"),
    ]
    assert lake.append_run(manifest("r1"), outcomes)
    assert not lake.append_run(manifest("r1"), outcomes)
    found = ask(lake, "SELECT file_name, status, code, n_frames, video_id FROM videos ORDER BY file_name")
    assert found == [
        ("clip 1.mp4", "ok", None, 50, rows.video_id(1)),
        ("copy.mp4", "ok", None, 50, rows.video_id(1)),
        ("gone.mp4", "failed", "unreadable", 0, None),
    ]
    assert ask(lake, "SELECT count(*) FROM scores") == [(50,)]


def test_the_latest_run_decides_the_outcome_of_a_path(lake: Lake) -> None:
    path = "/films/clip 1.mp4"
    lake.append_run(manifest("z"), [outcome(1, path, "failed", code="decode_failed", stage="decode")])
    assert ask(lake, "SELECT status, code, stage FROM videos") == [("failed", "decode_failed", "decode")]
    rows.add_video(lake, 1)
    lake.append_run(manifest("b"), [outcome(1, path)])
    lake.append_run(manifest("a"), [outcome(1, path, "skipped")])
    assert ask(lake, "SELECT status, code, last_run_status FROM videos") == [("ok", None, "skipped")]
    assert ask(lake, "SELECT count(*) FROM runs") == [(3,)]


def test_a_finished_video_is_listed_though_its_run_was_killed(lake: Lake) -> None:
    rows.add_video(lake, 1, code="truncated", message="the file breaks off")
    assert ask(lake, "SELECT file_name, status, code FROM videos") == [("clip 1.mp4", "partial", "truncated")]


def test_an_unchanged_file_is_known_without_hashing(lake: Lake) -> None:
    rows.add_video(lake, 1)
    lake.append_run(manifest("r1"), [outcome(2, "/films/b.mp4", "skipped", size_bytes=7, mtime_ns=8)])
    request = [
        ("/films/b.mp4", 7, 8),
        (Path("/films/clip 1.mp4"), 1001, 5_000_000_001),
        ("/films/c.mp4", 7, 8),
    ]
    assert lake.known_files(request) == {"/films/b.mp4": rows.video_id(2), Path("/films/clip 1.mp4"): rows.video_id(1)}
    assert lake.known_files([("/films/b.mp4", 7, 8)]) == {"/films/b.mp4": rows.video_id(2)}
    assert lake.known_files([("/films/b.mp4", 7, 9)]) == {}
    assert lake.known_files([("/films/b.mp4", 6, 8)]) == {}


def test_a_name_that_is_not_utf8_is_kept_and_known(lake: Lake) -> None:
    path = b"/films/caf\xe9.mp4".decode("utf-8", "surrogateescape")
    lake.append_run(manifest("r1"), [outcome(1, path, size_bytes=1, mtime_ns=2)])
    assert ask(lake, "SELECT path FROM videos") == [(r"/films/caf\xe9.mp4",)]
    assert lake.known_files([(path, 1, 2)]) == {path: rows.video_id(1)}


def test_another_model_reuses_the_stored_faces(lake: Lake) -> None:
    table = rows.face_rows(20, n_faces=2, without_face=(5,), undecodable=(6,))
    rows.add_video(lake, 1, table)
    assert lake.stored_faces("0" * 16, rows.video_id(1)) is None
    assert lake.stored_faces(rows.FACES, rows.video_id(2)) is None
    faces = lake.stored_faces(rows.FACES, rows.video_id(1))
    assert faces is not None
    assert tuple(faces.column_names) == FACE_COLUMNS
    assert faces["frame_index"].equals(table["frame_index"])
    assert faces["frame_status"].equals(table["frame_status"])
    first, stored = table["box_x1_px"].to_pylist(), faces["box_x1_px"].to_pylist()
    assert stored == [None if x is None else round(x * 8) / 8 for x in first]
    rows.add_video(lake, 1, faces, analysis_id=rows.ANALYSIS_B, model_id=rows.MODEL_B)
    again = lake.stored_faces(rows.FACES, rows.video_id(1))
    assert again is not None
    assert again.equals(faces)


def test_faces_of_an_unfinished_analysis_are_not_offered(lake: Lake) -> None:
    rows.commit_segment(lake, rows.face_rows(5), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1))
    assert lake.stored_faces(rows.FACES, rows.video_id(1)) is None


def chosen(lake: Lake) -> dict[str, str]:
    return dict(ask(lake, "SELECT DISTINCT file_name, analysis_id FROM scores"))


def test_chosen_analysis_is_of_the_production_model_then_the_densest_then_the_latest(
    lake: Lake, tmp_path: Path
) -> None:
    store = ModelStore(lake)
    (tmp_path / "w").write_bytes(b"weights")
    model = store.publish("better", tmp_path / "w", {"classes": list(EXPRESSIONS)})
    rows.add_video(lake, 1)
    rows.add_video(lake, 2)
    rows.add_video(lake, 1, analysis_id=rows.ANALYSIS_B, model_id=rows.MODEL_B)
    assert chosen(lake) == {"clip 1.mp4": rows.ANALYSIS_B, "clip 2.mp4": rows.ANALYSIS_A}  # the latest
    rows.add_video(lake, 1, rows.face_rows(60), analysis_id="dddddddddddddddd")
    rows.add_video(lake, 1, rows.face_rows(10), analysis_id="eeeeeeeeeeeeeeee", model_id=model)
    assert chosen(lake)["clip 1.mp4"] == "dddddddddddddddd"  # the densest
    store.promote(model)
    assert chosen(lake) == {"clip 1.mp4": "eeeeeeeeeeeeeeee", "clip 2.mp4": rows.ANALYSIS_A}
    store.rollback()
    assert chosen(lake)["clip 1.mp4"] == "dddddddddddddddd"
    assert ask(lake, "SELECT count(*), count(*) FILTER (WHERE chosen) FROM scores_all") == [(220, 110)]
    assert ask(lake, "SELECT sum(n_videos), sum(n_videos_chosen) FROM analyses") == [(5, 2)]


def test_a_track_keeps_its_number_across_segments(lake: Lake) -> None:
    # the second segment numbers its tracks from 7 and the faces have changed order
    first = rows.face_rows(50, n_faces=2)
    second = rows.face_rows(50, n_faces=3, first_frame=50, seed=1)
    swapped = pa.array([{0: 9, 1: 7, 2: 8}[track] for track in second["track"].to_pylist()], pa.int32())
    second = second.set_column(second.column_names.index("track"), "track", swapped)
    for segment, table in enumerate((first, second)):
        rows.commit_segment(lake, table, analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1), segment=segment)
    assert lake.commit_video(rows.finished(1, n_segments=2)).n_tracks == 3
    whole = rows.face_rows(100, n_faces=2)
    found = ask(lake, "SELECT track_id, first_frame, last_frame, n_faces, start_s, end_s FROM tracks ORDER BY track_id")
    assert found == [(0, 0, 99, 100, 0.0, 4.0), (1, 0, 99, 100, 0.0, 4.0), (2, 50, 99, 50, 2.0, 4.0)]
    per_face = ask(lake, "SELECT track_id, face_index, count(*) FROM scores GROUP BY ALL ORDER BY ALL")
    assert per_face == [(0, 0, 100), (1, 1, 100), (2, 2, 50)]
    assert len(whole) == 200


def test_sums_per_second_agree_with_the_scores(lake: Lake) -> None:
    rows.add_video(lake, 1, rows.face_rows(130, n_faces=2, without_face=(30,), every=2))
    again = """
        SELECT track_id, CAST(floor(time_s) AS INTEGER) AS second, count(*), sum(duration_s), max(p_sadness),
               sum(p_sadness * duration_s) / sum(duration_s) FROM scores GROUP BY ALL ORDER BY ALL
    """
    stored = "SELECT track_id, second, n_faces, screen_time_s, max_p_sadness, mean_p_sadness FROM seconds ORDER BY ALL"
    for ours, theirs in zip(ask(lake, stored), ask(lake, again), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_speaking_is_the_share_of_known_time_with_the_motion_of_speech(lake: Lake) -> None:
    table = rows.face_rows(100)
    motion = [None] * 5 + [3.0] * 10 + [1.0] * 10 + [1.0] * 25 + [None] * 25 + [3.0] * 12 + [2.0] * 13
    place = table.column_names.index("mouth_motion")
    rows.add_video(lake, 1, table.set_column(place, "mouth_motion", pa.array(motion, pa.float32())))
    query = "SELECT speaking FROM seconds ORDER BY second"
    wanted = [(pytest.approx(0.5),), (0.0,), (None,), (pytest.approx(0.48),)]
    assert ask(lake, query) == wanted
    add_edit(lake, rows.video_id(1), "exclude", faces_id=rows.FACES, track_id=0, start_s=0.0, end_s=0.2)
    assert ask(lake, query) == wanted  # the excluded frames had no motion
    add_edit(lake, rows.video_id(1), "exclude", faces_id=rows.FACES, track_id=0, start_s=3.48, end_s=4.0)
    assert ask(lake, query)[3] == (1.0,)


def test_episodes_are_spans_of_one_leading_expression(lake: Lake) -> None:
    table = rows.face_rows(100, without_face=tuple(range(60, 80)))
    faces = pa.compute.is_valid(table["face_index"]).to_pylist()
    lead = ["sadness"] * 30 + ["anger"] * 5 + ["happiness"] * 65
    leads = pa.array([e if f else None for e, f in zip(lead, faces, strict=True)])
    rows.add_video(lake, 1, table.set_column(table.column_names.index("expression"), "expression", leads))
    found = ask(lake, "SELECT start_s, end_s, expression, n_faces FROM episodes ORDER BY start_s")
    assert found == [
        (0.0, pytest.approx(1.2), "sadness", 30),
        (pytest.approx(1.4), pytest.approx(2.4), "happiness", 25),  # 0.2 s of anger before is none
        (pytest.approx(3.2), pytest.approx(4.0), "happiness", 20),
    ]
    assert EPISODE_MIN_S > 0.2


def test_a_filter_on_the_analysis_opens_no_other_files(lake: Lake) -> None:
    rows.add_video(lake, 1)
    rows.add_video(lake, 1, analysis_id=rows.ANALYSIS_B, model_id=rows.MODEL_B)
    plan = ask(lake, f"EXPLAIN ANALYZE SELECT avg(p_fear) FROM scores_all WHERE analysis_id = '{rows.ANALYSIS_A}'")
    assert "Scanning Files: 1/2" in str(plan)


def test_answers_come_as_arrow(lake: Lake) -> None:
    rows.add_video(lake, 1)
    table = run_sql(lake, "SELECT frame_index, p_fear FROM scores ORDER BY frame_index")
    assert isinstance(table, pa.Table)
    assert table.schema.types == [pa.int64(), pa.float32()]
    assert len(table) == 50
    assert len(run_sql(lake, "FROM scores", max_rows=50)) == 50
