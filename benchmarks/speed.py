"""How fast, how large and how steady an analysis is, beside a plain script and the package fer, in one run.

    python -m benchmarks.speed [--json FILE] [--quick] [--no-fer]

Every figure is of a whole process, from its start to the Parquet files: CPU seconds and peak memory as the system
counts them. Rates are per CPU-second, on one worker; ratios are between processes of this run. The start alone is the
row "one frame". The peers run a part of the clip, with packages that are installed into folders of their own under
`.bench/` (7 GB for fer, which brings two frameworks); their start is taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.clips import FPS, one_face_720p, six_faces_1080p
from benchmarks.machine import machine
from benchmarks.peers import peer_command
from pipelines.video.encode import write_video

_ROOT = Path(__file__).resolve().parent.parent
_MFER = str(Path(sys.executable).with_name("mfer"))
_PEERS = {"plain script": "plain_script.py", "fer": "fer_script.py"}
_WORK = ("decode", "detect", "follow", "align", "score", "write", "commit")


@dataclass(frozen=True)
class Cost:
    """What a process cost."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def cost_of(command: list[str], env: dict[str, str] | None = None, cores: int | None = None) -> Cost:
    """Run a command to its end, on so many cores at most; its children count."""
    started = time.monotonic()
    everywhere = os.sched_getaffinity(0)
    with tempfile.TemporaryFile() as output:
        os.sched_setaffinity(0, sorted(everywhere)[:cores])  # the child inherits it
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT), **(env or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        os.sched_setaffinity(0, everywhere)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}: {output.read().decode()[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss / 1024)


def analyze(*videos: Path, workers: int = 1, cores: int | None = None) -> Cost:
    """`mfer analyze` into a lake of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [_MFER, "analyze", *map(str, videos), "--lake", f"{folder}/lake"]
        return cost_of([*command, "--workers", str(workers)], cores=cores)


def profile(video: Path) -> dict[str, float]:
    """CPU seconds by stage, without the process's start."""
    with tempfile.TemporaryDirectory() as folder:
        command = [_MFER, "analyze", str(video), "--lake", f"{folder}/lake", "--profile"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
        output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in output[output.index("stage ") :].splitlines()[1:]]
    return {name: float(seconds) for name, seconds, *_ in rows}


def peer(name: str, video: Path, n_frames: int) -> float:
    """Frames per CPU-second of a peer, its start taken off; installs what it needs first."""
    command, env = peer_command(name, _PEERS[name])
    few, many = (cost_of([*command, str(video), str(n)], env).cpu_s for n in (1, 1 + n_frames))
    return n_frames / (many - few)


def measure(clips: Path, quick: bool, with_fer: bool) -> dict[str, Any]:
    """All figures, printed as they come."""
    long, short = (6, 2) if quick else (60, 15)
    figures: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        figures[name] = value
        print(f"{name}: {value}", flush=True)

    one = write_video(clips / "one.mp4", one_face_720p(1), FPS)
    face = write_video(clips / "face.mp4", one_face_720p(long * FPS), FPS, options={"preset": "veryfast"})
    crowd = write_video(clips / "crowd.mp4", six_faces_1080p(short * FPS), FPS, options={"preset": "veryfast"})
    analyze(one)  # the first run exports the networks
    start = analyze(one)
    note("one frame: CPU s", round(start.cpu_s, 2))
    whole = analyze(face)
    n_frames = long * FPS
    note("720p, one face: frames per CPU s", round(n_frames / whole.cpu_s, 1))
    note("720p, one face: frames per CPU s after the start", round(n_frames / (whole.cpu_s - start.cpu_s), 1))
    note("720p, one face: peak MB", round(whole.peak_mb))
    stages = profile(face)
    note("720p, one face: CPU s by stage", stages)
    running_s = stages["all"] - stages["start"]
    outside = 1 - sum(stages[name] for name in _WORK) / running_s
    note("720p, one face: share outside decode, networks, warp, write", round(outside, 3))
    groups = analyze(crowd)
    crowd_fps = short * FPS / (groups.cpu_s - start.cpu_s)
    note("1080p, six faces: frames per CPU s after the start", round(crowd_fps, 1))
    note("1080p, six faces: peak MB", round(groups.peak_mb))
    face_fps = n_frames / (whole.cpu_s - start.cpu_s)
    for name in _PEERS if with_fer else ("plain script",):
        for clip, ours, label in ((face, face_fps, "720p, one face"), (crowd, crowd_fps, "1080p, six faces")):
            rate = peer(name, clip, 4 if quick else 12)
            note(f"{label}: {name}, frames per CPU s", round(rate, 2))
            note(f"{label}: times as fast as {name}", round(ours / rate, 1))
    for times in (1, 4, 16):
        clip = write_video(clips / f"x{times}.mp4", one_face_720p(times * 3 * FPS), FPS, options={"preset": "veryfast"})
        grown = analyze(clip)
        note(
            f"{3 * times} s of video: ms of CPU per frame after the start",
            round((grown.cpu_s - start.cpu_s) / (times * 3 * FPS) * 1000, 2),
        )
        note(f"{3 * times} s of video: peak MB", round(grown.peak_mb))
    copies = []
    for i in range(4):  # other bytes are another video
        copies.append(clips / f"copy{i}.mp4")
        shutil.copy(clips / "x16.mp4", copies[-1])
        with copies[-1].open("ab") as file:
            file.write(b"\0\0\0\x08free" * (i + 1))
    alone, two = analyze(*copies, workers=1, cores=1), analyze(*copies, workers=2, cores=2)
    walls_s = [round(alone.wall_s, 1), round(two.wall_s, 1)]
    note("four videos: wall s with one worker on one core, with two on two", walls_s)
    note("two workers on two cores against one on one, by wall time", round(alone.wall_s / two.wall_s, 2))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="short clips: to see that it runs, not to quote")
    parser.add_argument("--no-fer", action="store_true", help="leave out the package fer, a large installation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.quick, not options.no_fer)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**machine(), "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
