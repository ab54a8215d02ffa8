"""A lake in an object store: the same rows, each video exactly once, whatever breaks between it and its writers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.delta import lease as leases
from storage.delta.fence import purge
from storage.delta.log import history
from storage.delta.object_store import ObjectPath
from storage.errors import LakeError
from storage.lake import Lake
from storage.maintenance.check import check_lake
from storage.maintenance.forget import forget_video
from storage.maintenance.repair import repair_lake
from storage.models import CARD, WEIGHTS, ModelStore
from storage.sql.sandbox import run_sql_sandboxed
from storage.sql.views import connect, run_sql
from tests.object_store import (
    BUCKET,
    COMMITS,
    LISTINGS,
    SECRET,
    UPLOADS,
    Fault,
    Proxy,
    environment,
    new_prefix,
    running_proxy,
)
from tests.storage import lake_rows as rows

#: Its digits are part of no version number in a log, as those of small numbers are.
VIDEO = 0xABCDEF012345


@pytest.fixture
def lake(proxy: Proxy) -> Lake:
    return Lake.open(new_prefix(), create=True)


@pytest.fixture
def folder(tmp_path: Path) -> Lake:
    """A lake on disk to compare with."""
    return Lake.open(tmp_path / "folder", create=True)


def test_short_videos_share_commits_and_are_known_behind_a_checkpoint(lake: Lake, proxy: Proxy) -> None:
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": rows.video_id(99)}
    for segment in range(11):  # a store's log gets a checkpoint at every tenth commit
        rows.commit_segment(lake, rows.face_rows(2, first_frame=2 * segment), **names, segment=segment)
    proxy.take_requests()
    short = [(rows.finished(number), rows.face_rows(5)) for number in range(12)]
    assert [counts.n_faces for counts in lake.commit_short_videos(short[:10]) if counts] == [5] * 10
    puts = [r for r in proxy.take_requests() if r.method == "PUT" and r.target.endswith(".parquet")]
    assert len(puts) == 5  # a file of each table
    assert [counts is None for counts in lake.commit_short_videos(short)] == [True] * 10 + [False] * 2
    lake.commit_video(rows.finished(99, n_segments=11))
    assert check_lake(lake).is_sound
    assert lake.done_segments(**names, n_segments=12) == set(range(11))
    assert len(rows.everything(lake)["frames"]) == 12 * 5 + 22


def test_views_show_the_same_rows_as_in_a_folder(lake: Lake, folder: Lake) -> None:
    for each in (lake, folder):
        rows.add_video(each, 1, rows.face_rows(40, n_faces=2, without_face=(3,), undecodable=(7,)))
        rows.add_video(each, 2)
        assert not rows.commit_segment(each, rows.face_rows(9), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(2))
    assert rows.everything(Lake.open(str(lake.location))) == rows.everything(folder)
    known = ("/films/clip 2.mp4", 1002, 5_000_000_002)
    assert lake.known_files([known]) == folder.known_files([known]) == {known[0]: rows.video_id(2)}
    assert lake.done_videos(rows.ANALYSIS_A) == {rows.video_id(1), rows.video_id(2)}


def test_a_query_reads_parts_of_the_files_that_may_hold_its_rows_and_lists_only_logs(lake: Lake, proxy: Proxy) -> None:
    rows.add_video(lake, 1, rows.face_rows(120_000))
    rows.add_video(lake, 2)
    assert isinstance(lake.location, ObjectPath)
    largest = max(file.stat().st_size for file in (lake.location / "observations").files())
    proxy.take_requests()
    with connect(lake, [rows.video_id(1)]) as con:
        question = "SELECT avg(p_happiness) FROM scores_all WHERE video_id = ? AND time_s < 2"
        assert con.execute(question, [rows.video_id(1)]).fetchone()
    requests = proxy.take_requests()
    assert all("_delta_log" in request.target for request in requests if re.search(LISTINGS, str(request)))
    parts = [r for r in requests if "/observations/" in r.target and ".zstd.parquet" in r.target]
    assert len({part.target for part in parts}) == 1
    assert 0 < sum(part.n_answer_bytes for part in parts) < largest / 2
    assert largest > 3_000_000


# -- writers that race, die and are cut off ---------------------------------------------------------------------------

RACE = """
import sys
from tests.storage import lake_rows as rows
from storage.lake import Lake
lake = Lake.open(sys.argv[1], create=True)
print("ready", flush=True); sys.stdin.readline()
won = 0
for number in range(int(sys.argv[2])):
    won += rows.commit_segment(lake, rows.face_rows(5), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(number))
    lake.commit_video(rows.finished(number))
