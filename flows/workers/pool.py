"""Worker processes, watched: what hangs, dies or eats the memory is killed, its video tried once more, and replaced.

A library that decodes hostile files may loop, crash or grow in ways that no exception tells. So every video is analysed
in a child process (``flows/workers/worker.py``), which stays for the next video: thousands of short clips pay for one
start. On a GPU one more process holds the networks for all of them (``flows/workers/inference_server.py``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from flows.workers.messages import Answer, Ready, Task, WantsNetworks
from flows.workers.process import NETWORKS_LOST, Child
from mfer.errors import ConfigError
from pipelines.heartbeat import Phase
from pipelines.video.decoders import fallback_decoder
from storage.records import VideoOutcome, VideoPart

if TYPE_CHECKING:
    from flows.run import FolderRun, Progress
    from flows.workers.inference_server import NetworkHost

__all__ = ["WorkerPool"]

#: How often a run looks at what its processes have done meanwhile.
_POLL_S = 0.2
#: Starts that may fail in a row: the next video will not load PyTorch any better.
_MAX_FAILED_STARTS = 3
#: Times that a video may be at work when the networks are lost before it is taken for the cause.
_MAX_LOST_NETWORKS = 3
_STAGES = {Phase.OPEN: "open", Phase.WORK: "decode", Phase.COMMIT: "write"}


class _Worker(Child):
    """A process that analyses videos."""

    def __init__(self, run: FolderRun, model: Path) -> None:
        super().__init__("flows.workers.worker")
        self.device: str | None = None  # known once it is ready
        self.cpu_s: dict[str, float] = {}
        self.tell((run, model))

    def give(self, task: Task) -> None:
        self.begin_log()
        self.signs.n_frames = 0, 0
        self.signs.beat(Phase.OPEN)
        self.tell(task)


@dataclass(frozen=True)
class _Job:
    """A file, what became of the first attempt at it, and how often the networks were lost meanwhile."""

    task: Task
    failure: VideoOutcome | None = None
    n_lost_networks: int = 0


class WorkerPool:
    """Analyses files in child processes, several at a time; as a context manager, which ends them.

    Args:
        run: what to do; ``run.limits`` bounds the processes.
        model: folder of the model.
        progress: is told of frames.
    """

    def __init__(self, run: FolderRun, model: Path, progress: Progress) -> None:
        self._run, self._model, self._progress = run, model, progress
        self._memory_mb = run.limits.memory_mb or 0.8 * psutil.virtual_memory().total / 2**20 / run.workers
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._n_failed_starts = 0
        self._cpu_s: dict[str, float] = {}
        self._host: NetworkHost | None = None
        # it is found before the workers that wait for it seem to hang
        self._host_limits = replace(run.limits, progress_s=run.limits.progress_s / 2)
        self.device: str | None = None
        self.stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in (*self._idle, *self._busy):
            worker.end()
        self._end_host()

    def stop(self) -> None:
        """Begin no further video, and leave those at work after the segment that they are at."""
        self.stopping = True
        for worker in self._busy:
            worker.signs.stopping = True

    @property
    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of all workers by stage."""
        total = dict(self._cpu_s)
        for worker in (*self._idle, *self._busy):
            for name, seconds in worker.cpu_s.items():
                total[name] = total.get(name, 0.0) + seconds
        return total

    def __call__(self, tasks: Sequence[Task]) -> Generator[VideoOutcome | VideoPart]:
        """The outcome of each task, as they end; none for those that were not begun before ``stop``.

        Raises:
            LakeError, ModelError, ConfigError: the run has to end, also where no process can be started.
        """
        self._waiting.extend(map(_Job, tasks))
        looked_s = time.monotonic()
        while self._busy or (self._waiting and not self.stopping):
            self._start_jobs()
            children: list[Child] = [*self._busy, *([self._host] if self._host else [])]
            connections = [child.control for child in children]
            outputs = [child.output.fileno() for child in children]
            told = wait([*connections, *outputs], timeout=_POLL_S)
            now_s = time.monotonic()
            # time in which this process itself did not run (suspended, swapped out) is nobody's silence
            elapsed_s, looked_s = min(now_s - looked_s, 5 * _POLL_S), now_s
            if self._host is not None:
                self._watch_host(self._host, elapsed_s)
            for worker in list(self._busy):
                worker.drain()
                self._progress.frames(str(self._busy[worker].task.path), *worker.signs.n_frames)
                outcome: VideoOutcome | VideoPart | None
                if worker.control in told:
                    outcome = self._hear(worker)
                elif excess := worker.excess(elapsed_s, self._run.limits, self._memory_mb):
                    outcome = self._lose(worker, *excess)
                else:
                    continue
                if outcome is not None:
                    yield outcome

    def _start_jobs(self) -> None:
        while self._waiting and len(self._busy) < self._run.workers and not self.stopping:
            job = self._waiting.popleft()
            worker = self._idle.pop() if self._idle else _Worker(self._run, self._model)
            self._busy[worker] = job
            if worker.device is not None:
                worker.give(job.task)

    def _hear(self, worker: _Worker) -> VideoOutcome | VideoPart | None:
        """Take what a worker has to say; an outcome where it ends a file."""
        try:
            message = worker.control.recv()
        except (EOFError, ConnectionError):
            return self._lose(worker, "crashed", "")
        if isinstance(message, WantsNetworks):
            self._admit(worker, message.device)
            return None
        if isinstance(message, Ready):
            self._n_failed_starts = 0
            self.device = worker.device = message.device
            worker.give(self._busy[worker].task)
            worker.signs.stopping = self.stopping
            return None
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, Answer)
        worker.cpu_s = dict(message.cpu_s)
        worker.drain()
        job = self._busy.pop(worker)
        if isinstance(message.outcome, VideoPart):
            self._idle.append(worker)
            return message.outcome
        outcome = replace(message.outcome, log=worker.log)
        if outcome.code in ("out_of_memory", "internal"):  # who knows what it has kept of that
            self._dismiss(worker)
        else:
            self._idle.append(worker)
        return _second_outcome(job.failure, outcome) if job.failure else outcome

    def _lose(self, worker: _Worker, code: str, message: str) -> VideoOutcome | None:
        """A worker died or has to: note what its video came to, or try that once more."""
        phase = worker.signs.phase
        job = self._busy.pop(worker)
        self._dismiss(worker)
        if worker.process.returncode == NETWORKS_LOST and job.n_lost_networks + 1 < _MAX_LOST_NETWORKS:
            self._waiting.appendleft(replace(job, n_lost_networks=job.n_lost_networks + 1))
            return None
        if worker.process.returncode == NETWORKS_LOST:
            message = f"the process that holds the networks was lost {_MAX_LOST_NETWORKS} times while this was analysed"
        message = message or f"the process that analysed it {worker.how_it_died()}"
        if phase in (Phase.START, Phase.IDLE):
            self._count_failed_start(message, worker.log)
            self._waiting.appendleft(job)
            return None
        failure = VideoOutcome(
            job.task.video_id, str(job.task.path), "failed", code, _STAGES[phase], message, log=worker.log
        )
        if job.failure:
            return _second_outcome(job.failure, failure)
        decoder = job.task.decoder if phase is Phase.COMMIT else fallback_decoder(self._run.settings.decoder)
        self._waiting.appendleft(_Job(replace(job.task, decoder=decoder), failure))
        return None

    def _count_failed_start(self, message: str, log: str) -> None:
        self._n_failed_starts += 1
        if self._n_failed_starts == _MAX_FAILED_STARTS:
            raise ConfigError(f"worker processes cannot be started: {message}. The last one said: {log}")

    def _admit(self, worker: _Worker, device: str) -> None:
        """Give a worker a line to the networks, which the first one that asks has loaded."""
        from flows.workers.inference_server import NetworkHost

        self._host = self._host or NetworkHost(self._run, self._model, device)
        self._host.admit(worker)

    def _watch_host(self, host: NetworkHost, elapsed_s: float) -> None:
        """End the networks' process where it died or hangs; the workers that wait for it then end by themselves."""
        host.drain()
        excess = host.excess(elapsed_s, self._host_limits, float("inf"))
        if host.control.poll():
            try:
                raise host.control.recv()
            except (EOFError, ConnectionError):
                excess = excess or ("crashed", "")
        if excess is None:
            return
        was_starting = host.signs.phase is Phase.START
        self._end_host()
        for worker in self._idle:  # their lines are dead
            self._dismiss(worker)
        self._idle = []
        if was_starting:
            self._count_failed_start(excess[1] or f"the one with the networks {host.how_it_died()}", host.log)

    def _end_host(self) -> None:
        if self._host is not None:
            self._cpu_s["networks"] = self._cpu_s.get("networks", 0.0) + self._host.total_cpu_s
            self._host.end()
            self._host = None

    def _dismiss(self, worker: _Worker) -> None:
        for name, seconds in worker.cpu_s.items():
            self._cpu_s[name] = self._cpu_s.get(name, 0.0) + seconds
        worker.end()


def _second_outcome(first: VideoOutcome, second: VideoOutcome) -> VideoOutcome:
    """What to say of a file that was tried twice."""
    if second.code == "decoder_refused":  # the other decoder may not have this file, so it was tried once after all
        return replace(first, message=f"{first.message}; {second.message}")
    before = f"at the first attempt: {first.code}, {first.message}"
    return replace(
        second, message=f"{second.message}; {before}" if second.message else before, log=second.log or first.log
    )
