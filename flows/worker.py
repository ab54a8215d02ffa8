"""The life of a process that analyses one video after another; ``flows/pool.py`` starts and watches it.

Files come and outcomes go over a connection, and a few shared numbers tell how far it is. Its standard error belongs to
the one who watches, and so do its deadlines: what hangs in a library cannot watch itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from flows.child import Signs, begin_life
from pipelines.pulse import Phase, on_beat
from pipelines.settings import Decoder
from storage.objects import Place
from storage.records import VideoOutcome, VideoPart

if TYPE_CHECKING:
    from flows.analyze import FolderRun

__all__ = ["Answer", "Ready", "Task", "WantsNetworks", "main"]


@dataclass(frozen=True)
class Task:
    """One file for a worker, or some segments of it; the decoder is the settings' own unless another is tried."""

    path: Place
    video_id: str | None = None
    decoder: Decoder | None = None
    segments: tuple[int, int] | None = None


@dataclass(frozen=True)
class WantsNetworks:
    """A worker asks for a line to the process that holds the networks on this device."""

    device: str


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
    begin_life(control_fd, signs_fd, _live)


def _live(control: Connection, signs: Signs) -> None:
    on_beat(signs.beat)
    run, model = control.recv()
    _work(control, signs, run, model)


def _work(control: Connection, signs: Signs, run: FolderRun, model: Path) -> None:
    import torch

    from flows.networks import SharedNetworks
    from pipelines.find import FaceFinder
    from pipelines.profile import cpu_seconds, reset_stages
    from pipelines.score import VideoAnalyzer, VideoFile
    from pipelines.scorer import Scorer, choose_device
    from storage.lake import Lake

    def tell(n_done: int, n_in_all: int) -> None:
        signs.n_frames = n_done, n_in_all

    device = choose_device(run.device)
    if run.shares_networks(device):
        control.send(WantsNetworks(device))
        nets = SharedNetworks.receive(control)
        scorer = Scorer(model, net=nets.score)
        finder = FaceFinder(run.settings.detector, run.settings.tracker, nets=nets)
    else:
        scorer = Scorer(model, device, run.runtime)
        finder = FaceFinder(run.settings.detector, run.settings.tracker, device)
    if device == "cpu" or run.shares_networks(device):
        torch.set_num_threads(1)  # a process per core beats threads in one; decoding has a thread of its own
    analyzer = VideoAnalyzer(Lake.open(run.lake), run.settings, scorer, finder, device)
    reset_stages()
    control.send(Ready(device))
    while True:
        signs.beat(Phase.IDLE)
        task: Task = control.recv()
        file = VideoFile(task.path, task.video_id, task.decoder, task.segments)
        outcome = analyzer(file, tell, lambda: signs.stopping)
        sys.stderr.flush()
        control.send(Answer(outcome, cpu_seconds()))
