"""Workers that use the networks of one process: the same tables, whatever becomes of that process."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.analyze import analyze_folder
from flows.run import FolderRun, ProcessLimits, Progress, RunSummary
from mfer.errors import ConfigError, ModelError
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.flows.test_analyze import rows, write_talks
from tests.flows.workers.processes import run_processes

#: Rows of one face each, which are put into one pass with those of other workers, differ in their last bits.
PROB_TOLERANCE = 1e-5


def analyze(
    lake: Path,
    model: Path,
    *paths: Path,
    networks: str = "shared",
    workers: int = 2,
    mode: str = "tracked",
    progress: Progress | None = None,
    **limits: float,
) -> RunSummary:
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36, mode=mode), segment_s=2.0)
    run = FolderRun(
        tuple(map(str, paths)),
        str(lake),
        str(model),
        "cpu",
        workers,
        settings,
        limits=ProcessLimits(**limits),  # type: ignore[arg-type]
        networks=networks,
    )
    return analyze_folder(run, progress)


def assert_same_scores(lake: Path, other: Path) -> None:
    """The same faces with the same ids and numbers."""
    query = "SELECT * FROM scores ORDER BY video_id, frame_index, face_index"
    ours, theirs = rows(lake, query), rows(other, query)
    assert len(ours) == len(theirs) > 0
    for row, expected in zip(ours, theirs, strict=True):
        assert row == {
            name: pytest.approx(value, abs=PROB_TOLERANCE) if name.startswith("prob_") else value
            for name, value in expected.items()
        }


def networks_processes() -> list[psutil.Process]:
    """The inference server's process, if there is one now; the other children analyse videos."""
    return run_processes("flows.workers.inference_server")


class Strike(Progress):
    """Does something to the process with the networks, once, in the middle of a video."""

    def __init__(self, strike: Callable[[psutil.Process], None]) -> None:
        self._strike, self.done = strike, False

    def frames(self, path: str, n_done: int, n_frames: int) -> None:
        if not self.done and 50 < n_done < n_frames:
            self.done = True
            (host,) = networks_processes()
            self._strike(host)


@pytest.fixture
def folder(tmp_path: Path, write_talk: Callable[..., Path]) -> Path:
    """Long enough that what strikes in the middle does, however late the run hears of the first frames."""
    return write_talks(tmp_path / "videos", write_talk, n_videos=3, n_frames=300)


@pytest.mark.full
@pytest.mark.parametrize("mode", ["tracked", "exact"])
def test_shared_networks_give_the_same_rows_as_own(
    tmp_path: Path, model: Path, write_talk: Callable, mode: str
) -> None:
    folder = write_talks(tmp_path / "videos", write_talk, n_videos=3, n_frames=30 if mode == "exact" else 150)
    summary = analyze(tmp_path / "shared", model, folder, mode=mode)
    assert summary.count("ok") == 3, summary.outcomes
    assert summary.cpu_s["networks"] > 0
    assert not run_processes()
    analyze(tmp_path / "own", model, folder, mode=mode, networks="own")
    assert_same_scores(tmp_path / "shared", tmp_path / "own")


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_videos_at_work_when_the_networks_are_lost_are_done_again_and_not_blamed(
    tmp_path: Path, model: Path, folder: Path, number: signal.Signals
) -> None:
    strike = Strike(lambda host: host.send_signal(number))
    summary = analyze(tmp_path / "lake", model, folder, progress=strike, progress_s=15)
    assert strike.done
    assert [(outcome.status, outcome.message) for outcome in summary.outcomes] == [("ok", "")] * 3
    assert not run_processes()
    analyze(tmp_path / "undisturbed", model, folder, networks="own")
    assert_same_scores(tmp_path / "lake", tmp_path / "undisturbed")


@pytest.mark.full
def test_video_whose_networks_are_lost_again_and_again_has_failed_and_costs_no_other(
    tmp_path: Path, model: Path, write_talk: Callable[..., Path]
) -> None:
    # long enough that the server is asked again after each loss, however late the run hears of the first frames
    folder = write_talks(tmp_path / "videos", write_talk, n_videos=3, n_frames=450)
    culprit = str(folder / "1.mp4")

    class Kill(Progress):
        def frames(self, path: str, n_done: int, n_frames: int) -> None:
            if path == culprit and n_done:
                for host in networks_processes():
                    host.kill()

    summary = analyze(tmp_path / "lake", model, folder, workers=1, progress=Kill())
    outcomes = {outcome.path: outcome for outcome in summary.outcomes}
    failed = outcomes.pop(culprit)
    assert (failed.status, failed.code) == ("failed", "crashed")
    assert "the inference server was lost 3 times while this was analysed" in failed.message
    assert [outcome.status for outcome in outcomes.values()] == ["ok", "ok"]
    assert not run_processes()


@pytest.mark.full
def test_networks_that_cannot_be_loaded_end_the_run_and_say_so(tmp_path: Path, model: Path, talk: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = broken / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        analyze(tmp_path / "lake", broken, talk)
    assert not run_processes()


@pytest.mark.full
def test_idle_workers_outlive_the_loss_of_their_networks(tmp_path: Path, model: Path, folder: Path) -> None:
    class KillBetween(Progress):
        def video(self, outcome: object) -> None:
            for host in networks_processes():
                host.kill()
            time.sleep(0.5)

    summary = analyze(tmp_path / "lake", model, folder, workers=1, progress=KillBetween())
    assert [outcome.status for outcome in summary.outcomes] == ["ok", "ok", "ok"]
    statuses = run_sql(Lake.open(tmp_path / "lake"), "SELECT status FROM videos").to_pylist()
    assert [row["status"] for row in statuses] == ["ok"] * 3


def test_unknown_way_to_hold_networks_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="networks are 'both'; allowed: auto, own, shared"):
        FolderRun((str(tmp_path),), str(tmp_path / "lake"), networks="both")
