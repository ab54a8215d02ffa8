"""A folder of videos into a lake: find, skip what is done, analyse the rest, write down what happened to each path."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pipelines.errors import VideoError
from pipelines.models import find_model
from pipelines.settings import AnalysisSettings
from pipelines.sources import absolute, find_videos
from storage.identity import analysis_id, faces_id, path_text
from storage.lake import Lake
from storage.objects import Place, is_uri
from storage.records import RunManifest, VideoOutcome

__all__ = ["FolderRun", "RunSummary", "analyze_folder"]

_LIBRARIES = ("torch", "torchvision", "timm", "facenet-pytorch", "av", "decord2", "pyarrow", "deltalake", "duckdb")


@dataclass(frozen=True)
class FolderRun:
    """What to analyse and how: plain values, so that it crosses process and flow borders.

    ``paths`` are files and folders; ``model`` a name as in ``mfer models list``; ``device`` is ``auto``, ``cpu`` or a
    CUDA device; ``runtime`` runs the model: ``auto``, ``torch`` or ``onnx``; ``workers`` are processes, each with one
    video at a time.
    """

    paths: tuple[str, ...]
    lake: str
    model: str = "default"
    device: str = "auto"
    workers: int = 1
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    runtime: str = "auto"


@dataclass(frozen=True)
class RunSummary:
    """What a run did, for people and for ``--json``."""

    run_id: str
    lake: str
    model_id: str
    analysis_id: str
    outcomes: tuple[VideoOutcome, ...]
    n_ignored: int
    elapsed_s: float

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """1 where a video failed or is partial, else 0."""
        return int(bool(self.count("failed") or self.count("partial")))

    def to_dict(self) -> dict[str, Any]:
        frames = sum(outcome.n_frames for outcome in self.outcomes)
        with_face = sum(outcome.n_frames_with_face for outcome in self.outcomes)
        return {
            "run_id": self.run_id,
            "lake": self.lake,
            "model_id": self.model_id,
            "analysis_id": self.analysis_id,
            **{status: self.count(status) for status in ("ok", "partial", "failed", "skipped")},
            "ignored_files": self.n_ignored,
            "frames": frames,
            "frames_with_face": with_face,
            "share_of_frames_with_face": with_face / frames if frames else None,
            "faces": sum(outcome.n_faces for outcome in self.outcomes),
            "elapsed_s": round(self.elapsed_s, 3),
            "frames_per_s": round(frames / self.elapsed_s, 2) if self.elapsed_s else None,
            "videos": [{**asdict(outcome), "path": path_text(outcome.path)} for outcome in self.outcomes],
        }


class Progress:
    """What a run tells while it works; the default says nothing."""

    def begin(self, n_videos: int) -> None: ...

    def frames(self, path: str, n_done: int, n_frames: int) -> None: ...

    def video(self, outcome: VideoOutcome) -> None: ...


def analyze_folder(run: FolderRun, progress: Progress | None = None) -> RunSummary:
    """Analyse every video under some paths that the lake does not have yet.

    Raises:
        ConfigError, ModelError, LakeError: the run cannot begin, or has to stop. What was finished stays finished.
    """
    from mfer.card import read_card
    from pipelines.scorer import choose_device

    progress = progress or Progress()
    started, started_utc = time.monotonic(), datetime.now(UTC)
    lake = Lake.open(run.lake, create=True)
    model = find_model(run.model, lake)
    card, device = read_card(model), choose_device(run.device)
    analysis = analysis_id(faces_id(run.settings.hashed()), card.model_id, card.crop.to_dict())
    found = find_videos(run.paths)
    outcomes = [_problem(problem) for problem in found.problems]
    todo: list[_File] = []
    known, done = _known_files(lake, found.videos), lake.done_videos(analysis)
    for path in map(absolute, found.videos):
        video_id, size_bytes, mtime_ns = known.get(path, (None, 0, 0))
        if video_id in done:
            outcomes.append(
                VideoOutcome(
                    video_id, str(path), "skipped", message="already analysed", size_bytes=size_bytes, mtime_ns=mtime_ns
                )
            )
        else:
            todo.append((path, video_id))
    progress.begin(len(todo))
    try:
        with closing(_analyze_each(run, model, todo, progress)) as ended:
            for outcome in ended:
                outcomes.append(outcome)
                progress.video(outcome)
    finally:  # also when the run has to stop: what it did is written down as far as the disk lets it
        manifest = _manifest(run, card.model_id, device, started_utc)
        lake.append_run(manifest, outcomes)
    return RunSummary(
        manifest.run_id,
        str(lake.location),
        card.model_id,
        analysis,
        tuple(outcomes),
        found.ignored_count,
        time.monotonic() - started,
    )


def _manifest(run: FolderRun, model_id: str, device: str, started_utc: datetime) -> RunManifest:
    return RunManifest(
        run_id=uuid.uuid4().hex,
        started_utc=started_utc,
        finished_utc=max(datetime.now(UTC), started_utc),
        config=asdict(run),
        model_id=model_id,
        library_versions={name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        device=device,
        code_revision=_code_revision(),
    )


def _known_files(lake: Lake, videos: Sequence[Place]) -> dict[Place, tuple[str, int, int]]:
    """video_id, size and mtime of the files that were hashed before and have not changed since."""
    stats = {}
    for path in map(absolute, videos):
        try:
            stat = path.stat()
        except OSError:
            continue  # analysing it will say what is wrong
        stats[path] = (stat.st_size, stat.st_mtime_ns)
    ids = lake.known_files([(path, *stat) for path, stat in stats.items()])
    return {path: (video_id, *stats[path]) for path, video_id in ids.items()}


def _problem(problem: VideoError) -> VideoOutcome:
    path = problem.path if is_uri(problem.path) else os.path.abspath(problem.path)
    return VideoOutcome(None, path, "failed", code=problem.code, stage=problem.stage, message=problem.message)


def _analyze_each(run: FolderRun, model: Path, todo: Sequence[_File], progress: Progress) -> Generator[VideoOutcome]:
    if not todo:
        return
    if run.workers == 1:
        worker = _make_worker(run, model)
        for path, video_id in todo:
            yield worker(path, video_id, lambda done, n, path=path: progress.frames(str(path), done, n))  # type: ignore[misc]
    else:
        yield from _analyze_in_processes(run, model, todo, progress)


# -- worker processes -------------------------------------------------------------------------------------------------

_File = tuple[Place, str | None]
_Worker = Callable[[Place, str | None, Callable[[int, int], None]], VideoOutcome]
#: How often a run looks at what its processes have done meanwhile.
_PROGRESS_S = 0.2


def _make_worker(run: FolderRun, model: Path) -> _Worker:
    """Load the networks once; the result analyses one video after another."""
    import torch

    from pipelines.profile import reset_stages
    from pipelines.score import VideoAnalyzer, VideoFile
    from pipelines.scorer import Scorer, choose_device

    device = choose_device(run.device)
    if device == "cpu":
        torch.set_num_threads(1)  # a process per core beats threads in one; decoding has a thread of its own
    analyzer = VideoAnalyzer(Lake.open(run.lake), run.settings, Scorer(model, device, run.runtime), device)
    reset_stages()
    return lambda path, video_id, tell: analyzer(VideoFile(path, video_id), tell)


class _Process:
    """A spawned process that analyses one video after another; ``n_frames`` are (done, in all) of the one it is at."""

    def __init__(self, run: FolderRun, model: Path) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy decoders and locks in the middle of work
        self.n_frames = context.RawArray("q", 2)
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self.n_frames, run, model), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends with the process

    def give(self, file: _File) -> None:
        self.n_frames[:] = 0, 0
        with suppress(ConnectionError):  # it died: taking its answer will tell
            self.pipe.send(file)

    def take(self) -> VideoOutcome | None:
        """The outcome, or None where the process died. Raises what has to stop the run."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            return None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, VideoOutcome)
        return answer

    def end(self) -> None:
        self._process.kill()  # safe at any moment: a commit happens whole or not at all
        self._process.join()
        self.pipe.close()


