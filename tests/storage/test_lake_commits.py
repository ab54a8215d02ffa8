"""Commits happen exactly once, whoever races and whoever dies."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from storage.delta.tables import data_files, open_table
from storage.errors import LakeError
from storage.lake import Lake, Segment
from storage.maintenance.check import check_lake
from storage.maintenance.forget import forget_video
from storage.records import VideoCounts
from storage.schema import TABLES
from storage.sql.views import connect
from tests.storage import lake_rows as rows


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "a lake é", create=True)


def test_second_commit_of_a_segment_changes_nothing(lake: Lake) -> None:
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": rows.video_id(1)}
    assert not lake.done_segments(**names, n_segments=1)
    assert rows.commit_segment(lake, rows.face_rows(10), **names)
    assert not rows.commit_segment(lake, rows.face_rows(20), **names)
    assert lake.done_segments(**names, n_segments=1) == {0}
    assert lake.commit_video(rows.finished(1)).n_frames == 10


RACE = """
import sys
from tests.storage import lake_rows as rows
from storage.lake import Lake
lake = Lake.open(sys.argv[1], create=True)
own = rows.video_id(100 + int(sys.argv[2]))
print("ready", flush=True); sys.stdin.readline()
won = 0
for number in range(3):
    won += rows.commit_segment(lake, rows.face_rows(5), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(number))
    rows.commit_segment(lake, rows.face_rows(5), analysis_id=rows.ANALYSIS_A, video_id=own, segment=number)
    lake.commit_video(rows.finished(number))
