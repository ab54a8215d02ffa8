"""Clips for the benchmarks, made of two public pictures in installed packages: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import av
import numpy as np
from PIL import Image

from flows.demo_clips import astronaut_path, carphone_path

__all__ = ["DETECTION_CLIPS", "FPS", "one_face_720p", "six_faces_1080p"]

FPS = 25


@lru_cache
def _photograph(side_px: int) -> np.ndarray:
    with Image.open(astronaut_path()) as photograph:
        return np.asarray(photograph.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC))


@lru_cache
def _talk() -> np.ndarray:
    """The talking man, uint8 [120,288,352,3], twice the size."""
    with av.open(str(carphone_path())) as container:
        frames = [frame.to_ndarray(format="rgb24", width=352, height=288) for frame in container.decode(video=0)]
    return np.stack(frames)


def _there_and_back(n: int, period: int) -> Iterator[int]:
    for i in range(n):
        yield period - abs(i % (2 * period) - period)


def one_face_720p(n_frames: int) -> Iterator[np.ndarray]:
    """uint8 [720,1280,3]: a slow pan over the photograph, one face of about 240 px."""
    wide = _photograph(1400)
    for i in _there_and_back(n_frames, 48):
        yield np.ascontiguousarray(wide[i : i + 720, 2 * i : 2 * i + 1280])


def six_faces_1080p(n_frames: int) -> Iterator[np.ndarray]:
    """uint8 [1080,1920,3]: six faces, three talking, that drift over a picture."""
    background = np.asarray(Image.fromarray(_photograph(512)[300:]).resize((1920, 1080), Image.Resampling.BICUBIC)) // 2
    woman, talk = _photograph(900)[30:380, 220:570], _talk()
    for i in _there_and_back(n_frames, 100):
        frame = background.copy()
        for k in range(3):
            x, y = 60 + 620 * k + i, 40 + i // 2
            frame[y : y + 350, x : x + 350] = woman[:, :: 1 if k % 2 else -1]
            y = 660 - i // 2
            frame[y : y + 288, x : x + 352] = talk[(i + 40 * k) % 120]
        yield frame


def _hard_cuts() -> Iterator[np.ndarray]:
    """A cut every second, between a talking man, a woman in the same place and nobody."""
    woman = np.ascontiguousarray(_photograph(900)[60:348, 215:567])
    for second in range(6):
        for i in range(FPS):
            yield (_talk()[second * 15 + i], woman, np.zeros_like(woman))[second % 3]


def _enters_and_leaves() -> Iterator[np.ndarray]:
    """A face that slides into the picture between two detections, stays for a second and leaves at once."""
    face = _photograph(700)[30:300, 170:430]
    for i in range(3 * FPS):
        frame = np.full((300, 640, 3), 100, np.uint8)
        x = 640 - 16 * (i - 8) if i < 28 else 320
        if 8 <= i < 60 and x < 640:
            frame[15:285, x : x + 260] = face[:, : 640 - x]
        yield frame


def _fast_pan() -> Iterator[np.ndarray]:
    """A camera that races over the photograph, 20 px a frame."""
    wide = _photograph(1000)
    for i in _there_and_back(3 * FPS, 25):
        yield np.ascontiguousarray(wide[20:420, 20 * i : 20 * i + 500])


def _crossing() -> Iterator[np.ndarray]:
    """Two faces that pass each other, one behind the other."""
    woman, man = _photograph(700)[40:290, 190:410], _talk()
    for i in range(3 * FPS):
        frame = np.full((320, 760, 3), 90, np.uint8)
        left, right = 10 + 7 * i, max(400 - 5 * i, 20)
        frame[20:308, right : right + 352] = man[i][:, : 760 - right]
        frame[30:280, left : left + 220] = woman[:, : 760 - left]
        yield frame


DETECTION_CLIPS = {
    "talking man": lambda: iter(_talk()),
    "hard cuts every second": _hard_cuts,
    "enters and leaves": _enters_and_leaves,
    "fast pan": _fast_pan,
    "two faces that cross": _crossing,
}
