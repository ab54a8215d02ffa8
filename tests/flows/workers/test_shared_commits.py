"""Short clips share commits: fewer files, the same rows, and none that is finished is lost with a worker or a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from flows.run import Progress
from flows.workers import shared_commits
from pipelines.analyzed import AnalyzedVideo
from storage.delta.log import history
from storage.delta.tables import data_files
from storage.lake import Lake
from storage.maintenance.check import check_lake
from storage.records import VideoOutcome
from tests.clips import write_clip
from tests.flows.test_analyze import analyze, assert_same, rows, write_talks
from tests.flows.workers.processes import run_processes
from tests.storage.lake_rows import face_rows, finished

N_CLIPS = 10
WRITTEN = ("observations", "tracks", "seconds", "spans", "videos")


@pytest.fixture
def folder(tmp_path: Path, write_talk: Callable[..., Path]) -> Path:
    """Clips of six frames, a copy of one, one whose end is missing, and a file that is none."""
    folder = write_talks(tmp_path / "videos", write_talk, n_videos=N_CLIPS, n_frames=6)
    shutil.copy(folder / "0.mp4", folder / "copy.mp4")
    broken = write_clip(folder / "broken.mkv", n_frames=40)
    broken.write_bytes(broken.read_bytes()[:-400])
    (folder / "text.mp4").write_text("no video")
    return folder


class KillOne(Progress):
    """Kills the worker when some clips are analysed and wait for their commit."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.n_ended = 0
        self.killed: list[psutil.Process] = []

    def frames(self, path: str, n_done: int, n_frames: int) -> None:
        self.seen.add(path)
        if len(self.seen) > N_CLIPS // 2 and not self.killed:
            self.killed = run_processes()
            assert self.n_ended < 2  # of the clips none: they wait
            for worker in self.killed:
                worker.kill()

    def video(self, outcome: VideoOutcome) -> None:
        self.n_ended += 1


def test_clips_share_commits_and_outlive_their_worker(
    tmp_path: Path, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_commits, "_SHARE_S", 3600.0)  # however slow the machine is
    strike = KillOne()
    summary = analyze(tmp_path / "lake", model, folder, progress=strike)
    assert strike.killed
    counts = {status: summary.count(status) for status in ("ok", "partial", "failed", "skipped")}
    assert counts == {"ok": N_CLIPS, "partial": 1, "failed": 1, "skipped": 1}, summary.outcomes
    tried_twice = [outcome for outcome in summary.outcomes if "at the first attempt: crashed" in outcome.message]
    assert len(tried_twice) == 1  # the others were analysed before or after it
    lake = Lake.open(tmp_path / "lake")
    assert {name: len(data_files(lake.location, name)) for name in WRITTEN} == dict.fromkeys(WRITTEN, 1)
    assert check_lake(lake).is_sound

    monkeypatch.setattr(shared_commits, "_MAX_VIDEOS", 1)
    analyze(tmp_path / "apart", model, folder)
    apart = [change for change in history(Lake.open(tmp_path / "apart").location) if change.table == "videos"]
    assert len(apart) > 2
    assert_same(tmp_path / "lake", tmp_path / "apart", except_videos=("decoder",))


def test_what_is_finished_is_committed_when_a_run_is_broken_off(tmp_path: Path, model: Path, folder: Path) -> None:
    class Interrupt(Progress):
        def frames(self, path: str, n_done: int, n_frames: int) -> None:
            if path.endswith("4.mp4"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(tmp_path / "lake", model, folder, progress=Interrupt())
    finished = {row["path"] for row in rows(tmp_path / "lake", "SELECT DISTINCT path FROM frames")}
    assert finished == {str(folder / f"{k}.mp4") for k in range(4)}
    output = rows(tmp_path / "lake", "SELECT path, status, code FROM runs")
    assert {row["path"] for row in output if row["status"] == "ok"} == finished
    assert {row["code"] for row in output if row["path"] not in finished} == {"interrupted"}
    assert check_lake(Lake.open(tmp_path / "lake")).is_sound


def test_rows_that_no_table_takes_fail_alone(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    group = [AnalyzedVideo(f"/{k}.mp4", finished(k), face_rows(4 + k), elapsed_s=9.0) for k in range(3)]
    group[1] = replace(group[1], observations=face_rows(5).append_column("p_joy", pa.nulls(5, pa.float32())))
    shared = shared_commits.SharedCommits(lake)
    for video in group:
        shared.add(video, lambda outcome: replace(outcome, log="said"))
    assert not list(shared.poll())  # not due yet
    outcomes = list(shared.flush())
    shared.close()
    assert [(o.path, o.status, o.code, o.n_faces, o.log) for o in outcomes] == [
        ("/0.mp4", "ok", None, 4, "said"),
        ("/1.mp4", "failed", "internal", 0, "said"),
        ("/2.mp4", "ok", None, 6, "said"),
    ]
    assert "unknown columns p_joy" in outcomes[1].message
    assert check_lake(lake).is_sound
