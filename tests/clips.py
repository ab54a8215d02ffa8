"""Real clips for tests: encoded with PyAV, each frame with its own number burned in as a barcode.

The barcode fills the upper half of the frame as shown: a white and a black guard column, the number in binary
(highest bit first) and a parity column. The lower half is red on the left and blue on the right, so that a
swapped colour order, a rotation or a mirror image is seen as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

__all__ = ["display_matrix", "draw_frame", "read_number", "write_audio", "write_clip"]

_N_BITS = 10
_N_COLUMNS = _N_BITS + 3


def draw_frame(number: int, width_px: int = 208, height_px: int = 120) -> np.ndarray:
    """Picture a frame number as a barcode, uint8 RGB [H,W,3]."""
    bits = [number >> bit & 1 for bit in reversed(range(_N_BITS))]
    columns = np.array([1, 0, *bits, sum(bits) % 2], dtype=np.uint8) * 255
    rgb = np.zeros((height_px, width_px, 3), dtype=np.uint8)
    rgb[: height_px // 2] = columns[np.arange(width_px) * _N_COLUMNS // width_px][None, :, None]
    rgb[height_px // 2 :, : width_px // 2, 0] = 220
    rgb[height_px // 2 :, width_px // 2 :, 2] = 220
    return rgb


def read_number(rgb: np.ndarray, grey: bool = False) -> int:
    """Read the number of one decoded frame, uint8 RGB [H,W,3]; ``grey`` if it was stored without colours.

    Raises:
        ValueError: the barcode or the two colours below it are not as drawn, for instance turned or mirrored.
    """
    rgb = np.asarray(rgb).astype(np.float64)
    h, w, _ = rgb.shape
    centres = ((np.arange(_N_COLUMNS) + 0.5) * w / _N_COLUMNS).astype(int)
    columns = np.array([rgb[h // 8 : h * 3 // 8, max(0, x - 1) : x + 2].mean() for x in centres])
    bits = (columns > 128).astype(int)
    left = rgb[h * 5 // 8 : h * 7 // 8, w // 8 : w * 3 // 8].mean((0, 1))
    right = rgb[h * 5 // 8 : h * 7 // 8, w * 5 // 8 : w * 7 // 8].mean((0, 1))
    colours_right = grey or (left[0] > 150 > 80 > left[2] and right[2] > 150 > 80 > right[0])
    bits_right = list(bits[:2]) == [1, 0] and bits[2:-1].sum() % 2 == bits[-1]
    if (np.abs(columns - 128) < 50).any() or not bits_right or not colours_right:
        raise ValueError(f"no barcode: columns {columns.round().tolist()}, left {left.round()}, right {right.round()}")
    return int("".join(map(str, bits[2:-1])), 2)


def display_matrix(rotation_deg: int, mirrored: bool) -> list[int]:
    """The 3x3 display matrix (16.16 and 2.30 fixed point) that flips horizontally if asked and then turns clockwise.

    Row vectors on the left: a point (x, y), y down, is shown at (a x + c y, b x + d y) for (a, b, 0, c, d, 0, 0, 0, w);
    ISO/IEC 14496-12, 8.2.2.
    """
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[rotation_deg]
    flip = -1 if mirrored else 1
    return [flip * cos << 16, flip * sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]


def _store(shown: np.ndarray, rotation_deg: int, mirrored: bool) -> np.ndarray:
    turned_back = np.rot90(shown, k=rotation_deg // 90)  # counter-clockwise
    return np.ascontiguousarray(turned_back[:, ::-1] if mirrored else turned_back)


def write_clip(
    path: str | Path,
    *,
    n_frames: int = 24,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    width_px: int = 208,
    height_px: int = 120,
    stored_width_px: int | None = None,
    sample_aspect_ratio: Fraction | None = None,
    rotation_deg: int = 0,
    mirrored: bool = False,
    pix_fmt: str = "yuv420p",
    rate: int = 25,
    pts_ms: Sequence[int] | None = None,
    with_audio: bool = False,
    audio_start_s: float = 0.0,
) -> Path:
    """Encode a clip whose frame k, in presentation order, carries the number k.

    Args:
        path: the file; its extension chooses the container unless ``container`` does.
        width_px: size of the picture as shown, before the rotation and the aspect ratio are undone for storing.
        stored_width_px: width in the file (before rotation), for a sample aspect ratio other than 1.
        pts_ms: presentation times in milliseconds, for a variable rate or another start; the default is k / rate.
        with_audio: add a second of silence as AAC (Opus in WebM), heard from ``audio_start_s`` on.
    """
    path = Path(path)
    with av.open(str(path), "w", format=container, container_options=container_options or {}) as out:
        stream = cast(av.VideoStream, out.add_stream(codec, rate=rate, options=dict(options or {})))
        stored = _store(draw_frame(0, width_px, height_px), rotation_deg, mirrored)
        stream.width, stream.height = stored_width_px or stored.shape[1], stored.shape[0]
        stream.pix_fmt = pix_fmt
        stream.thread_count = 1
        if pts_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if rotation_deg or mirrored:
            stream.set_display_matrix(display_matrix(rotation_deg, mirrored))
        spoken = "libopus" if path.suffix == ".webm" else "aac"
        sound = out.add_stream(spoken, rate=48000) if with_audio else None
        time_base = Fraction(1, 1000) if pts_ms is not None else Fraction(1, rate)
        for number in range(n_frames):
            picture = _store(draw_frame(number, width_px, height_px), rotation_deg, mirrored)
            columns = np.arange(stream.width) * picture.shape[1] // stream.width
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:, columns]), format="rgb24")
            frame.pts = pts_ms[number] if pts_ms is not None else number
            frame.time_base = time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _write_silence(out, sound, audio_start_s)
    return path


def write_audio(path: str | Path) -> Path:
    """Encode a second of silence and no picture."""
    with av.open(str(path), "w") as out:
        _write_silence(out, out.add_stream("aac", rate=48000))
    return Path(path)


def _write_silence(out: av.container.OutputContainer, stream: av.AudioStream, start_s: float = 0.0) -> None:
    for block in range(47):
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.time_base = 48000, Fraction(1, 48000)
        sound.pts = round(start_s * 48000) + block * 1024
        out.mux(stream.encode(sound))
    out.mux(stream.encode(None))
