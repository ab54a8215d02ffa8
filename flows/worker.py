"""The life of a process that analyses one video after another; ``flows/pool.py`` starts and watches it.

It runs ``main`` with two inherited file descriptors: of the connection over which files come and outcomes go, and of a
few shared numbers that tell how far it is. Its standard error belongs to the one
who watches, and so do its deadlines: what hangs in a library cannot watch itself. When its standard input ends, the
one who started it is gone, and it ends too; on Linux the kernel sees to that, also where a library hangs.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.pulse import Phase, on_beat
from pipelines.settings import Decoder
from storage.objects import Place
from storage.records import VideoOutcome, VideoPart

if TYPE_CHECKING:
    from flows.analyze import FolderRun

__all__ = ["SIGNS_BYTES", "Answer", "Ready", "Signs", "Task", "main"]

#: prctl(2): the signal that the kernel sends when the thread that started this process ends.
_PR_SET_PDEATHSIG = 1
_N_SIGNS = 5
SIGNS_BYTES = 8 * _N_SIGNS


class Signs:
    """Numbers that a worker and its watcher share: progress one way, the wish to stop the other."""

    def __init__(self, fd: int) -> None:
        self._numbers = memoryview(mmap.mmap(fd, SIGNS_BYTES)).cast("q")

    def beat(self, phase: Phase | None = None) -> None:
        if phase is not None:
            self._numbers[0] = phase
        self._numbers[1] += 1

    @property
    def phase(self) -> Phase:
        return Phase(self._numbers[0])

    @property
    def n_beats(self) -> int:
        return self._numbers[1]

    @property
    def n_frames(self) -> tuple[int, int]:
        """Sampled frames done and in all of the video at work."""
        return self._numbers[2], self._numbers[3]

    @n_frames.setter
    def n_frames(self, numbers: tuple[int, int]) -> None:
        self._numbers[2], self._numbers[3] = numbers

    @property
    def stopping(self) -> bool:
        return bool(self._numbers[4])

    @stopping.setter
    def stopping(self, stop: bool) -> None:
        self._numbers[4] = stop


@dataclass(frozen=True)
class Task:
    """One file for a worker, or some segments of it; the decoder is the settings' own unless another is tried."""

    path: Place
    video_id: str | None = None
    decoder: Decoder | None = None
    segments: tuple[int, int] | None = None


@dataclass(frozen=True)
class Ready:
    """A worker has loaded everything and waits for files."""

    device: str


@dataclass(frozen=True)
class Answer:
    """What became of a file; ``cpu_s`` are the worker's CPU seconds so far by stage, all of its life."""

    outcome: VideoOutcome | VideoPart
    cpu_s: Mapping[str, float]


def main(control_fd: int, signs_fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # a core is gigabytes
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()  # also where it ended before that
    control, signs = Connection(control_fd), Signs(signs_fd)
    on_beat(signs.beat)
    signs.beat(Phase.START)
    try:
        run, model = control.recv()
        _work(control, signs, run, model)
    except (EOFError, ConnectionError):
        return  # the parent is gone
    except Exception as error:
        control.send(error)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # nobody waits for this video, and the next run may be at it already


def _work(control: Connection, signs: Signs, run: FolderRun, model: Path) -> None:
    import torch

    from pipelines.profile import cpu_seconds, reset_stages
    from pipelines.score import VideoAnalyzer, VideoFile
    from pipelines.scorer import Scorer, choose_device
    from storage.lake import Lake

    def tell(n_done: int, n_in_all: int) -> None:
        signs.n_frames = n_done, n_in_all

    device = choose_device(run.device)
    if device == "cpu":
        torch.set_num_threads(1)  # a process per core beats threads in one; decoding has a thread of its own
    analyzer = VideoAnalyzer(Lake.open(run.lake), run.settings, Scorer(model, device, run.runtime), device)
    reset_stages()
    control.send(Ready(device))
    while True:
        signs.beat(Phase.IDLE)
        task: Task = control.recv()
        file = VideoFile(task.path, task.video_id, task.decoder, task.segments)
        outcome = analyzer(file, tell, lambda: signs.stopping)
        sys.stderr.flush()
        control.send(Answer(outcome, cpu_seconds()))
