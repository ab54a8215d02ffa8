"""Real picture files for tests, each with a number burned in as a barcode (tests/clips.py)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.clips import draw_frame, write_clip

__all__ = ["animation", "bomb", "heic", "lab", "numbered", "picture", "sixteen_bits", "stored_as"]

_WIDTH_PX, _HEIGHT_PX = 208, 120
#: How a shown picture is stored so that EXIF's orientation turns it back.
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_ORIENTATION = 0x0112


def stored_as(shown: Image.Image, orientation: int) -> Image.Image:
    """A picture turned so that a reader of EXIF's ``orientation`` sees it as it was."""
    method = _STORED[orientation]
    return shown if method is None else shown.transpose(method)


def picture(number: int = 0, *, mode: str = "RGB", orientation: int = 1, **settings: Any) -> Callable[[Path], Path]:
    """Writes a picture of a number in a mode of Pillow; ``settings`` are those of its ``save``."""

    def make(path: Path) -> Path:
        shown = stored_as(Image.fromarray(draw_frame(number, _WIDTH_PX, _HEIGHT_PX)), orientation)
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        more = {"exif": exif} if orientation != 1 else {}
        converted = shown.convert(mode)
        if mode == "RGBA":
            converted.putalpha(Image.fromarray(np.full(shown.size[::-1], 254, np.uint8)))
        converted.save(path, **more, **settings)
        return path

    return make


def numbered(folder: Path, numbers: list[int], name: str = "left_{}.png") -> Path:
    """A folder of pictures, each with its number in the name and burned in."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        picture(number)(folder / name.format(number))
    return folder


def animation(frames_ms: list[int], **settings: Any) -> Callable[[Path], Path]:
    """Writes pictures from 0 on, each shown for its time; where a format has no times, they are the pages of a file."""

    def make(path: Path) -> Path:
        first, *others = (Image.fromarray(draw_frame(k, _WIDTH_PX, _HEIGHT_PX)) for k in range(len(frames_ms)))
        first.save(path, save_all=True, append_images=others, duration=frames_ms, **settings)
        return path

    return make


def bomb(width_px: int, height_px: int) -> Callable[[Path], Path]:
    """Writes a PNG of some kilobytes with a header that asks for gigabytes."""

    def make(path: Path) -> Path:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
        )
        return path

    return make


def lab(path: Path) -> Path:
    """A picture in CIELAB."""
    shown = Image.fromarray(draw_frame(0, _WIDTH_PX, _HEIGHT_PX))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(shown, *profiles, outputMode="LAB")
    assert converted is not None
    converted.save(path)
    return path


def sixteen_bits(path: Path) -> Path:
    """A grey picture of 16 bits."""
    grey = np.asarray(Image.fromarray(draw_frame(0, _WIDTH_PX, _HEIGHT_PX)).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path)
    return path


def heic(quarters: int = 0) -> Callable[[Path], Path]:
    """Writes a HEIC of one item; the container says that it is shown after so many quarter turns, counter-clockwise.

    (ISO/IEC 23008-12; the coded picture and its parameters are those of an MP4 of one frame.)
    """

    def make(path: Path) -> Path:
        clip = write_clip(
            path.with_suffix(".mp4"),
            n_frames=1,
            codec="libx265",
            options={"x265-params": "log-level=none:pools=none:bframes=0"},
            rotation_deg=quarters * 90 % 360,  # what it stores is turned counter-clockwise
        )
        stored = clip.read_bytes()
        at = stored.index(b"hvcC")
        config = stored[at - 4 : at - 4 + int.from_bytes(stored[at - 4 : at], "big")]
        at = stored.index(b"mdat")
        coded = stored[at + 4 : at - 4 + int.from_bytes(stored[at - 4 : at], "big")]
        clip.unlink()
        width_px, height_px = (_HEIGHT_PX, _WIDTH_PX) if quarters % 2 else (_WIDTH_PX, _HEIGHT_PX)
        size = _box(b"ispe", struct.pack(">III", 0, width_px, height_px))
        turn = _box(b"irot", bytes([-quarters % 4]))  # counter-clockwise
        owned = _box(b"ipma", struct.pack(">IIHB3B", 0, 1, 1, 3, 0x81, 2, 0x83))
        head = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
        n_before = 0
        for _ in range(2):  # the second time, the length of what comes before the data is known
            place = _box(b"iloc", struct.pack(">IHHHHHII", 0, 0x4400, 1, 1, 0, 1, n_before, len(coded)))
            meta = _box(
                b"meta",
                bytes(4)
                + _box(b"hdlr", struct.pack(">II4s12s", 0, 0, b"pict", b"") + b"\0")
                + _box(b"pitm", struct.pack(">IH", 0, 1))
                + place
                + _box(
                    b"iinf",
                    struct.pack(">IH", 0, 1) + _box(b"infe", struct.pack(">IHH4s", 2 << 24, 1, 0, b"hvc1") + b"\0"),
                )
                + _box(b"iprp", _box(b"ipco", config + size + turn) + owned),
            )
            n_before = len(head) + len(meta) + 8
        path.write_bytes(head + meta + _box(b"mdat", coded))
        return path

    return make


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content
