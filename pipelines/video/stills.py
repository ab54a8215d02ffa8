"""Single frames of a video, by their time, without reading the whole file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.errors import VideoError
from pipelines.video.containers import open_container, require_file, video_packets, video_stream
from pipelines.video.decoders import DEFAULT_READ, load_decoder
from pipelines.video.orientation import orient
from pipelines.video.scan import Video, open_video
from pipelines.video.shapes import draw
from storage.sequences import status_of

__all__ = ["read_still"]

#: A key frame's leading pictures refer to what lies before it and cannot be decoded after a seek: start this early.
_RUN_UP_S = 2.0
#: A frame is the one that is meant if its time differs by less than this: far below any frame's duration.
_SAME_TIME_S = 0.0002


def read_still(path: str | Path, pts_s: float, *, stream: int | None = None, nearest: bool = False) -> np.ndarray:
    """Decode the frame that is presented at a time, uint8 RGB [H,W,3], upright and with square pixels.

    Args:
        path: the file.
        pts_s: presentation time as the file states it, in seconds (the lake's ``pts_s``).
        stream: number of the video stream, see ``open_video``.
        nearest: take the last frame that begins before ``pts_s``, or the first of all, where none begins exactly then.

    Raises:
        VideoError: the file cannot be opened (see ``open_video``), or ``decode_failed``: there is no such frame, or it
            cannot be read.
    """
    require_file(path)
    video = _scanned(Path(path), status_of(Path(path)).st_mtime_ns, stream)
    index = _index_at(video.pts_s, pts_s, nearest)
    picture = None
    if index is not None and video.can_seek:
        picture = _sought(video, float(video.pts_s[index]))
    if index is not None and picture is None:  # the packets before it are passed over, not decoded
        decoder = load_decoder("auto", video)
        picture = next((rgb for _, rgb in decoder.read(video, np.array([index]), DEFAULT_READ)), None)
    if picture is None:
        message = f"no frame could be read at {pts_s:.3f} s; the file may have changed, or is damaged there"
        raise VideoError("decode_failed", "decode", path, message)
    return picture


@lru_cache(maxsize=8)
def _scanned(path: Path, mtime_ns: int, stream: int | None) -> Video:
    """A file's table of packets, which says where each frame is; ``mtime_ns`` tells its states apart."""
    return open_video(path, stream=stream)


def _index_at(all_s: np.ndarray, pts_s: float, nearest: bool) -> int | None:
    """The frame that begins at a time, or None."""
    if nearest:
        return max(int(np.searchsorted(all_s, pts_s + _SAME_TIME_S, side="right")) - 1, 0)
    index = int(np.abs(all_s - pts_s).argmin())
    return index if abs(all_s[index] - pts_s) < _SAME_TIME_S else None


def _sought(video: Video, pts_s: float) -> np.ndarray | None:
    """The frame of that very time, by the container's own index; None where that leads elsewhere."""
    with open_container(video.info.path) as container:
        stream = video_stream(container, video.info.path, video.info.stream)
        found = _frame_at(container, stream, pts_s)
        if found is None:
            return None
        try:
            picture = draw(found, video.shapes[0].aspect, video.stored_width_px, video.stored_height_px)
        except (FFmpegError, ValueError):
            return None
        return orient(picture, video.display_matrix)


def _frame_at(container: InputContainer, stream: VideoStream, pts_s: float) -> VideoFrame | None:
    if stream.time_base is None:
        return None
    try:
        container.seek(int((pts_s - _RUN_UP_S) / stream.time_base), stream=stream)
    except FFmpegError:
        return None
    for frame in _frames(container, stream):
        if frame.time is None or frame.is_corrupt:
            continue
        if abs(frame.time - pts_s) < _SAME_TIME_S:
            return frame
        if frame.time > pts_s:
            return None
    return None


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in video_packets(container, stream):
        try:
            yield from stream.codec_context.decode(packet)
        except FFmpegError:
            continue
