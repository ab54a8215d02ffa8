"""A supervised pool of workers: one that hangs, dies or uses too much memory is replaced and its video tried once more.

A library that decodes hostile files may loop, crash or grow without raising an exception. So every video is analysed in
a child process (``flows/workers/worker.py``), which is kept for the next video: thousands of short clips pay for one
start. On a GPU an inference server (``flows/workers/inference_server.py``) runs the networks for all workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from flows.workers.messages import Answer, Ready, Task, WantsServer
from flows.workers.process import SERVER_LOST, WatchedProcess
from flows.workers.shared_commits import SharedCommits
from mfer.errors import ConfigError
from pipelines.analyzed import AnalyzedVideo
from pipelines.heartbeat import Phase
from pipelines.video.decoders import fallback_decoder
from storage.errors import LakeError
from storage.identity import content_of_video
from storage.lake import Lake
from storage.records import VideoOutcome, VideoPart

if TYPE_CHECKING:
    from flows.run import FolderRun, Progress
    from flows.workers.inference_server import InferenceServer

__all__ = ["WorkerPool"]

#: Seconds between two looks at the processes.
_POLL_S = 0.2
#: Starts that may fail in a row: the next video will not load PyTorch any better.
_MAX_FAILED_STARTS = 3
#: Times that the inference server may be lost while a video is at work, before the video counts as the cause.
_MAX_LOST_SERVERS = 3
_STAGES = {Phase.OPEN: "open", Phase.WORK: "decode", Phase.COMMIT: "write"}


class _Worker(WatchedProcess):
    """A process that analyses videos."""

    def __init__(self, run: FolderRun, model: Path) -> None:
        super().__init__("flows.workers.worker")
        self.device: str | None = None  # known once it is ready
        self.cpu_s: dict[str, float] = {}
        self.send((run, model))

    def give(self, task: Task) -> None:
        self.begin_log()
        self.status.n_frames = 0, 0
        self.status.heartbeat(Phase.OPEN)
        self.send(task)


@dataclass
class _Split:
    """A long video whose segments several workers share; ``outcome`` is known once a part failed, or all was done."""

    n_open: int
    began_s: float
    outcome: VideoOutcome | None = None
    n_frames: int = 0
    n_frames_done: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A file, what became of the first attempt at it, and how often the inference server was lost meanwhile.

    ``split`` is set where the task is a part of a long video, or the last step of one, which finishes it.
    """

    task: Task
    failure: VideoOutcome | None = None
    n_lost_servers: int = 0
    split: _Split | None = None


