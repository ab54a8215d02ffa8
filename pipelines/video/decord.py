"""Frames by decord, where that is asked for and the packets allow it."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.video.scan import Video

__all__ = ["DecordMismatchError", "read_with_decord"]


class DecordMismatchError(Exception):
    """Decord did not deliver exactly the frames that the packets promise."""


def read_with_decord(video: Video, frame_index: np.ndarray) -> torch.Tensor:
    """Read the whole clip in order and return the wanted frames, uint8 [S,H,W,3], only if every frame came.

    Delivering nothing before all was checked is what makes a wrong row impossible. The gate bounds the clip's size, and
    decord would hold as much while a slow consumer works. It must not seek, stride or repair: each gives wrong frames.
    """
    import decord  # after torch: loaded before, its CUDA libraries take torch's matrix products over, which then crash

    decord.logging.set_level(decord.logging.QUIET)
    n_frames, height_px, width_px = video.info.n_frames, video.info.height_px, video.info.width_px
    clip = torch.empty((len(frame_index), height_px, width_px, 3), dtype=torch.uint8)
    row = 0
    try:
        reader = decord.VideoReader(str(video.info.path.absolute()), num_threads=1, fault_tol=1e-9)
        if len(reader) != n_frames:
            raise DecordMismatchError(f"it counts {len(reader)} frames, the packets {n_frames}")
        for index in range(n_frames):
            picture = reader.next()
            if tuple(picture.shape) != (height_px, width_px, 3):
                raise DecordMismatchError(f"frame {index} has the shape {tuple(picture.shape)}")
            if row < len(frame_index) and index == frame_index[row]:
                clip[row] = torch.from_numpy(picture.asnumpy())
                row += 1
    except (DecordMismatchError, MemoryError):
        raise
    except StopIteration:
        raise DecordMismatchError(f"it ended before {n_frames} frames") from None
    except Exception as error:  # decord's own errors are RuntimeErrors, its assertions AssertionErrors
        raise DecordMismatchError(str(error).splitlines()[0] if str(error) else repr(error)) from error
    return clip
