"""What it costs that every video is read by a watched process: many short clips with and without.

    python -m benchmarks.isolation --json benchmarks/results/isolation.json

The same clips are analysed twice into lakes of their own: by ``analyze_folder``, as ``mfer analyze --workers 1`` does,
and by the same VideoAnalyzer in this process without any supervision; in halves, with, without, without, with, so
that a machine that grows slower or faster meanwhile favours neither. CPU seconds are those of all processes; the start
(imports, networks) is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.machine import machine
from flows.analyze import analyze_folder
from flows.run import FolderRun, Progress
from pipelines.scoring.lookup import find_model
from pipelines.settings import AnalysisSettings
from pipelines.video.encode import write_video
from storage.lake import Lake
from storage.records import VideoOutcome
from tests.faces import carphone_frames

FPS = 25


def cpu_s() -> float:
    """CPU seconds of this process and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def make_clips(folder: Path, numbers: Iterable[int], clip_s: float) -> None:
    """Clips of a talking man, each other bytes."""
    folder.mkdir()
    talk, n_frames = carphone_frames(), round(clip_s * FPS)
    for k in numbers:
        step = 1 + k // len(talk)  # else the second round would be copies, which are skipped
        shown = [talk[(k + j * step) % len(talk)] for j in range(n_frames)]
        write_video(folder / f"{k:04}.mp4", shown, FPS, options={"crf": "23", "preset": "ultrafast"})


class FirstVideo(Progress):
    """When the first video had ended, in seconds of wall time."""

    at_s: float | None = None

    def video(self, outcome: VideoOutcome) -> None:
        self.at_s = self.at_s or time.monotonic()


def supervised(folder: Path, lake: Path) -> dict[str, float]:
    before_s, started_s, first = cpu_s(), time.monotonic(), FirstVideo()
    summary = analyze_folder(FolderRun((str(folder),), str(lake), device="cpu"), first)
    assert summary.count("ok") == len(list(folder.iterdir()))
    assert first.at_s is not None
    used = cpu_s() - before_s
    return {
        "cpu_s": used - summary.cpu_s["start"],
        "start_cpu_s": summary.cpu_s["start"],
        "wall_after_first_video_s": time.monotonic() - first.at_s,
        "wall_s": time.monotonic() - started_s,
    }


def unsupervised(folder: Path, lake: Path) -> dict[str, float]:
    begun_s, started_s = cpu_s(), time.monotonic()
    from pipelines.score import VideoAnalyzer, VideoFile
    from pipelines.scoring.scorer import Scorer

    opened = Lake.open(lake, create=True)
    analyzer = VideoAnalyzer(opened, AnalysisSettings(), Scorer(find_model("default")))
    before_s, first_s = cpu_s(), None
    for path in sorted(folder.iterdir()):
        outcome = analyzer(VideoFile(path))
        assert isinstance(outcome, VideoOutcome)
        assert outcome.status == "ok"
        first_s = first_s or time.monotonic()
    assert first_s is not None
    return {
        "cpu_s": cpu_s() - before_s,
        "start_cpu_s": before_s - begun_s,
        "wall_after_first_video_s": time.monotonic() - first_s,
        "wall_s": time.monotonic() - started_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    totals: dict[str, Counter[str]] = {"supervised": Counter(), "unsupervised": Counter()}
    with tempfile.TemporaryDirectory(prefix="mfer-bench-") as place:
        halves = [Path(place) / "first", Path(place) / "second"]
        for first, half in enumerate(halves):
            make_clips(half, range(first, options.clips, 2), options.seconds)
        for kind, half in zip(
            ("supervised", "unsupervised", "unsupervised", "supervised"),
            [*halves[:1] * 2, *halves[1:] * 2],
            strict=True,
        ):
            run = supervised if kind == "supervised" else unsupervised
            totals[kind].update(run(half, Path(place) / f"{kind}-{half.name}"))
    ours, plain = (dict(totals[kind]) for kind in ("supervised", "unsupervised"))
    result = {
        "machine": machine(),
        "n_clips": options.clips,
        "clip_s": options.seconds,
        "supervised": ours,
        "unsupervised": plain,
        "cpu_ratio": ours["cpu_s"] / plain["cpu_s"],
        "wall_ratio": ours["wall_after_first_video_s"] / plain["wall_after_first_video_s"],
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
