"""What a run says about videos and about itself: frozen and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

__all__ = [
    "STATUSES",
    "VIDEO_CODES",
    "WORST_FIRST",
    "FinishedVideo",
    "RunManifest",
    "VideoCounts",
    "VideoOutcome",
    "VideoPart",
]

#: How a run ends for a video.
STATUSES = ("ok", "partial", "failed", "skipped")
#: The same, what needs a look first.
WORST_FIRST = ("failed", "partial", "ok", "skipped")
#: What can be wrong with a video; docs/errors.md has a cause and a remedy for each.
VIDEO_CODES = frozenset(
    {
        *("missing", "not_a_file", "empty_file", "unreadable", "not_a_video", "no_video_stream", "no_such_stream"),
        *(
            "encrypted",
            "no_frames",
            "too_large",
            "truncated",
            "joined",
            "pictures_missing",
            "frames_undecodable",
            "changed",
            "decode_failed",
            "decoder_refused",
        ),
        *("out_of_memory", "crashed", "hung", "interrupted", "internal"),
    }
)


_HASH = re.compile("[0-9a-f]{16}")
#: With the number of a stream where it is not the one that players show.
_VIDEO_ID = re.compile(r"[0-9a-f]{16}(-v\d+)?")


def _check_id(owner: object, name: str, value: str | None) -> None:
    if value is None or not (_VIDEO_ID if name == "video_id" else _HASH).fullmatch(value):
        raise ValueError(f"{type(owner).__name__}.{name} must be 16 lower-case hex digits, got {value!r}")


def _check_not_negative(owner: object, *names: str) -> None:
    for name in names:
        if not getattr(owner, name) >= 0:
            raise ValueError(f"{type(owner).__name__}.{name} must be 0 or more, got {getattr(owner, name)!r}")


@dataclass(frozen=True)
class VideoOutcome:
    """What one run did with one path.

    ``video_id`` is None where no bytes could be read. ``code``, ``stage`` and ``message`` say what went wrong
    (a failed or partial video always has a code); ``log`` is what libraries wrote to standard error meanwhile.
    ``n_frames`` counts sampled frames, ``n_faces`` rows with a face. ``stream`` is the number of the video stream that
    was asked for, None for the one that players show; where all were asked for, the outcome of that one names the
    ``other_streams``.
    """

    video_id: str | None
    path: str
    status: str
    code: str | None = None
    stage: str | None = None
    message: str = ""
    n_frames: int = 0
    n_faces: int = 0
    n_frames_with_face: int = 0
    n_frames_undecodable: int = 0
    elapsed_s: float = 0.0
    size_bytes: int = 0
    mtime_ns: int = 0
    log: str = ""
    stream: int | None = None
    other_streams: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        if self.status in ("failed", "partial") and not self.code:
            raise ValueError(f"a {self.status} video needs a code")
        if self.code and self.code not in VIDEO_CODES:
            raise ValueError(f"{self.code!r} is none of the codes of docs/errors.md")
        if self.video_id is not None:
            _check_id(self, "video_id", self.video_id)
        elif self.status in ("ok", "partial"):
            raise ValueError(f"a video that is {self.status} has a video_id")
        _check_not_negative(
            self, "n_frames", "n_faces", "n_frames_with_face", "n_frames_undecodable", "elapsed_s", "size_bytes"
        )
        if self.n_frames_with_face + self.n_frames_undecodable > self.n_frames:
            raise ValueError("more frames with a face or undecodable than frames")


@dataclass(frozen=True)
class VideoPart:
    """Some segments of a video are committed, and others may not be; the video is not finished."""

    video_id: str
    path: str
    n_segments: int


@dataclass(frozen=True)
class RunManifest:
    """Where and with what a run happened; times are UTC, ``config`` is the resolved configuration."""

    run_id: str
    started_utc: datetime
    finished_utc: datetime
    config: Mapping[str, Any]
    model_id: str
    library_versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    code_revision: str | None = None
    program_version: str | None = None

    def __post_init__(self) -> None:
        if not self.run_id:
            raise ValueError("a run needs a run_id")
        for name in ("started_utc", "finished_utc"):
            if getattr(self, name).utcoffset() != timedelta(0):
                raise ValueError(f"RunManifest.{name} must be in UTC and say so, got {getattr(self, name)!r}")
        if self.finished_utc < self.started_utc:
            raise ValueError(f"a run that ended ({self.finished_utc}) before it began ({self.started_utc})")


@dataclass(frozen=True)
class FinishedVideo:
    """What is known of a video all of whose segments are committed, apart from what the rows themselves say.

    Counts are not here: the lake counts its own rows. ``code`` and ``message`` are set when the video is partial
    for a reason that no row shows (a file that breaks off). ``settings`` is what the two ids were hashed from;
    ``width_px`` and ``height_px`` are as shown, ``start_s`` is where a player begins to count, in the file's own clock.
    ``stream`` is the number of the video stream, from 0, of ``n_streams`` in the file.
    """

    video_id: str
    analysis_id: str
    faces_id: str
    model_id: str
    path: str
    size_bytes: int = 0
    mtime_ns: int = 0
    n_segments: int = 1
    code: str | None = None
    message: str = ""
    width_px: int = 0
    height_px: int = 0
    duration_s: float = 0.0
    start_s: float = 0.0
    codec: str = ""
    container: str = ""
    decoder: str = ""
    stream: int = 0
    n_streams: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("video_id", "analysis_id", "faces_id"):
            _check_id(self, name, getattr(self, name))
        if not self.model_id:
            raise ValueError("a finished video needs a model_id")
        if self.n_segments < 1:
            raise ValueError(f"n_segments must be 1 or more, got {self.n_segments}")
        _check_not_negative(self, "size_bytes", "width_px", "height_px", "duration_s")


@dataclass(frozen=True)
class VideoCounts:
    """What the committed rows of one video and analysis add up to; partial means that frames could not be read, for
    which ``code`` and ``message`` say why."""

    status: str
    code: str | None
    message: str
    n_frames: int
    n_frames_with_face: int
    n_frames_undecodable: int
    n_faces: int
    n_tracks: int
