"""Signs of life of the process that works on a video, for whoever watches it from another process."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

__all__ = ["Phase", "beat", "on_beat"]


class Phase(IntEnum):
    """What is being done, as far as it matters for how long silence may last."""

    START = 0  # loading libraries and networks
    IDLE = 1
    OPEN = 2  # hashing and scanning the file
    WORK = 3  # decoding, finding faces, scoring
    COMMIT = 4  # writing to the lake, which may have to wait for others


def _unheard(phase: Phase | None) -> None:
    pass


_tell: Callable[[Phase | None], None] = _unheard


def on_beat(tell: Callable[[Phase | None], None]) -> None:
    """From now on, ``tell`` every sign of life of this process: a new phase, or None for progress within one."""
    global _tell
    _tell = tell


def beat(phase: Phase | None = None) -> None:
    """Say that work goes on; cheap enough for every packet."""
    _tell(phase)
