"""The life of a process that analyses one video after another; ``flows/workers/pool.py`` starts and watches it.

Files come and outcomes go over a connection, and a few shared numbers tell how far it is. Its standard error belongs to
the one who watches, and so do its deadlines: what hangs in a library cannot watch itself.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from flows.workers.messages import Answer, Ready, Task, WantsNetworks
from flows.workers.process import Signs, begin_life
from pipelines.heartbeat import Phase, on_heartbeat

if TYPE_CHECKING:
    from flows.run import FolderRun

__all__ = ["main"]


def main(control_fd: int, signs_fd: int) -> None:
    begin_life(control_fd, signs_fd, _live)


def _live(control: Connection, signs: Signs) -> None:
    on_heartbeat(signs.beat)
    run, model = control.recv()
    _work(control, signs, run, model)


def _work(control: Connection, signs: Signs, run: FolderRun, model: Path) -> None:
    import torch

    from flows.workers.inference_server import SharedNetworks
    from pipelines.faces.finder import FaceFinder
    from pipelines.profile import cpu_seconds, reset_stages
    from pipelines.score import VideoAnalyzer, VideoFile
    from pipelines.scoring.scorer import Scorer, choose_device
    from storage.lake import Lake

    def tell(n_done: int, n_in_all: int) -> None:
        signs.n_frames = n_done, n_in_all

    device = choose_device(run.device)
    if run.shares_networks(device):
        control.send(WantsNetworks(device))
        nets = SharedNetworks.receive(control)
        scorer = Scorer(model, net=nets.score)
        finder = FaceFinder(run.settings.detector, run.settings.tracker, networks=nets)
    else:
        scorer = Scorer(model, device, run.runtime)
        finder = FaceFinder(run.settings.detector, run.settings.tracker, device)
    if device == "cpu" or run.shares_networks(device):
        torch.set_num_threads(1)  # a process per core beats threads in one; decoding has a thread of its own
    analyzer = VideoAnalyzer(Lake.open(run.lake), run.settings, scorer, finder=finder, device=device)
    reset_stages()
    control.send(Ready(device))
    while True:
        signs.beat(Phase.IDLE)
        task: Task = control.recv()
        file = VideoFile(task.path, task.video_id, task.decoder, task.segments)
        outcome = analyzer(file, tell, lambda: signs.stopping)
        sys.stderr.flush()
        control.send(Answer(outcome, cpu_seconds()))
