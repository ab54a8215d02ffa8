"""Damage is named and repaired, compaction changes no answer, a forgotten video is in no file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from storage.delta.log import history
from storage.delta.tables import data_files
from storage.errors import LakeError
from storage.lake import Lake
from storage.maintenance.check import check_lake
from storage.maintenance.forget import forget_video, search_files
from storage.maintenance.repair import repair_lake
from storage.models import ModelStore
from storage.records import RunManifest, VideoOutcome
from storage.sql.views import connect, run_sql
from tests.storage import lake_rows as rows

#: Like the hashes that they stand for: nothing else in a lake looks like them.
IDS = ("9f86d081884c7d65", "60303ae22b998861", "fd61a03af4f77d87")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lake(tmp_path_factory.mktemp("original") / "lake").location


@pytest.fixture
def make_lake(original: Path) -> Callable[[Path], Lake]:
    """A function that puts the lake somewhere."""
    return lambda location: Lake.open(shutil.copytree(original, location))


@pytest.fixture
def lake(make_lake: Callable[[Path], Lake], tmp_path: Path) -> Lake:
    return make_lake(tmp_path / "lake")


def write_lake(location: Path) -> Lake:
    """Three finished videos of two segments, one that is begun, labels, and the run of them all."""
    lake = Lake.open(location, create=True)
    for number in range(3):
        add(lake, number)
    begun = {"analysis_id": rows.ANALYSIS_A, "video_id": rows.video_id(77)}
    rows.commit_segment(lake, rows.face_rows(20, seed=77), **begun)
    label = {"label_id": "l1", "video_id": IDS[1], "faces_id": rows.FACES, "frame_index": 3, "face_index": 0}
    lake.append("labels", pa.Table.from_pylist([label]), transaction="l1")
    add_run(lake, "run", range(3))
    return lake


def add(lake: Lake, number: int) -> None:
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": IDS[number]}
    for segment in range(2):
        first = segment * 30
        rows.commit_segment(
            lake, rows.face_rows(30, first_frame=first, seed=10 * number + segment), **names, segment=segment
        )
    lake.commit_video(rows.finished(number, video_id=IDS[number], n_segments=2))


def add_run(lake: Lake, run_id: str, numbers: range) -> None:
    now = datetime.now(UTC)
    paths = [f"/films/clip {number}.mp4" for number in numbers]
    manifest = RunManifest(run_id, now, now, {"paths": [*paths, "/films"], "workers": 2}, rows.MODEL_A)
    lake.append_run(
        manifest, [VideoOutcome(IDS[n], path, "ok", n_frames=60) for n, path in zip(numbers, paths, strict=True)]
    )


def answers(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    """All views but for the runs, whose times differ."""
    return {name: found for name, found in rows.everything(lake).items() if name != "runs"}


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def rot(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[100:middle] = random.Random(1).randbytes(middle - 100)
    file.write_bytes(content)


def lose_rows(file: Path) -> None:
    whole = pq.ParquetFile(file).read()
    pq.write_table(whole.slice(0, len(whole) // 2), file)


DAMAGE = [remove, cut, rot, lose_rows]


def test_a_sound_lake_is_sound_and_what_is_left_over_is_named(lake: Lake) -> None:
    found = check_lake(lake)
    assert found.is_sound
    assert (found.n_videos, found.n_rows) == (3, 200)
    assert len(found.notes) == 1
    assert "1 videos are begun" in found.notes[0]
    orphan = lake.location / "observations" / f"analysis_id={rows.ANALYSIS_A}" / "part-00000-orphan-c000.zstd.parquet"
    shutil.copy(data_files(lake.location, "observations")[0], orphan)
    again = check_lake(lake)
    assert again.is_sound
    assert any(str(orphan) in note for note in again.notes)
    assert repair_lake(lake) == []


#: One way of breaking each table in the short run, the others in the soak.
BROKEN = [
    pytest.param(damage, table, compacted, marks=() if (n + 5 * compacted) % 7 == 1 else pytest.mark.soak)
    for n, (damage, table) in enumerate(
        (damage, table) for damage in DAMAGE for table in ("observations", "tracks", "seconds", "spans", "videos")
    )
    for compacted in (False, True)
]


@pytest.mark.parametrize(("damage", "table", "compacted"), BROKEN)
def test_a_broken_file_is_named_and_after_repair_the_next_analysis_fills_the_gap(
    lake: Lake, damage: Callable[[Path], None], table: str, compacted: bool
) -> None:
    before = answers(lake)
    if compacted:
        lake.compact()
    files = [Path(file) for file in data_files(lake.location, table, video_ids=[IDS[0]])]
    damage(files[0])
    found = check_lake(lake)
    assert [broken.path for broken in found.files] == [files[0]]
    assert table == "videos" or IDS[0] in {fault.video_id for fault in found.videos}  # and what it costs
    if damage is not lose_rows:
        with pytest.raises(LakeError, match="check --repair") as error:
            run_sql(lake, f"SELECT * FROM raw.{table} ORDER BY ALL")
        assert error.value.code == "damaged"
        assert files[0].name in str(error.value)
    assert repair_lake(lake)
    repaired = check_lake(lake)
    assert repaired.is_sound, [*map(str, (*repaired.files, *repaired.videos))]
    kept = answers(lake)
    assert all(set(kept[name]) <= set(before[name]) for name in ("scores", "frames", "tracks", "seconds", "spans"))
    for number in range(3):
        add(lake, number)
    assert answers(lake) == before
    assert check_lake(lake).is_sound
    assert damage is remove or list((lake.location / "damaged").rglob(files[0].name))


def test_tracks_seconds_and_spans_are_summed_again_without_a_new_analysis(lake: Lake) -> None:
    before = answers(lake)
    lake.compact()
    for table in ("tracks", "seconds", "spans"):
        Path(data_files(lake.location, table)[0]).unlink()
    assert any("summed again" in sentence for sentence in repair_lake(lake))
    assert answers(lake) == before


def test_a_segment_of_a_video_that_is_only_begun_is_done_again_too(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": IDS[0]}
    for segment in range(2):
        rows.commit_segment(lake, rows.face_rows(30, first_frame=30 * segment), **names, segment=segment)
    Path(data_files(lake.location, "observations")[0]).unlink()
    repair_lake(lake)
    assert not lake.done_segments(**names, n_segments=2)
    add(lake, 0)
    assert run_sql(lake, "SELECT count(*) AS n FROM scores").to_pylist() == [{"n": 60}]
    assert check_lake(lake).is_sound


def test_lost_judgements_of_people_are_said_to_be_lost(lake: Lake) -> None:
    file = Path(data_files(lake.location, "labels")[0])
    cut(file)
    sentences = [sentence for sentence in repair_lake(lake) if "labels" in sentence]
    assert len(sentences) == 1
    assert "lost unless you restore" in sentences[0]
    assert (lake.location / "damaged" / "labels" / file.name).is_file()
    assert check_lake(lake).is_sound


def test_a_video_whose_row_claims_more_than_there_is_is_named(lake: Lake) -> None:
    DeltaTable(lake.location / "observations").delete(f"video_id = '{IDS[0]}' AND segment = 1")
    found = check_lake(lake)
    assert [(fault.video_id, fault.table) for fault in found.videos if "n_frames" in fault.what] == [
        (IDS[0], "observations")
    ]
    assert "n_frames is 30 instead of 60" in str(found.videos[0])
    repair_lake(lake)
    assert check_lake(lake).is_sound
    add(lake, 0)
    assert check_lake(lake).n_videos == 3


def test_a_lost_model_is_named(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    ModelStore(lake).publish("m", tmp_path / "w", {"name": "m"})
    assert check_lake(lake).is_sound
    (lake.location / "models" / "m" / "weights.safetensors").write_bytes(b"other")
    assert any("other bytes" in fault for fault in check_lake(lake).others)


# -- compaction -------------------------------------------------------------------------------------------------------


def test_compaction_leaves_every_view_as_it_was(lake: Lake) -> None:
    before = rows.everything(lake)
    assert lake.compact()["seconds"] == (3, 1)
    assert rows.everything(lake) == before
    assert 1 in lake.done_segments(rows.ANALYSIS_A, IDS[1], 2)
    assert check_lake(lake).is_sound
    rows.add_video(lake, 3)
    assert check_lake(lake).n_videos == 4


WRITER = """
import sys
from tests.storage import lake_rows as rows
from storage.lake import Lake
lake = Lake.open(sys.argv[1])
print("ready", flush=True)
for number in range(100, 112):
    rows.add_video(lake, number, rows.face_rows(5, seed=number))
