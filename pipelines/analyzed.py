"""A video of which every frame is analysed and only the last commit is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from storage.lake import Lake
from storage.records import FinishedVideo, VideoCounts, VideoOutcome

__all__ = ["ALREADY_ANALYSED", "AnalyzedVideo", "commit_together"]

ALREADY_ANALYSED = "already analysed"


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
        return outcome if counts is None else _counted(outcome, finished, counts)


def _counted(outcome: VideoOutcome, finished: FinishedVideo, counts: VideoCounts) -> VideoOutcome:
    partial = counts.status == "partial"
    message = finished.message
    if partial and not finished.code:
        unreadable = f"{counts.n_frames_undecodable} of {counts.n_frames} frames could not be read"
        message = "; ".join(filter(None, [unreadable, message]))
    return replace(
        outcome,
        status=counts.status,
        code=(finished.code or "frames_undecodable") if partial else None,
        stage="decode" if partial else None,
        message=message,
        n_frames=counts.n_frames,
        n_faces=counts.n_faces,
        n_frames_with_face=counts.n_frames_with_face,
        n_frames_undecodable=counts.n_frames_undecodable,
    )


def commit_together(lake: Lake, videos: Sequence[AnalyzedVideo]) -> list[VideoOutcome]:
    """Commit short videos, with one Delta commit for each table. Raises LakeError."""
    rows = [(video.finished, video.observations) for video in videos if video.observations is not None]
    assert len(rows) == len(videos), "the segments of a long video are committed as they end"
    return [video.outcome(counts) for video, counts in zip(videos, lake.commit_short_videos(rows), strict=True)]
