"""A video of which every frame is analysed and only the last commit is missing, and which videos are beyond that."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from storage.errors import LakeError
from storage.identity import path_text
from storage.lake import Lake
from storage.records import FinishedVideo, VideoCounts, VideoOutcome

__all__ = ["ALREADY_ANALYSED", "AnalyzedVideo", "FinishedVideos", "commit_together"]

ALREADY_ANALYSED = "already analysed"
#: So often it is looked up in the lake which videos others have finished.
_LOOK_S = 20.0


@dataclass(frozen=True)
class AnalyzedVideo:
    """``observations`` are the rows of a short video, which nobody has committed yet; None where all its segments are
    in the lake. ``path`` is that of the task; ``stream`` and ``other_streams`` are as in VideoOutcome."""

    path: str
    finished: FinishedVideo
    observations: pa.Table | None = None
    elapsed_s: float = 0.0
    stream: int | None = None
    other_streams: tuple[int, ...] = ()

    def outcome(self, counts: VideoCounts | None) -> VideoOutcome:
        """What a run says about it; ``counts`` are those of its rows, None where it had been finished before."""
        finished = self.finished
        outcome = VideoOutcome(
            finished.video_id,
            self.path,
            "skipped",
            message=ALREADY_ANALYSED,
            elapsed_s=self.elapsed_s,
            size_bytes=finished.size_bytes,
            mtime_ns=finished.mtime_ns,
            stream=self.stream,
            other_streams=self.other_streams,
        )
        if counts is None:
            return outcome
        return replace(
            outcome,
            status=counts.status,
            code=counts.code,
            stage="decode" if counts.code else None,
            message=counts.message,
            n_frames=counts.n_frames,
            n_faces=counts.n_faces,
            n_frames_with_face=counts.n_frames_with_face,
            n_frames_undecodable=counts.n_frames_undecodable,
        )


def commit_together(lake: Lake, videos: Sequence[AnalyzedVideo]) -> list[VideoOutcome]:
    """Commit short videos, with one Delta commit for each table; a video whose rows are refused fails alone.

    Raises LakeError.
    """
    rows = [(video.finished, video.observations) for video in videos if video.observations is not None]
    assert len(rows) == len(videos), "the segments of a long video are committed as they end"
    try:
        return [video.outcome(counts) for video, counts in zip(videos, lake.commit_short_videos(rows), strict=True)]
    except LakeError:
        raise
    except Exception as error:  # one video must not end the folder
        if len(videos) > 1:
            return [outcome for video in videos for outcome in commit_together(lake, [video])]
        message = f"{type(error).__name__}: {path_text(str(error))}; please report it"
        return [replace(videos[0].outcome(None), status="failed", code="internal", stage="write", message=message)]


class FinishedVideos:
    """Which videos are finished with the same faces: looked up now and then, not again for every short video.

    One that somebody finishes in the meantime is analysed in vain: commits let it in only once.

    Args:
        lake: where to look.
        faces_id: the settings of the faces.
    """

    def __init__(self, lake: Lake, faces_id: str) -> None:
        self._lake, self._faces_id = lake, faces_id
        self._found: dict[str, set[str]] = {}
        self._own: dict[str, set[str]] = {}
        self._looked_s = float("-inf")

    def analyses_of(self, video_id: str) -> set[str]:
        """The analyses in which a video is finished. Raises LakeError."""
        now_s = time.monotonic()
        if now_s > self._looked_s + _LOOK_S:
            self._found, self._looked_s = self._lake.finished_videos(self._faces_id), now_s
        return {name for known in (self._found, self._own) for name, videos in known.items() if video_id in videos}

    def add(self, video_id: str, analysis_id: str) -> None:
        """Note one that waits for its last commit at most."""
        self._own.setdefault(analysis_id, set()).add(video_id)
