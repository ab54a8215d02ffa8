"""Frames by torchcodec, which decodes on a GPU (NVDEC) where it is built for that; optional."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mfer.errors import ConfigError
from pipelines.video.scan import Video

__all__ = ["TorchcodecMismatchError", "read_with_torchcodec", "require_torchcodec"]

#: Frames that are asked for, and copied from the GPU, at once.
_FRAMES_AT_ONCE = 16


class TorchcodecMismatchError(Exception):
    """Torchcodec did not deliver exactly the frames that the packets promise."""


def require_torchcodec() -> None:
    """Raises ConfigError where torchcodec, or FFmpeg's libraries that it loads, cannot be used."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"the decoder torchcodec cannot be loaded ({reason}); pip install 'mfer[torchcodec]' and install FFmpeg's"
            " libraries (Debian: apt install ffmpeg), or use --decoder auto"
        ) from error


def read_with_torchcodec(video: Video, frame_index: np.ndarray, device: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, upright RGB uint8 [H,W,3]) of the wanted frames, in order.

    Every frame's own time has to be the one that the packets give it: a frame that was dropped, shown twice or
    reached by a wrong seek stops the video.

    Raises:
        TorchcodecMismatchError: it fails, or delivers something else.
    """
    from torchcodec.decoders import VideoDecoder

    shape = (video.info.height_px, video.info.width_px, 3)
    try:
        reader = VideoDecoder(video.info.path.absolute(), dimension_order="NHWC", device=device, seek_mode="exact")
        if reader.metadata.num_frames != video.info.n_frames:
            raise TorchcodecMismatchError(
                f"it counts {reader.metadata.num_frames} frames, the packets {video.info.n_frames}"
            )
        for start in range(0, len(frame_index), _FRAMES_AT_ONCE):
            wanted = frame_index[start : start + _FRAMES_AT_ONCE]
            found = reader.get_frames_at(wanted.tolist())
            pictures, pts_s = found.data.cpu().numpy(), found.pts_seconds.cpu().numpy()
            if pictures.shape[1:] != shape:
                raise TorchcodecMismatchError(f"frames have the shape {pictures.shape[1:]}, not {shape}")
            if (wrong := np.abs(pts_s - video.pts_s[wanted]) > video.tick_s / 2 + 1e-9).any():
                at = int(np.flatnonzero(wrong)[0])
                raise TorchcodecMismatchError(
                    f"frame {wanted[at]} has the time {pts_s[at]:.4f} s, its packet {video.pts_s[wanted[at]]:.4f} s"
                )
            yield from zip(wanted.tolist(), pictures, strict=True)
    except (TorchcodecMismatchError, MemoryError):
        raise
    except Exception as error:  # its errors are RuntimeErrors, IndexErrors and ValueErrors of C++
        raise TorchcodecMismatchError(next(iter(str(error).splitlines()), repr(error))) from error
