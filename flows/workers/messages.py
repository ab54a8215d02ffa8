"""Messages between a worker process and the pool that gives it work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipelines.analyzed import AnalyzedVideo
from storage.delta.object_store import StoragePath
from storage.identity import with_stream
from storage.records import VideoOutcome, VideoPart

__all__ = ["Answer", "Ready", "Task", "WantsServer"]


@dataclass(frozen=True)
class Task:
    """One file for a worker, or some segments of it; the fields are those of ``pipelines.score.VideoFile``.

    A file that ``may_split`` is not begun if it has several segments: the answer says how many, and workers share them.
    """

    path: StoragePath
    content: str | None = None
    decoder: str | None = None
    segments: tuple[int, int] | None = None
    stream: int | Literal["all"] | None = None
    may_split: bool = False

    @property
    def video_id(self) -> str | None:
        """Of what is analysed, as far as it is known before the file was opened."""
        return None if self.content is None else with_stream(self.content, self.number)

    @property
    def number(self) -> int | None:
        """The number of the stream that was asked for; None: the one that players show."""
        return None if self.stream == "all" else self.stream


@dataclass(frozen=True)
class WantsServer:
    """A worker asks for a connection to the inference server of this device."""

    device: str


@dataclass(frozen=True)
class Ready:
    """A worker has loaded everything and waits for files."""

    device: str


@dataclass(frozen=True)
class Answer:
    """What became of a file, of a short one the rows to commit; ``cpu_s`` are the worker's CPU seconds so far by stage,
    all of its life."""

    outcome: VideoOutcome | VideoPart | AnalyzedVideo
    cpu_s: Mapping[str, float]
