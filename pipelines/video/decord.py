"""Frames by decord, where that is asked for and the packets allow it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.video.decoders import DEFAULT_READ, DecoderMismatchError, ReadOptions
from pipelines.video.scan import Video

__all__ = ["MAX_CLIP_MB", "DecordDecoder"]

#: Decord decodes ahead without bound when the consumer is slow: a clip may not be larger than this when decoded.
MAX_CLIP_MB = 64
#: Decord reserves memory for every frame that fits into the time of a file, also where there are gaps of weeks.
_MAX_CLIP_S = 86_400.0


class DecordDecoder:
    """Follows ``pipelines.video.decoders.Decoder``."""

    by_packet = False

    def require(self) -> None:
        """Nothing: it is always installed."""

    def refusal(self, video: Video) -> str | None:
        """Why decord must not read a file that the packets prove to be plain."""
        info = video.info
        if info.duration_s > _MAX_CLIP_S:
            return "it runs over more than a day, and decord reserves memory by time"
        clip_mb = info.width_px * info.height_px * 3 * len(video.frame_of_packet) / 1e6
        if clip_mb > MAX_CLIP_MB:
            return (
                f"decoded it takes {clip_mb:.0f} MB and decord, which reads ahead without bound, may have {MAX_CLIP_MB}"
            )
        return None

    def read(
        self, video: Video, frame_index: np.ndarray, how: ReadOptions = DEFAULT_READ
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See ``Decoder.read``; ``how`` is ignored."""
        yield from zip(frame_index.tolist(), _read(video, frame_index), strict=True)


def _read(video: Video, frame_index: np.ndarray) -> np.ndarray:
    """Read the whole clip in order and return the wanted frames, uint8 [S,H,W,3], only if every frame came.

    Delivering nothing before all was checked is what makes a wrong row impossible. The gate bounds the clip's size, and
    decord would hold as much while a slow consumer works. It must not seek, stride or repair: each gives wrong frames.
    """
    import decord  # after torch: loaded before, its CUDA libraries take torch's matrix products over, which then crash

    decord.logging.set_level(decord.logging.QUIET)
    n_frames, height_px, width_px = video.info.n_frames, video.info.height_px, video.info.width_px
    clip = np.empty((len(frame_index), height_px, width_px, 3), np.uint8)
    row = 0
    try:
        reader = decord.VideoReader(str(video.info.path.absolute()), num_threads=1, fault_tol=1e-9)
        if len(reader) != n_frames:
            raise DecoderMismatchError(f"it counts {len(reader)} frames, the packets {n_frames}")
        for index in range(n_frames):
            picture = reader.next()
            if tuple(picture.shape) != (height_px, width_px, 3):
                raise DecoderMismatchError(f"frame {index} has the shape {tuple(picture.shape)}")
            if row < len(frame_index) and index == frame_index[row]:
                clip[row] = picture.asnumpy()
                row += 1
    except (DecoderMismatchError, MemoryError):
        raise
    except StopIteration:
        raise DecoderMismatchError(f"it ended before {n_frames} frames") from None
    except Exception as error:  # decord's own errors are RuntimeErrors, its assertions AssertionErrors
        raise DecoderMismatchError(str(error).splitlines()[0] if str(error) else repr(error)) from error
    return clip
