"""Damaged bytes at the probe, the gate and the decoders: nothing may crash, hang or raise an error of its own.

``python -m tests.fuzz --seconds 300`` looks for new findings; the suite runs a few hundred cases. A case is (seed,
number) and the same everywhere. Cases run in child processes, so that a crash or a hang is a finding too.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import VideoError
from pipelines.video.decode import Video, decode, open_video
from pipelines.video.decoders import refusal
from tests.clips import write_clip

__all__ = ["Finding", "fuzz", "mutate"]

#: A case that takes longer hangs: the longest take half a second.
HANG_S = 30.0
#: Address space of a child, which reserves some 5 GB for its libraries alone.
MEMORY_BYTES = 16 * 2**30

_B = {"bf": "2", "g": "8"}
_MPEG = {**_B, "b": "2000000"}
SEEDS: dict[str, dict] = {
    "a.mp4": {"options": _B},
    "frag.mp4": {"options": _B, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "turned.mp4": {"options": _B, "rotation_deg": 90, "mirrored": True},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=8:bframes=2:pools=none"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "a.mkv": {"options": _B},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "vp8.webm": {"codec": "libvpx", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "a.flv": {"options": _B},
    "h264.avi": {"options": _B},
    "mpeg4.avi": {"codec": "mpeg4", "options": _MPEG},
    "a.ts": {"options": _B, "container": "mpegts"},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": _MPEG},
    "wmv2.wmv": {"codec": "wmv2", "container": "asf", "options": {"b": "1000000"}},
    "a.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "raw.h264": {"options": _B, "container": "h264"},
}


@dataclass(frozen=True)
class Finding:
    """A case that went wrong; ``path`` is its file."""

    case: int
    what: str
    path: Path

    def __str__(self) -> str:
        return f"case {self.case}: {self.what} ({self.path})"


#: What decord writes about a file that it cannot rewind; nothing silences it. In a run it lands in `runs.log`.
_DECORD_LOG = "/src/video/video_reader.cc"


def write_seeds(folder: Path) -> None:
    for name, settings in SEEDS.items():
        write_clip(folder / name, n_frames=16, **settings)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage some bytes: of the head as often as of the rest, since that is where a few bytes claim most."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        n = len(changed)
        if n < 64:
            break
        within = min(n, 1500) if rng.random() < 0.4 else n
        at, length = int(rng.integers(within)), int(2 ** rng.uniform(0, 9))
        kind = rng.integers(8)
        if kind <= 1:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            changed[at : at + length] = rng.bytes(min(length, n - at))
        elif kind == 3:
            changed[at : at + length] = bytes([int(rng.choice([0, 255]))]) * min(length, n - at)
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        elif kind == 6:
            value = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000_000, 65_535]))
            changed[at : at + 4] = value.to_bytes(4, str(rng.choice(["big", "little"])))[: n - at]
        else:
            del changed[int(rng.integers(n // 8, n)) :]
    return bytes(changed)


def write_case(seeds: Path, folder: Path, seed: int, case: int) -> Path:
    rng = np.random.default_rng([seed, case])
    name = list(SEEDS)[case % len(SEEDS)]
    path = folder / f"case_{case}_{name}"
    path.write_bytes(mutate((seeds / name).read_bytes(), rng))
    return path


def examine(path: Path) -> str:
    """Read a file by every road. Returns how it ended; raises AssertionError for a broken promise."""
    try:
        video = open_video(path)
        n_frames = video.info.n_frames
        assert len(video.pts_s) == n_frames, "times and frames differ in number"
        assert np.isfinite(video.pts_s).all(), "a time is not a number"
        assert (np.diff(video.pts_s) >= 0).all(), "times fall"
        assert (video.duration_s >= 0).all(), "a frame is shown for a negative time"
        if n_frames > 5000 or video.info.width_px * video.info.height_px > 2**23:
            return "large"
        frames: dict[int, np.ndarray] = {}
        undecodable: list[int] = []
        for batch in decode(video):
            frames |= {int(k): rgb for k, rgb in zip(batch.frame_index, batch.rgb, strict=True)}
            undecodable += batch.undecodable_index.tolist()
    except VideoError as error:
        return error.code
    assert sorted([*frames, *undecodable]) == list(range(n_frames)), (
        "a frame is neither delivered nor named as undecodable"
    )
    ended = "partial" if undecodable else "ok"
    if refusal("decord", video) is None:
        ended += ", by decord " + _by_decord(video, frames)
    return ended


def _by_decord(video: Video, frames: dict[int, np.ndarray]) -> str:
    """Whether decord shows the same; that it does is promised for whole files only, that it ends for all."""
    try:
        for batch in decode(video, decoder="decord"):
            for index, rgb in zip(batch.frame_index, batch.rgb, strict=True):
                if int(index) not in frames or (rgb != frames[int(index)]).any():
                    return "wrong"
    except VideoError:
        return "refused"
    return "the same"


def _child(seeds: Path, folder: Path, seed: int, first: int, count: int) -> None:
    """Cases first, first + 1, ...: a line before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for case in range(first, first + count):
        path = write_case(seeds, folder, seed, case)
        print(f"begin {case}", flush=True)
        try:
            ended = examine(path)
        except Exception as error:
            print(f"wrong {type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            path.unlink()
            print(f"ended {ended}", flush=True)


def _lines(child: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """Lines as they come; None where none came for HANG_S."""
    assert child.stdout
    buffer = b""
    while True:
        if not select.select([child.stdout], [], [], HANG_S)[0]:
            yield None
            return
        read = os.read(child.stdout.fileno(), 65_536)
        if not read:
            return
        *whole, buffer = (buffer + read).split(b"\n")
        yield from (line.decode() for line in whole)


def fuzz(
    seed: int, count: int, folder: Path, *, first: int = 0, seconds: float | None = None
) -> tuple[Counter, list[Finding]]:
    """Run cases in child processes. Returns how they ended, counted, and the findings, whose files stay in folder."""
    ended: Counter[str] = Counter()
    findings: list[Finding] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        seeds = Path(place)
        write_seeds(seeds)
        case = first
        while case < first + count and (seconds is None or time.monotonic() - began < seconds):
            words = ["--child", seeds, folder, seed, case, min(500, first + count - case)]
            command = [sys.executable, "-m", "tests.fuzz", *map(str, words)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            what, current = "", -1
            for line in _lines(child):
                if line is None:
                    what = f"no answer for {HANG_S:g} s"
                    break
                word, _, rest = line.partition(" ")
                if word == "begin":
                    current = int(rest)
                elif word == "ended":
                    ended[rest] += 1
                    case = current + 1
                else:
                    findings.append(_finding(folder, current, rest))
                    case = current + 1
            child.kill()
            lines = child.communicate()[1].decode(errors="replace").splitlines()
            output = "\n".join(line for line in lines if _DECORD_LOG not in line).strip()
            if current < 0:
                raise RuntimeError(f"no case could be begun: {output[-500:]}")
            if what or (child.returncode and case == current):
                findings.append(_finding(folder, current, what or f"exit {child.returncode}: {output[-200:]}"))
                case = current + 1
            elif output:
                findings.append(_finding(folder, current, f"the libraries printed: {output[-200:]}"))
    return ended, findings


def _finding(folder: Path, case: int, what: str) -> Finding:
    name = list(SEEDS)[case % len(SEEDS)]
    return Finding(case, what, folder / f"case_{case}_{name}")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        seeds, folder, seed, first, count = sys.argv[2:]
        _child(Path(seeds), Path(folder), int(seed), int(first), int(count))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="case to begin with")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--out", type=Path, default=Path("fuzz_out"), help="folder for the files of findings")
    query = parser.parse_args()
    query.out.mkdir(parents=True, exist_ok=True)
    ended, findings = fuzz(query.seed, query.count, query.out, first=query.first, seconds=query.seconds)
    print(f"{sum(ended.values())} cases: {dict(ended.most_common())}; {len(findings)} findings")
    for finding in findings:
        print(finding)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
