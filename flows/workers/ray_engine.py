"""Many machines: Ray actors, each with one supervised worker process, take videos and segments of long ones.

Ray places the actors and restarts lost ones; finished work is in the lake, committed exactly once. So an actor that
died, with or without its machine, costs only its present task, which another actor gets. Videos, lake and
published models have to be reachable under the same paths from every machine.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.exceptions import RayActorError, RayError
from ray.job_config import JobConfig

from flows.workers.messages import Task
from flows.workers.pool import WorkerPool
from mfer.card import read_card
from mfer.errors import ConfigError, ModelError
from pipelines.scoring.lookup import find_model
from storage.delta.object_store import StoragePath
from storage.identity import content_of_video
from storage.interpreter import python_environment
from storage.lake import Lake
from storage.records import VideoOutcome, VideoPart

if TYPE_CHECKING:
    from flows.run import FolderRun

__all__ = ["RayEngine"]

#: Actors that may be lost with a task before it is the task's fault: machines come and go.
_MAX_ATTEMPTS = 4
_POLL_S = 0.5
#: Segments of a long video that one actor takes first, to learn how many there are.
_FIRST_SEGMENTS = 1
#: Small files are given to an actor together: at most so many, of so many bytes.
_MAX_BATCH, _BATCH_BYTES = 40, 8 * 2**20


class _NoPaths(list[str]):
    """Where Ray collects the folders that its workers import from first, among them the one that the command ran in:
    nothing that lies there is a module of ours."""

    def extend(self, paths: Iterable[str], /) -> None: ...


def _job_config() -> JobConfig:
    config = JobConfig()
    config._py_driver_sys_path = _NoPaths()
    return config


def _own_environment() -> dict[str, str]:
    """What actors on this machine need to find our modules; those of a cluster find the package that is installed."""
    environment = python_environment()
    return {name: environment[name] for name in ("PYTHONPATH", "PYTHONSAFEPATH")}


class _Silent:
    """Progress by frame is not sent across machines."""

    def frames(self, path: str, n_done: int, n_frames: int) -> None: ...


class _Analyst:
    """The actor: one worker process on its machine, kept warm, within the limits of the run."""

    def __init__(self, run: FolderRun, model_id: str, model: Path) -> None:
        lake = Lake.open(run.lake)
        with suppress(ModelError):  # a folder that somebody named
            model = find_model(model_id, lake)  # a package lies elsewhere on every machine
        self._pool = WorkerPool(replace(run, workers=1), model, _Silent())  # type: ignore[arg-type]

    def wake(self) -> str:
        """Answers when the actor lives."""
        return ray.get_runtime_context().get_node_id()

    def analyze(self, tasks: Sequence[Task]) -> tuple[list[VideoOutcome | VideoPart], dict[str, float], str | None]:
        """The outcomes (none of what was not begun before ``stop``), CPU seconds so far by stage, and the device."""
        outcomes = list(self._pool(tasks))
        return outcomes, self._pool.cpu_s, self._pool.device

    def stop(self) -> None:
        """Begin no further task, and end the present one after the segment that it is at."""
        self._pool.stop()


@dataclass
class _Work:
    """Tasks on their way to one actor; ``parts`` is what the parts of a shared-out video have in common."""

    tasks: list[Task]
    parts: _Parts | None = None
    n_lost: int = 0


@dataclass
class _Parts:
    n_open: int
    failure: VideoOutcome | None = None


class RayEngine:
    """Analyses files on a Ray cluster; the same calls as ``WorkerPool``.

    Args:
        run: ``run.ray_address`` is the cluster's (``auto`` or ``host:port``); None starts one on this machine.
            ``run.workers`` actors at most; each has a GPU where the cluster has any, else a core.
        model: folder of the model.

    Raises:
        ConfigError: no such cluster, or no room on it.
    """

    def __init__(self, run: FolderRun, model: Path) -> None:
        self._run, self._model, self._model_id = run, model, read_card(model).model_id
        self._lake = Lake.open(run.lake)
        self._waiting: deque[_Work] = deque()
        self._at_work: dict[Any, tuple[Any, _Work | None]] = {}  # reference -> actor, and what it is at
        self._free: list[Any] = []
        self._cpu_s: dict[Any, dict[str, float]] = {}
        self.device: str | None = None
        self.stopping = False
        self.late: list[VideoOutcome] = []  # as of a WorkerPool; an actor commits before it answers

    def __enter__(self) -> RayEngine:
        _require_cluster(self._run.ray_address)
        try:
            ray.init(
                self._run.ray_address or "local",  # without an address Ray waits for a cluster that a killed run left
                namespace="mfer",
                logging_level=logging.ERROR,
                log_to_driver=False,
                job_config=_job_config(),
                runtime_env={"env_vars": _own_environment()} if self._run.ray_address is None else None,
                include_dashboard=False if self._run.ray_address is None else None,
            )
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            message = f"no Ray cluster at {self._run.ray_address!r}: {error}; start one with `ray start --head`"
            raise ConfigError(message) from error
        resources = ray.cluster_resources()
        on_gpu = resources.get("GPU", 0) >= 1 and self._run.device != "cpu"
        n_actors = min(int(resources.get("GPU" if on_gpu else "CPU", 0)), self._run.workers)
        if not n_actors:
            raise ConfigError(f"the Ray cluster has no free core or GPU: {resources}")
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if on_gpu else 0, "max_restarts": -1}
        # two calls at a time: ``stop`` reaches it while it works
        actor = cast("Any", ray.remote)(max_concurrency=2, **options)(_Analyst)
        for _ in range(n_actors):
            self._wake(actor.remote(replace(self._run, lake=str(self._lake.location)), self._model_id, self._model))
        self.n_actors = n_actors
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()  # ends the actors of this driver, and a cluster that it started

    def stop(self) -> None:
        """Begin no further video, and leave those at work after the segments that they are at."""
        self.stopping = True
        for actor, work in self._at_work.values():
            if work is not None:
                actor.stop.remote()

    @property
    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of the actors by stage."""
        total: dict[str, float] = {}
        for of_actor in self._cpu_s.values():
            for name, seconds in of_actor.items():
                total[name] = total.get(name, 0.0) + seconds
        return total

    def __call__(self, tasks: Sequence[Task]) -> Generator[VideoOutcome | VideoPart]:
        """The outcome of each video, as they end; none for those that were not begun before ``stop``."""
        self._waiting.extend(_Work(batch) for batch in _batches(tasks, self.n_actors))
        while (self._waiting and not self.stopping) or any(work for _, work in self._at_work.values()):
            while self._waiting and self._free and not self.stopping:
                actor, work = self._free.pop(), self._waiting.popleft()
                self._at_work[actor.analyze.remote(work.tasks)] = actor, work
            ended, _ = ray.wait(list(self._at_work), num_returns=1, timeout=_POLL_S)
            for reference in ended:
                yield from self._on_message(reference, *self._at_work.pop(reference))

    def _wake(self, actor: Any) -> None:
        """Give an actor work once it lives: Ray may have to find a place for it first."""
        self._at_work[actor.wake.remote()] = actor, None

    def _on_message(self, reference: Any, actor: Any, work: _Work | None) -> Iterator[VideoOutcome]:
        try:
            answer = ray.get(reference)
        except RayActorError as error:
            self._wake(actor)
            if work is not None:
                yield from self._lost(work, error)
            return
        except RayError as error:  # what the actor raised: it has to stop the run
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, Exception) else error from error
        self._free.append(actor)
        if work is not None:
            outcomes, self._cpu_s[actor], self.device = answer
            for outcome in outcomes:
                task = next(task for task in work.tasks if _is_of(outcome, task))
                yield from self._take(task, work.parts, outcome)

    def _lost(self, work: _Work, error: Exception) -> Iterator[VideoOutcome]:
        n_lost = work.n_lost + 1
        if n_lost < _MAX_ATTEMPTS:  # apart from now on: one of them may be the cause
            self._waiting.extendleft(_Work([task], work.parts, n_lost) for task in reversed(work.tasks))
            return
        message = f"{n_lost} actors died over it: {str(error).splitlines()[0]}"
        for task in work.tasks:
            failure = VideoOutcome(
                task.video_id, str(task.path), "failed", "crashed", "decode", message, stream=task.number
            )
            yield from self._take(task, work.parts, failure)

    def _take(self, task: Task, parts: _Parts | None, outcome: VideoOutcome | VideoPart) -> Iterator[VideoOutcome]:
        """What a task came to: the end of its video, the first part of a long one, or one of the others."""
        if parts is None and isinstance(outcome, VideoOutcome):
            yield outcome
        elif parts is None:
            assert isinstance(outcome, VideoPart)
            self._share_out(replace(task, content=content_of_video(outcome.video_id)), outcome.n_segments)
        else:
            parts.n_open -= 1
            if isinstance(outcome, VideoOutcome) and outcome.status in ("failed", "partial"):
                parts.failure = parts.failure or outcome
            if not parts.n_open:
                if parts.failure:
                    yield parts.failure
                else:  # all segments are there: this commits the video
                    self._waiting.appendleft(_Work([replace(task, segments=None)]))

    def _share_out(self, task: Task, n_segments: int) -> None:
        """Cut the rest of a long video into as many parts as there are actors, each a run of segments.

        Who begins in the middle reads all packets before and decodes none of them, so few long parts are better.
        """
        n_parts = min(self.n_actors, n_segments - _FIRST_SEGMENTS)
        bounds = [_FIRST_SEGMENTS + k * (n_segments - _FIRST_SEGMENTS) // n_parts for k in range(n_parts + 1)]
        parts = _Parts(n_parts)
        for first, end in pairwise(bounds):
            self._waiting.appendleft(_Work([replace(task, segments=(first, end))], parts))


def _batches(tasks: Sequence[Task], n_actors: int) -> Iterator[list[Task]]:
    """The first segments of all videos, small files together: these share commits."""
    sizes = {task: _size_bytes(task.path) for task in tasks}
    n_at_most = min(_MAX_BATCH, -(-len(tasks) // n_actors))
    batch, n_bytes = list[Task](), 0
    for task in sorted(tasks, key=lambda task: -sizes[task]):  # largest first: no long one is left for the end
        if batch and (len(batch) == n_at_most or n_bytes + sizes[task] > _BATCH_BYTES):
            yield batch
            batch, n_bytes = [], 0
        batch.append(replace(task, segments=(0, _FIRST_SEGMENTS)))
        n_bytes += sizes[task]
    if batch:
        yield batch


def _require_cluster(address: str | None) -> None:
    """Ray itself tries for a minute or more and then ends the process."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        message = f"no Ray cluster at {address!r} ({error}); start one with `ray start --head`, and name its address"
        raise ConfigError(message) from error


def _size_bytes(path: StoragePath) -> int:
    try:
        return path.stat().st_size
    except OSError:  # whoever reads it will say what is wrong
        return 0


def _is_of(outcome: VideoOutcome | VideoPart, task: Task) -> bool:
    """Whether an outcome is that of a task: of the same file and the same of its streams."""
    if isinstance(outcome, VideoOutcome):
        return (outcome.path, outcome.stream) == (str(task.path), task.number)
    return outcome.path == str(task.path) and task.video_id in (None, outcome.video_id)
