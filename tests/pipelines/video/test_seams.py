"""Recordings joined end to end (``cat a.ts b.ts``): times go on at each seam, and gaps inside a recording stay."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.video.decode import Video, decode, open_video
from pipelines.video.reencode import remake_video
from pipelines.video.stills import read_still
from tests.clips import read_number, write_clip

_N_FRAMES = 20
#: Codec and options. Those of MPEG-1 state only when a frame is shown, as programs do for videos without B-frames.
_KINDS = {
    "h264.ts": ("libx264", {"bf": "0"}),
    "h264_b_frames.ts": ("libx264", {"bf": "2", "g": "10"}),
    "mpeg1.ts": ("mpeg1video", {"bf": "0", "g": "6"}),
    "mpeg1.mpg": ("mpeg1video", {"bf": "0", "g": "6"}),
    "mpeg1_keys.mpg": ("mpeg1video", {"bf": "0", "g": "1"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "0", "g": "19"}),
    "mpeg2_b_frames.vob": ("mpeg2video", {"bf": "2", "g": "6"}),
}


def record(path: Path, kind: str, start_s: float, *, with_audio: bool = False) -> Path:
    """A recording of 20 frames, of 0.8 s, whose clock shows ``start_s`` at its first frame."""
    codec, options = _KINDS[kind]
    bits = {"b": "4000000"} if codec.startswith("mpeg") else {}
    plain = write_clip(
        path.with_suffix(".mp4"), n_frames=_N_FRAMES, codec=codec, options={**options, **bits}, with_audio=with_audio
    )
    with av.open(str(plain)) as source, av.open(str(path), "w", container_options={"preload": "0"}) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size and packet.time_base and packet.pts is not None and packet.dts is not None:
                by = round(start_s / packet.time_base)
                packet.pts = packet.pts + by
                packet.dts = packet.pts if codec == "mpeg1video" else packet.dts + by
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return path


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def numbers(video: Video) -> list[int]:
    return [read_number(rgb) for batch in decode(video) for rgb in batch.rgb]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(
    "starts_s",
    [(0, 0), (30, 0), (7200, 0), (0, 7200), (60_000, 1), (1, 60_000), (7200, 0, 7200), (0, 95_443.4)],
    ids=str,
)
def test_a_recording_goes_on_where_the_one_before_it_ended(
    tmp_path: Path, kind: str, starts_s: tuple[float, ...]
) -> None:
    """Whatever their clocks: libav takes one that falls by over a minute for one that wrapped; the last one wraps."""
    suffix = kind[kind.index(".") :]
    parts = [record(tmp_path / f"{k}{suffix}", kind, start_s) for k, start_s in enumerate(starts_s)]
    video = open_video(join(tmp_path / f"joined{suffix}", *parts))
    n_frames = _N_FRAMES * len(parts)
    assert numbers(video) == list(range(_N_FRAMES)) * len(parts)
    np.testing.assert_allclose(video.pts_s - video.pts_s[0], 0.04 * np.arange(n_frames), atol=1e-3)
    np.testing.assert_allclose(video.duration_s, 0.04, atol=1e-3)
    assert video.info.duration_s == pytest.approx(0.04 * n_frames, abs=1e-3)
    assert (video.defect, video.n_missing) == (None, 0)
    for index in (_N_FRAMES - 1, _N_FRAMES, n_frames - 1):
        assert read_number(read_still(video.info.path, float(video.pts_s[index]))) == index % _N_FRAMES


@pytest.mark.parametrize(
    ("gap_s", "at", "step_s", "is_seam"),
    [(60.0, 10, 0.04, True), (60.0, 15, 0.04, False), (9.0, 10, 0.04, False), (30.0, 10, 15.0, False)],
    ids=["like a seam", "not at a key frame", "short", "time-lapse"],
)
def test_a_jump_that_may_be_a_gap_is_one(tmp_path: Path, gap_s: float, at: int, step_s: float, is_seam: bool) -> None:
    """Players go on after a jump of more than ten seconds at a key frame, and so do we."""
    time_s = [step_s * k + gap_s * (k >= at) for k in range(_N_FRAMES)]
    options = {"bf": "0", "g": "10", "sc_threshold": "0"}
    path = write_clip(
        tmp_path / "gap.ts", n_frames=_N_FRAMES, options=options, pts_ms=[round(1000 * time) for time in time_s]
    )
    video = open_video(path)
    expected_s = step_s * np.arange(_N_FRAMES) if is_seam else np.array(time_s)
    np.testing.assert_allclose(video.pts_s - video.pts_s[0], expected_s, atol=1e-3)
    assert numbers(video) == list(range(_N_FRAMES))


@pytest.mark.parametrize("has_sound", [True, False])
def test_sound_that_goes_on_shows_a_gap_of_the_picture(tmp_path: Path, has_sound: bool) -> None:
    time_s = 0.04 * np.arange(_N_FRAMES) + 30.0 * (np.arange(_N_FRAMES) >= 10)
    pictures = write_clip(tmp_path / "pictures.mkv", n_frames=_N_FRAMES, options={"bf": "0", "g": "10"})
    path = tmp_path / "frozen.ts"
    with av.open(str(pictures)) as source, av.open(str(path), "w") as out:
        stream, sound = out.add_stream_from_template(source.streams.video[0]), out.add_stream("aac", rate=48000)
        n_heard = 0
        for packet, at_s in zip((p for p in source.demux(video=0) if p.size), time_s, strict=True):
            while n_heard * 1024 / 48000 < at_s:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), n_heard * 1024
                n_heard += 1
                if has_sound or not 0.5 < frame.pts / 48000 < 29.5:
                    out.mux(sound.encode(frame))
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = round(1000 * at_s)
            out.mux(packet)
        out.mux(sound.encode(None))
    video = open_video(path)
    gap_s = float(np.diff(video.pts_s).max())
    assert gap_s == pytest.approx(30.04 if has_sound else 0.04, abs=1e-3)


@pytest.mark.parametrize("starts_s", [(7200, 10), (10, 7200), (30, 10), (10, 95_443.4)], ids=str)
def test_sound_goes_on_with_the_picture(tmp_path: Path, starts_s: tuple[float, float]) -> None:
    parts = [record(tmp_path / f"{k}.ts", "h264.ts", s, with_audio=True) for k, s in enumerate(starts_s)]
    video = open_video(join(tmp_path / "joined.ts", *parts))
    output = tmp_path / "out.mkv"
    remake_video(video, output, lambda index, pts_s, rgb: rgb)
    with av.open(str(output)) as made:
        heard_s = np.array([float(p.pts * p.time_base) for p in made.demux(audio=0) if p.pts is not None and p.size])
    assert len(heard_s) == pytest.approx(2 * 48, abs=2)
    heard_s -= heard_s[0]
    np.testing.assert_allclose(np.diff(heard_s), 1024 / 48000, atol=0.03)


def test_a_clock_of_a_later_recording_does_not_tell_when_the_first_begins(tmp_path: Path) -> None:
    parts = [record(tmp_path / f"{k}.ts", "h264.ts", s, with_audio=k > 0) for k, s in enumerate((30.0, 1.0))]
    video = open_video(join(tmp_path / "joined.ts", *parts))
    assert video.info.start_s == video.pts_s[0] == pytest.approx(30.0, abs=0.1)
    assert video.info.duration_s == pytest.approx(1.6, abs=1e-3)
