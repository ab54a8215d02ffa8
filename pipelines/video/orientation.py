"""How a stored picture is turned and mirrored to be seen upright."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame

__all__ = ["display_matrix", "orient", "turn_of"]


def _unknown_kind(kinds: type[SideDataType], value: Any) -> Any:
    kind: Any = object.__new__(kinds)
    kind._name_, kind._value_ = f"UNKNOWN_{value}", value
    return kind


#: libav knows more kinds of side data (EXIF, the second view of a spatial video) than PyAV has names for, and PyAV then
#: refuses to tell any of a frame's side data, also the display matrix. Such kinds get a name here and are passed over.
SideDataType._missing_ = classmethod(_unknown_kind)  # type: ignore[assignment]


def display_matrix(frame: VideoFrame | None) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the raw matrix, read whole: a rotation angle alone would hide a mirror image."""
    data = None
    for item in cast(Iterable[SideData], frame.side_data) if frame else ():
        data = item if item.type == SideDataType.DISPLAYMATRIX else data
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return (a, b, c, d) if a * d - b * c else (1, 0, 0, 1)


def orient(picture: np.ndarray, display_matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror a stored picture [H,W,3] as its display matrix says; a view, not a copy."""
    a, b, c, d = display_matrix
    if abs(b) > abs(a):  # x and y change places
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def turn_of(display_matrix: tuple[int, int, int, int]) -> tuple[int, bool]:
    """Clockwise degrees, to the next quarter turn, after a horizontal flip or none."""
    a, b, c, d = display_matrix
    mirrored = a * d - b * c < 0
    degrees = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
    return round(degrees / 90) % 4 * 90, mirrored
