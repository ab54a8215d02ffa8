"""Pictures to a video file, with exact times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mfer.errors import ConfigError

__all__ = ["write_video"]


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode frames at a constant rate; frame i is shown at i / fps seconds. The file appears when it is complete.

    Args:
        path: where to write; the suffix names the container.
        frames: uint8 RGB [H,W,3] of one size. An odd last row or column is dropped: yuv420p has none.
        fps: frames per second; a float stands for the nearest fraction with a denominator of at most 1001.
        codec: an encoder of FFmpeg.
        options: the encoder's own, such as ``{"crf": "18"}``.

    Returns:
        The path.

    Raises:
        ConfigError: an unknown encoder or container, a rate that is not positive, or no frame.
        ValueError: a frame of another shape or type than uint8 [H,W,3] of the first one's size.
    """
    path = Path(path)
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise ConfigError(f"{fps} frames per second; it must be above 0")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if av.Codec(codec, "w").type != "video":
            raise ConfigError(f"{codec} does not encode pictures; try libx264")
        with _open(partial) as container:
            _encode(container, frames, rate, codec, dict(options or {}))
        os.replace(partial, path)
    except (av.codec.codec.UnknownCodecError, av.error.FFmpegError) as error:
        raise ConfigError(f"cannot write {path} with {codec}: {error}; try an .mp4 with libx264") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _open(path: Path) -> av.container.OutputContainer:
    try:
        return av.open(path, "w")
    except ValueError as error:
        raise ConfigError(f"{path.suffix or 'no suffix'!r} names no video container; try .mp4 or .mkv") from error


def _encode(
    container: av.container.OutputContainer,
    frames: Iterable[np.ndarray],
    rate: Fraction,
    codec: str,
    options: dict[str, str],
) -> None:
    stream: av.VideoStream | None = None
    shape: tuple[int, ...] = ()
    for index, rgb in enumerate(frames):
        if stream is None:
            shape = rgb.shape
            added = container.add_stream(codec, rate=rate, options=options)
            assert isinstance(added, av.VideoStream)
            stream = added
            stream.height, stream.width = (side // 2 * 2 for side in shape[:2])
            stream.pix_fmt = "yuv420p"
        if rgb.dtype != np.uint8 or rgb.shape != shape or rgb.shape[2:] != (3,):
            raise ValueError(
                f"frame {index} is {rgb.dtype} {list(rgb.shape)}; wanted uint8 RGB {list(shape[:2])} + [3]"
            )
        picture = np.ascontiguousarray(rgb[: stream.height, : stream.width])
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        container.mux(stream.encode(frame))
    if stream is None:
        raise ConfigError("a video needs at least one frame")
    container.mux(stream.encode(None))
