"""Smaller pictures of a frame, by libswscale: each pixel of the result is a weighted mean of all that it covers."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

__all__ = ["shrink"]


def shrink(rgb: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Frames uint8 [T,H,W,3] as uint8 [T,height_px,width_px,3]."""
    small = np.empty((len(rgb), height_px, width_px, 3), np.uint8)
    reformatter = VideoReformatter()
    for frame, room in zip(rgb, small, strict=True):
        source = VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame), format="rgb24")
        room[:] = reformatter.reformat(
            source, width_px, height_px, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        ).to_ndarray()  # by itself it would start threads for each picture, which cost a third more than they save
    return small
