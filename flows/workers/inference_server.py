"""The inference server: one process that runs the networks on a device for all workers.

A GPU is fast on large batches, and each process on it costs memory of its own. So the workers decode, crop and write,
and the server runs the networks on pixels in memory that it shares with each worker. It batches the requests of several
workers together. ``flows/workers/pool.py`` starts and supervises it.
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

from flows.workers.process import SERVER_LOST, SharedStatus, WatchedProcess, child_main, shared_memory
from pipelines.heartbeat import Phase

if TYPE_CHECKING:
    from flows.run import FolderRun
    from pipelines.faces.detectors import Network

__all__ = ["InferenceClient", "InferenceServer", "main"]

_FIRST_BYTES = 4 * 2**20
_HEARTBEAT_S = 1.0

Arrays = tuple[np.ndarray, ...]


class _Pixels:
    """Memory that two processes share; it grows with the largest request so far."""

    def __init__(self, fd: int) -> None:
        self._fd, self._bytes = fd, mmap.mmap(fd, 0)

    def write(self, pixels: np.ndarray) -> None:
        flat = pixels.reshape(-1)
        if len(flat) > len(self._bytes):
            os.pwrite(self._fd, bytes(len(flat) - len(self._bytes)), len(self._bytes))
            self._bytes = mmap.mmap(self._fd, 0)
        np.frombuffer(self._bytes, np.uint8, len(flat))[:] = flat

    def read(self, shape: tuple[int, ...]) -> np.ndarray:
        """The pixels without a copy: until the request is answered."""
        n_bytes = int(np.prod(shape))
        if n_bytes > len(self._bytes):
            self._bytes = mmap.mmap(self._fd, 0)
        return np.frombuffer(self._bytes, np.uint8, n_bytes).reshape(shape)


class InferenceClient:
    """A worker's end: the server's networks, as ``FaceFinder`` and ``Scorer`` call them."""

    def __init__(self, connection: Connection, pixels_fd: int) -> None:
        self._connection, self._pixels = connection, _Pixels(pixels_fd)

    @classmethod
    def receive(cls, control: Connection) -> Self:
        """Receive the connection that ``InferenceServer.connect`` sends."""
        return cls(Connection(recv_handle(control)), recv_handle(control))

    def __getitem__(self, name: str) -> Callable[[np.ndarray], Arrays]:
        """One of the detector's networks, as the detector calls it."""
        return partial(self._request, f"detector {name}")

    def score(self, crops: np.ndarray) -> np.ndarray:
        return self._request("score", crops)[0]

    def _request(self, name: str, pixels: np.ndarray) -> Arrays:
        self._pixels.write(pixels)
        try:
            self._connection.send((name, tuple(pixels.shape)))
            answer: Arrays | Exception = self._connection.recv()
        except (EOFError, ConnectionError):
            os._exit(SERVER_LOST)  # no fault of the video: the supervisor gives it to another worker
        if isinstance(answer, Exception):
            raise answer
        return answer


class InferenceServer(WatchedProcess):
    """The supervisor's end: the process, and how workers connect to it."""

    def __init__(self, run: FolderRun, model: Path, device: str) -> None:
        super().__init__("flows.workers.inference_server")
        self.send((run, model, device))

    def connect(self, worker: WatchedProcess) -> None:
        """Give a worker a connection to the server, and memory that both share."""
        ends = socketpair()
        # if one of the two has died, the next poll finds that
        with shared_memory(_FIRST_BYTES) as pixels, ends[0], ends[1], suppress(ConnectionError):
            for child, end in zip((self, worker), ends, strict=True):
                send_handle(child.control, end.fileno(), child.process.pid)
                send_handle(child.control, pixels.fileno(), child.process.pid)


# the process itself


def main(control_fd: int, status_fd: int) -> None:
    child_main(control_fd, status_fd, _run)


def _run(control: Connection, status: SharedStatus) -> None:
    run, model, device = control.recv()
    networks = _load(run, model, device)
    clients: dict[Connection, _Pixels] = {}
    while True:
        status.heartbeat(Phase.WORK)  # also without requests: a server that hangs while idle is found too
        requests: dict[str, list[tuple[Connection, np.ndarray]]] = {}
        for ready in wait([control, *clients], timeout=_HEARTBEAT_S):
            assert isinstance(ready, Connection)
            if ready is control:
                client = Connection(recv_handle(control))
                clients[client] = _Pixels(recv_handle(control))
                continue
            try:
                name, shape = ready.recv()
            except (EOFError, ConnectionError):  # the worker is gone
                del clients[ready]
                ready.close()
                continue
            requests.setdefault(name, []).append((ready, clients[ready].read(shape)))
        for name, of_network in requests.items():
            status.heartbeat()
            _answer(networks[name], of_network)


def _load(run: FolderRun, model: Path, device: str) -> dict[str, Network]:
    from pipelines.faces.detectors import Network, detector_networks
    from pipelines.scoring.scorer import ScoringNet

    score = ScoringNet(model, device, run.runtime)
    of_detector = detector_networks(run.settings.detector, device)
    networks = {f"detector {name}": network for name, network in of_detector.items()}
    return {**networks, "score": Network(lambda crops: (score(crops),), by_row=True)}


def _answer(network: Network, requests: list[tuple[Connection, np.ndarray]]) -> None:
    """Send each worker its result; a network that works by row runs once for all of them."""
    together = [requests] if network.by_row and len(requests) > 1 else [[request] for request in requests]
    for group in together:
        answers: Sequence[Arrays | Exception]
        try:
            pixels = [pixels for _, pixels in group]
            found = network.run(np.concatenate(pixels) if len(pixels) > 1 else pixels[0])
            ends = np.cumsum([len(each) for each in pixels])[:-1]
            answers = list(zip(*(np.split(part, ends) for part in found), strict=True)) if len(ends) else [found]
        except MemoryError as error:  # the workers handle it
            answers = [MemoryError(str(error))] * len(group)
        except Exception as error:  # any other error reaches the worker as text, which always pickles
            answers = [RuntimeError(f"{type(error).__name__}: {error}")] * len(group)
        for (client, _), answer in zip(group, answers, strict=True):
            try:
                client.send(answer)
            except ConnectionError:  # the worker is gone
                continue
