"""Pictures of moments: faces cut out of a frame, and faces hidden."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

__all__ = ["as_jpeg", "crop_face", "hide_faces"]

#: A hidden face is averaged over this many blocks in each direction, too few to know it by.
_N_BLOCKS = 5
#: What is hidden around a box, as a share of its sides: MTCNN's boxes end at the chin and below the hair.
_MARGIN = 0.25
#: A cut-out shows the face with this much around it, as a share of the box's larger side.
_SURROUNDINGS = 0.6


def hide_faces(rgb: np.ndarray, boxes_px: Iterable[Sequence[float] | np.ndarray]) -> np.ndarray:
    """A copy of a picture in which each box, and a margin around it, is averaged over a few large blocks.

    Args:
        rgb: uint8 [H,W,3].
        boxes_px: (x1, y1, x2, y2) each; they may reach over the picture's edges.
    """
    hidden = rgb.copy()
    height_px, width_px = rgb.shape[:2]
    for x1, y1, x2, y2 in boxes_px:
        around_x, around_y = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
        left, right = max(0, math.floor(x1 - around_x)), min(width_px, math.ceil(x2 + around_x))
        top, bottom = max(0, math.floor(y1 - around_y)), min(height_px, math.ceil(y2 + around_y))
        if left >= right or top >= bottom:
            continue
        region = Image.fromarray(rgb[top:bottom, left:right])
        blocks = region.resize((min(_N_BLOCKS, region.width), min(_N_BLOCKS, region.height)), Image.Resampling.BOX)
        hidden[top:bottom, left:right] = np.asarray(blocks.resize(region.size, Image.Resampling.BILINEAR))
    return hidden


def crop_face(rgb: np.ndarray, box_px: Sequence[float], side_px: int) -> Image.Image:
    """A square around a face, ``side_px`` wide; where it would reach over an edge, it is moved inwards."""
    height_px, width_px = rgb.shape[:2]
    x1, y1, x2, y2 = box_px
    side = min((1 + 2 * _SURROUNDINGS) * max(x2 - x1, y2 - y1), width_px, height_px)
    left = min(max((x1 + x2 - side) / 2, 0), width_px - side)
    top = min(max((y1 + y2 - side) / 2, 0), height_px - side)
    window = (left, top, left + side, top + side)
    return Image.fromarray(rgb).resize((side_px, side_px), Image.Resampling.BICUBIC, box=window)


def as_jpeg(picture: Image.Image) -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
