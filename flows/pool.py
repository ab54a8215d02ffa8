"""Worker processes, watched: what hangs, dies or eats the memory is killed, its video tried once more, and replaced.

A library that decodes hostile files may loop, crash or grow in ways that no exception tells. So every video is analysed
in a child process (``flows/worker.py``), which stays for the next video: thousands of short clips pay for one start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Self

import psutil

from flows.worker import SIGNS_BYTES, Answer, Ready, Signs, Task
from mfer.errors import ConfigError
from pipelines.pulse import Phase
from pipelines.settings import Decoder
from storage.records import VideoOutcome, VideoPart

if TYPE_CHECKING:
    from flows.analyze import FolderRun, Progress

__all__ = ["ProcessLimits", "WorkerPool"]

#: What a child runs: not ``-m``, under which the classes that cross the border would have another name there.
_CHILD = "import sys; from flows.worker import main; main(*map(int, sys.argv[1:]))"
#: How often a run looks at what its processes have done meanwhile.
_POLL_S = 0.2
#: Starts that may fail in a row: the next video will not load PyTorch any better.
_MAX_FAILED_STARTS = 3
#: Of what libraries write to standard error, so much from the beginning and from the end is kept for each video.
_LOG_CHARS = 4_000
_STAGES = {Phase.OPEN: "open", Phase.WORK: "decode", Phase.COMMIT: "write"}


@dataclass(frozen=True)
class ProcessLimits:
    """What a worker process may take before it is killed.

    ``start_s``: to load libraries and networks (the first run of all also exports them). ``open_s`` and
    ``progress_s``: without any sign of life while a file is opened, and while its frames are read and scored. Writing
    to the lake has no deadline: it may have to wait for others. ``memory_mb`` of resident memory; None is four fifths
    of the machine's, shared among the workers.
    """

    start_s: float = 600.0
    open_s: float = 60.0
    progress_s: float = 120.0
    memory_mb: int | None = None

    def __post_init__(self) -> None:
        if not (self.start_s > 0 and self.open_s > 0 and self.progress_s > 0 and (self.memory_mb or 1) > 0):
            raise ConfigError(f"limits of worker processes must be above 0, got {self}")

    def silence_s(self, phase: Phase) -> float:
        """How long a worker may give no sign of life."""
        limits = {Phase.START: self.start_s, Phase.OPEN: self.open_s, Phase.WORK: self.progress_s}
        return limits.get(phase, float("inf"))


class _Worker:
    """A child process, and how long it has been silent."""

    def __init__(self, run: FolderRun, model: Path) -> None:
        ours, theirs = socket.socketpair()
        with _shared_memory(SIGNS_BYTES) as shared, theirs:
            self.signs = Signs(shared.fileno())
            fds = theirs.fileno(), shared.fileno()
            self.process = subprocess.Popen(
                # -P: whatever lies in the working directory is no module of ours
                [sys.executable, "-P", "-X", "faulthandler", "-c", _CHILD, *map(str, fds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
                start_new_session=True,  # a group of its own: Ctrl-C does not reach it, and it is killed as a whole
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        self.control = Connection(ours.detach())
        assert self.process.stdout is not None
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        self.device: str | None = None  # known once it is ready
        self.cpu_s: dict[str, float] = {}
        self._head = self._tail = ""
        self._silent_s, self._n_beats = 0.0, 0
        with suppress(ConnectionError):  # it died: that will be noticed
            self.control.send((run, model))

    def give(self, task: Task) -> None:
        self.drain()
        self._head = self._tail = ""
        self.signs.n_frames = 0, 0
        self.signs.beat(Phase.OPEN)
        with suppress(ConnectionError):
            self.control.send(task)

    def drain(self) -> None:
        """Take what it has written, so that it never waits for anyone to read."""
        while True:
            try:
                data = os.read(self.output.fileno(), 65_536)
            except BlockingIOError:
                return
            if not data:
                return
            text = data.decode("utf-8", "replace")
            room = _LOG_CHARS - len(self._head)
            self._head += text[:room]
            self._tail = (self._tail + text[room:])[-_LOG_CHARS:] if room < len(text) else self._tail

    @property
    def log(self) -> str:
        """What it has written about its file, as far as that was drained."""
        return self._head + ("\n[...]\n" if len(self._tail) == _LOG_CHARS else "") + self._tail

    def excess(self, elapsed_s: float, limits: ProcessLimits, memory_mb: float) -> tuple[str, str] | None:
        """(code, message) where it has to be killed; ``elapsed_s`` since the last time this was asked."""
        phase, n_beats = self.signs.phase, self.signs.n_beats
        self._silent_s = 0.0 if n_beats != self._n_beats else self._silent_s + elapsed_s
        self._n_beats = n_beats
        if self._silent_s > limits.silence_s(phase):
            doing = {Phase.START: "loading", Phase.OPEN: "opening the file"}.get(phase, "reading and scoring frames")
            return "hung", f"no sign of life for {limits.silence_s(phase):.0f} s while {doing}"
        try:
            used_mb = psutil.Process(self.process.pid).memory_info().rss / 2**20
        except psutil.Error:  # it is gone: its connection will tell
            return None
        if used_mb > memory_mb:
            return "out_of_memory", f"it took {used_mb:.0f} MB of memory, {memory_mb:.0f} MB are allowed"
        return None

    def end(self) -> None:
        """Kill it with all that it may have started; safe at any moment, a commit happens whole or not at all."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.drain()
        self.control.close()
        self.output.close()
        if self.process.stdin:
            self.process.stdin.close()


