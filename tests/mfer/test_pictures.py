"""Training and evaluation see the pixels that an analysis sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mfer.errors import ConfigError
from mfer.pictures import MAX_PIXELS, decode_picture
from pipelines.video import limits
from pipelines.video.pictures import read_frames

GREY = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], 2)
ALPHA = np.where(np.arange(40) < 20, 0, 255).astype(np.uint8)[None].repeat(30, 0)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def big_endian(folder: Path) -> Path:
    """A TIFF of big-endian 16-bit numbers, which Pillow reads as I;16B."""
    path = saved(folder / "big.tif", Image.frombytes("I;16B", (40, 30), (GREY.astype(">u2") * 257).tobytes()))
    with Image.open(path) as opened:
        assert opened.mode == "I;16B"
    return path


PICTURES = {
    "16 bits": lambda d: saved(d / "x.png", Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16 bits, big endian": big_endian,
    "32 bits": lambda d: saved(d / "x.tif", Image.fromarray(GREY.astype(np.int32) * 257)),
    "floats to 1": lambda d: saved(d / "x.tif", Image.fromarray((GREY / 255).astype(np.float32))),
    "floats to 255": lambda d: saved(d / "x.tif", Image.fromarray(GREY.astype(np.float32))),
    "8 bits": lambda d: saved(d / "x.png", Image.fromarray(GREY)),
    "colour": lambda d: saved(d / "x.png", Image.fromarray(COLOUR)),
    "transparent colour": lambda d: saved(d / "x.png", Image.fromarray(np.dstack([COLOUR, ALPHA]), "RGBA")),
    "transparent grey": lambda d: saved(d / "x.png", Image.fromarray(np.dstack([GREY, ALPHA]), "LA")),
    "one transparent grey": lambda d: saved(d / "x.png", Image.fromarray(GREY), transparency=int(GREY[3, 3])),
    "palette": lambda d: saved(d / "x.png", Image.fromarray(COLOUR).quantize(16)),
    "print": lambda d: saved(d / "x.tif", Image.fromarray(COLOUR).convert("CMYK")),
    "turned": lambda d: saved(d / "x.png", Image.fromarray(GREY.astype(np.uint16) * 257), exif=turned()),
}


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_has_the_pixels_of_an_analysis(tmp_path: Path, kind: str) -> None:
    path = PICTURES[kind](tmp_path)
    (analysed,) = read_frames(path, [0])
    found = decode_picture(path)
    assert found.ndim == (3 if kind in ("colour", "transparent colour", "palette", "print") else 2)
    assert np.array_equal(found if found.ndim == 3 else found[:, :, None].repeat(3, 2), analysed)
    assert np.array_equal(decode_picture(path.read_bytes()), found)
    if found.ndim == 2 and "transparent" not in kind:
        assert np.array_equal(np.rot90(found) if kind == "turned" else found, GREY)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    found = decode_picture(PICTURES["transparent grey"](tmp_path))
    assert (found[:, :20] == 255).all()
    assert np.array_equal(found[:, 20:], GREY[:, 20:])


def test_the_box_is_cut_from_the_converted_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray((GREY / 255).astype(np.float32)))
    found = decode_picture(path, np.array([2, 3, 10, 5]))  # dark: its own largest number is not the picture's
    assert np.array_equal(found, GREY[3:8, 2:12])


def test_numbers_of_no_stated_range_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray(GREY.astype(np.float32) - 3))
    with pytest.raises(ConfigError, match=r"x\.tif cannot be decoded: its numbers run from -3\.0 to 252\.0"):
        decode_picture(path)


@pytest.mark.parametrize(("size", "shown"), [((8193, 8193), "8193x8193 pixels"), ((20_000, 20_000), "far over")])
def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, size: tuple[int, int], shown: str
) -> None:
    path = saved(tmp_path / "x.png", Image.new("1", size))
    with pytest.raises(ConfigError, match=rf"x\.png has {shown}.*; {MAX_PIXELS} are allowed"):
        decode_picture(path)


def test_the_limit_is_that_of_an_analysis() -> None:
    assert MAX_PIXELS == limits.MAX_PIXELS
