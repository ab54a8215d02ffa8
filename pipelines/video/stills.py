"""Single frames of a video, by their time, without reading the whole file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.errors import VideoError
from pipelines.video.containers import open_container, video_packets, video_stream
from pipelines.video.orientation import display_matrix, orient

__all__ = ["read_still"]

#: A key frame's leading pictures refer to what lies before it and cannot be decoded after a seek: start this early.
_RUN_UP_S = 2.0
#: A frame is the one that is meant if its time differs by less than this: far below any frame's duration.
_SAME_TIME_S = 0.002


def read_still(path: str | Path, pts_s: float, *, nearest: bool = False) -> np.ndarray:
    """Decode the frame that is presented at a time, uint8 RGB [H,W,3], upright and with square pixels.

    Args:
        path: the file.
        pts_s: presentation time as the file states it, in seconds (the lake's ``pts_s``).
        nearest: take the last frame that begins before ``pts_s``, or the first of all, where none begins exactly then.

    Raises:
        VideoError: the file cannot be opened (see ``open_video``), or ``decode_failed``: there is no such frame, or it
            cannot be read.
    """
    for run_up_s in (_RUN_UP_S, None):  # some containers seek too far: then read from the start
        with open_container(path) as container:
            stream = video_stream(container, path)
            found = _frame_at(container, stream, pts_s, run_up_s, nearest)
            if found is None:
                continue
            width_px = round(found.width * (stream.sample_aspect_ratio or 1))
            try:
                picture = found.to_ndarray(format="rgb24", width=width_px, height=found.height)
            except (FFmpegError, ValueError):
                break
            return orient(picture, display_matrix(found))
    message = f"no frame could be read at {pts_s:.3f} s; the file may have changed, or is damaged there"
    raise VideoError("decode_failed", "decode", path, message)


def _frame_at(
    container: InputContainer, stream: VideoStream, pts_s: float, run_up_s: float | None, nearest: bool
) -> VideoFrame | None:
    if run_up_s is not None:
        if stream.time_base is None:
            return None
        try:
            container.seek(int((pts_s - run_up_s) / stream.time_base), stream=stream)
        except FFmpegError:
            return None
    before = None
    for frame in _frames(container, stream):
        if frame.time is None or frame.is_corrupt:
            continue
        if abs(frame.time - pts_s) < _SAME_TIME_S:
            return frame
        if frame.time > pts_s:
            return (before if run_up_s else before or frame) if nearest else None
        before = frame
    return before if nearest else None


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in video_packets(container, stream):
        try:
            yield from stream.codec_context.decode(packet)
        except FFmpegError:
            continue
