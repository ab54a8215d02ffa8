"""A video again with other pictures: every frame at its own time, and the sound as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mfer.errors import ConfigError
from pipelines.containers import open_container, video_packets, video_stream
from pipelines.decode import Video, decode

__all__ = ["remake_video"]

#: Visually near lossless, at a speed that a laptop keeps; without B-frames a frame's time is its packet's.
_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
_BATCH_FRAMES = 4


def remake_video(
    video: Video,
    output: str | Path,
    draw: Callable[[int, float, np.ndarray], np.ndarray],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Draw on every frame of a video and write it as H.264 with the source's own times and sound packets.

    Args:
        video: what ``open_video`` returned.
        output: .mp4, .mov or .mkv; it appears when it is complete.
        draw: takes frame_index, pts_s and the upright picture uint8 RGB [H,W,3], and returns one of even sides, of the
            same size every time.
        progress: called with (frames done, frames in all).

    Returns:
        How many frames were written: those that could be read.

    Raises:
        ConfigError: an output that names no container, cannot be written or cannot hold the sound.
        VideoError: the source cannot be read.
    """
    output = Path(output)
    partial = output.with_name(f".{output.stem}.partial{output.suffix}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with _writer(partial) as container:
            n_frames = _write(video, container, draw, progress)
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
) -> int:
    decoding = decode(video, batch_frames=_BATCH_FRAMES, decoder="pyav", threads=2)
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
        sound = _sound(source, sounds)
        waiting = next(sound, None)
        durations: dict[int, int] = {}
        n_done = 0
        for batch in decoding:
            for index, pts_s, rgb in zip(batch.frame_index, batch.pts_s, batch.rgb, strict=True):
                picture = draw(int(index), float(pts_s), rgb.numpy())
                if n_done == 0:
                    stream.height, stream.width = picture.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = round(Fraction(pts_s) / tick), tick
                durations[frame.pts] = max(round(Fraction(video.duration_s[index]) / tick), 1)
                packets = stream.encode(frame)
                while waiting is not None and (waiting.time is None or waiting.time <= pts_s):
                    out.mux(waiting.packet)
                    waiting = next(sound, None)
                _mux(out, packets, durations)
                n_done += 1
                progress(n_done, video.info.n_frames)
        _mux(out, stream.encode(None), durations)
        while waiting is not None:
            out.mux(waiting.packet)
            waiting = next(sound, None)
    return n_done


def _mux(out: av.container.OutputContainer, packets: list[av.Packet], durations: dict[int, int]) -> None:
    for packet in packets:
        if packet.pts is not None:
            packet.duration = durations.pop(packet.pts, packet.duration or 0)
        out.mux(packet)


class _Sound:
    """A packet of sound for its new stream, and when it is heard, in the source's clock."""

    def __init__(self, packet: av.Packet, stream: av.stream.Stream) -> None:
        self.time = float(packet.dts * packet.time_base) if packet.dts is not None and packet.time_base else None
        packet.stream = stream
        self.packet = packet


def _sound(source: av.container.InputContainer, streams: Mapping[int, av.stream.Stream]) -> Iterator[_Sound]:
    if not streams:
        return
    for packet in video_packets(source, *(source.streams[index] for index in streams)):
        if packet.size and packet.dts is not None:
            yield _Sound(packet, streams[packet.stream_index])
