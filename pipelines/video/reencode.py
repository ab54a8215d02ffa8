"""A video again with other pictures: every frame at its own time, and the sound as it was."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mfer.errors import ConfigError
from pipelines.video.containers import open_container, video_packets, video_stream
from pipelines.video.decode import Decoding, Video, decode

__all__ = ["remake_video"]

#: Visually near lossless, at a speed that a laptop keeps; without B-frames a frame's time is its packet's.
_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
_BATCH_FRAMES = 4


def remake_video(
    video: Video,
    output: str | Path,
    draw: Callable[[int, float, np.ndarray], np.ndarray],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    between_s: tuple[float, float] | None = None,
) -> int:
    """Draw on every frame of a video and write it as H.264 with the source's own times and sound packets.

    Args:
        video: what ``open_video`` returned.
        output: .mp4, .mov or .mkv; it appears when it is complete.
        draw: takes frame_index, pts_s and the upright picture uint8 RGB [H,W,3], and returns one of even sides, of the
            same size every time.
        progress: called with (frames done, frames in all).
        between_s: only the frames shown between two times, from the stream's start; the first of them is at 0 then.

    Returns:
        How many frames were written: those that could be read.

    Raises:
        ConfigError: an output that names no container, cannot be written or cannot hold the sound; no frame between.
        VideoError: the source cannot be read.
    """
    output = Path(output)
    partial = output.with_name(f".{output.stem}.partial{output.suffix}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with _writer(partial) as container:
            n_frames = _write(video, container, draw, progress, between_s)
        os.replace(partial, output)
    except (OSError, av.error.FFmpegError) as error:
        message = f"cannot write {output}: {error.strerror or error}; try another place, or .mkv, which holds any sound"
        raise ConfigError(message) from error
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)
    return n_frames


def _writer(path: Path) -> av.container.OutputContainer:
    if path.suffix.lower() not in (".mp4", ".mov", ".mkv", ".m4v"):
        raise ConfigError(f"{path.suffix or 'no suffix'!r} cannot hold the result; name an .mp4, .mov or .mkv")
    # a movie timescale as fine as any stream's, so that a first frame after time 0 stays where it is
    options = {} if path.suffix.lower() == ".mkv" else {"movie_timescale": "90000"}
    return av.open(path, "w", options=options)


def _write(
    video: Video,
    out: av.container.OutputContainer,
    draw: Callable[[int, float, np.ndarray], np.ndarray],
    progress: Callable[[int, int], None],
    between_s: tuple[float, float] | None,
) -> int:
    decoding = decode(video, batch_frames=_BATCH_FRAMES, decoder="pyav", threads=2)
    from_s, until_s, shift = -math.inf, math.inf, Fraction(0)
    if between_s is not None:
        from_s, until_s = (seconds + video.info.start_s for seconds in between_s)
        decoding = _part_of(decoding, from_s, until_s)
        shift = Fraction(min(float(video.pts_s[decoding.frame_index[0]]), from_s))  # sound may come before the picture
    with open_container(video.info.path) as source:
        tick = video_stream(source, video.info.path).time_base or Fraction(1, 90_000)
        stream = out.add_stream("libx264", options=_OPTIONS)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = tick
        sounds = {
            sound.index: out.add_stream_from_template(sound)
            for sound in source.streams.audio
            if sound.codec_context is not None
        }
        sound = _sound(source, sounds, from_s, until_s, shift)
        waiting = next(sound, None)
        durations: dict[int, int] = {}
        n_done = 0
        for batch in decoding:
            for index, pts_s, rgb in zip(batch.frame_index, batch.pts_s, batch.rgb, strict=True):
                picture = draw(int(index), float(pts_s), rgb.numpy())
                if n_done == 0:
                    stream.height, stream.width = picture.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = round((Fraction(pts_s) - shift) / tick), tick
                durations[frame.pts] = max(round(Fraction(video.duration_s[index]) / tick), 1)
                packets = stream.encode(frame)
                while waiting is not None and (waiting.time is None or waiting.time <= pts_s):
                    out.mux(waiting.packet)
                    waiting = next(sound, None)
                _mux(out, packets, durations)
                n_done += 1
                progress(n_done, len(decoding.frame_index))
        _mux(out, stream.encode(None), durations)
        while waiting is not None:
            out.mux(waiting.packet)
            waiting = next(sound, None)
    return n_done


def _part_of(decoding: Decoding, from_s: float, until_s: float) -> Decoding:
    pts_s, length_s = decoding.video.pts_s, decoding.video.duration_s
    shown = np.flatnonzero((pts_s + length_s > from_s + 1e-6) & (pts_s < until_s))
    if not len(shown):
        raise ConfigError("the video shows no frame in that span")
    return replace(decoding, frame_index=shown, segment_bounds=np.array([0, len(shown)]))


def _mux(out: av.container.OutputContainer, packets: list[av.Packet], durations: dict[int, int]) -> None:
    for packet in packets:
        if packet.pts is not None:
            packet.duration = durations.pop(packet.pts, packet.duration or 0)
        out.mux(packet)


class _Sound:
    """A packet of sound for its new stream, ``shift`` seconds earlier, and when it is heard, in the source's clock."""

    def __init__(self, packet: av.Packet, stream: av.stream.Stream, shift: Fraction) -> None:
        self.time = float(packet.dts * packet.time_base) if packet.dts is not None and packet.time_base else None
        if shift and packet.time_base:
            ticks = round(shift / packet.time_base)
            packet.dts = packet.dts - ticks if packet.dts is not None else None
            packet.pts = packet.pts - ticks if packet.pts is not None else None
        packet.stream = stream
        self.packet = packet


def _sound(
    source: av.container.InputContainer,
    streams: Mapping[int, av.stream.Stream],
    from_s: float,
    until_s: float,
    shift: Fraction,
) -> Iterator[_Sound]:
    if not streams:
        return
    for packet in video_packets(source, *(source.streams[index] for index in streams)):
        if packet.size and packet.dts is not None:
            sound = _Sound(packet, streams[packet.stream_index], shift)
            if sound.time is None or from_s <= sound.time < until_s:
                yield sound
