"""A folder of videos into a lake: find, skip what is done, analyse the rest, write down what happened to each path."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.revision import code_revision
from flows.run import FolderRun, Progress, RunSummary
from flows.workers.messages import Task
from flows.workers.pool import WorkerPool
from mfer.card import read_card
from mfer.errors import ConfigError
from pipelines.analyzed import ALREADY_ANALYSED
from pipelines.errors import VideoError
from pipelines.scoring.lookup import find_model
from pipelines.sources import absolute, find_videos
from storage.delta.object_store import StoragePath, is_uri
from storage.delta.relations import read_errors
from storage.errors import LakeError
from storage.identity import analysis_id, content_of_video, faces_id, stream_of_video
from storage.lake import Lake
from storage.records import RunManifest, VideoOutcome
from storage.sequences import status_of
from storage.sql.model_choice import mixture_note
from storage.sql.views import connect

if TYPE_CHECKING:
    from flows.workers.ray_engine import RayEngine

__all__ = ["analyze_folder"]

_LIBRARIES = ("torch", "torchvision", "timm", "facenet-pytorch", "av", "decord2", "pyarrow", "deltalake", "duckdb")


def analyze_folder(run: FolderRun, progress: Progress | None = None) -> RunSummary:
    """Analyse every video under some paths that the lake does not have yet.

    Raises:
        ConfigError, ModelError, LakeError: the run cannot begin, or has to stop. What was finished stays finished.
    """
    progress = progress or Progress()
    started, started_utc = time.monotonic(), datetime.now(UTC)
    lake = Lake.open(run.lake, create=True)
    model = find_model(run.model, lake)
    card = read_card(model)
    analysis = analysis_id(faces_id(run.settings.hashed()), card.model_id, card.crop.to_dict())
    found = find_videos(
        run.paths, run.exclude, pictures=run.pictures, sequence_fps=run.settings.fps if run.sequence else None
    )
    outcomes = [_problem(problem) for problem in found.problems]
    todo: dict[tuple[str, int | None], Task] = {}
    known, done = _known_files(lake, found.videos), lake.done_streams(analysis)
    for path in map(absolute, found.videos):
        content, size_bytes, mtime_ns = known.get(path, (None, 0, 0))
        finished, missing = _divide(run.stream, *done.get(content or "", ({}, 0)))
        outcomes += [
            VideoOutcome(
                video_id, str(path), "skipped", message=ALREADY_ANALYSED, size_bytes=size_bytes, mtime_ns=mtime_ns
            )
            for video_id in finished
        ]
        for stream in missing:
            task = Task(path, content, stream=stream)
            todo[str(path), task.number] = task
    progress.begin(len(todo))
    pool, disk_is_full = _engine(run, model, progress), False
    try:
        with pool, _stop_on_signals(pool, progress):
            next_tasks = list(todo.values())
            while next_tasks and not pool.stopping:
                further: list[Task] = []
                for outcome in pool(next_tasks):
                    assert isinstance(outcome, VideoOutcome)  # whole videos were asked for
                    task = todo.pop((outcome.path, outcome.stream))
                    for number in outcome.other_streams:
                        content = content_of_video(outcome.video_id or "") or None
                        further.append(replace(task, content=content, stream=number))
                    outcomes.append(outcome)
                    progress.video(outcome)
                todo |= {(str(task.path), task.number): task for task in further}
                progress.more(len(further))
                next_tasks = further
    except LakeError as error:
        disk_is_full = error.code == "disk_full"
        raise
    finally:  # also when the run has to stop: what it did is written down as far as the disk lets it
        for outcome in pool.late:
            del todo[outcome.path, outcome.stream]
            outcomes.append(outcome)
        outcomes += [] if disk_is_full else map(_not_begun, todo.values())
        manifest = _manifest(run, card.model_id, pool.device or "none", started_utc)
        lake.append_run(manifest, outcomes)
    return RunSummary(
        manifest.run_id,
        str(lake.location),
        card.model_id,
        analysis,
        tuple(outcomes),
        found.ignored_count,
        time.monotonic() - started,
        was_interrupted=pool.stopping,
        cpu_s=pool.cpu_s,
        note=_note(lake),
        n_pictures=found.n_pictures,
    )


def _divide(
    wanted: int | Literal["all"] | None, done: Mapping[int, str], n_streams: int
) -> tuple[list[str], list[int | Literal["all"] | None]]:
    """What is finished of a file's wanted streams, as video_ids, and what to analyse.

    ``done`` are the finished ones of its ``n_streams``, by number; without any, nothing is known of the file.
    """
    if wanted == "all" and done:
        return list(done.values()), [number for number in range(n_streams) if number not in done]
    finished = [
        video_id
        for number, video_id in done.items()
        if (stream_of_video(video_id) is None if wanted is None else number == wanted)
    ]
    return finished, [] if finished else [wanted]


def _note(lake: Lake) -> str:
    with read_errors(lake.location), connect(lake, only=()) as con:
        return mixture_note(con)


def _manifest(run: FolderRun, model_id: str, device: str, started_utc: datetime) -> RunManifest:
    return RunManifest(
        run_id=uuid.uuid4().hex,
        started_utc=started_utc,
        finished_utc=max(datetime.now(UTC), started_utc),
        config=asdict(run),
        model_id=model_id,
        program_version=metadata.version("mfer"),
        library_versions={name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        device=device,
        code_revision=code_revision(),
    )


def _known_files(lake: Lake, videos: Sequence[StoragePath]) -> dict[StoragePath, tuple[str, int, int]]:
    """Content, size and mtime of the files that were hashed before and have not changed since."""
    stats = {}
    for path in map(absolute, videos):
        try:
            stat = status_of(path)
        except OSError:
            continue  # analysing it will say what is wrong
        stats[path] = (stat.st_size, stat.st_mtime_ns)
    ids = lake.known_files([(path, *stat) for path, stat in stats.items()])
    return {path: (content, *stats[path]) for path, content in ids.items()}


def _problem(problem: VideoError) -> VideoOutcome:
    path = problem.path if is_uri(problem.path) else os.path.abspath(problem.path)
    return VideoOutcome(None, path, "failed", code=problem.code, stage=problem.stage, message=problem.message)


def _engine(run: FolderRun, model: Path, progress: Progress) -> WorkerPool | RayEngine:
    if run.engine == "local":
        return WorkerPool(run, model, progress)
    try:
        from flows.workers.ray_engine import RayEngine
    except ImportError as error:
        message = f"the engine ray needs a package that is missing ({error}); install mfer[ray]"
        raise ConfigError(message) from error
    return RayEngine(run, model)


@contextmanager
def _stop_on_signals(pool: WorkerPool | RayEngine, progress: Progress) -> Iterator[None]:
    """Ctrl-C once ends the run after the segments at work; twice, or SIGTERM, at once. What is done stays done.

    Handlers that somebody else has set are left alone (a server's, say), and so are other threads than the main one,
    which Python does not tell of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(number: int, frame: Any) -> None:
        if pool.stopping:
            raise KeyboardInterrupt
        pool.stop()
        progress.stopping()

    def on_terminate(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours: dict[int, Any] = {signal.SIGINT: on_interrupt, signal.SIGTERM: on_terminate}
    set_here = [number for number in usual if signal.getsignal(number) == usual[number]]
    for number in set_here:
        signal.signal(number, ours[number])
    try:
        yield
    finally:
        for number in set_here:
            signal.signal(number, usual[number])


def _not_begun(task: Task) -> VideoOutcome:
    message = "the run was stopped before this video was finished; run again to go on"
    return VideoOutcome(task.video_id, str(task.path), "skipped", "interrupted", message=message, stream=task.number)
