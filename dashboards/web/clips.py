"""A span of a video as a small file, with what the lake says drawn on it."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from werkzeug.exceptions import BadRequest, NotFound, ServiceUnavailable

from dashboards.outputs.render import render_video
from dashboards.web.source import LakeSource
from pipelines.errors import VideoError

__all__ = ["MAX_CLIP_S", "cut_clip"]

#: Rendering takes about as long as the clip lasts: longer ones are for ``mfer render``.
MAX_CLIP_S = 180.0
_one_at_a_time = threading.Lock()


def cut_clip(source: LakeSource, video_id: str, from_s: float, to_s: float, *, blur: bool = False) -> bytes:
    """An MP4 of what a video shows between two moments, with boxes, names, bars and plot, and its sound.

    Raises NotFound without the file, BadRequest where there is no such span or it is too long, ServiceUnavailable
    while another clip is made.
    """
    file = source.file_of(video_id)
    if file is None:
        raise NotFound("the lake names no such video, or its file is gone or has changed")
    if not 0 <= from_s < to_s:
        raise BadRequest("from must be before to")
    if to_s - from_s > MAX_CLIP_S:
        raise BadRequest(
            f"{to_s - from_s:.0f} s are in sight and a clip has at most {MAX_CLIP_S:.0f}: zoom in, or use mfer render"
        )
    if not _one_at_a_time.acquire(blocking=False):
        raise ServiceUnavailable("another clip is being made: try again when it is done")
    try:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "clip.mp4"
            render_video(
                source.lake, video_id, output, file=file, blur=blur, model=source.model, between_s=(from_s, to_s)
            )
            return output.read_bytes()
    except (ValueError, VideoError) as error:  # ConfigError is a ValueError
        raise BadRequest(str(error)) from error
    finally:
        _one_at_a_time.release()
