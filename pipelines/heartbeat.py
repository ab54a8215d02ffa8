"""Heartbeats: the process that works on a video reports progress to its supervisor, which is another process."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

__all__ = ["Phase", "heartbeat", "on_heartbeat"]


class Phase(IntEnum):
    """What a process is doing, as far as it matters for how long it may be silent."""

    START = 0  # loading libraries and networks
    OPEN = 1  # hashing and scanning the file
    WORK = 2  # decoding, finding faces, scoring
    COMMIT = 3  # writing to the lake, which may have to wait for others


def _ignore(phase: Phase | None) -> None:
    pass


_listener: Callable[[Phase | None], None] = _ignore


def on_heartbeat(listener: Callable[[Phase | None], None]) -> None:
    """From now on, call ``listener`` at every heartbeat: with a new phase, or None for progress within one."""
    global _listener
    _listener = listener


def heartbeat(phase: Phase | None = None) -> None:
    """Report progress; cheap enough for every packet."""
    _listener(phase)
