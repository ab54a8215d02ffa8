"""Kills, races, full disks and a clock that goes wrong, made for real: afterwards the lake is that of a quiet run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from storage.lake import Lake
from storage.maintenance.check import check_lake
from tests.flows.test_analyze import assert_same, rows

#: A run as people script it. Its settings make six segments of each video.
_RUN = """
import sys
from flows.analyze import analyze_folder
from flows.run import FolderRun
from pipelines.settings import AnalysisSettings, DetectorSettings

folder, lake, model, workers = sys.argv[1:]
settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36), segment_s=1.0)
sys.exit(analyze_folder(FolderRun((folder,), lake, model, "cpu", int(workers), settings)).exit_code)
"""
N_VIDEOS, N_FRAMES = 3, 150


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, write_talk: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "videos"
    folder.mkdir()
    for k in range(N_VIDEOS):
        write_talk(folder / f"{k}.mp4", [None if j // 20 == 3 else (7 * k + j) % 120 for j in range(N_FRAMES)])
    return folder


@pytest.fixture(scope="module")
def quiet(archive: Path, model: Path) -> Path:
    """A lake of an uninterrupted run."""
    lake = archive.parent / "quiet"
    assert start(archive, lake, model).wait() == 0
    assert len(rows(lake, "SELECT DISTINCT path FROM videos WHERE status = 'ok'")) == N_VIDEOS
    return lake


def start(
    archive: Path, lake: Path, model: Path, workers: int = 2, *, before: tuple[str, ...] = (), **more: object
) -> subprocess.Popen:
    command = [*before, sys.executable, "-c", _RUN, str(archive), str(lake), str(model), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)  # type: ignore[call-overload, no-any-return]


def finish(archive: Path, lake: Path, model: Path) -> None:
    run = start(archive, lake, model)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output


def kill_some(run: subprocess.Popen, chance: random.Random) -> None:
    """The run, one of its processes, or all of them at once, as when the machine goes down."""
    with suppress(psutil.NoSuchProcess):
        processes = [psutil.Process(run.pid), *psutil.Process(run.pid).children()]
        for victim in chance.choice([processes[:1], processes[-1:], processes]):
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)


def show_no_half_video(lake: Path) -> None:
    shown = rows(lake, "SELECT n_frames, (SELECT count(*) FROM frames f WHERE f.path = v.path) n FROM videos v")
    assert all(video["n"] == video["n_frames"] == N_FRAMES for video in shown if video["n"])
    assert check_lake(Lake.open(lake)).is_sound


def survive_kills(archive: Path, lake: Path, model: Path, quiet: Path, seed: int, n_kills: int) -> None:
    """Kill runs on one lake again and again, each a little further on; then finish, and compare."""
    chance = random.Random(seed)
    for _ in range(n_kills):
        run = start(archive, lake, model)
        with suppress(subprocess.TimeoutExpired):
            run.wait(timeout=chance.uniform(0.5, 12))
        kill_some(run, chance)
        run.communicate(timeout=300)  # a run that lost a child goes on; what is left of a killed one ends by itself
        if (lake / "lake.json").exists():
            show_no_half_video(lake)
    finish(archive, lake, model)
    assert check_lake(Lake.open(lake)).is_sound
    assert_same(lake, quiet, except_videos=("decoder",))


@pytest.mark.full
@pytest.mark.parametrize("n_kills", [1, 4])
def test_runs_killed_at_random_moments_lose_nothing(
    archive: Path, model: Path, quiet: Path, tmp_path: Path, n_kills: int
) -> None:
    survive_kills(archive, tmp_path / "lake", model, quiet, seed=0, n_kills=n_kills)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 11))
def test_fifty_kills_lose_nothing(archive: Path, model: Path, quiet: Path, tmp_path: Path, seed: int) -> None:
    survive_kills(archive, tmp_path / "lake", model, quiet, seed, n_kills=5)


@pytest.mark.full
@pytest.mark.parametrize("n_runs", [2, pytest.param(8, marks=pytest.mark.soak)])
def test_runs_at_once_over_one_folder_make_the_lake_of_one_run(
    archive: Path, model: Path, quiet: Path, tmp_path: Path, n_runs: int
) -> None:
    runs = [start(archive, tmp_path / "lake", model, workers=1) for _ in range(n_runs)]
    output = [run.communicate(timeout=900)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * n_runs, output
    assert check_lake(Lake.open(tmp_path / "lake")).is_sound
    assert_same(tmp_path / "lake", quiet)
    assert len(rows(tmp_path / "lake", "SELECT DISTINCT run_id FROM runs")) == n_runs


@contextmanager
def small_disk(place: Path, size_kb: int) -> Iterator[Path]:
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "lake", place], capture_output=True
    ).returncode:
        pytest.skip("may not mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    "free_kb",
    [
        pytest.param(free_kb, marks=pytest.mark.full if free_kb in (0, 120) else pytest.mark.soak)
        for free_kb in (0, 8, 24, 48, 72, 96, 120, 160, 200, 260)
    ],
)
def test_full_disk_stops_the_run_wherever_it_is_and_the_next_goes_on(
    archive: Path, model: Path, quiet: Path, tmp_path: Path, free_kb: int
) -> None:
    """With more and more room it is full in another phase: a segment, tracks, seconds, videos, runs."""
    with small_disk(tmp_path / "disk", 4_000) as disk:
        lake = Lake.open(disk / "lake", create=True).location
        ballast = disk / "ballast"
        used_kb = int(subprocess.run(["df", "--output=avail", disk], capture_output=True, text=True).stdout.split()[1])
        ballast.write_bytes(bytes(1024 * max(used_kb - free_kb, 0)))
        run = start(archive, lake, model, workers=1)
        output, _ = run.communicate(timeout=300)
        assert run.returncode != 0
        assert "disk is full" in output
        ballast.unlink()
        show_no_half_video(lake)
        finish(archive, lake, model)
        assert check_lake(Lake.open(lake)).is_sound
        assert_same(lake, quiet)


@pytest.mark.full
def test_full_disk_for_temporary_files_stops_the_run_and_names_the_folder(
    archive: Path, model: Path, quiet: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        run = start(archive, tmp_path / "lake", model, workers=1, env={**os.environ, "TMPDIR": str(disk)})
        output, _ = run.communicate(timeout=300)
        assert run.returncode != 0
        assert f"the disk is full while writing a video's rows in {disk}" in output
    finish(archive, tmp_path / "lake", model)
    assert_same(tmp_path / "lake", quiet)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_clock_that_was_set_back_changes_nothing(archive: Path, model: Path, quiet: Path, tmp_path: Path) -> None:
    lake, videos = tmp_path / "lake", shutil.copytree(archive, tmp_path / "videos")
    whole = (videos / "0.mp4").read_bytes()
    (videos / "0.mp4").write_bytes(whole[: len(whole) // 2])
    assert start(videos, lake, model).wait() == 1
    assert rows(lake, "SELECT count(*) n FROM videos WHERE status = 'ok'") == [{"n": N_VIDEOS - 1}]
    (videos / "0.mp4").write_bytes(whole)
    run = start(videos, lake, model, before=("faketime", "-f", "-400d"))
    assert run.wait() == 0, run.communicate()
    of_run = "min(started_utc) AS start, max(finished_utc) AS end_, bool_or(status = 'failed') AS is_first"
    later, earlier = rows(lake, f"SELECT {of_run} FROM runs GROUP BY run_id ORDER BY is_first")
    assert later["start"] < earlier["start"]  # the clock really was
    assert later["start"] <= later["end_"]
    assert rows(lake, "SELECT DISTINCT status FROM videos") == [
        {"status": "ok"}
    ]  # the later run counts all the same, whatever its date
    assert check_lake(Lake.open(lake)).is_sound
    Lake.open(lake).compact()
    assert len(rows(lake, "SELECT * FROM frames")) == N_VIDEOS * N_FRAMES
