"""Pictures for the pages, decoded when they are asked for and kept in memory only: the lake holds no pixels."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from dashboards.web.source import LakeSource
from pipelines.errors import VideoError
from pipelines.video.stills import read_still
from storage.identity import stream_of_video
from storage.sequences import status_of

__all__ = ["Pictures"]

_THUMBNAIL_PX = (192, 108)
_STILL_PX = (1280, 720)
_FACE_PX = 320
#: How much of a face's surroundings is shown to judge it: half a box on each side.
_FACE_MARGIN = 0.5
#: Where a thumbnail without a face is taken, as a share of the video: beginnings are often black.
_THUMBNAIL_AT = 0.25
_MAX_THUMBNAILS = 2048


class Pictures:
    """JPEGs from the videos that a lake names. ``None`` where the file is gone, has changed or cannot be read."""

    def __init__(self, source: LakeSource) -> None:
        self.source = source
        self._busy = threading.Semaphore(2)  # a page asks for fifty thumbnails at once
        self._made: Callable[..., bytes | None] = lru_cache(maxsize=_MAX_THUMBNAILS)(self._make)

    def thumbnail(self, video_id: str) -> bytes | None:
        """A small picture of the frame with the best face; without a face, from the first quarter of a video."""
        best_s = self._best_face_s(video_id)
        at = (lambda duration_s: duration_s * _THUMBNAIL_AT) if best_s is None else (lambda _: best_s)
        return self._of(video_id, at, _THUMBNAIL_PX)

    def still(self, video_id: str, time_s: float) -> bytes | None:
        """The frame that is shown at a moment, at most 1280x720; for videos that a browser cannot play."""
        return self._of(video_id, lambda _: round(time_s, 3), _STILL_PX)

    def face(self, video_id: str, frame_index: int, face_index: int) -> bytes | None:
        """A face with its surroundings, exactly of its frame."""
        rows = self.source.dicts(
            "SELECT pts_s, box_x1_px, box_y1_px, box_x2_px, box_y2_px FROM scores_all"
            " WHERE video_id = ? AND frame_index = ? AND face_index = ? ORDER BY chosen DESC LIMIT 1",
            [video_id, frame_index, face_index],
            video_id=video_id,
        )
        path = self.source.file_of(video_id) if rows else None
        if path is None:
            return None
        pts_s, *box = rows[0].values()
        mtime_ns = status_of(path).st_mtime_ns
        return self._made(path, mtime_ns, stream_of_video(video_id), pts_s, (_FACE_PX, _FACE_PX), tuple(box))

    def _best_face_s(self, video_id: str) -> float | None:
        """When the largest face of good quality is seen, else the largest of all; None: the video shows no face."""
        query = (
            "SELECT time_s FROM scores WHERE video_id = ? ORDER BY quality_ok DESC,"
            " (box_x2_px - box_x1_px) * (box_y2_px - box_y1_px) * det_prob DESC, time_s LIMIT 1"
        )
        best = self.source.kept(
            ("best face", video_id), lambda: self.source.dicts(query, [video_id], video_id=video_id), _MAX_THUMBNAILS
        )
        return best[0]["time_s"] if best else None

    def _of(self, video_id: str, seconds: Callable[[float], float], size_px: tuple[int, int]) -> bytes | None:
        query = "SELECT video_id, start_s, duration_s FROM raw.videos"
        times = self.source.kept(("times",), lambda: {row["video_id"]: row for row in self.source.dicts(query)})
        path = self.source.file_of(video_id) if video_id in times else None
        if path is None:
            return None
        pts_s = times[video_id]["start_s"] + seconds(times[video_id]["duration_s"])
        mtime_ns = status_of(path).st_mtime_ns
        return self._made(path, mtime_ns, stream_of_video(video_id), pts_s, size_px, None)

    def _make(
        self,
        path: Path,
        mtime_ns: int,
        stream: int | None,
        pts_s: float,
        size_px: tuple[int, int],
        box: tuple[float, ...] | None,
    ) -> bytes | None:
        with self._busy:
            try:
                rgb = read_still(path, pts_s, stream=stream, nearest=box is None)
            except VideoError:
                return None
        image = Image.fromarray(np.ascontiguousarray(rgb))
        if box is not None:
            image = _cut(image, box)
        image.thumbnail(size_px, Image.Resampling.BILINEAR)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=85)
        return out.getvalue()


def _cut(image: Image.Image, box: tuple[float, ...]) -> Image.Image:
    """A square around a box, enlarged to ``_FACE_PX`` where it is smaller; black outside the picture."""
    x1, y1, x2, y2 = box
    half = max(x2 - x1, y2 - y1) * (0.5 + _FACE_MARGIN)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return image.crop((round(x - half), round(y - half), round(x + half), round(y + half))).resize(
        (_FACE_PX, _FACE_PX), Image.Resampling.BICUBIC
    )