def _shared_memory(n_bytes: int) -> IO[bytes]:
    """A file of zeros without a name; in memory where that is to be had, so that a full disk does not matter."""
    in_memory = hasattr(os, "memfd_create")
    file: IO[bytes] = os.fdopen(os.memfd_create("mfer"), "r+b") if in_memory else TemporaryFile()  # noqa: SIM115
    file.write(bytes(n_bytes))  # a hole in a file would be a crash at the first write to a full disk
    file.flush()
    return file


@dataclass(frozen=True)
class _Job:
    """A file, and what became of the first attempt at it."""

    task: Task
    failure: VideoOutcome | None = None


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
        self.device: str | None = None
        self.stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in (*self._idle, *self._busy):
            worker.end()

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
            connections = [worker.control for worker in self._busy]
            outputs = [worker.output.fileno() for worker in self._busy]
            told = wait([*connections, *outputs], timeout=_POLL_S)
            now_s = time.monotonic()
            # time in which this process itself did not run (suspended, swapped out) is nobody's silence
            elapsed_s, looked_s = min(now_s - looked_s, 5 * _POLL_S), now_s
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
        message = message or _how_it_died(worker.process.returncode)
        if phase in (Phase.START, Phase.IDLE):
            self._n_failed_starts += 1
            if self._n_failed_starts == _MAX_FAILED_STARTS:
                raise ConfigError(f"worker processes cannot be started: {message}. The last one said: {worker.log}")
            self._waiting.appendleft(job)
            return None
        failure = VideoOutcome(
            job.task.video_id, str(job.task.path), "failed", code, _STAGES[phase], message, log=worker.log
        )
        if job.failure:
            return _second_outcome(job.failure, failure)
        decoder = job.task.decoder if phase is Phase.COMMIT else _other_decoder(self._run.settings.decoder)
        self._waiting.appendleft(_Job(replace(job.task, decoder=decoder), failure))
        return None

    def _dismiss(self, worker: _Worker) -> None:
        for name, seconds in worker.cpu_s.items():
            self._cpu_s[name] = self._cpu_s.get(name, 0.0) + seconds
        worker.end()


def _how_it_died(returncode: int) -> str:
    if returncode < 0:
        name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else f"signal {-returncode}"
        guess = ": killed by someone, or by the system for want of memory" if name == "SIGKILL" else ": a crash"
        return f"the process that analysed it was ended by {name}{guess}"
    return f"the process that analysed it ended with exit code {returncode}"


def _other_decoder(decoder: str) -> Decoder:
    return "pyav" if decoder == "decord" else "decord"


def _second_outcome(first: VideoOutcome, second: VideoOutcome) -> VideoOutcome:
    """What to say of a file that was tried twice."""
    if second.code == "decoder_refused":  # the other decoder may not have this file, so it was tried once after all
        return replace(first, message=f"{first.message}; {second.message}")
    before = f"at the first attempt: {first.code}, {first.message}"
    return replace(
        second, message=f"{second.message}; {before}" if second.message else before, log=second.log or first.log
    )
