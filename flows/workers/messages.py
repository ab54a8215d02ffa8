"""Messages between a worker process and the pool that gives it work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from storage.delta.object_store import StoragePath
from storage.records import VideoOutcome, VideoPart

__all__ = ["Answer", "Ready", "Task", "WantsServer"]


@dataclass(frozen=True)
class Task:
    """One file for a worker, or some segments of it; the decoder is the settings' own unless another is tried.

    A file that ``may_split`` is not begun if it has several segments: the answer says how many, and workers share them.
    """

    path: StoragePath
    video_id: str | None = None
    decoder: str | None = None
    segments: tuple[int, int] | None = None
    may_split: bool = False


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
    """What became of a file; ``cpu_s`` are the worker's CPU seconds so far by stage, all of its life."""

    outcome: VideoOutcome | VideoPart
    cpu_s: Mapping[str, float]
