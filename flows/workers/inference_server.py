"""One process that holds the networks on a device, for all the workers that read videos.

A GPU does many faces at once, and every process on it takes memory of its own and waits its turn. So the workers
decode, cut faces out and write, and ask this process what its networks say of pixels, which lie in memory that both
share. Faces that several workers ask about go through a network together. ``flows/workers/pool.py`` starts and watches
it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from socket import socketpair
from typing import TYPE_CHECKING, Self

import numpy as np

from flows.workers.process import NETWORKS_LOST, Child, Signs, begin_life, shared_memory
from pipelines.heartbeat import Phase

if TYPE_CHECKING:  # the watcher does without PyTorch
    from torch import Tensor

    from flows.run import FolderRun
    from pipelines.faces.detectors import Network

__all__ = ["NetworkHost", "SharedNetworks", "main"]

_FIRST_BYTES = 4 * 2**20
_BEAT_S = 1.0

Arrays = tuple[np.ndarray, ...]


class _Pixels:
    """Memory that two processes share; it grows with the largest question so far."""

    def __init__(self, fd: int) -> None:
        self._fd, self._bytes = fd, mmap.mmap(fd, 0)

    def write(self, pixels: Tensor) -> None:
        flat = pixels.contiguous().reshape(-1).numpy()
        if len(flat) > len(self._bytes):
            os.pwrite(self._fd, bytes(len(flat) - len(self._bytes)), len(self._bytes))
            self._bytes = mmap.mmap(self._fd, 0)
        np.frombuffer(self._bytes, np.uint8, len(flat))[:] = flat

    def read(self, shape: tuple[int, ...]) -> Tensor:
        """The pixels without a copy: until the question is answered."""
        import torch

        n_bytes = int(np.prod(shape))
        if n_bytes > len(self._bytes):
            self._bytes = mmap.mmap(self._fd, 0)
        return torch.from_numpy(np.frombuffer(self._bytes, np.uint8, n_bytes).reshape(shape))


class SharedNetworks:
    """A worker's end: the networks of another process, as ``FaceFinder`` and ``Scorer`` call them."""

    def __init__(self, line: Connection, pixels_fd: int) -> None:
        self._line, self._pixels = line, _Pixels(pixels_fd)

    @classmethod
    def receive(cls, control: Connection) -> Self:
        """Take the line that ``NetworkHost.admit`` passes on."""
        return cls(Connection(recv_handle(control)), recv_handle(control))

    def __getitem__(self, name: str) -> Callable[[Tensor], Arrays]:
        """One of the detector's networks, as the detector calls it."""
        return partial(self._ask, f"detector {name}")

    def score(self, crops: Tensor) -> np.ndarray:
        return self._ask("score", crops)[0]

    def _ask(self, name: str, pixels: Tensor) -> Arrays:
        self._pixels.write(pixels)
        try:
            self._line.send((name, tuple(pixels.shape)))
            answer: Arrays | Exception = self._line.recv()
        except (EOFError, ConnectionError):
            os._exit(NETWORKS_LOST)  # no fault of the video: the one who watches gives it to another worker
        if isinstance(answer, Exception):
            raise answer
        return answer


class NetworkHost(Child):
    """The watcher's end: the process, and how workers get a line to it."""

    def __init__(self, run: FolderRun, model: Path, device: str) -> None:
        super().__init__("flows.workers.inference_server")
        self.tell((run, model, device))

    def admit(self, worker: Child) -> None:
        """Give a worker a line to the networks, and memory to share with them."""
        ends = socketpair()
        # where one of the two has died, that will be noticed
        with shared_memory(_FIRST_BYTES) as pixels, ends[0], ends[1], suppress(ConnectionError):
            for child, end in zip((self, worker), ends, strict=True):
                send_handle(child.control, end.fileno(), child.process.pid)
                send_handle(child.control, pixels.fileno(), child.process.pid)


# the process itself


def main(control_fd: int, signs_fd: int) -> None:
    begin_life(control_fd, signs_fd, _live)


def _live(control: Connection, signs: Signs) -> None:
    run, model, device = control.recv()
    networks = _load(run, model, device)
    lines: dict[Connection, _Pixels] = {}
    while True:
        signs.beat(Phase.WORK)  # also while nobody asks: who hangs then is found too
        asked: dict[str, list[tuple[Connection, Tensor]]] = {}
        for ready in wait([control, *lines], timeout=_BEAT_S):
            assert isinstance(ready, Connection)
            if ready is control:
                line = Connection(recv_handle(control))
                lines[line] = _Pixels(recv_handle(control))
                continue
            try:
                name, shape = ready.recv()
            except (EOFError, ConnectionError):  # the worker is gone
                del lines[ready]
                ready.close()
                continue
            asked.setdefault(name, []).append((ready, lines[ready].read(shape)))
        for name, questions in asked.items():
            signs.beat()
            _answer(networks[name], questions)


def _load(run: FolderRun, model: Path, device: str) -> dict[str, Network]:
    import torch

    from pipelines.faces.detectors import Network, detector_networks
    from pipelines.scoring.scorer import ScoringNet

    if device == "cpu":
        torch.set_num_threads(1)
    score = ScoringNet(model, device, run.runtime)
    of_detector = detector_networks(run.settings.detector, device)
    networks = {f"detector {name}": network for name, network in of_detector.items()}
    return {**networks, "score": Network(lambda crops: (score(crops),), by_row=True)}


def _answer(network: Network, questions: list[tuple[Connection, Tensor]]) -> None:
    """Send what a network makes of the pixels of several workers; what it does by row, it does for all at once."""
    import torch

    together = [questions] if network.by_row and len(questions) > 1 else [[question] for question in questions]
    for group in together:
        answers: Sequence[Arrays | Exception]
        try:
            pixels = [pixels for _, pixels in group]
            found = network.run(torch.cat(pixels) if len(pixels) > 1 else pixels[0])
            ends = np.cumsum([len(each) for each in pixels])[:-1]
            answers = list(zip(*(np.split(part, ends) for part in found), strict=True)) if len(ends) else [found]
        except (MemoryError, torch.OutOfMemoryError) as error:  # the workers know what to do
            answers = [MemoryError(str(error))] * len(group)
        except Exception as error:  # whatever it is, it has to cross the border
            answers = [RuntimeError(f"{type(error).__name__}: {error}")] * len(group)
        for (line, _), answer in zip(group, answers, strict=True):
            try:
                line.send(answer)
            except ConnectionError:  # the worker is gone
                continue
