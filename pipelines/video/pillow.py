"""Frames of pictures, by Pillow; a picture is a video of one frame, numbered pictures one of many."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from pipelines.errors import VideoError
from pipelines.video.decoders import DEFAULT_READ, ReadOptions
from pipelines.video.pictures import fit, read_frames
from pipelines.video.scan import Video

__all__ = ["PillowDecoder"]


class PillowDecoder:
    """Follows ``pipelines.video.decoders.Decoder``."""

    by_packet = True

    def require(self) -> None:
        """Nothing: it is always installed."""

    def refusal(self, video: Video) -> str | None:
        """It reads no video."""
        return None if video.pictures else "it is no picture"

    def read(
        self, video: Video, frame_index: np.ndarray, how: ReadOptions = DEFAULT_READ
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See ``Decoder.read``; raises VideoError where the only picture is damaged."""
        wanted = [(int(index), where) for index in frame_index if (where := video.pictures[index]) is not None]
        for path, indexes in groupby(wanted, lambda each: each[1][0]):
            yield from _read(video, path, [(index, where[1]) for index, where in indexes])


def _read(video: Video, path: Path, wanted: list[tuple[int, int]]) -> Iterator[tuple[int, np.ndarray]]:
    """The wanted (frame of the video, picture of the file) of one file, up to the first that is damaged."""
    try:
        pictures = read_frames(path, [at for _, at in wanted])
        for (index, _), rgb in zip(wanted, pictures, strict=True):
            yield index, fit(rgb, video.info.width_px, video.info.height_px)
    except VideoError:
        if len(video.pictures) == 1:  # it says more than that no frame could be read
            raise
