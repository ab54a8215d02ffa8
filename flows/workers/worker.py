"""The worker process, which analyses one video after another; ``flows/workers/pool.py`` starts and supervises it.

Tasks and outcomes pass over a connection; shared memory carries heartbeats and progress. The supervisor reads its
standard error and keeps its deadlines, because a process that hangs in a library cannot watch itself.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from flows.workers.messages import Answer, Ready, Task, WantsServer
from flows.workers.process import SharedStatus, child_main
from pipelines.heartbeat import on_heartbeat

if TYPE_CHECKING:
    from flows.run import FolderRun

__all__ = ["main"]


def main(control_fd: int, status_fd: int) -> None:
    child_main(control_fd, status_fd, _run)


def _run(control: Connection, status: SharedStatus) -> None:
    on_heartbeat(status.heartbeat)
    run, model = control.recv()
    _work(control, status, run, model)


def _work(control: Connection, status: SharedStatus, run: FolderRun, model: Path) -> None:
    from flows.workers.inference_server import InferenceClient
    from pipelines.faces.finder import FaceFinder
    from pipelines.profile import cpu_seconds, reset_stages
    from pipelines.score import VideoAnalyzer, VideoFile
    from pipelines.scoring.scorer import Scorer, choose_device
    from storage.lake import Lake

    def show_progress(n_done: int, n_in_all: int) -> None:
        status.n_frames = n_done, n_in_all

    device = choose_device(run.device)
    if run.shares_networks(device):
        control.send(WantsServer(device))
        client = InferenceClient.receive(control)
        scorer = Scorer(model, net=client.score)
        finder = FaceFinder(run.settings.detector, run.settings.tracker, networks=client)
    else:
        scorer = Scorer(model, device, run.runtime)
        finder = FaceFinder(run.settings.detector, run.settings.tracker, device)
    analyzer = VideoAnalyzer(Lake.open(run.lake), run.settings, scorer, finder=finder, device=device)
    reset_stages()
    control.send(Ready(device))
    while True:
        task: Task = control.recv()
        file = VideoFile(task.path, task.content, task.decoder, task.segments, task.stream, task.may_split)
        outcome = analyzer.analyze(file, show_progress, lambda: status.stopping)
        sys.stderr.flush()
        control.send(Answer(outcome, cpu_seconds()))
