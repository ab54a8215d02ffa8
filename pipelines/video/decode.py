"""Frames of one video, in order, with exact times: by PyAV, or by another decoder where the file allows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mfer.errors import ConfigError
from pipelines.batches import FrameBatch
from pipelines.errors import VideoError
from pipelines.video.decoders import DECODERS, DecoderMismatchError, ReadOptions, decoder_name, load_decoder, refusal
from pipelines.video.limits import BATCH_BYTES
from pipelines.video.scan import Video, open_video

__all__ = ["Decoding", "Video", "decode", "open_video", "sample_frames"]


def sample_frames(video: Video, *, every: int = 1, fps: float | None = None) -> np.ndarray:
    """Choose frames, int64 [S] in rising order and none twice.

    Args:
        every: take each n-th frame, from the first.
        fps: take the frame that is shown at each time k / fps after the first frame; right for a variable rate too.

    Raises:
        ConfigError: a rate that is not positive, or both ways at once.
    """
    if every < 1 or (fps is not None and not fps > 0):
        raise ConfigError(f"sampling got every={every}, fps={fps}; allowed are every >= 1 or fps > 0")
    if fps is None:
        return np.arange(0, video.info.n_frames, every, dtype=np.int64)
    if every != 1:
        raise ConfigError(f"sampling got every={every} and fps={fps}; give one of the two")
    # Times that are rounded to the file's tick may lie half a tick behind the grid time that they stand for. Where all
    # steps are multiples of the shortest (a constant rate; AVI, whose tick is a frame) only the rate may be rounded.
    steps = np.rint(np.diff(video.pts_s) / video.tick_s)
    shortest = max(float(steps.min(initial=np.inf)), 1.0)
    slack_s = video.tick_s * (0.5 if (steps % shortest).any() else min(0.5, shortest / 100))
    ends_s = np.append(video.pts_s, video.pts_s[-1] + max(video.duration_s[-1], 1e-9)) - video.pts_s[0]
    next_k = np.maximum(np.ceil((ends_s - slack_s - 1e-9) * fps), 0)
    next_k[-1] = max(next_k[-1], 1)  # the first frame is always shown at k = 0
    return np.flatnonzero(np.diff(next_k) > 0).astype(np.int64)


def decode(
    video: Video,
    *,
    every: int = 1,
    fps: float | None = None,
    batch_frames: int = 16,
    decoder: str = "auto",
    threads: int = 1,
    segment_s: float = np.inf,
    device: str = "cpu",
) -> Decoding:
    """Read a video's frames as batches of upright RGB with square pixels.

    Args:
        video: what ``open_video`` returned.
        every, fps: which frames to take, see ``sample_frames``; the others are never turned into RGB, nor decoded where
            no other frame refers to them.
        batch_frames: frames in a batch, at most; large frames make smaller batches (``BATCH_BYTES``).
        decoder: ``auto`` takes PyAV, and Pillow for pictures. ``decord`` and ``torchcodec`` are right on files that are
            not damaged and that a scan of the packets verified: they show patched pictures without a word. decord is no
            faster; torchcodec decodes on a GPU.
        threads: of PyAV's decoder; many videos at once are faster in one process each.
        segment_s: length of a segment, in seconds. A batch never lies in two segments, and any run of segments can be
            read by itself (``Decoding.between``), which gives the batches that the whole gives there.
        device: where torchcodec decodes.

    Returns:
        An iterable of FrameBatch. Each run over it reads the file once; memory does not grow with its length.

    Raises:
        ConfigError: settings that are not allowed, or a decoder whose library is unavailable.
        VideoError: decoder_refused where another decoder than PyAV was asked for and may not read this file. While
            iterating: decode_failed where not one frame could be read, out_of_memory.
    """
    if decoder not in ("auto", *DECODERS):
        raise ConfigError(f"decoder got {decoder!r}; allowed are auto, {', '.join(DECODERS)}")
    if batch_frames < 1 or threads < 1:
        raise ConfigError(f"decoding got batch_frames={batch_frames}, threads={threads}; both must be at least 1")
    if not segment_s > 0:
        raise ConfigError(f"segments of {segment_s} s; they must be longer than 0")
    load_decoder(decoder, video).require()
    if (reason := refusal(decoder, video)) is not None:
        raise _refused(video, decoder, reason)
    frame_index = sample_frames(video, every=every, fps=fps)
    batch_frames = max(1, min(batch_frames, BATCH_BYTES // (3 * video.info.width_px * video.info.height_px)))
    bounds = _segment_bounds(video.pts_s[frame_index], segment_s, video.tick_s)
    name = decoder_name(decoder, video)
    return Decoding(video, frame_index, bounds, batch_frames, threads, name, device, sampled=frame_index)


def _segment_bounds(time_s: np.ndarray, segment_s: float, tick_s: float) -> np.ndarray:
    """Rows at which segments begin, and the end: each as long as it can be without lasting longer than ``segment_s``.

    Times that leap over hours make no empty segments. Times are rounded to the file's tick.
    """
    bounds = [0]
    while True:
        end = int(np.searchsorted(time_s, time_s[bounds[-1]] + segment_s - tick_s / 2))
        if (end := max(end, bounds[-1] + 1)) >= len(time_s):
            break
        bounds.append(end)
    return np.array([*bounds, len(time_s)], np.int64)


@dataclass
class Decoding:
    """One way of reading a video.

    ``frame_index`` int64 [S] are the frames that are wanted; segment k of n holds its rows ``segment_bounds[k]`` to
    ``segment_bounds[k + 1]``, int64 [n+1]. ``decoder`` is the one in use, and ``device`` where torchcodec decodes.
    ``sampled`` int64 are the frames that are wanted of the whole video, where this is a part of it.
    Frames that could not be read come as ``undecodable_index`` of the batches; with ``may_read_none`` that may be all.
    """

    video: Video
    frame_index: np.ndarray
    segment_bounds: np.ndarray
    batch_frames: int
    threads: int
    decoder: str
    device: str = "cpu"
    may_read_none: bool = False
    sampled: np.ndarray | None = None

    @property
    def n_segments(self) -> int:
        return len(self.segment_bounds) - 1

    def between(self, first: int, end: int) -> Decoding:
        """The segments from ``first`` to before ``end`` alone; what lies before them is not decoded but for a moment.

        A part of a video may be damaged from end to end: where not one of its frames can be read, that is no error.
        """
        if not 0 <= first < end <= self.n_segments:
            raise ValueError(f"segments {first} to {end} of {self.n_segments}")
        bounds = self.segment_bounds[first : end + 1]
        return replace(
            self,
            frame_index=self.frame_index[bounds[0] : bounds[-1]],
            segment_bounds=bounds - bounds[0],
            may_read_none=self.may_read_none or end - first < self.n_segments,
        )

    def __iter__(self) -> Iterator[FrameBatch]:
        decoder = load_decoder(self.decoder, self.video)
        try:
            how = ReadOptions(self.threads, self.device, self.sampled)
            yield from self._batches(decoder.read(self.video, self.frame_index, how))
        except DecoderMismatchError as mismatch:
            raise _refused(self.video, self.decoder, f"it read it wrongly: {mismatch}") from mismatch
        except MemoryError as error:
            message = "not enough memory for the frames; use fewer workers or smaller batches"
            raise VideoError("out_of_memory", "decode", self.video.info.path, message) from error

    def _batches(self, pictures: Iterator[tuple[int, np.ndarray]]) -> Iterator[FrameBatch]:
        """Batches of the frames, uint8 [H,W,3], that could be read."""
        n_read = n_settled = 0  # of the wanted frames: delivered, and delivered or known to be undecodable
        shape = (self.batch_frames, self.video.info.height_px, self.video.info.width_px, 3)
        rooms = _Rooms(shape)
        rgb, taken = rooms.take(), list[int]()
        for index, picture in pictures:
            row = int(np.searchsorted(self.frame_index, index))
            ends = self.segment_bounds[(self.segment_bounds > n_settled) & (self.segment_bounds <= row)]
            for end in ends.tolist():  # of the segments before the one that this frame is in
                yield _batch(self.video, rgb[: len(taken)], taken, self.frame_index[n_settled:end])
                n_settled, rgb, taken = end, rooms.take(), []
            rgb[len(taken)] = picture
            taken.append(index)
            n_read += 1
            if len(taken) == self.batch_frames:
                yield _batch(self.video, rgb, taken, self.frame_index[n_settled : row + 1])
                n_settled, rgb, taken = row + 1, rooms.take(), []
        if n_read == 0 and not self.may_read_none:
            message = f"none of {len(self.frame_index)} frames could be read; copy or convert the video again"
            raise VideoError("decode_failed", "decode", self.video.info.path, message)
        for end in self.segment_bounds[self.segment_bounds > n_settled].tolist():
            yield _batch(self.video, rgb[: len(taken)], taken, self.frame_index[n_settled:end])
            n_settled, taken = end, []


class _Rooms:
    """Memory for batches. It is given again once nothing refers to it or to a part of it: fresh pages, which the system
    clears first, would cost as much as decoding."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._rooms = [np.empty(0, np.uint8)]  # the first is never given: it shows how many references a free one has

    def take(self) -> np.ndarray:
        """uint8 of the shape, whatever it holds."""
        references = [sys.getrefcount(room) for room in self._rooms]
        for room, n in zip(self._rooms[1:], references[1:], strict=True):
            if n == references[0]:
                return room
        self._rooms.append(np.empty(self._shape, np.uint8))
        return self._rooms[-1]


def _batch(video: Video, rgb: np.ndarray, frames: list[int], wanted: np.ndarray) -> FrameBatch:
    frame_index = np.asarray(frames, dtype=np.int64)
    return FrameBatch(
        rgb=rgb,
        frame_index=frame_index,
        pts_s=video.pts_s[frame_index],
        duration_s=video.duration_s[frame_index],
        undecodable_index=np.setdiff1d(wanted, frame_index),
    )


def _refused(video: Video, decoder: str, reason: str) -> VideoError:
    message = f"{decoder} may not read this video: {reason}; use --decoder auto"
    return VideoError("decoder_refused", "decode", video.info.path, message)