first = 200 + 3 * int(sys.argv[2])
short = lake.commit_short_videos([(rows.finished(number), rows.face_rows(5)) for number in range(first, first + 6)])
print(won, sum(counts is not None for counts in short))
"""


def test_of_racing_processes_exactly_one_commits_each_segment(tmp_path: Path) -> None:
    location = tmp_path / "lake"
    racers = [rows.start(RACE, location, number) for number in range(2)]  # they also race to create it
    won = [[int(word) for word in output.split()] for output in rows.race(racers)]
    assert [sum(each) for each in zip(*won, strict=True)] == [3, 9]  # six short videos each, three of them of both
    lake = Lake.open(location)
    for number in range(2):
        assert lake.done_segments(rows.ANALYSIS_A, rows.video_id(100 + number), 3) == {0, 1, 2}
    with connect(lake) as con:
        assert con.execute("SELECT count(*), count(DISTINCT (video_id, frame_index)) FROM frames").fetchall() == [
            (60, 60)
        ]
        assert con.execute("SELECT count(*), count(DISTINCT video_id) FROM videos").fetchall() == [(12, 12)]
    unsound = {fault.video_id for fault in check_lake(lake).videos}
    assert unsound == {rows.video_id(100), rows.video_id(101)}  # whose segments have the same frames


def test_many_small_videos_share_commits(lake: Lake) -> None:
    parts = [Segment(rows.ANALYSIS_A, rows.video_id(n), 0, rows.face_rows(5 + n, seed=n)) for n in range(6)]
    assert rows.commit_segment(lake, parts[2].observations, analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(2))
    assert {video for _, video, _ in lake.commit_segments(parts)} == {rows.video_id(n) for n in (0, 1, 3, 4, 5)}
    assert lake.commit_segments(parts) == set()
    counts = lake.commit_videos([rows.finished(n) for n in range(6)])
    assert [c.n_faces for c in counts] == [5, 6, 7, 8, 9, 10]
    assert lake.done_videos(rows.ANALYSIS_A) == {rows.video_id(n) for n in range(6)}
    assert lake.done_videos(rows.ANALYSIS_B) == set()


def test_short_videos_are_finished_together_each_once(lake: Lake, tmp_path: Path) -> None:
    one_by_one = Lake.open(tmp_path / "one by one", create=True)
    videos = [rows.finished(n, **({"analysis_id": rows.ANALYSIS_B} if n == 3 else {})) for n in range(7)]
    tables = [rows.face_rows(4 + n, n_faces=n % 3, undecodable=(2,) if n == 5 else (), seed=n) for n in range(7)]
    for video, table in zip(videos, tables, strict=True):
        names = {"analysis_id": video.analysis_id, "video_id": video.video_id}
        rows.commit_segment(one_by_one, table, **names)
        one_by_one.commit_video(video)
        if video in videos[:2]:
            rows.commit_segment(lake, table, **names)
    lake.commit_video(videos[0])  # one is finished, of the next a killed run has left the rows
    before = {name: len(data_files(lake.location, name)) for name in TABLES}
    group = [*zip(videos, tables, strict=True), (videos[4], tables[4])]
    counts = lake.commit_short_videos(group)
    assert counts[0] is counts[-1] is None
    assert [(c.n_frames, c.n_faces, c.status) for c in counts if c] == [
        *((5, 5, "ok"), (6, 12, "ok"), (7, 0, "ok"), (8, 8, "ok"), (9, 16, "partial"), (10, 0, "ok")),
    ]
    assert rows.everything(lake) == rows.everything(one_by_one)
    assert lake.commit_short_videos(group) == [None] * 8
    added = {name: len(data_files(lake.location, name)) - before[name] for name in TABLES}
    assert {name: n for name, n in added.items() if n > 2} == {}  # one each, of two analyses
    assert check_lake(lake).is_sound
    forget_video(lake, videos[2].video_id)
    assert lake.done_videos(rows.ANALYSIS_A) == {rows.video_id(n) for n in (0, 1, 4, 5, 6)}
    assert check_lake(lake).is_sound


def test_names_are_known_behind_a_checkpoint(lake: Lake) -> None:
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": rows.video_id(1)}

    def commit(*segments: int) -> set[int]:
        for segment in segments:
            assert rows.commit_segment(lake, rows.face_rows(2, first_frame=2 * segment), **names, segment=segment)
        return lake.done_segments(**names, n_segments=8)

    log = lake.location / "observations" / "_delta_log"
    assert commit(0, 1) == {0, 1}
    open_table(lake.location, "observations").create_checkpoint()
    for entry in (0, 1):  # as Delta clears a log
        (log / f"{entry:020d}.json").unlink()
    assert commit(3, 5) == {0, 1, 3, 5}
    parts = [Segment(*names.values(), n, rows.face_rows(2, first_frame=2 * n)) for n in range(5)]
    assert {segment for *_, segment in lake.commit_segments(parts)} == {2, 4}
    (log / "_last_checkpoint").unlink()  # nobody has to write it
    assert lake.done_segments(**names, n_segments=8) == {0, 1, 2, 3, 4, 5}


def test_a_video_without_its_row_is_in_no_view(lake: Lake) -> None:
    rows.commit_segment(lake, rows.face_rows(10), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1))
    assert not any(rows.everything(lake).values())
    assert rows.video_id(1) not in lake.done_videos(rows.ANALYSIS_A)
    lake.commit_video(rows.finished(1))
    assert rows.video_id(1) in lake.done_videos(rows.ANALYSIS_A)
    assert len(rows.everything(lake)["scores"]) == 10


def test_a_video_with_a_missing_segment_is_not_finished(lake: Lake) -> None:
    rows.commit_segment(lake, rows.face_rows(10), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1), segment=1)
    with pytest.raises(LakeError, match=r"segment 0 of .*clip 1\.mp4") as error:
        lake.commit_video(rows.finished(1, n_segments=2))
    assert error.value.code == "incomplete"


def test_counts_tell_frames_without_a_face_from_frames_that_could_not_be_read(lake: Lake) -> None:
    table = rows.face_rows(10, n_faces=2, without_face=(3, 4), undecodable=(7,))
    rows.commit_segment(lake, table, analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1))
    counts = lake.commit_video(rows.finished(1))
    assert counts == VideoCounts("partial", "frames_undecodable", "1 of 10 frames could not be read", 10, 7, 1, 14, 2)
    with connect(lake) as con:
        found = con.execute("SELECT frame_index, frame_status, n_faces FROM frames ORDER BY frame_index").fetchall()
    assert [row[0] for row in found] == list(range(10))
    assert found[3][1:] == ("no_face", 0)
    assert found[7][1:] == ("decode_error", 0)
    assert found[8][1:] == ("ok", 2)


def test_a_video_of_no_frames_can_be_finished(lake: Lake) -> None:
    rows.commit_segment(lake, rows.face_rows(0), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1))
    assert lake.commit_video(rows.finished(1)) == VideoCounts("ok", None, "", 0, 0, 0, 0, 0)
    assert len(rows.everything(lake)["videos"]) == 1


def broken(column: str, value: object) -> pa.Table:
    table = rows.face_rows(4, without_face=(1,))
    values = table[column].to_pylist()
    values[2] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, table.schema.field(column).type))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("face_index", None),
        ("face_index", 1),
        ("frame_index", 0),
        ("frame_status", "no_face"),
        ("track", None),
        ("time_s", None),
    ],
)
def test_rows_that_break_a_rule_are_refused(lake: Lake, column: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"row|NULL|frame"):
        rows.commit_segment(lake, broken(column, value), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1))
    unknown = rows.face_rows(4).append_column("p_joy", pa.nulls(4, pa.float32()))
    with pytest.raises(ValueError, match="unknown columns p_joy"):
        rows.commit_segment(lake, unknown, analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(1))


def test_a_lake_crosses_a_process_border(lake: Lake) -> None:
    rows.add_video(lake, 1)
    assert rows.everything(pickle.loads(pickle.dumps(lake))) == rows.everything(lake)


KILLED = """
import os, signal, sys
from tests.storage import lake_rows as rows
from storage.delta import tables
from storage.lake import Lake
write, after = tables.append_once, sys.argv[2]
def append_then_die(location, name, parts):
    if name == after.removeprefix("before "):
        if not after.startswith("before "):
            write(location, name, parts)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(location, name, parts)
tables.append_once = append_then_die
rows.add_video(Lake.open(sys.argv[1]), 1)
"""


@pytest.mark.full
@pytest.mark.parametrize("moment", ["before observations", "observations", "tracks", "seconds", "videos"])
def test_killed_commit_shows_no_half_video_and_is_completed_by_the_next_run(tmp_path: Path, moment: str) -> None:
    whole, lake = (Lake.open(tmp_path / name, create=True) for name in ("whole", "killed"))
    rows.add_video(whole, 1)
    victim = rows.start(KILLED, lake.location, moment)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    seen = rows.everything(lake)
    assert seen == rows.everything(whole) if moment == "videos" else not any(seen.values())
    rows.add_video(lake, 1)
    assert rows.everything(lake) == rows.everything(whole)
    with connect(lake) as con, connect(whole) as other:
        for name in TABLES.keys() - {"embeddings"}:  # which are not open to SQL
            count = f"SELECT count(*) FROM raw.{name}"
            assert con.execute(count).fetchall() == other.execute(count).fetchall(), name
