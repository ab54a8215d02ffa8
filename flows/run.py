"""What to do and what was done, as plain values: they cross the borders of processes, machines and flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mfer.errors import ConfigError
from pipelines.heartbeat import Phase
from pipelines.settings import AnalysisSettings
from storage.identity import path_text
from storage.records import STATUSES, VideoOutcome
from storage.wording import counted

__all__ = ["ENGINES", "NETWORKS", "FolderRun", "ProcessLimits", "Progress", "RunSummary"]

ENGINES = ("local", "ray")
NETWORKS = ("auto", "own", "shared")


@dataclass(frozen=True)
class ProcessLimits:
    """What a worker process may take before it is killed.

    ``start_s``: to load libraries and networks (the first run of all also exports them). ``open_s`` and
    ``progress_s``: without a heartbeat while a file is opened, and while its frames are read and scored. ``commit_s``:
    for one commit to the lake, which may have to wait for others. ``memory_mb`` of resident memory; None is four fifths
    of the machine's, shared among the workers.
    """

    start_s: float = 600.0
    open_s: float = 60.0
    progress_s: float = 120.0
    commit_s: float = 900.0
    memory_mb: int | None = None

    def __post_init__(self) -> None:
        limits = (self.start_s, self.open_s, self.progress_s, self.commit_s, self.memory_mb or 1)
        if not all(limit > 0 for limit in limits):  # NaN is none, either
            raise ConfigError(f"limits of worker processes must be above 0, got {self}")

    def silence_s(self, phase: Phase) -> float:
        """Seconds that a process may go without a heartbeat."""
        limits = {
            Phase.START: self.start_s,
            Phase.OPEN: self.open_s,
            Phase.WORK: self.progress_s,
            Phase.COMMIT: self.commit_s,
        }
        return limits[phase]


@dataclass(frozen=True)
class FolderRun:
    """What to analyse and how: plain values, so that it crosses process and flow borders.

    ``paths`` are files and folders, ``exclude`` patterns of what to leave out (``pipelines.sources``). With
    ``pictures`` those in folders are analysed, too; with ``sequence`` numbered ones are one video, and ``fps`` of the
    settings is its rate. ``model`` is a name as in ``mfer models list``; ``device`` is ``auto``, ``cpu`` or a CUDA
    device; ``runtime`` runs the model (``RUNTIMES``). ``workers`` are processes, each with one video
    at a time and within ``limits``; where there are fewer videos than workers, they share the segments of long ones.
    ``stream`` is the number of the video stream to analyse in every file, or ``all``; None: the one that players show.
    ``networks`` are each worker's ``own`` or ``shared``, in one process more that works for all of them; ``auto``
    shares them on a GPU. ``engine`` is ``local``, or ``ray`` for a cluster at ``ray_address``, where long videos are
    shared out by segments.
    """

    paths: tuple[str, ...]
    lake: str
    model: str = "default"
    device: str = "auto"
    workers: int = 1
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    runtime: str = "auto"
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    engine: str = "local"
    ray_address: str | None = None
    networks: str = "auto"
    exclude: tuple[str, ...] = ()
    stream: int | Literal["all"] | None = None
    pictures: bool = False
    sequence: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.stream, int) and not isinstance(self.stream, bool) and self.stream >= 0
        if not (self.stream is None or self.stream == "all" or is_number):
            raise ConfigError(f"stream is {self.stream!r}; allowed: the number of a video stream, from 0, or all")
        if self.engine not in ENGINES:
            raise ConfigError(f"engine is {self.engine!r}; allowed: {', '.join(ENGINES)}")
        if self.networks not in NETWORKS:
            raise ConfigError(f"networks are {self.networks!r}; allowed: {', '.join(NETWORKS)}")
        if self.sequence and self.settings.fps is None:
            raise ConfigError("a sequence of pictures needs its rate: give --fps, for instance --sequence --fps 25")

    def shares_networks(self, device: str) -> bool:
        """Whether the workers use networks of one process on that device."""
        return self.networks == "shared" or (self.networks == "auto" and device != "cpu" and self.workers > 1)


@dataclass(frozen=True)
class RunSummary:
    """What a run did, for people and for ``--json``.

    ``n_pictures`` in folders were left out. ``cpu_s`` are the workers' CPU seconds by stage; ``note`` says that the
    lake's views show more than one model.
    """

    run_id: str
    lake: str
    model_id: str
    analysis_id: str
    outcomes: tuple[VideoOutcome, ...]
    n_ignored: int
    elapsed_s: float
    was_interrupted: bool = False
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    n_pictures: int = 0

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 where a video failed or is partial, else 0."""
        return 130 if self.was_interrupted else int(bool(self.count("failed") or self.count("partial")))

    @property
    def pictures_text(self) -> str:
        """A sentence about the pictures that were left out; empty where there are none."""
        if not self.n_pictures:
            return ""
        were, them = ("was", "it") if self.n_pictures == 1 else ("were", "them")
        return f"{counted(self.n_pictures, 'picture')} {were} not analysed; --pictures includes {them}"

    def to_dict(self) -> dict[str, Any]:
        frames = sum(outcome.n_frames for outcome in self.outcomes)
        with_face = sum(outcome.n_frames_with_face for outcome in self.outcomes)
        readable = frames - sum(outcome.n_frames_undecodable for outcome in self.outcomes)
        return {
            "run_id": self.run_id,
            "lake": self.lake,
            "model_id": self.model_id,
            "analysis_id": self.analysis_id,
            **{status: self.count(status) for status in STATUSES},
            "ignored_files": self.n_ignored,
            "pictures_left_out": self.n_pictures,
            "frames": frames,
            "frames_with_face": with_face,
            "share_of_frames_with_face": with_face / readable if readable else None,  # of those that could be read
            "faces": sum(outcome.n_faces for outcome in self.outcomes),
            "interrupted": self.was_interrupted,
            "note": self.note,
            "elapsed_s": round(self.elapsed_s, 3),
            "frames_per_s": round(frames / self.elapsed_s, 2) if self.elapsed_s else None,
            "videos": [{**asdict(outcome), "path": path_text(outcome.path)} for outcome in self.outcomes],
        }


class Progress:
    """What a run tells while it works; the default says nothing."""

    def begin(self, n_videos: int) -> None: ...

    def more(self, n_videos: int) -> None:
        """So many further videos: streams of files that were opened meanwhile."""

    def frames(self, path: str, n_done: int, n_frames: int) -> None: ...

    def video(self, outcome: VideoOutcome) -> None: ...

    def stopping(self) -> None: ...
