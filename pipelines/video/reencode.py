"""A video again with other pictures: every frame at its own time, and the sound as it was."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mfer.errors import ConfigError
from pipelines.video.containers import open_container, video_packets, video_stream
from pipelines.video.decode import Decoding, Video, decode
from pipelines.video.seams import CLOCKED, JUMP_S, clock_step
from storage.files import whole_file

__all__ = ["remake_video"]

#: Visually near lossless, at a speed that a laptop keeps; without B-frames a frame's time is its packet's.
_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
_BATCH_FRAMES = 4
#: Of what states none, such as pictures.
_TICK = Fraction(1, 90_000)
#: What AAC can be sampled at, of which the last is taken for any other rate.
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
#: Times of sound that fall by more than this begin anew, as those that jump with the picture's do (``seams.py``).
_RESET_S = Fraction(1, 2)


def remake_video(
    video: Video,
    output: str | Path,
    draw: Callable[[int, float, np.ndarray], np.ndarray],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    between_s: tuple[float, float] | None = None,
    sound: bool = True,
) -> int:
    """Draw on every frame of a video and write it as H.264 with the source's own times and its sound.

    Packets of sound are copied where the container takes their codec; otherwise the sound is encoded again, as AAC.

    Args:
        video: what ``open_video`` returned.
        output: .mp4, .mov or .mkv; it appears when it is complete.
        draw: takes frame_index, pts_s and the upright picture uint8 RGB [H,W,3], and returns one of even sides, of the
            same size every time.
        progress: called with (frames done, frames in all).
        between_s: only the frames shown between two times, from the stream's start; the first of them is at 0 then.
        sound: False leaves the sound out.

    Returns:
        How many frames were written: those that could be read.

    Raises:
        ConfigError: an output that names no container, or cannot be written; no frame between.
        VideoError: the source cannot be read.
    """
    output = Path(output)
    try:
        with whole_file(output) as partial, _writer(partial) as container:
            return _write(video, container, draw, progress, between_s, with_sound=sound)
    except (OSError, av.error.FFmpegError) as error:
        message = f"cannot write {output}: {error.strerror or error}; try another place, or leave the sound out"
        raise ConfigError(message) from error


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
    *,
    with_sound: bool,
) -> int:
    decoding = decode(video, batch_frames=_BATCH_FRAMES, threads=2)
    from_s, until_s, shift = -math.inf, math.inf, Fraction(0)
    if between_s is not None:
        from_s, until_s = (seconds + video.info.start_s for seconds in between_s)
        decoding = _part_of(decoding, from_s, until_s)
        shift = Fraction(min(float(video.pts_s[decoding.frame_index[0]]), from_s))  # sound may come before the picture
    with nullcontext() if video.pictures else open_container(video.info.path) as source:
        tick = (video_stream(source, video.info.path, video.info.stream).time_base if source else None) or _TICK
        stream = out.add_stream("libx264", options=_OPTIONS)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = tick
        sounds = {
            sound.index: _sound_writer(out, sound)
            for sound in (source.streams.audio if source else ())
            if with_sound and sound.codec_context is not None
        }
        sound = _sound(video, source, sounds, from_s, until_s, shift) if source else iter(())
        waiting = next(sound, None)
        durations: dict[int, int] = {}
        n_done = 0
        for batch in decoding:
            for index, pts_s, rgb in zip(batch.frame_index, batch.pts_s, batch.rgb, strict=True):
                picture = draw(int(index), float(pts_s), rgb)
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
    """A packet of sound for its new stream, and when it is heard, in the source's clock; None: after all others."""

    def __init__(self, packet: av.Packet, time_s: float | None) -> None:
        self.packet, self.time = packet, time_s


class _Copied:
    """Passes packets of sound on as they are."""

    def __init__(self, out: av.container.OutputContainer, source: av.AudioStream) -> None:
        self._stream = out.add_stream_from_template(source)

    def __call__(self, packet: av.Packet | None) -> list[av.Packet]:
        if packet is None:
            return []
        packet.stream = self._stream
        return [packet]


class _Recoded:
    """Makes AAC of packets of sound; those that cannot be decoded are left out."""

    def __init__(self, out: av.container.OutputContainer, source: av.AudioStream) -> None:
        self._decoder = source.codec_context
        rate = source.rate if source.rate in _AAC_RATES else _AAC_RATES[-1]
        layout = "mono" if source.channels == 1 else "stereo"
        self._stream = out.add_stream("aac", rate=rate, layout=layout)
        self._resample = av.AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=1024)

    def __call__(self, packet: av.Packet | None) -> list[av.Packet]:
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            return []
        made = [part for frame in frames for part in self._resample.resample(frame)]
        if packet is None:
            made += self._resample.resample(None)
        packets = [coded for frame in made for coded in self._stream.encode(frame)]
        return packets if packet is not None else packets + self._stream.encode(None)


def _sound_writer(out: av.container.OutputContainer, source: av.AudioStream) -> _Copied | _Recoded:
    return _Copied(out, source) if _takes(out.format.name, source) else _Recoded(out, source)


def _takes(container: str, source: av.AudioStream) -> bool:
    """Whether a container takes these packets: some know a codec, but not at every rate, or only as an experiment."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            if source.codec_context.codec.canonical_name not in trial.supported_codecs:
                return False
            trial.add_stream_from_template(source)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _sound(
    video: Video,
    source: av.container.InputContainer,
    writers: Mapping[int, _Copied | _Recoded],
    from_s: float,
    until_s: float,
    shift: Fraction,
) -> Iterator[_Sound]:
    """Packets for the result, ``shift`` seconds earlier; where times begin anew (joined recordings), they go on."""
    if not writers:
        return
    step = clock_step if video.info.container in CLOCKED else int
    stated: dict[int, int] = {}  # of the last packet of each stream: its time in the file,
    times: dict[int, int] = {}  # its time here,
    ends: dict[int, int] = {}  # and when it ends
    for packet in video_packets(source, *(source.streams[index] for index in writers)):
        if not packet.size or packet.dts is None or not packet.time_base:
            continue
        index = packet.stream_index
        dts = times[index] + step(packet.dts - stated[index]) if index in times else packet.dts
        after_s = (dts - ends.get(index, dts)) * packet.time_base
        if after_s < -_RESET_S or (after_s > JUMP_S and video.is_joined and step is clock_step):
            dts = ends[index]
        stated[index], times[index], ends[index] = packet.dts, dts, dts + (packet.duration or 0)
        time_s = float(dts * packet.time_base)
        if from_s <= time_s < until_s:
            earlier = round(shift / packet.time_base)
            packet.pts = dts + step((packet.dts if packet.pts is None else packet.pts) - packet.dts) - earlier
            packet.dts = dts - earlier
            yield from (_Sound(made, time_s) for made in writers[index](packet))
    for writer in writers.values():
        yield from (_Sound(made, None) for made in writer(None))
