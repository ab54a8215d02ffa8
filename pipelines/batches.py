"""The data that modules exchange: frozen, checked, and printed by shape.

T frames, F faces in the batch, K classes, S crop side in pixels. "No face" is F = 0, never None and never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["AlignedFaces", "Detections", "ExpressionScores", "FrameBatch", "VideoInfo"]


def _show(batch: Any) -> str:
    parts = []
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, np.ndarray):
            parts.append(f"{item.name}: {value.dtype} {list(value.shape)}")
        else:
            parts.append(f"{item.name}: {value!r}")
    return f"{type(batch).__name__}({', '.join(parts)})"


def _check(batch: Any, field: str, dtype: Any, *shape: int | None) -> None:
    value = getattr(batch, field)
    good = value.dtype == dtype and len(value.shape) == len(shape)
    good = good and all(want is None or want == got for want, got in zip(shape, value.shape, strict=True))
    if not good:
        wanted, got = f"{np.dtype(dtype)} {list(shape)}", f"{value.dtype} {list(value.shape)}"
        raise ValueError(f"{type(batch).__name__}.{field} must be {wanted}, got {got}")


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts about a video from its headers and packets, before any frame is decoded.

    ``video_id`` is that of ``storage.identity``. Width and height are as shown: after rotation
    and after the sample aspect ratio was made square. ``n_frames`` counts packets that must give a frame, and those
    that the header promises and a file cut short does not hold. ``start_s`` is where a player begins to count, in the
    file's own clock: at the first frame or, if that is earlier, the first sound. ``duration_s`` runs from there to the
    end of the last frame. ``rotation_deg`` is clockwise, 0 / 90 / 180 / 270;
    ``mirrored`` means a horizontal flip before the rotation. ``stream`` is the number of the video stream, from 0, of
    ``n_streams`` in the file.
    """

    path: Path
    video_id: str
    width_px: int
    height_px: int
    rotation_deg: int
    mirrored: bool
    sample_aspect_ratio: float
    codec: str
    container: str
    n_frames: int
    duration_s: float
    start_s: float
    stream: int = 0
    n_streams: int = 1

    def __post_init__(self) -> None:
        if self.rotation_deg not in (0, 90, 180, 270):
            raise ValueError(f"rotation_deg must be 0, 90, 180 or 270, got {self.rotation_deg}")
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"a video of {self.width_px}x{self.height_px} px")


@dataclass(frozen=True, repr=False, kw_only=True)
class FrameBatch:
    """Decoded frames in order: rgb uint8 [T,H,W,3], frame_index int64 [T], pts_s float64 [T] (seconds).

    ``duration_s`` float64 [T] is how long each frame is shown, in seconds. ``undecodable_index`` int64 [U]: wanted
    frames, from the end of the batch before to the end of this one, that could not be read; T may then be 0.
    """

    rgb: np.ndarray
    frame_index: np.ndarray
    pts_s: np.ndarray
    duration_s: np.ndarray
    undecodable_index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        t = len(self)
        _check(self, "undecodable_index", np.int64, None)
        _check(self, "rgb", np.uint8, t, None, None, 3)
        _check(self, "frame_index", np.int64, t)
        _check(self, "pts_s", np.float64, t)
        _check(self, "duration_s", np.float64, t)
        if t > 1 and not (np.diff(self.frame_index) > 0).all():
            raise ValueError("frame_index must rise")

    def __len__(self) -> int:
        return self.rgb.shape[0]

    __repr__ = _show


@dataclass(frozen=True, repr=False)
class Detections:
    """Faces of a frame batch, ordered by frame and, within it, by falling box area.

    frame_row int64 [F] indexes the batch; box_xyxy_px float32 [F,4] and landmarks_px float32 [F,5,2] (the
    person's eyes left and right in the picture, nose, mouth corners) are in frame pixels; prob float32 [F].
    """

    frame_row: np.ndarray
    box_xyxy_px: np.ndarray
    landmarks_px: np.ndarray
    prob: np.ndarray

    def __post_init__(self) -> None:
        f = len(self)
        _check(self, "frame_row", np.int64, f)
        _check(self, "box_xyxy_px", np.float32, f, 4)
        _check(self, "landmarks_px", np.float32, f, 5, 2)
        _check(self, "prob", np.float32, f)
        if f > 1 and (np.diff(self.frame_row) < 0).any():
            raise ValueError("frame_row must not fall")

    def __len__(self) -> int:
        return self.frame_row.shape[0]

    def __getitem__(self, rows: np.ndarray | slice | list[int]) -> Detections:
        """Select rows, in that order."""
        return Detections(self.frame_row[rows], self.box_xyxy_px[rows], self.landmarks_px[rows], self.prob[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """Join faces whose frames are in order."""
        parts = parts or [cls.empty()]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def empty(cls) -> Detections:
        return cls(
            np.zeros(0, np.int64),
            np.zeros((0, 4), np.float32),
            np.zeros((0, 5, 2), np.float32),
            np.zeros(0, np.float32),
        )

    __repr__ = _show


@dataclass(frozen=True, repr=False)
class AlignedFaces:
    """The network's input: pixels uint8 [F,C,S,S] and the map from frame to crop, float32 [F,2,3]."""

    pixels: np.ndarray
    crop_from_frame: np.ndarray

    def __post_init__(self) -> None:
        _check(self, "pixels", np.uint8, len(self), None, self.pixels.shape[-1], None)
        _check(self, "crop_from_frame", np.float32, len(self), 2, 3)

    def __len__(self) -> int:
        return self.pixels.shape[0]

    __repr__ = _show


@dataclass(frozen=True, repr=False)
class ExpressionScores:
    """Calibrated probabilities: prob float32 [F,K], rows that sum to 1, columns in the order of class_names."""

    prob: np.ndarray
    class_names: tuple[str, ...]
    model_id: str

    def __post_init__(self) -> None:
        _check(self, "prob", np.float32, len(self), len(self.class_names))
        if len(self) and np.abs(self.prob.sum(1) - 1).max() > 1e-4:
            raise ValueError("rows of prob must sum to 1")

    def __len__(self) -> int:
        return self.prob.shape[0]

    __repr__ = _show
