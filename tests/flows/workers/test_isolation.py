"""The process that reads a video dies, hangs or grows, for real; the source changes; the run is interrupted."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.analyze import analyze_folder
from flows.run import FolderRun, ProcessLimits, Progress, RunSummary
from flows.workers import process
from mfer.errors import ConfigError
from pipelines.heartbeat import Phase
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.lake import Lake
from storage.records import VideoOutcome
from storage.sql.views import run_sql
from tests.clips import write_clip
from tests.flows.test_analyze import assert_same, rows, write_talks
from tests.flows.workers.processes import run_processes
from tests.strangers import write_strangers

SEGMENT_S = 2.0


def analyze(
    lake: Path, model: Path, *paths: Path, progress: Progress | None = None, decoder: str = "auto", **limits: float
) -> RunSummary:
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36), decoder=decoder, segment_s=SEGMENT_S)
    run = FolderRun(tuple(map(str, paths)), str(lake), str(model), "cpu", 1, settings, limits=ProcessLimits(**limits))  # type: ignore[arg-type]
    return analyze_folder(run, progress)


class Strike(Progress):
    """Does something to the worker process, at most so many times, when a video is in its second segment or later."""

    def __init__(self, strike: Callable[[psutil.Process], None], times: int = 1) -> None:
        self._strike, self._times = strike, times
        self._struck: set[int] = set()
        self.first_done: dict[str, int] = {}

    def frames(self, path: str, n_done: int, n_frames: int) -> None:
        if n_done:
            self.first_done.setdefault(path, n_done)
        if not SEGMENT_S * 25 < n_done < n_frames or len(self._struck) == self._times:
            return
        for worker in run_processes():  # one; none where it ends just now
            if worker.pid not in self._struck:
                self._struck.add(worker.pid)
                self._strike(worker)


@pytest.fixture
def folder(tmp_path: Path, write_talk: Callable[..., Path]) -> Path:
    """Long enough that what strikes in the middle does, however late the run hears of the first frames."""
    return write_talks(tmp_path / "videos", write_talk, n_videos=2, n_frames=300)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_video_whose_process_dies_is_tried_again_with_the_other_decoder(
    tmp_path: Path, model: Path, folder: Path, number: signal.Signals
) -> None:
    summary = analyze(tmp_path / "lake", model, folder, progress=Strike(lambda worker: worker.send_signal(number)))
    assert [outcome.status for outcome in summary.outcomes] == ["ok", "ok"]
    first, second = summary.outcomes
    assert f"at the first attempt: crashed, the process that analysed it was ended by {number.name}" in first.message
    assert not second.message
    # what the first attempt had committed was kept, so both decoders had a part in it
    analyze(tmp_path / "undisturbed", model, folder)
    assert_same(tmp_path / "lake", tmp_path / "undisturbed", except_videos=("decoder",))
    if number == signal.SIGSEGV:
        logged = rows(tmp_path / "lake", "SELECT log FROM runs WHERE log <> ''")
        assert len(logged) == 1
        assert "Fatal Python error: Segmentation fault" in logged[0]["log"]
    assert not run_processes()


@pytest.mark.full
def test_video_that_kills_its_process_twice_has_failed_and_costs_no_other(
    tmp_path: Path, model: Path, folder: Path
) -> None:
    summary = analyze(tmp_path / "lake", model, folder, progress=Strike(psutil.Process.kill, times=2))
    assert [(outcome.status, outcome.code) for outcome in summary.outcomes] == [("failed", "crashed"), ("ok", None)]
    assert summary.outcomes[0].message.count("SIGKILL") == 2
    assert summary.exit_code == 1
    again = Strike(psutil.Process.kill, times=0)
    assert analyze(tmp_path / "lake", model, folder, progress=again).exit_code == 0
    assert again.first_done[summary.outcomes[0].path] > SEGMENT_S * 25  # it went on behind what was committed


@pytest.mark.full
def test_process_that_hangs_is_killed_after_its_time_and_the_video_tried_again(
    tmp_path: Path, model: Path, folder: Path
) -> None:
    summary = analyze(
        tmp_path / "lake", model, folder, progress=Strike(psutil.Process.suspend), progress_s=15, commit_s=15
    )
    assert [outcome.status for outcome in summary.outcomes] == ["ok", "ok"]
    hung = "at the first attempt: hung, no heartbeat for 15 s while (reading and scoring frames|writing to the lake)"
    assert re.search(hung, summary.outcomes[0].message)
    assert not run_processes()


def test_work_of_every_kind_has_a_deadline() -> None:
    assert all(0 < ProcessLimits().silence_s(phase) < math.inf for phase in Phase)


def test_an_answer_that_stops_in_the_middle_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MESSAGE_S", 1)
    worker = process.WatchedProcess("tests.flows.workers.half_message")
    try:
        assert worker.control.poll(60)
        with pytest.raises(TimeoutError, match="stopped in the middle for 1 s"):
            worker.receive()
    finally:
        worker.end()


@pytest.mark.full
def test_process_that_grows_beyond_its_memory_is_killed(tmp_path: Path, model: Path, write_talk: Callable) -> None:
    class Largest(Progress):
        rss = 0

        def frames(self, path: str, n_done: int, n_frames: int) -> None:
            for worker in run_processes():
                self.rss = max(self.rss, worker.memory_info().rss)

    small = Largest()
    analyze(tmp_path / "lake", model, write_talk(tmp_path / "small.mp4", list(range(100))), progress=small)
    assert small.rss > 0
    huge = write_clip(
        tmp_path / "huge.mp4", n_frames=60, width_px=7680, height_px=4320, options={"preset": "ultrafast"}
    )
    limit_mb = small.rss // 2**20 + 100
    (outcome,) = analyze(tmp_path / "lake", model, huge, memory_mb=limit_mb).outcomes
    assert (outcome.status, outcome.code) == ("failed", "out_of_memory")
    assert f"{limit_mb} MB are allowed" in outcome.message


@pytest.mark.full
def test_limit_that_is_too_small_for_the_networks_ends_the_run_and_says_so(
    tmp_path: Path, model: Path, talk: Path
) -> None:
    with pytest.raises(ConfigError, match=r"cannot be started: it took .* MB of memory, 60 MB are allowed"):
        analyze(tmp_path / "lake", model, talk, memory_mb=60)
    assert rows(tmp_path / "lake", "SELECT status, code FROM runs") == [{"status": "skipped", "code": "interrupted"}]


def replace_source(path: Path, other: Path) -> None:
    os.replace(shutil.copy(other, path.with_suffix(".new")), path)


@pytest.mark.full
@pytest.mark.parametrize("change", ["replaced", "deleted", "appended"])
def test_source_that_changes_while_it_is_read_gives_no_row(
    tmp_path: Path, model: Path, folder: Path, change: str, write_talk: Callable[..., Path]
) -> None:
    other = write_talk(tmp_path / "other.mp4", list(range(100, 50, -1)))

    def strike(worker: psutil.Process) -> None:
        worker.suspend()
        match change:
            case "replaced":
                replace_source(folder / "0.mp4", other)
            case "deleted":
                (folder / "0.mp4").unlink()
            case "appended":
                with (folder / "0.mp4").open("ab") as file:
                    file.write(b"more")
        worker.resume()

    summary = analyze(tmp_path / "lake", model, folder, progress=Strike(strike))
    assert [(outcome.status, outcome.code) for outcome in summary.outcomes] == [("failed", "changed"), ("ok", None)]
    assert rows(tmp_path / "lake", "SELECT DISTINCT file_name FROM scores") == [{"file_name": "1.mp4"}]
    again = analyze(tmp_path / "lake", model, folder)
    assert again.exit_code == 0
    assert again.count("ok") == (0 if change == "deleted" else 1)


#: A run as a script without a guard, as people write them, that says how far it is.
_SCRIPT = """
import sys
from flows.analyze import analyze_folder
from flows.run import FolderRun, Progress
from pipelines.settings import AnalysisSettings, DetectorSettings

