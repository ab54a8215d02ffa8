"""Real faces for tests: NASA's photograph of Eileen Collins and a man talking in a car, from installed packages.

Pictures are made once per test session; arrays are read-only, so that no test changes another's.
"""

from __future__ import annotations

from functools import lru_cache

import av
import numpy as np
from PIL import Image

from flows.demo_clips import astronaut_path, carphone_path
from pipelines.batches import Detections, FrameBatch
from pipelines.faces.detectors import Detector, DetectorSettings, load_detector

__all__ = ["as_batch", "astronaut", "astronaut_face", "carphone_faces", "carphone_frames", "exact"]


@lru_cache
def astronaut() -> np.ndarray:
    """The whole photograph, uint8 RGB [512,512,3]; one face of 87x110 px around (224, 117)."""
    with Image.open(astronaut_path()) as image:
        return _frozen(np.asarray(image.convert("RGB")))


@lru_cache
def astronaut_face() -> np.ndarray:
    """Head and background, uint8 RGB [200,200,3]; the face is in the middle."""
    return _frozen(astronaut()[17:217, 124:324])


@lru_cache
def carphone_frames() -> np.ndarray:
    """All frames of the talking man, uint8 RGB [120,144,176,3], 30000/1001 a second; one face of about 53 px."""
    with av.open(str(carphone_path())) as container:
        return _frozen(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))


@lru_cache
def exact(min_face_px: int = 20) -> Detector:
    """The default detector as on every frame, in one thread."""
    return load_detector(DetectorSettings(min_face_px=min_face_px, mode="exact"))


@lru_cache
def carphone_faces() -> Detections:
    """The faces of :func:`carphone_frames`, looked for from 36 px on, which is four times as fast."""
    return exact(36).detect(carphone_frames().copy())


def as_batch(rgb: np.ndarray, fps: float = 30000 / 1001, first: int = 0) -> FrameBatch:
    """Frames uint8 [T,H,W,3] at a constant rate as a FrameBatch whose first frame has index ``first``."""
    index = np.arange(first, first + len(rgb), dtype=np.int64)
    return FrameBatch(
        rgb=rgb.copy(),
        frame_index=index,
        pts_s=index / fps,
        duration_s=np.full(len(rgb), 1 / fps),
    )


def _frozen(rgb: np.ndarray) -> np.ndarray:
    rgb = np.ascontiguousarray(rgb)
    rgb.flags.writeable = False
    return rgb
