"""Smaller pictures of a frame, by libswscale: each pixel of the result is a weighted mean of all that it covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

__all__ = ["pyramid"]


def pyramid(rgb: np.ndarray, sizes_px: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Frames uint8 [T,H,W,3] at falling sizes (height, width), each uint8 [T,height,width,3].

    All but the first two are made from the result two before. In a pyramid whose levels fall by the square root of two
    that one is twice as large, and it costs less to shrink than the frame does.
    """
    results = [np.empty((len(rgb), *size, 3), np.uint8) for size in sizes_px]
    # One for each change of size: they keep their tables from frame to frame.
    to_planes, *shrinkers = (VideoReformatter() for _ in range(1 + len(sizes_px)))
    for row, frame in enumerate(rgb):
        whole = VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame), format="rgb24")
        # Packed pixels would be taken apart and put together again at every level. libswscale starts threads for each
        # picture, if not told otherwise, which cost a third more than they save.
        levels = [to_planes.reformat(whole, format="gbrp", threads=1)]
        levels.append(levels[0])
        for (height_px, width_px), shrinker, result in zip(sizes_px, shrinkers, results, strict=True):
            level = shrinker.reformat(levels[-2], width_px, height_px, interpolation=Interpolation.BILINEAR, threads=1)
            result[row] = level.to_ndarray()
            levels.append(level)
    return results
