"""Frames by torchcodec, which decodes on a GPU (NVDEC) where it is built for that; optional."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mfer.errors import ConfigError
from pipelines.video.decoders import DEFAULT_READ, DecoderMismatchError, ReadOptions
from pipelines.video.scan import Video

__all__ = ["TorchcodecDecoder"]

#: Frames that are asked for, and copied from the GPU, at once.
_FRAMES_AT_ONCE = 16


class TorchcodecDecoder:
    """Follows ``pipelines.video.decoders.Decoder``."""

    by_packet = False

    def require(self) -> None:
        """Raise ConfigError where torchcodec, or FFmpeg's libraries that it loads, cannot be used."""
        try:
            import torchcodec.decoders  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(
                f"the decoder torchcodec cannot be loaded ({reason}); pip install 'mfer[torchcodec]' and install"
                " FFmpeg's libraries (Debian: apt install ffmpeg), or use --decoder auto"
            ) from error

    def refusal(self, video: Video) -> str | None:
        """None: what the packets prove is enough."""
        return None

    def read(
        self, video: Video, frame_index: np.ndarray, how: ReadOptions = DEFAULT_READ
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See ``Decoder.read``; only ``how.device`` is regarded.

        Every frame's own time has to be the one that the packets give it: a frame that was dropped, shown twice or
        reached by a wrong seek stops the video.
        """
        return _read(video, frame_index, how.device)


def _read(video: Video, frame_index: np.ndarray, device: str) -> Iterator[tuple[int, np.ndarray]]:
    from torchcodec.decoders import VideoDecoder

    shape = (video.info.height_px, video.info.width_px, 3)
    try:
        reader = VideoDecoder(video.info.path.absolute(), dimension_order="NHWC", device=device, seek_mode="exact")
        if reader.metadata.num_frames != video.info.n_frames:
            raise DecoderMismatchError(
                f"it counts {reader.metadata.num_frames} frames, the packets {video.info.n_frames}"
            )
        for start in range(0, len(frame_index), _FRAMES_AT_ONCE):
            wanted = frame_index[start : start + _FRAMES_AT_ONCE]
            found = reader.get_frames_at(wanted.tolist())
            pictures, pts_s = found.data.cpu().numpy(), found.pts_seconds.cpu().numpy()
            if pictures.shape[1:] != shape:
                raise DecoderMismatchError(f"frames have the shape {pictures.shape[1:]}, not {shape}")
            if (wrong := np.abs(pts_s - video.pts_s[wanted]) > video.tick_s / 2 + 1e-9).any():
                at = int(np.flatnonzero(wrong)[0])
                raise DecoderMismatchError(
                    f"frame {wanted[at]} has the time {pts_s[at]:.4f} s, its packet {video.pts_s[wanted[at]]:.4f} s"
                )
            yield from zip(wanted.tolist(), pictures, strict=True)
    except (DecoderMismatchError, MemoryError):
        raise
    except Exception as error:  # its errors are RuntimeErrors, IndexErrors and ValueErrors of C++
        raise DecoderMismatchError(next(iter(str(error).splitlines()), repr(error))) from error
