"""How fast, how large and how steady an analysis is, beside other programs, in one run.

    python -m benchmarks.speed [--json FILE] [--part PART ...] [--minutes N] [--quick] [--no-fer]
    python -m benchmarks.avx2_only python -m benchmarks.speed

Every figure is of a whole process, from its start to the Parquet files: CPU seconds and peak memory as the system
counts them. Rates are per CPU-second, on one worker; ratios are between processes of this run. The start alone is the
row "one frame". The parts, all of which run by default:

- scoring: the default model's network alone;
- rates: one face at 720p and six at 1080p, and the CPU time by stage;
- peers: others on the same clips. They read a part of a clip, with packages that are installed into folders of their
  own under `.bench/` (7 GB for fer, which brings two frameworks); their start is taken off;
- sampling: `--fps 5`;
- growth: longer and longer clips;
- workers: four videos by one and two workers on one and two cores;
- long: one video of `--minutes` (30) by one worker on one core and by two on two, which share its segments.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.clips import FPS, one_face_720p, six_faces_1080p
from benchmarks.machine import machine, show_machine
from benchmarks.peers import peer_command
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import ScoringNet
from pipelines.video.encode import write_video

_ROOT = Path(__file__).resolve().parent.parent
_MEASURED = Path(__file__).with_name("measured.py")
_MFER = str(Path(sys.executable).with_name("mfer"))
_PEERS = {"plain script": "plain_script.py", "fer": "fer_script.py"}
_PARTS = ("scoring", "rates", "peers", "sampling", "growth", "workers", "long")
#: The shortest long video has so many segments, so that two workers have something to share.
_MIN_SEGMENTS = 6
_MAX_SEGMENT_S = 300
_WORK = ("decode", "detect", "follow", "align", "score", "write", "commit")


@dataclass(frozen=True)
class Cost:
    """What a process cost."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def cost_of(command: list[str], env: dict[str, str] | None = None, cores: int | None = None) -> Cost:
    """Run a command to its end, on so many cores at most; its children count."""
    everywhere = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "cost.json"
        started = time.monotonic()
        os.sched_setaffinity(0, sorted(everywhere)[:cores])  # the child inherits it
        process = subprocess.Popen(
            [sys.executable, "-I", _MEASURED, result, *command],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.sched_setaffinity(0, everywhere)
        output, _ = process.communicate()
        wall_s = time.monotonic() - started
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}: {output[-2000:]}")
        return Cost(wall_s=wall_s, **json.loads(result.read_text()))


def analyze(*videos: Path, workers: int = 1, cores: int | None = None, options: Sequence[str] = ()) -> Cost:
    """`mfer analyze` into a lake of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [_MFER, "analyze", *map(str, videos), "--lake", f"{folder}/lake"]
        return cost_of([*command, "--workers", str(workers), *options], cores=cores)


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


def repeat(clip: Path, path: Path, times: int) -> Path:
    """A clip so many times in a row, without encoding it again."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        length = stream.duration
        assert length is not None
        for i in range(times):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is None or packet.pts is None:
                    continue
                packet.pts, packet.dts = packet.pts + i * length, packet.dts + i * length
                packet.stream = copy
                target.mux(packet)
    return path


@dataclass
class Run:
    """The figures of a run, printed as they come, and the clips that several parts use."""

    folder: Path
    quick: bool
    with_fer: bool
    minutes: float
    figures: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, value: Any) -> None:
        self.figures[name] = value
        print(f"{name}: {value}", flush=True)

    def clip(self, name: str, pictures: Callable[[int], Any], seconds: int) -> Path:
        path = self.folder / f"{name}.mp4"
        if not path.exists():
            write_video(path, pictures(seconds * FPS), FPS, options={"preset": "veryfast"})
        return path

    @property
    def face_s(self) -> int:
        return 6 if self.quick else 60

    @property
    def crowd_s(self) -> int:
        return 2 if self.quick else 15

    @cached_property
    def face(self) -> Path:
        return self.clip("face", one_face_720p, self.face_s)

    @cached_property
    def crowd(self) -> Path:
        return self.clip("crowd", six_faces_1080p, self.crowd_s)

    @cached_property
    def start(self) -> Cost:
        """Of one frame, the second time: the first run exports the networks."""
        one = write_video(self.folder / "one.mp4", one_face_720p(1), FPS)
        analyze(one)
        return analyze(one)

    @cached_property
    def face_cost(self) -> Cost:
        return analyze(self.face)

    @cached_property
    def crowd_cost(self) -> Cost:
        return analyze(self.crowd)

    def fps(self, cost: Cost, seconds: int) -> float:
        """Frames of video per CPU-second after the start."""
        return seconds * FPS / (cost.cpu_s - self.start.cpu_s)