"""
COMPACTOR = """
import sys
from storage.lake import Lake
lake = Lake.open(sys.argv[1])
print("ready", flush=True)
while True:
    lake.compact()
"""


@pytest.mark.full
def test_compaction_beside_a_writer_and_a_reader_loses_nothing(lake: Lake) -> None:
    writer = rows.start(WRITER, lake.location)
    assert writer.stdout
    assert writer.stdout.readline() == "ready\n"
    while writer.poll() is None:
        lake.compact()
        with connect(lake) as con:
            counts = con.execute("SELECT n_frames, count(*) FROM frames JOIN videos USING (video_id) GROUP BY ALL")
            assert all(n_rows % n_frames == 0 for n_frames, n_rows in counts.fetchall())
    assert writer.returncode == 0, writer.communicate()[1]
    found = check_lake(lake)
    assert found.is_sound
    assert (found.n_videos, found.n_rows) == (15, 260)


@pytest.mark.full
def test_compaction_that_is_killed_at_any_moment_changes_nothing(lake: Lake) -> None:
    before = rows.everything(lake)
    moments = random.Random(7)
    for number in range(10):
        compactor = rows.start(COMPACTOR, lake.location)
        assert compactor.stdout
        assert compactor.stdout.readline() == "ready\n"
        with pytest.raises(Exception, match="timed out"):
            compactor.wait(moments.uniform(0, 0.15))  # what a kill waits for
        compactor.kill()
        compactor.communicate()
        assert rows.everything(lake) == before
        assert check_lake(lake).is_sound
        rows.add_video(lake, 500 + number, rows.face_rows(3))
        before = rows.everything(lake)


# -- forgetting -------------------------------------------------------------------------------------------------------

FORGOTTEN = [IDS[1], "/films/clip 1.mp4"]


@pytest.mark.parametrize(("name", "compacted"), zip(FORGOTTEN, (False, True), strict=True))
def test_a_forgotten_video_is_in_no_file_and_the_others_are_as_they_were(
    lake: Lake, name: str, compacted: bool
) -> None:
    if compacted:
        lake.compact()
    n_files, found = search_files(lake.location, FORGOTTEN)
    assert n_files > 30
    assert len(found) > 10  # the search does find what is there
    before = answers(lake)
    gone = forget_video(lake, name)
    assert (gone.video_ids, gone.paths) == ((IDS[1],), ("/films/clip 1.mp4",))
    assert gone.left == ()
    assert {table: gone.n_rows[table] for table in ("videos", "observations", "labels", "runs")} == {
        "videos": 1,
        "observations": 60,
        "labels": 1,
        "runs": 1,
    }
    assert search_files(lake.location, FORGOTTEN)[1] == []
    after = answers(lake)
    for view, of_before in before.items():
        if view not in ("analyses", "labels"):
            assert after[view] == [row for row in of_before if IDS[1] not in row], view
    config = json.loads(run_sql(lake, "SELECT DISTINCT manifest FROM runs").to_pylist()[0]["manifest"])["config"]
    assert config["paths"] == ["/films/clip 0.mp4", "(forgotten)", "/films/clip 2.mp4", "/films"]
    assert check_lake(lake).is_sound
    add(lake, 1)  # it is not forbidden to come back
    assert answers(lake)["scores"] == before["scores"]


def test_what_is_not_known_cannot_be_forgotten(lake: Lake) -> None:
    with pytest.raises(LakeError, match="nothing is known of") as error:
        forget_video(lake, "/films/other's.mp4")
    assert error.value.code == "unknown_video"


def test_a_failed_video_that_has_no_id_is_forgotten_by_its_path(lake: Lake) -> None:
    now = datetime.now(UTC)
    failed = VideoOutcome(None, "/films/it's été.mp4", "failed", code="not_a_video")
    lake.append_run(RunManifest("r2", now, now, {"paths": ["/films/it's été.mp4"]}, rows.MODEL_A), [failed])
    needles = ["/films/it's été.mp4"]
    assert search_files(lake.location, needles)[1]
    assert forget_video(lake, needles[0]).n_rows["runs"] == 1
    assert search_files(lake.location, needles)[1] == []
    assert len(answers(lake)["videos"]) == 3


def test_a_longer_path_that_stays_is_not_taken_for_the_forgotten_one(lake: Lake) -> None:
    rows.add_video(lake, 9, video_id="ab" * 8, path="/films/clip 1.mp4.old")
    assert forget_video(lake, FORGOTTEN[1]).left == ()
    assert "clip 1.mp4.old" in run_sql(lake, "SELECT file_name FROM videos")["file_name"].to_pylist()


KILLED = """
import os, signal, sys
from storage.maintenance import forget, repair
from storage.lake import Lake
steps = int(sys.argv[3])
def count_down(function):
    def counted(*arguments, **options):
        global steps
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
        return function(*arguments, **options)
    return counted
