"""A labelled picture's file as the pixels that an analysis would see; see docs/pictures.md."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from mfer.errors import ConfigError

__all__ = ["DECODING_VERSION", "MAX_PIXELS", "as_shown", "decode_picture"]

#: Pixels of one picture: twice 8K. ``pipelines.video.limits`` has the same for video.
MAX_PIXELS = 2**26
#: Bump when a picture may get other pixels: found landmarks are kept by it.
DECODING_VERSION = 2
_MAX_16_BIT = 65_535

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit is below Pillow's


def decode_picture(source: Path | bytes, box_xywh_px: np.ndarray | None = None) -> np.ndarray:
    """A picture file, or its bytes, as uint8 [H,W] grey or [H,W,3] RGB, upright and cut to the box if there is one.

    Of 16 bits the upper eight are taken, and what is transparent is seen on white.

    Raises:
        ConfigError: it is no picture, too large, or has numbers without a stated range.
    """
    shown = f"a picture of {len(source)} bytes" if isinstance(source, bytes) else source
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            width_px, height_px = opened.size
            if width_px * height_px > MAX_PIXELS:
                raise _too_large(shown, f"{width_px}x{height_px} pixels")
            picture = as_shown(ImageOps.exif_transpose(opened))
            if box_xywh_px is not None:
                x, y, width, height = (int(v) for v in box_xywh_px)
                picture = picture.crop((x, y, x + width, y + height))
            return np.asarray(picture)
    except (ConfigError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(shown, "far over the pixels that are allowed") from error
    except Exception as error:  # damaged files let Pillow raise many kinds
        raise ConfigError(f"{shown} cannot be decoded: {error}; replace it or take it out of the set") from error


def _too_large(shown: object, has: str) -> ConfigError:
    return ConfigError(f"{shown} has {has}; {MAX_PIXELS} are allowed: shrink it, or take it out of the set")


def as_shown(image: Image.Image) -> Image.Image:
    """A picture of any mode as L where it is grey, else RGB: of 16 bits the upper eight, what is transparent on white.

    Raises ValueError for numbers without a stated range.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_upper_bits(np.asarray(image)))
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.mode in ("CMYK", "LAB"):
        image = _from_print(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground.convert("RGB")
    return image.convert(mode)


def _upper_bits(values: np.ndarray) -> np.ndarray:
    """Numbers of 16 bits, or floats from 0 to 1 (or to 255), as uint8."""
    least, most = values.min(), values.max()
    if values.dtype.kind == "f" and least >= 0 and most <= 255:
        return (values * (255 if most <= 1 else 1) + 0.5).astype(np.uint8)
    if values.dtype.kind == "f" or least < 0 or most > _MAX_16_BIT:
        raise ValueError(f"its numbers run from {least} to {most}, and nothing says what is white")
    return (values.astype(np.int64) >> 8).astype(np.uint8)


def _from_print(image: Image.Image) -> Image.Image:
    """Colours of a printer, or of CIELAB, by the profile that the picture states, as a screen shows them."""
    stated = image.info.get("icc_profile")
    if image.mode == "CMYK" and not stated:
        return image
    try:
        is_lab = image.mode == "LAB" or not stated
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB") if is_lab else io.BytesIO(stated or b""))
        shown = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return shown or image
