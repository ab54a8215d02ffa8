"""Short films of two people, a man and a woman, with cuts between their shots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.video.encode import write_video
from tests.faces import astronaut, carphone_frames

__all__ = ["FILMS", "FRAMES_PER_SHOT", "Shot", "write_film"]

#: Who is on the left and on the right; None: nobody.
Shot = tuple[str | None, str | None]
FRAMES_PER_SHOT = 6
FILMS: dict[str, list[Shot]] = {
    "one.mp4": [("man", None), (None, "woman"), ("woman", "man"), (None, "woman"), ("man", None)],
    "two.mp4": [("woman", None), (None, "man"), ("woman", None)],
}


def _field(who: str | None, k: int) -> np.ndarray:
    """uint8 [144,176,3]: one person, or a wall that is another one in each shot."""
    if who is None:
        stripes = np.random.default_rng(k // 17).integers(0, 120, (3, 4, 1)).astype(np.uint8)
        return np.broadcast_to(stripes.repeat(48, 0).repeat(44, 1), (144, 176, 3))
    if who == "man":
        return carphone_frames()[k % 120]
    picture = Image.fromarray(astronaut()).crop((124 + k % 5, 20, 344 + k % 5, 200))
    return np.asarray(picture.resize((176, 144), Image.Resampling.BILINEAR))


def write_film(path: Path, shots: Sequence[Shot]) -> None:
    frames = [
        np.concatenate([_field(left, 17 * s + k), _field(right, 17 * s + k)], axis=1)
        for s, (left, right) in enumerate(shots)
        for k in range(FRAMES_PER_SHOT)
    ]
    write_video(path, frames, 25, options={"crf": "18"})