for module in (forget, repair):
    for name in ("open_table", "rewrite_log"):
        setattr(module, name, count_down(getattr(module, name)))
os.replace, os.unlink = count_down(os.replace), count_down(os.unlink)
lake = Lake.open(sys.argv[1])
forget.forget_video(lake, sys.argv[4]) if sys.argv[2] == "forget" else repair.repair_lake(lake)
"""


@pytest.mark.full
def test_forgetting_that_is_killed_at_any_step_is_ended_by_doing_it_again(
    tmp_path: Path, make_lake: Callable[[Path], Lake]
) -> None:
    whole = make_lake(tmp_path / "whole")
    forget_video(whole, IDS[1])
    n_killed = 0
    for step in range(0, 60, 4):
        lake = make_lake(tmp_path / f"lake{step}")
        victim = rows.start(KILLED, lake.location, "forget", step, IDS[1])
        _, err = victim.communicate()
        assert victim.returncode in (0, -signal.SIGKILL), err
        n_killed += victim.returncode != 0
        if search_files(lake.location, FORGOTTEN)[1]:
            assert forget_video(lake, IDS[1]).left == ()
        assert search_files(lake.location, FORGOTTEN)[1] == [], step
        assert answers(lake) == answers(whole)
        assert check_lake(lake).is_sound
    assert n_killed > 5


@pytest.mark.full
@pytest.mark.parametrize("table", ["observations", "seconds", "videos"])
def test_repair_that_is_killed_at_any_step_is_ended_by_doing_it_again(
    tmp_path: Path, table: str, make_lake: Callable[[Path], Lake]
) -> None:
    whole = make_lake(tmp_path / "whole")
    for step in range(0, 16, 3):
        lake = make_lake(tmp_path / f"lake{step}")
        Path(data_files(lake.location, table)[0]).unlink()
        victim = rows.start(KILLED, lake.location, "repair", step)
        _, err = victim.communicate()
        assert victim.returncode in (0, -signal.SIGKILL), err
        repair_lake(lake)
        assert check_lake(lake).is_sound, step
        for number in range(3):
            add(lake, number)
        assert answers(lake) == answers(whole), step


# -- history, versions, permissions -----------------------------------------------------------------------------------


def test_history_tells_what_was_done_latest_first(lake: Lake) -> None:
    lake.compact()
    changes = history(lake.location)
    times = [change.when_utc for change in changes]
    assert times == sorted(times, reverse=True)
    assert {"write", "optimize", "create table"} <= {change.operation for change in changes}
    assert [change.n_rows for change in history(lake.location) if change.table == "labels"][-2] == 1
    assert len(history(lake.location, limit=3)) == 3
    forget_video(lake, IDS[1])
    assert any(change.operation == "log begun anew" for change in history(lake.location, limit=5))


@pytest.mark.parametrize(("mask", "forbidden"), [(0o077, 0o077), (0o022, 0o022), (0o000, 0o002)])
def test_files_of_a_lake_obey_the_umask_and_are_never_executable(tmp_path: Path, mask: int, forbidden: int) -> None:
    before = os.umask(mask)
    try:
        lake = write_lake(tmp_path / "lake")
        lake.compact()
        forget_video(lake, IDS[0])
    finally:
        os.umask(before)
    files = list(lake.location.rglob("*"))
    wrong = {str(path): oct(path.stat().st_mode) for path in files if stat.S_IMODE(path.stat().st_mode) & mask}
    assert not wrong
    assert not [path for path in files if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o111]
    if mask:
        assert not [path for path in files if path.stat().st_mode & forbidden]
