"""Frames by PyAV, packet by packet: what is right on everything that was tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from pipelines.video.containers import open_container, video_packets, video_stream
from pipelines.video.decoders import DEFAULT_READ, ReadOptions
from pipelines.video.orientation import orient
from pipelines.video.scan import Video
from pipelines.video.shapes import draw, shape_at

__all__ = ["PyavDecoder", "key_distance", "read_few"]

#: Codecs of which libav passes over frames that nothing refers to, with the same pictures of all others (tests).
_SKIPS_UNREFERENCED = ("h264", "hevc")


class PyavDecoder:
    """Follows ``pipelines.video.decoders.Decoder``."""

    by_packet = True

    def require(self) -> None:
        """Nothing: it is always installed."""

    def refusal(self, video: Video) -> str | None:
        """It reads every video, and Pillow the pictures."""
        return "it is a picture" if video.pictures else None

    def read(
        self, video: Video, frame_index: np.ndarray, how: ReadOptions = DEFAULT_READ
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See ``Decoder.read``; ``how.device`` is ignored."""
        return _read(video, frame_index, how.threads, unwanted=_unwanted_packets(video, how.sampled))


def _read(
    video: Video, frame_index: np.ndarray, threads: int, *, unwanted: np.ndarray, needed: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """``needed`` bool [P]: the packets to decode; None: all from the key frame before the first wanted frame on."""
    wanted = np.zeros(video.info.n_frames, dtype=bool)
    wanted[frame_index] = True
    tally = _Tally(video)
    last_index = -1
    if needed is None:
        needed = np.arange(len(video.frame_of_packet)) >= _first_packet(video, int(frame_index[0]))
    for position, frame in _decoded_frames(video, tally, threads, needed, unwanted):
        index, is_good = tally.judge(position, frame)
        if index <= last_index:
            continue  # hidden by an edit list, or shown again by the decoder
        if index > frame_index[-1]:
            return
        last_index = index
        if index < len(wanted) and wanted[index] and is_good:
            try:
                aspect = shape_at(video.shapes, position).aspect
                picture = draw(frame, aspect, video.stored_width_px, video.stored_height_px, threads)
            except (FFmpegError, ValueError):
                continue
            yield index, orient(picture, video.display_matrix)


def read_few(video: Video, frame_index: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Some frames of a video, in order, for little: only what lies between each and the key frame before it is decoded.

    Args:
        video: what ``open_video`` returned.
        frame_index: int64 [S], rising, without repeats.

    Yields:
        Index and picture, uint8 RGB [H,W,3], as ``PyavDecoder.read`` does; frames that could not be read are left out.
    """
    if not len(frame_index):
        return
    unwanted = _unwanted_packets(video, frame_index)
    if not video.exact_pts:
        yield from _read(video, frame_index, 1, unwanted=unwanted)
        return
    needed = np.zeros(len(video.frame_of_packet) + 1, dtype=int)  # +1 where a span begins, -1 behind its end
    for first, last in _spans(video, frame_index):
        needed[first] += 1
        needed[last + 1] -= 1
    yield from _read(video, frame_index, 1, unwanted=unwanted, needed=np.cumsum(needed[:-1]) > 0)


def key_distance(video: Video, frame_index: np.ndarray) -> np.ndarray:
    """How many packets ``read_few`` has to decode for each frame alone, int64 [S]; 1 for a key frame."""
    if not video.exact_pts:
        return np.ones(len(frame_index), np.int64)
    return np.array([last - first + 1 for first, last in _spans(video, frame_index)], np.int64)


def _spans(video: Video, frame_index: np.ndarray) -> list[tuple[int, int]]:
    """The packets, first and last, of each frame and of what it refers to: from the last key frame that is shown no
    later. What is shown after a key frame and decoded after it refers to nothing before it."""
    packet_of = np.full(video.info.n_frames, -1)
    shown = np.flatnonzero(video.frame_of_packet >= 0)
    packet_of[video.frame_of_packet[shown]] = shown
    keys = np.flatnonzero(video.is_key & ~video.is_corrupt & (video.frame_of_packet >= 0))
    spans = []
    for index in frame_index.tolist():
        last = int(packet_of[index])
        before = keys[: np.searchsorted(keys, last, side="right")]
        before = before[video.frame_of_packet[before] <= index]
        spans.append((int(before[-1]) if len(before) else 0, max(last, 0)))
    return spans


def _first_packet(video: Video, first_frame: int) -> int:
    """The position from which on packets have to be decoded, so that all frames from the first wanted one are right.

    It is a key frame that comes before all packets of these frames, and is shown before them; or, for good measure, the
    one before that, since some encoders refer across a key frame. 0 where frames can only be counted, and where a
    decoder that begins with a picture that is smaller than the file says would take it for one of two fields.
    """
    frame_of = video.frame_of_packet
    may_be_field = video.info.codec == "mjpeg" and len(video.shapes) > 1
    if first_frame == 0 or not video.exact_pts or may_be_field:
        return 0
    needed = np.flatnonzero(frame_of >= first_frame)
    end = int(needed[0]) + 1 if len(needed) else len(frame_of)
    keys = np.flatnonzero(video.is_key[:end] & ~video.is_corrupt[:end] & (frame_of[:end] <= first_frame))
    return int(keys[-2]) if len(keys) > 1 else 0


def _unwanted_packets(video: Video, sampled: np.ndarray | None) -> np.ndarray:
    """Packets of frames that are not sampled, bool [P]; none where frames have to be counted.

    Nor where packets are damaged or missing: a decoder that finds an error in one frame tells of others before it.
    """
    frame_of = video.frame_of_packet
    is_whole = video.exact_pts and not video.n_missing and not video.is_corrupt.any()
    if sampled is None or not is_whole or video.info.codec not in _SKIPS_UNREFERENCED:
        return np.zeros(len(frame_of), dtype=bool)
    return (frame_of >= 0) & ~np.isin(frame_of, sampled)


def _decoded_frames(
    video: Video, tally: _Tally, threads: int, needed: np.ndarray, unwanted: np.ndarray
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield each decoded frame with the position of its packet; a packet that fails does not end the video.

    Packets that are not ``needed`` are read and passed over: seeking lands where a container's index says, which is not
    always where it should. ``unwanted`` ones are decoded only if others refer to them.
    """
    n_packets = len(video.frame_of_packet)
    with open_container(video.info.path) as container:
        stream = video_stream(container, video.info.path, video.info.stream)
        context = stream.codec_context
        context.thread_count = threads
        context.thread_type = "AUTO" if threads > 1 else "NONE"
        context.copy_opaque = True  # a frame tells its packet, also where containers store no presentation times
        position, is_open = 0, False
        for packet in video_packets(container, stream):
            if packet.size == 0 or position == n_packets:
                continue
            if not needed[position]:
                if is_open:  # the decoder still holds frames that are shown after those that followed them
                    yield from _held_back(context)
                    context.flush_buffers()
                position, is_open = position + 1, False
                continue
            is_open = True
            packet.opaque = position
            context.skip_frame = "NONREF" if unwanted[position] else "DEFAULT"
            packet.is_corrupt = bool(video.is_corrupt[position])  # else the decoder hands libav's own doubt on
            try:
                frames = context.decode(packet)
            except MemoryError:
                raise
            except FFmpegError:
                frames = []
                tally.fail(position)
            if video.is_corrupt[position]:
                tally.lose(position)
            for frame in frames:
                yield cast(int, frame.opaque), frame
            position += 1
        yield from _held_back(context)


def _held_back(context: VideoCodecContext) -> Iterator[tuple[int, VideoFrame]]:
    try:
        frames = context.decode(None)
    except FFmpegError:
        return
    for frame in frames:
        yield cast(int, frame.opaque), frame


class _Tally:
    """Which frame a decoded picture is, and whether it can be trusted.

    After a packet is lost, what refers to it is a guess: all up to the next key frame, and the frames that are decoded
    after that key frame but shown before it. Decoders show such pictures without a flag. Where frames can only be
    counted, nothing after a loss can be placed.
    """

    def __init__(self, video: Video) -> None:
        self._video = video
        self._keys = np.flatnonzero(video.is_key)
        self._is_lost = np.zeros(len(video.frame_of_packet), dtype=bool)
        self._n_shown = 0
        self._failed_at = 0

    def fail(self, position: int) -> None:
        """Note that the decoder gave up on a packet.

        Damage often begins some packets before, which decoders patch up without a flag, and with frame threads the
        error may be about one of those: what was decoded and is not shown yet is suspect too.
        """
        self._failed_at = position
        self.lose(position)

    def lose(self, position: int) -> None:
        """Note that the packet at this position, in decoding order, is damaged."""
        frame_of = self._video.frame_of_packet
        later = self._keys[np.searchsorted(self._keys, position, side="right") :]
        key = int(later[0]) if len(later) and self._video.exact_pts else len(frame_of)
        self._is_lost[position:key] = True
        leading = key + 1
        while leading < len(frame_of) and frame_of[leading] < frame_of[key]:
            self._is_lost[leading] = True
            leading += 1

    def judge(self, position: int, frame: VideoFrame) -> tuple[int, bool]:
        """The frame's index (-1 if hidden) and whether its picture is right."""
        if frame.is_corrupt:
            self.lose(position)
        index = int(self._video.frame_of_packet[position])
        if index >= 0 and not self._video.exact_pts:
            index = self._n_shown
            self._n_shown += 1
        return index, position >= self._failed_at and not self._is_lost[position]