class WorkerPool:
    """Analyses files in child processes, several at a time; as a context manager, which ends them.

    Args:
        run: what to do; ``run.limits`` bounds the processes.
        model: folder of the model.
        progress: its ``frames`` is called with each video's progress.
    """

    def __init__(self, run: FolderRun, model: Path, progress: Progress) -> None:
        self._run, self._model, self._progress = run, model, progress
        self._memory_mb = run.limits.memory_mb or 0.8 * psutil.virtual_memory().total / 2**20 / run.workers
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._n_failed_starts = 0
        self._cpu_s: dict[str, float] = {}
        self._server: InferenceServer | None = None
        # half as long: it is found before the workers that wait for it seem to hang
        self._server_limits = replace(run.limits, progress_s=run.limits.progress_s / 2)
        self._shared = SharedCommits(Lake.open(run.lake))
        self.device: str | None = None
        self.stopping = False
        #: Outcomes that no call gave any more, because it was broken off.
        self.late: list[VideoOutcome] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in (*self._idle, *self._busy):
            worker.end()
        self._end_server()
        with suppress(LakeError):  # a run that ends for it says so already
            self.late += self._shared.flush()
        self._shared.close()

    def stop(self) -> None:
        """Begin no further video, and leave those at work after the segment that they are at."""
        self.stopping = True
        for worker in self._busy:
            worker.status.stopping = True

    @property
    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of all workers by stage."""
        total = dict(self._cpu_s)
        total["commit"] = total.get("commit", 0.0) + self._shared.cpu_s
        for worker in (*self._idle, *self._busy):
            for name, seconds in worker.cpu_s.items():
                total[name] = total.get(name, 0.0) + seconds
        return total

    def __call__(self, tasks: Sequence[Task]) -> Generator[VideoOutcome | VideoPart]:
        """The outcome of each task, as they end; none for those that were not begun before ``stop``.

        Where there are fewer tasks than workers, the segments of long videos are shared among them.

        Raises:
            LakeError, ModelError, ConfigError: the run has to end, also where no process can be started.
        """
        may_split = len(tasks) < self._run.workers
        self._waiting.extend(_Job(replace(task, may_split=may_split and task.segments is None)) for task in tasks)
        looked_s = time.monotonic()
        while self._busy or (self._waiting and not self.stopping):
            yield from self._shared.poll()
            self._start_jobs()
            children: list[WatchedProcess] = [*self._busy, *([self._server] if self._server else [])]
            connections = [child.control for child in children]
            outputs = [child.output.fileno() for child in children]
            ready = wait([*connections, *outputs], timeout=_POLL_S)
            now_s = time.monotonic()
            # time in which this process itself did not run (suspended, swapped out) is nobody's silence
            elapsed_s, looked_s = min(now_s - looked_s, 5 * _POLL_S), now_s
            if self._server is not None:
                self._watch_server(self._server, elapsed_s)
            for worker in list(self._busy):
                worker.drain()
                self._show_progress(self._busy[worker], *worker.status.n_frames)
                outcome: VideoOutcome | VideoPart | None
                if worker.control in ready:
                    outcome = self._on_message(worker)
                elif excess := worker.excess(elapsed_s, self._run.limits, self._memory_mb):
                    outcome = self._on_exit(worker, *excess)
                else:
                    continue
                if outcome is not None:
                    yield outcome
        yield from self._shared.flush()

    def _start_jobs(self) -> None:
        while self._waiting and len(self._busy) < self._run.workers and not self.stopping and not self._shared.is_full:
            job = self._waiting.popleft()
            worker = self._idle.pop() if self._idle else _Worker(self._run, self._model)
            self._busy[worker] = job
            if worker.device is not None:
                worker.give(job.task)

    def _on_message(self, worker: _Worker) -> VideoOutcome | VideoPart | None:
        """Handle a worker's message; the outcome if it ends a file."""
        try:
            message = worker.receive()
        except (EOFError, ConnectionError):
            return self._on_exit(worker, "crashed", "")
        except TimeoutError as error:
            return self._on_exit(worker, "hung", str(error))
        if isinstance(message, WantsServer):
            self._connect(worker, message.device)
            return None
        if isinstance(message, Ready):
            self._n_failed_starts = 0
            self.device = worker.device = message.device
            worker.give(self._busy[worker].task)
            worker.status.stopping = self.stopping
            return None
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, Answer)
        worker.cpu_s = dict(message.cpu_s)
        worker.drain()
        job = self._busy.pop(worker)
        if isinstance(message.outcome, VideoPart):
            self._idle.append(worker)
            return self._take(job, message.outcome)
        complete = partial(_complete, log=worker.log, failure=job.failure)
        if isinstance(message.outcome, AnalyzedVideo):  # short, so it was not split
            self._shared.add(message.outcome, complete)
            self._idle.append(worker)
            return None
        outcome = complete(message.outcome)
        if message.outcome.code in ("out_of_memory", "internal"):  # it may still hold the memory, or a broken state
            self._dismiss(worker)
        else:
            self._idle.append(worker)
        return self._take(job, outcome)

    def _take(self, job: _Job, outcome: VideoOutcome | VideoPart) -> VideoOutcome | VideoPart | None:
        """What a task came to; None where the video goes on."""
        task, split = job.task, job.split
        if split is None:
            if isinstance(outcome, VideoOutcome) or not task.may_split:
                return outcome
            content = content_of_video(outcome.video_id)
            self._share_out(replace(task, content=content, may_split=False), outcome.n_segments)
            return None
        if isinstance(outcome, VideoOutcome):
            split.outcome = split.outcome or replace(outcome, elapsed_s=time.monotonic() - split.began_s)
        if task.segments is None:
            return split.outcome
        split.n_open -= 1
        if split.n_open:
            return None
        if split.outcome is None:  # all segments are there: this commits the video
            self._waiting.appendleft(_Job(replace(task, segments=None), split=split))
        return split.outcome

    def _share_out(self, task: Task, n_segments: int) -> None:
        """Give each worker a run of a long video's segments.

        Who begins in the middle reads all packets before and decodes none of them, so few long parts are better.
        """
        n_parts = min(self._run.workers, n_segments)
        split = _Split(n_parts, time.monotonic())
        bounds = [k * n_segments // n_parts for k in range(n_parts + 1)]
        self._waiting.extend(_Job(replace(task, segments=part), split=split) for part in pairwise(bounds))

    def _show_progress(self, job: _Job, n_done: int, n_frames: int) -> None:
        if (split := job.split) is not None:
            if n_frames and job.task.segments is not None:
                split.n_frames, split.n_frames_done[job.task.segments] = n_frames, n_done
            n_done, n_frames = sum(split.n_frames_done.values()), split.n_frames
        self._progress.frames(str(job.task.path), n_done, n_frames)

    def _on_exit(self, worker: _Worker, code: str, message: str) -> VideoOutcome | VideoPart | None:
        """A worker died, or is killed here: the outcome of its video, or None where that is tried once more."""
        phase = worker.status.phase
        job = self._busy.pop(worker)
        self._dismiss(worker)
        if worker.process.returncode == SERVER_LOST and job.n_lost_servers + 1 < _MAX_LOST_SERVERS:
            self._waiting.appendleft(replace(job, n_lost_servers=job.n_lost_servers + 1))
            return None
        if worker.process.returncode == SERVER_LOST:
            message = f"the inference server was lost {_MAX_LOST_SERVERS} times while this was analysed"
        message = message or f"the process that analysed it {worker.how_it_died()}"
        if phase is Phase.START:
            self._count_failed_start(message, worker.log)
            self._waiting.appendleft(job)
            return None
        failure = VideoOutcome(
            job.task.video_id,
            str(job.task.path),
            "failed",
            code,
            _STAGES[phase],
            message,
            log=worker.log,
            stream=job.task.number,
        )
        if job.failure:
            return self._take(job, _second_outcome(job.failure, failure))
        decoder = job.task.decoder if phase is Phase.COMMIT else fallback_decoder(self._run.settings.decoder)
        self._waiting.appendleft(_Job(replace(job.task, decoder=decoder), failure, split=job.split))
        return None

    def _count_failed_start(self, message: str, log: str) -> None:
        self._n_failed_starts += 1
        if self._n_failed_starts == _MAX_FAILED_STARTS:
            raise ConfigError(f"worker processes cannot be started: {message}. The last one said: {log}")

    def _connect(self, worker: _Worker, device: str) -> None:
        """Connect a worker to the inference server, which the first one starts."""
        from flows.workers.inference_server import InferenceServer

        self._server = self._server or InferenceServer(self._run, self._model, device)
        self._server.connect(worker)

    def _watch_server(self, server: InferenceServer, elapsed_s: float) -> None:
        """End the inference server if it died or hangs; the workers that wait for it then end by themselves."""
        server.drain()
        excess = server.excess(elapsed_s, self._server_limits, float("inf"))
        if server.control.poll():
            try:
                message = server.receive()
            except (EOFError, ConnectionError):
                excess = excess or ("crashed", "")
            except TimeoutError as error:
                excess = "hung", str(error)
            else:
                assert isinstance(message, Exception)
                raise message
        if excess is None:
            return
        was_starting = server.status.phase is Phase.START
        self._end_server()
        for worker in self._idle:  # their connections are dead
            self._dismiss(worker)
        self._idle = []
        if was_starting:
            self._count_failed_start(excess[1] or f"the inference server {server.how_it_died()}", server.log)

    def _end_server(self) -> None:
        if self._server is not None:
            self._cpu_s["networks"] = self._cpu_s.get("networks", 0.0) + self._server.total_cpu_s
            self._server.end()
            self._server = None

    def _dismiss(self, worker: _Worker) -> None:
        for name, seconds in worker.cpu_s.items():
            self._cpu_s[name] = self._cpu_s.get(name, 0.0) + seconds
        worker.end()


def _complete(outcome: VideoOutcome, log: str, failure: VideoOutcome | None) -> VideoOutcome:
    """The outcome of a task, with what libraries wrote and what became of the first attempt."""
    outcome = replace(outcome, log=log)
    return _second_outcome(failure, outcome) if failure else outcome


def _second_outcome(first: VideoOutcome, second: VideoOutcome) -> VideoOutcome:
    """The outcome of a file that was tried twice."""
    if second.code == "decoder_refused":  # the other decoder may not read this file, so the first outcome counts
        return replace(first, message=f"{first.message}; {second.message}")
    before = f"at the first attempt: {first.code}, {first.message}"
    return replace(
        second, message=f"{second.message}; {before}" if second.message else before, log=second.log or first.log
    )