def scoring(run: Run) -> None:
    net = ScoringNet(find_model("default"))
    crop = net.card.crop
    faces = np.random.default_rng(0).integers(0, 256, (64, crop.channels, crop.side_px, crop.side_px), np.uint8)
    net(faces)
    best = 0.0
    for _ in range(2 if run.quick else 20):
        before = time.process_time()
        net(faces)
        best = max(best, len(faces) / (time.process_time() - before))
    run.note(f"{net.card.name}: faces per CPU s", round(best))


def rates(run: Run) -> None:
    run.note("one frame: CPU s", round(run.start.cpu_s, 2))
    run.note("720p, one face: frames per CPU s", round(run.face_s * FPS / run.face_cost.cpu_s, 1))
    run.note("720p, one face: frames per CPU s after the start", round(run.fps(run.face_cost, run.face_s), 1))
    run.note("720p, one face: peak MB", round(run.face_cost.peak_mb))
    stages = profile(run.face)
    run.note("720p, one face: CPU s by stage", stages)
    outside = 1 - sum(stages[name] for name in _WORK) / (stages["all"] - stages["start"])
    run.note("720p, one face: share outside decode, networks, warp, write", round(outside, 3))
    run.note("1080p, six faces: frames per CPU s after the start", round(run.fps(run.crowd_cost, run.crowd_s), 1))
    run.note("1080p, six faces: peak MB", round(run.crowd_cost.peak_mb))


def peers(run: Run) -> None:
    face_fps, crowd_fps = run.fps(run.face_cost, run.face_s), run.fps(run.crowd_cost, run.crowd_s)
    for name in _PEERS:
        if name == "fer" and not run.with_fer:
            continue
        for clip, ours, label in ((run.face, face_fps, "720p, one face"), (run.crowd, crowd_fps, "1080p, six faces")):
            rate = peer(name, clip, 4 if run.quick else 12)
            run.note(f"{label}: {name}, frames per CPU s", round(rate, 2))
            run.note(f"{label}: times as fast as {name}", round(ours / rate, 1))


def sampling(run: Run) -> None:
    sampled = analyze(run.face, options=("--fps", "5"))
    run.note("720p, one face, --fps 5: frames of video per CPU s after the start", round(run.fps(sampled, run.face_s)))


def growth(run: Run) -> None:
    for times in (1, 4, 16):
        grown = analyze(run.clip(f"x{times}", one_face_720p, times * 3))
        run.note(
            f"{3 * times} s of video: ms of CPU per frame after the start", round(1000 / run.fps(grown, times * 3), 2)
        )
        run.note(f"{3 * times} s of video: peak MB", round(grown.peak_mb))


def workers(run: Run) -> None:
    seconds = 3 if run.quick else 48
    clip, copies = run.clip(f"x{seconds // 3}", one_face_720p, seconds), []
    for i in range(4):  # other bytes are another video
        copies.append(run.folder / f"copy{i}.mp4")
        shutil.copy(clip, copies[-1])
        with copies[-1].open("ab") as file:
            file.write(b"\0\0\0\x08free" * (i + 1))
    found = {(n, cores): analyze(*copies, workers=n, cores=cores) for n, cores in ((1, 1), (1, 2), (2, 1), (2, 2))}
    for (n, cores), cost in found.items():
        label = f"four videos, {n} worker{'s' * (n > 1)} on {cores} core{'s' * (cores > 1)}"
        run.note(f"{label}: s, CPU s", [round(cost.wall_s, 1), round(cost.cpu_s, 1)])
    ratio = found[1, 1].wall_s / found[2, 2].wall_s
    run.note("two workers on two cores against one on one, by wall time", round(ratio, 2))


def long(run: Run) -> None:
    clip = run.clip("x4", one_face_720p, 12)
    times = max(round(run.minutes * 60 / 12), 1)
    video = repeat(clip, run.folder / "long.mp4", times)
    segment_s = min(_MAX_SEGMENT_S, max(times * 12 // _MIN_SEGMENTS, 1))
    options = ("--segment", str(segment_s))
    alone = analyze(video, workers=1, cores=1, options=options)
    two = analyze(video, workers=2, cores=2, options=options)
    label = f"one video of {times * 12 / 60:g} minutes"
    run.note(f"{label}: s with one worker on one core, with two on two", [round(alone.wall_s, 1), round(two.wall_s, 1)])
    run.note(f"{label}: two against one, by wall time", round(alone.wall_s / two.wall_s, 2))
    run.note(f"{label}: peak MB", round(alone.peak_mb))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--part", action="append", choices=_PARTS, help="only this part; may be repeated")
    parser.add_argument("--minutes", type=float, default=30, help="length of the long video (30)")
    parser.add_argument("--quick", action="store_true", help="short clips: to see that it runs, not to quote")
    parser.add_argument("--no-fer", action="store_true", help="leave out the package fer, a large installation")
    options = parser.parse_args()
    facts = machine()
    print(show_machine(facts), flush=True)
    parts = dict(zip(_PARTS, (scoring, rates, peers, sampling, growth, workers, long), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), options.quick, not options.no_fer, options.minutes)
        for name in options.part or _PARTS:
            parts[name](run)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**facts, "figures": run.figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