print(won)
"""


@pytest.mark.full
@pytest.mark.parametrize(("n_writers", "n_videos"), [(2, 6), (8, 3)])
def test_of_racing_writers_exactly_one_commits_each_video(proxy: Proxy, n_writers: int, n_videos: int) -> None:
    location = new_prefix()
    proxy.set_fault(Fault("refuse", every=7))  # and the store is busy, too
    racers = [rows.start(RACE, location, n_videos) for _ in range(n_writers)]  # they also race to create it
    assert sum(map(int, rows.race(racers))) == n_videos
    lake = Lake.open(location)
    found = check_lake(lake)
    assert found.is_sound, found
    assert (found.n_videos, found.n_rows) == (n_videos, 5 * n_videos)


@pytest.mark.full
@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", every=3),
        Fault("cut", UPLOADS, every=4),
        Fault("cut", COMMITS, every=2),
        Fault("lose", every=4),
        Fault("lose", COMMITS, every=2),
    ],
    ids=["busy", "uploads cut", "commits cut", "answers lost", "answers to commits lost"],
)
def test_each_video_is_there_once_whatever_breaks_on_the_way(
    lake: Lake, proxy: Proxy, folder: Lake, fault: Fault
) -> None:
    for number in range(3):
        rows.add_video(folder, number)
    proxy.set_fault(fault)
    for number in range(3):
        rows.add_video(lake, number)
    proxy.set_fault(None)
    assert check_lake(lake).is_sound
    assert rows.everything(lake) == rows.everything(folder)


def test_a_commit_whose_answer_is_lost_is_known_to_be_ours(lake: Lake, proxy: Proxy) -> None:
    proxy.set_fault(Fault("lose", COMMITS, times=1))
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": rows.video_id(1)}
    assert rows.commit_segment(lake, rows.face_rows(10), **names)
    assert not rows.commit_segment(lake, rows.face_rows(10), **names)
    assert lake.commit_video(rows.finished(1)).n_frames == 10
    assert check_lake(lake).n_rows == 10


@pytest.mark.full
def test_a_store_that_stops_answering_is_asked_again(lake: Lake, proxy: Proxy) -> None:
    proxy.set_fault(Fault("stall", COMMITS, times=1))
    rows.add_video(lake, 1)
    assert check_lake(lake).n_rows == 50


@pytest.mark.full
@pytest.mark.parametrize("kind", ["pass", "cut"])
@pytest.mark.parametrize("table", ["observations", "tracks", "seconds", "videos"])
def test_killed_writer_shows_no_half_video_and_the_next_one_completes_it(
    lake: Lake, proxy: Proxy, folder: Lake, table: str, kind: str
) -> None:
    rows.add_video(folder, 1)
    victim = rows.start(WRITER, lake.location)
    assert victim.stdin
    proxy.set_fault(Fault(kind, f"^PUT .*/{table}/_delta_log/", times=1, kill_pid=victim.pid))
    victim.communicate("\n")
    assert victim.returncode == -signal.SIGKILL
    seen = rows.everything(lake)
    assert seen == rows.everything(folder) if (table, kind) == ("videos", "pass") else not any(seen.values())
    rows.add_video(lake, 1)
    assert rows.everything(lake) == rows.everything(folder)
    assert check_lake(lake).is_sound


WRITER = """
import sys
from tests.storage import lake_rows as rows
from storage.lake import Lake
sys.stdin.readline()
rows.add_video(Lake.open(sys.argv[1]), 1)
"""


# -- looking after it -------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_forgotten_video_is_in_no_object_and_can_be_analysed_again(lake: Lake) -> None:
    for number in (1, VIDEO):
        rows.add_video(lake, number)
    gone = forget_video(lake, f"/films/clip {VIDEO}.mp4")
    assert gone.left == ()
    assert gone.n_rows["observations"] == 50
    assert lake.done_videos(rows.ANALYSIS_A) == {rows.video_id(1)}
    needle = rows.video_id(VIDEO).encode()
    assert not [file for file in lake.location.files() if needle in file.read_bytes() or needle.decode() in str(file)]
    rows.add_video(lake, VIDEO)
    assert check_lake(lake).n_videos == 2
    assert check_lake(lake).is_sound


@pytest.mark.full
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_writer_that_slept_while_a_video_was_forgotten_loses_nothing(lake: Lake, proxy: Proxy, rounds: int) -> None:
    rows.add_video(lake, VIDEO)
    proxy.set_fault(Fault("hold", COMMITS, times=1))
    won: list[bool] = []
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": rows.video_id(2)}
    writer = threading.Thread(target=lambda: won.append(rows.commit_segment(lake, rows.face_rows(10), **names)))
    writer.start()
    proxy.wait_until_held()  # its rows are uploaded, and the version that it is about to commit is taken away now
    for _ in range(rounds):
        forget_video(lake, rows.video_id(VIDEO))
        rows.add_video(lake, VIDEO)
    proxy.set_fault(None)
    writer.join()
    assert won == [True]
    assert lake.commit_video(rows.finished(2)).n_frames == 10
    found = check_lake(lake)
    assert found.is_sound, found
    assert (found.n_videos, found.n_rows) == (2, 60)


def test_rows_that_wait_for_their_commit_are_not_lost_with_the_files_that_nobody_needs(
    lake: Lake, proxy: Proxy
) -> None:
    proxy.set_fault(Fault("hold", COMMITS, times=1))
    names = {"analysis_id": rows.ANALYSIS_A, "video_id": rows.video_id(2)}
    won: list[bool] = []
    writer = threading.Thread(target=lambda: won.append(rows.commit_segment(lake, rows.face_rows(10), **names)))
    writer.start()
    proxy.wait_until_held()
    assert isinstance(lake.location, ObjectPath)
    purge(lake.location, "observations")
    proxy.set_fault(None)
    writer.join()
    assert won == [True]
    assert lake.commit_video(rows.finished(2)).n_frames == 10
    assert check_lake(lake).is_sound


@pytest.mark.full
def test_a_lease_is_respected_until_it_expires_and_then_taken_over(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    rows.add_video(lake, VIDEO)
    assert isinstance(lake.location, ObjectPath)
    assert (lake.location / leases.LEASE).create(b"another process")
    with pytest.raises(LakeError, match="another forget or repair") as error:
        forget_video(lake, rows.video_id(VIDEO))
    assert error.value.code == "busy"
    monkeypatch.setattr(leases, "EXPIRES_S", -1)
    assert forget_video(lake, rows.video_id(VIDEO)).left == ()
    assert not (lake.location / leases.LEASE).exists()


def damaged(lake: Lake) -> Iterator[ObjectPath]:
    assert isinstance(lake.location, ObjectPath)
    yield from (file for file in (lake.location / "observations").files() if file.suffix == ".parquet")


@pytest.mark.full
@pytest.mark.parametrize("how", ["missing", "garbled"])
def test_damage_is_named_and_repaired(lake: Lake, how: str) -> None:
    rows.add_video(lake, 1)
    before = rows.everything(lake)
    file = next(damaged(lake))
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(LakeError, match=r"damaged: s3://.*\.parquet is missing or broken") as error:
        run_sql(lake, "SELECT max(confidence) FROM scores")
    assert error.value.code == "damaged"
    assert not check_lake(lake).is_sound
    assert "1 videos were taken out" in repair_lake(lake)[-1]
    assert check_lake(lake).is_sound
    rows.add_video(lake, 1)
    assert rows.everything(lake) == before


@pytest.mark.full
@pytest.mark.parametrize("kind", ["forbid", "refuse"])
def test_a_store_that_fails_is_no_damage_and_nothing_is_repaired(lake: Lake, proxy: Proxy, kind: str) -> None:
    rows.add_video(lake, 1)
    before = rows.everything(lake)
    proxy.set_fault(Fault(kind, r"^GET .*\.zstd\.parquet", times=0 if kind == "forbid" else 3))
    if kind == "forbid":
        for ask in (check_lake, repair_lake, lambda lake: run_sql(lake, "SELECT max(confidence) FROM scores")):
            with pytest.raises(LakeError) as error:
                ask(lake)
            assert error.value.code == "read_only"
    else:
        assert check_lake(lake).is_sound
        assert repair_lake(lake) == []
    proxy.set_fault(None)
    assert rows.everything(lake) == before


@pytest.mark.full
def test_compaction_and_history_do_as_in_a_folder(lake: Lake, folder: Lake) -> None:
    for each in (lake, folder):
        for number in range(3):
            rows.add_video(each, number)
        assert each.compact()["observations"] == (3, 1)
    assert rows.everything(lake) == rows.everything(folder)

    def payload(each: Lake) -> list[tuple[str, int, str]]:
        return sorted((change.table, change.version, change.operation) for change in history(each.location))

    assert payload(lake) == payload(folder)


def test_models_are_published_promoted_and_fetched_once(
    lake: Lake, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = tmp_path / "weights"
    store, card = ModelStore(lake), {"classes": ["a", "b"]}
    ids = []
    for name in ("one", "two"):
        weights.write_bytes(name.encode() * 1000)
        ids.append(store.publish(name, weights, card))
        assert store.publish(name, weights, card) == ids[-1]
        store.promote(ids[-1])
    with pytest.raises(LakeError, match="other weights") as error:
        store.publish("one", weights, card)
    assert error.value.code == "model_exists"
    assert store.rollback() == store.production() == ids[0]
    fetched = store.path_of("two")
    assert (fetched / WEIGHTS).read_bytes() == weights.read_bytes()
    assert json.loads((fetched / CARD).read_text()) == card
    proxy.take_requests()
    assert store.path_of(ids[1]) == fetched
    assert not [r for r in proxy.take_requests() if r.method == "GET" and WEIGHTS in r.target]
    assert check_lake(lake).is_sound
    assert isinstance(lake.location, ObjectPath)
    (lake.location / "models" / "one" / WEIGHTS).write_bytes(b"other")
    with pytest.raises(LakeError, match="other bytes"):
        store.path_of("one")
    assert len(check_lake(lake).others) == 1


# -- what must not be possible ----------------------------------------------------------------------------------------


FORBIDDEN = """
SELECT * FROM read_parquet('{outside}')
SELECT * FROM read_parquet('{inside}/../other/x.parquet')
SELECT * FROM read_text('/etc/passwd')
SELECT * FROM read_text('file:///etc/passwd')
SELECT * FROM read_blob('/proc/self/environ')
SELECT getenv('AWS_SECRET_ACCESS_KEY')
COPY (SELECT 1) TO '{inside}/x.csv'
SELECT * FROM read_csv('http://127.0.0.1:1/x')
"""


@pytest.mark.full
def test_sql_of_others_reads_the_lake_and_nothing_else(lake: Lake) -> None:
    rows.add_video(lake, 1)
    assert run_sql_sandboxed(lake, "SELECT count(*) AS n FROM scores").to_pylist() == [{"n": 50}]
    outside = ObjectPath(f"s3://{BUCKET}/other/x.parquet")
    outside.write_bytes(next(damaged(lake)).read_bytes())
    for query in FORBIDDEN.strip().splitlines():
        with pytest.raises(LakeError) as error:
            run_sql_sandboxed(lake, query.format(inside=lake.location, outside=outside))
        assert error.value.code == "wrong_sql"
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("query", ["SELECT * FROM glob('{0}/**')", "SELECT * FROM read_text('{0}/lake.json')"])
def test_sql_of_others_lists_nothing_and_opens_only_files_of_tables(lake: Lake, query: str) -> None:
    assert len(run_sql(lake, query.format(lake.location))) == 0


def test_a_store_that_ignores_conditions_is_refused(proxy: Proxy) -> None:
    proxy.set_fault(Fault("unconditional"))
    with pytest.raises(LakeError, match="ignores If-None-Match") as error:
        Lake.open(new_prefix(), create=True)
    assert error.value.code == "bad_location"


@pytest.mark.parametrize(
    ("location", "fault", "code", "what"),
    [
        (f"s3://{BUCKET}/nothing", None, "not_a_lake", "is not a lake"),
        ("s3://no-such-bucket/lake", None, "bad_location", "make the bucket first"),
        (f"s3://{BUCKET}/lake", "forbid", "read_only", "refuses.*403"),
        ("s3://key:secret@bucket/lake", None, "bad_location", "without keys"),
    ],
)
def test_what_is_wrong_with_a_place_is_one_line(
    proxy: Proxy, location: str, fault: str | None, code: str, what: str
) -> None:
    proxy.set_fault(Fault(fault) if fault else None)
    with pytest.raises(LakeError, match=what) as error:
        Lake.open(location, create=code in ("bad_location", "read_only"))
    assert error.value.code == code
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_keys_are_in_no_object(lake: Lake) -> None:
    rows.add_video(lake, 1)
    assert isinstance(lake.location, ObjectPath)
    for file in lake.location.files():
        assert SECRET.encode() not in file.read_bytes()


def test_a_lake_in_a_folder_loads_nothing_for_object_stores(folder: Lake) -> None:
    rows.add_video(folder, 1)
    code = "import sys\nfrom storage.lake import Lake\nfrom storage.sql.views import connect\n"
    code += "connect(Lake.open(sys.argv[1])).execute('SELECT count(*) FROM scores').fetchall()\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, folder.location], capture_output=True, text=True, check=True)
    assert not {"obstore", "fsspec"} & set(done.stdout.split())


def test_questions_leave_nothing_on_the_terminal(lake: Lake) -> None:
    code = "import sys\nfrom storage.lake import Lake\nfrom storage.sql.views import connect\n"
    code += "lake = Lake.open(sys.argv[1]); lake.done_videos('x')\n"
    code += "print(connect(lake).execute('SELECT count(*) FROM scores').fetchall())"
    words = [sys.executable, "-c", code, str(lake.location)]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[(0,)]\n", "")


def test_the_environment_may_name_another_store_at_any_time(
    lake: Lake, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_proxy(proxy.upstream) as other:
        for name, value in environment(other.port).items():
            monkeypatch.setenv(name, value)
        Lake.open(str(lake.location))
        assert other.take_requests()