def _work(pipe: Connection, n_frames: Any, run: FolderRun, model: Path) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def tell(n_done: int, n_in_all: int) -> None:
        n_frames[:] = n_done, n_in_all
        if not parent.is_alive():
            sys.exit(1)  # nobody waits for this video, and the next run may be at it already

    try:
        worker = _make_worker(run, model)
        while True:
            path, video_id = pipe.recv()
            pipe.send(worker(path, video_id, tell))
    except (EOFError, ConnectionError):
        return  # the parent is gone
    except Exception as error:
        pipe.send(error)


def _analyze_in_processes(
    run: FolderRun, model: Path, todo: Sequence[_File], progress: Progress
) -> Generator[VideoOutcome]:
    """Several videos at a time. A process that dies costs the video it was at, and is replaced."""
    waiting = deque(todo)
    idle: list[_Process] = []
    busy: dict[_Process, _File] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < run.workers:
                process = idle.pop() if idle else _Process(run, model)
                busy[process] = waiting.popleft()
                process.give(busy[process])
            ended = wait([process.pipe for process in busy], timeout=_PROGRESS_S)
            for process, (path, video_id) in list(busy.items()):
                progress.frames(str(path), *process.n_frames)
                if process.pipe not in ended:
                    continue
                outcome = process.take()
                del busy[process]
                if outcome is None:
                    process.end()
                    yield _crashed(path, video_id)
                else:
                    idle.append(process)
                    yield outcome
    finally:
        for process in (*idle, *busy):
            process.end()


def _crashed(path: Place, video_id: str | None) -> VideoOutcome:
    message = "the process that analysed it died: a crash in a library, or out of memory"
    return VideoOutcome(video_id, str(path), "failed", code="crashed", stage="decode", message=message)


def _code_revision() -> str | None:
    """The commit of a source checkout; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git here
        return None
    return asked.stdout.strip() or None