class Told(Progress):
    def frames(self, path, n_done, n_frames):
        print(path, n_done, n_frames, flush=True)
    def stopping(self):
        print("stopping", flush=True)

settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36), segment_s=2.0)
folder, lake, model = sys.argv[1:]
summary = analyze_folder(FolderRun((folder,), lake, model, "cpu", 1, settings), Told())
sys.exit(summary.exit_code)
"""


def start_run(tmp_path: Path, folder: Path, lake: Path, model: Path) -> subprocess.Popen[str]:
    script = tmp_path / "run.py"
    script.write_text(_SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(lake), str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_middle(run: subprocess.Popen[str]) -> None:
    assert run.stdout is not None
    for line in run.stdout:
        n_done, n_frames = map(int, line.split()[-2:])
        if 0 < n_done < n_frames:
            return
    raise AssertionError(f"the run ended before: {run.communicate()[1]}")


@pytest.mark.full
@pytest.mark.parametrize("stops", [1, 2])
def test_interrupt_finishes_the_segment_and_a_second_one_stops_at_once(
    tmp_path: Path, model: Path, folder: Path, stops: int
) -> None:
    run = start_run(tmp_path, folder, tmp_path / "lake", model)
    wait_for_middle(run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    if stops == 2:
        assert run.stdout is not None
        next(line for line in run.stdout if line == "stopping\n")
        os.killpg(run.pid, signal.SIGINT)
    _, complaints = run.communicate(timeout=120)  # also ends when the last of its processes has
    assert run.returncode == (130 if stops == 1 else -signal.SIGINT), complaints
    assert ("KeyboardInterrupt" in complaints) == (stops == 2)
    outcomes = rows(tmp_path / "lake", "SELECT path, status, code, message FROM runs ORDER BY path")
    assert [(row["status"], row["code"]) for row in outcomes] == [("skipped", "interrupted")] * 2
    if stops == 1:
        assert re.search(r"stopped after segment [1-5] of 6\b", outcomes[0]["message"])
    assert rows(tmp_path / "lake", "SELECT * FROM scores") == []
    again = Strike(psutil.Process.kill, times=0)
    assert analyze(tmp_path / "lake", model, folder, progress=again).exit_code == 0
    if stops == 1:
        assert again.first_done[str(folder / "0.mp4")] > SEGMENT_S * 25
    analyze(tmp_path / "undisturbed", model, folder)
    assert_same(tmp_path / "lake", tmp_path / "undisturbed")


@pytest.mark.full
def test_terminated_run_writes_down_what_it_did_and_leaves_no_process(
    tmp_path: Path, model: Path, folder: Path
) -> None:
    run = start_run(tmp_path, folder, tmp_path / "lake", model)
    wait_for_middle(run)
    (worker,) = psutil.Process(run.pid).children()
    run.terminate()
    run.communicate(timeout=120)
    assert run.returncode != 0
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert len(rows(tmp_path / "lake", "SELECT * FROM runs")) == 2


def test_libraries_that_write_to_the_terminal_write_to_the_log_of_the_video(
    tmp_path: Path, model: Path, talk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    analyze(tmp_path / "lake", model, talk)
    assert capfd.readouterr() == ("", "")


def test_what_lies_in_the_working_directory_is_no_module_of_ours(
    tmp_path: Path, model: Path, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_strangers(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}")
    monkeypatch.setattr("sys.path", ["", *sys.path])  # as in a notebook
    monkeypatch.chdir(tmp_path)
    (outcome,) = analyze(tmp_path / "lake", model, talk).outcomes
    assert outcome.status == "ok", outcome


def status_of(lake: Path) -> list[str]:
    return [row["status"] for row in run_sql(Lake.open(lake), "SELECT status FROM videos").to_pylist()]


@pytest.mark.full
def test_process_of_a_killed_run_ends_soon_even_while_it_hangs(tmp_path: Path, model: Path, folder: Path) -> None:
    run = start_run(tmp_path, folder, tmp_path / "lake", model)
    wait_for_middle(run)
    (worker,) = psutil.Process(run.pid).children()
    worker.suspend()  # it runs no line of its own any more
    run.kill()
    run.wait()
    deadline_s = time.monotonic() + 60
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s
        os.sched_yield()
    assert status_of(tmp_path / "lake") == []


def test_outcome_is_what_the_worker_said(tmp_path: Path, model: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (outcome,) = analyze(tmp_path / "lake", model, tmp_path / "text.mp4").outcomes
    assert isinstance(outcome, VideoOutcome)
    assert (outcome.status, outcome.code, outcome.log) == ("failed", "not_a_video", "")
