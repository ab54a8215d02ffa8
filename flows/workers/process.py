"""A child process and its supervisor's view of it: heartbeats, memory, output, and how it died."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from tempfile import TemporaryFile
from typing import IO

import psutil

from flows.run import ProcessLimits
from pipelines.heartbeat import Phase
from storage.interpreter import leave_out_pandas, python_command, python_environment

__all__ = ["SERVER_LOST", "SharedStatus", "WatchedProcess", "child_main", "shared_memory"]

#: Exit code of a worker that lost its connection to the inference server.
SERVER_LOST = 87
#: What a child runs: not ``-m``, under which the classes that cross the border would have another name there.
_CODE = "import sys; from {} import main; main(*map(int, sys.argv[1:]))"
#: Of what libraries write to standard error, so much from the beginning and from the end is kept.
_LOG_CHARS = 4_000
#: A message that stops in the middle for so long will not end: its sender hangs.
_MESSAGE_S = 60
#: prctl(2): the signal that the kernel sends when the thread that started this process ends.
_PR_SET_PDEATHSIG = 1
_STATUS_BYTES = 8 * 5
_DOING = {
    Phase.START: "loading",
    Phase.OPEN: "opening the file",
    Phase.WORK: "reading and scoring frames",
    Phase.COMMIT: "writing to the lake",
}


class SharedStatus:
    """Five integers in shared memory: progress from the child, the request to stop from its supervisor."""

    def __init__(self, fd: int) -> None:
        self._numbers = memoryview(mmap.mmap(fd, _STATUS_BYTES)).cast("q")

    def heartbeat(self, phase: Phase | None = None) -> None:
        if phase is not None:
            self._numbers[0] = phase
        self._numbers[1] += 1

    @property
    def phase(self) -> Phase:
        return Phase(self._numbers[0])

    @property
    def n_heartbeats(self) -> int:
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


class WatchedProcess:
    """A child process that runs ``main(control_fd, status_fd)`` of a module, and its supervisor's view of it.

    Args:
        module: such as ``flows.workers.worker``.
    """

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _MESSAGE_S, 0))  # a timeval
        with shared_memory(_STATUS_BYTES) as shared, theirs:
            self.status = SharedStatus(shared.fileno())
            fds = theirs.fileno(), shared.fileno()
            self.process = subprocess.Popen(
                python_command("-X", "faulthandler", "-c", _CODE.format(module), *map(str, fds)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
                start_new_session=True,  # a group of its own: Ctrl-C does not reach it, and it is killed as a whole
                env={**python_environment(), "OMP_NUM_THREADS": "1"},  # a process per core beats threads in one
            )
        self.control = Connection(ours.detach())
        assert self.process.stdout is not None
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        self._head = self._tail = ""
        self._silent_s, self._n_heartbeats = 0.0, 0

    def send(self, message: object) -> None:
        with suppress(ConnectionError):  # it died: the next poll finds that
            self.control.send(message)

    def receive(self) -> object:
        """Its next message.

        Raises:
            EOFError, ConnectionError: it has ended.
            TimeoutError: it sent a part of a message, and no more.
        """
        try:
            return self.control.recv()
        except BlockingIOError:
            raise TimeoutError(f"its answer stopped in the middle for {_MESSAGE_S} s") from None

    def drain(self) -> None:
        """Read what it has written, so that it never blocks on a full pipe."""
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
        """What it has written, as far as that was drained."""
        return self._head + ("\n[...]\n" if len(self._tail) == _LOG_CHARS else "") + self._tail

    def begin_log(self) -> None:
        """Forget what it has written so far."""
        self.drain()
        self._head = self._tail = ""

    def excess(self, elapsed_s: float, limits: ProcessLimits, memory_mb: float) -> tuple[str, str] | None:
        """(code, message) if it must be killed; ``elapsed_s`` since the last call."""
        phase, n_heartbeats = self.status.phase, self.status.n_heartbeats
        self._silent_s = 0.0 if n_heartbeats != self._n_heartbeats else self._silent_s + elapsed_s
        self._n_heartbeats = n_heartbeats
        if self._silent_s > limits.silence_s(phase):
            return "hung", f"no heartbeat for {limits.silence_s(phase):.0f} s while {_DOING[phase]}"
        try:
            used_mb = psutil.Process(self.process.pid).memory_info().rss / 2**20
        except psutil.Error:  # it is gone: its connection shows that
            return None
        if used_mb > memory_mb:
            return "out_of_memory", f"it took {used_mb:.0f} MB of memory, {memory_mb:.0f} MB are allowed"
        return None

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds that it has taken; 0 once it is gone."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def how_it_died(self) -> str:
        returncode = self.process.returncode
        if returncode >= 0:
            return f"ended with exit code {returncode}"
        name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else f"signal {-returncode}"
        guess = ": killed by someone, or by the system because memory ran out" if name == "SIGKILL" else ": a crash"
        return f"was ended by {name}{guess}"

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


def shared_memory(n_bytes: int) -> IO[bytes]:
    """An unnamed file of zeros; in memory where available, so that a full disk does not matter."""
    in_memory = hasattr(os, "memfd_create")
    file: IO[bytes] = os.fdopen(os.memfd_create("mfer"), "r+b") if in_memory else TemporaryFile()  # noqa: SIM115
    file.write(bytes(n_bytes))  # a hole in a file would be a crash at the first write to a full disk
    file.flush()
    return file


def child_main(control_fd: int, status_fd: int, work: Callable[[Connection, SharedStatus], None]) -> None:
    """Run ``work`` in a child process: send heartbeats, end when the parent ends, and report an error to it.

    Args:
        work: called with the connection and the shared status; an exception from it is sent over the connection.
    """
    leave_out_pandas()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # a core is gigabytes
    if sys.platform == "linux":  # also while a library hangs
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()  # also where it ended before that
    control, status = Connection(control_fd), SharedStatus(status_fd)
    status.heartbeat(Phase.START)
    try:
        work(control, status)
    except (EOFError, ConnectionError):
        return  # the parent is gone
    except Exception as error:
        control.send(error)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # nobody waits for this video, and the next run may be at it already
