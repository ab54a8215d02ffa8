"""Every frame of every kind of file arrives once, in order, upright and at its exact time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mfer.errors import ConfigError
from pipelines.batches import FrameBatch
from pipelines.errors import VideoError
from pipelines.video.decode import Video, decode, open_video, sample_frames
from pipelines.video.decoders import load_decoder, refusal
from tests.clips import read_number, write_clip

B_FRAMES = {"bf": "3", "g": "12"}
X265 = {"x265-params": "log-level=none:keyint=12:bframes=3:open-gop=1:pools=none"}
MPEG4 = {"bf": "2", "b": "2000000"}
VFR_MS = [k * k * 3 + 40 * k for k in range(24)]

CLIPS: dict[str, dict] = {
    "h264.mp4": {"options": B_FRAMES},
    "h264_sound.mp4": {"options": B_FRAMES, "with_audio": True},
    "h264.mkv": {"options": B_FRAMES},
    "h264.flv": {"options": B_FRAMES},
    "h264.ts": {"options": B_FRAMES, "container": "mpegts"},
    "h264.avi": {"options": B_FRAMES},
    "h264_fragments.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264_interlaced.ts": {"container": "mpegts", "options": {"x264-params": "tff=1:bframes=2"}},
    "h264_444_odd.mp4": {"pix_fmt": "yuv444p", "width_px": 211, "height_px": 121},
    "hevc_open_gop.mp4": {"codec": "libx265", "options": X265, "n_frames": 49},
    "hevc_10bit.mp4": {"codec": "libx265", "options": X265, "pix_fmt": "yuv420p10le"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "vp8.webm": {"codec": "libvpx", "options": {"cpu-used": "8", "deadline": "realtime", "b": "1000000"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": MPEG4},
    "mpeg4.avi": {"codec": "mpeg4", "options": MPEG4},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": MPEG4},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "lossless_odd.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "width_px": 211, "height_px": 121},
    "animation.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "variable_rate.mp4": {"options": B_FRAMES, "pts_ms": VFR_MS},
    "variable_rate.mkv": {"options": B_FRAMES, "pts_ms": VFR_MS},
    "late_start.mp4": {"options": B_FRAMES, "pts_ms": [5000 + 40 * k for k in range(24)]},
    "late_start.mkv": {"options": B_FRAMES, "pts_ms": [5000 + 40 * k for k in range(24)]},
    "wide_pixels.mp4": {"stored_width_px": 156, "sample_aspect_ratio": Fraction(4, 3)},
    "wide_pixels_turned.mp4": {"stored_width_px": 160, "sample_aspect_ratio": Fraction(3, 4), "rotation_deg": 90},
    "one_frame.mp4": {"n_frames": 1},
}
TURNS = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)]
PROVEN = {"h264.mp4", "h264.mkv", "h264.flv", "hevc_open_gop.mp4", "vp9.webm", "mjpeg.mov", "one_frame.mp4"}
NOT_PROVEN = {
    "h264.ts": "container",
    "mpeg2.mpg": "container",
    "mpeg4.avi": "container",
    "animation.gif": "container",
    "prores.mov": "codec",
    "wide_pixels.mp4": "square",
    "hevc_10bit.mp4": "8 bits",
}

Clip = Callable[[str], Path]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("clips")

    def get(name: str) -> Path:
        path = folder / name
        return path if path.exists() else write_clip(path, **CLIPS[name])

    return get


def skip_unless_allowed(video: Video, decoder: str) -> None:
    """Files that a decoder may not have; and torchcodec needs libraries of the system."""
    if reason := refusal(decoder, video):
        pytest.skip(reason)
    if decoder == "torchcodec" and not os.environ.get("MFER_NEEDS_TORCHCODEC"):
        try:
            load_decoder(decoder).require()
        except ConfigError as error:
            pytest.skip(str(error))


def read(path: Path, decoder: str = "auto", **options: object) -> tuple[list[int], list[float], list[int], list[int]]:
    """Barcode numbers, times, indexes and undecodable indexes of a whole video."""
    numbers: list[int] = []
    times: list[float] = []
    indexes: list[int] = []
    undecodable: list[int] = []
    video = open_video(path)
    skip_unless_allowed(video, decoder)
    for frames in decode(video, decoder=decoder, **options):  # type: ignore[arg-type]
        numbers += [read_number(picture) for picture in frames.rgb]
        times += frames.pts_s.tolist()
        indexes += frames.frame_index.tolist()
        undecodable += frames.undecodable_index.tolist()
    return numbers, times, indexes, undecodable


def times_of_packets(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        return sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)


@pytest.mark.parametrize("decoder", ["auto", "decord", "torchcodec"])
@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_arrives_once_in_order_at_the_time_of_its_packet(clip: Clip, name: str, decoder: str) -> None:
    n_frames = CLIPS[name].get("n_frames", 24)
    numbers, times, indexes, undecodable = read(clip(name), decoder, batch_frames=5)
    assert numbers == indexes == list(range(n_frames))
    assert undecodable == []
    assert np.abs(np.array(times) - times_of_packets(clip(name))).max() < 1e-6


@pytest.mark.parametrize("decoder", ["auto", "decord", "torchcodec"])
@pytest.mark.parametrize(("degrees", "mirrored"), TURNS)
def test_display_matrix_turns_and_mirrors_the_picture_upright(
    tmp_path: Path, degrees: int, mirrored: bool, decoder: str
) -> None:
    path = write_clip(tmp_path / "turned.mp4", n_frames=5, rotation_deg=degrees, mirrored=mirrored)
    info = open_video(path).info
    assert (info.rotation_deg, info.mirrored, info.width_px, info.height_px) == (degrees, mirrored, 208, 120)
    assert read(path, decoder)[0] == list(range(5))


def test_display_matrix_is_read_as_libav_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.set_display_rotation(-90)  # counter-clockwise, as libav counts
        frame = av.VideoFrame(64, 32, "yuv420p")
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    info = open_video(path).info
    assert (info.rotation_deg, info.mirrored, info.width_px, info.height_px) == (90, False, 32, 64)


@pytest.mark.parametrize("decoder", ["auto", "decord", "torchcodec"])
def test_frames_that_an_edit_list_hides_are_left_out(tmp_path: Path, decoder: str) -> None:
    path = write_clip(tmp_path / "cut.mp4", options=B_FRAMES, pts_ms=[40 * (k - 6) for k in range(24)])
    numbers, times, indexes, undecodable = read(path, decoder)
    assert numbers == list(range(6, 24))
    assert indexes == list(range(18))
    assert undecodable == []
    np.testing.assert_allclose(times, np.arange(18) * 0.04, atol=1e-6)


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", sorted(PROVEN))
def test_other_decoders_give_the_same_pixels_where_the_packets_verify_a_file(
    clip: Clip, name: str, decoder: str
) -> None:
    video = open_video(clip(name))
    assert video.doubt is None
    assert decode(video).decoder == "pyav"
    skip_unless_allowed(video, decoder)
    for ours, theirs in zip(decode(video, decoder=decoder), decode(video), strict=True):
        assert (ours.rgb == theirs.rgb).all()
        assert (ours.pts_s == theirs.pts_s).all()
        assert (ours.duration_s == theirs.duration_s).all()


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", sorted(NOT_PROVEN))
def test_other_decoder_outside_the_gate_is_refused_with_the_reason(clip: Clip, name: str, decoder: str) -> None:
    video = open_video(clip(name))
    assert decode(video).decoder == "pyav"
    if decoder == "torchcodec":
        skip_unless_allowed(replace(video, doubt=None), decoder)
    with pytest.raises(VideoError, match=f"{decoder} may not read this video: .*{NOT_PROVEN[name]}") as caught:
        decode(video, decoder=decoder)
    assert caught.value.code == "decoder_refused"


def test_clip_that_is_large_when_decoded_is_not_for_decord(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "large.mov", width_px=1280, height_px=720, n_frames=100, options={"preset": "ultrafast"}
    )
    video = open_video(path)
    assert "276 MB" in (refusal("decord", video) or "")
    assert refusal("torchcodec", video) is None


def test_info_says_what_the_file_is(clip: Clip) -> None:
    info = open_video(clip("wide_pixels_turned.mp4"), video_id="0123456789abcdef").info
    assert (info.width_px, info.height_px, info.codec) == (208, 120, "h264")
    assert info.sample_aspect_ratio == 0.75
    assert info.video_id == "0123456789abcdef"
    late = open_video(clip("late_start.mkv")).info
    assert (late.n_frames, late.start_s, round(late.duration_s, 6)) == (24, 5.0, 0.96)


def test_duration_is_the_time_until_the_next_frame(clip: Clip) -> None:
    frames = list(decode(open_video(clip("variable_rate.mkv")), batch_frames=7))
    duration_s = np.concatenate([batch.duration_s for batch in frames])
    np.testing.assert_allclose(duration_s[:-1], np.diff(VFR_MS) / 1000, atol=1e-9)
    assert duration_s[-1] > 0


@pytest.mark.parametrize("decoder", ["auto", "decord", "torchcodec"])
def test_every_nth_frame_is_taken_from_the_first(clip: Clip, decoder: str) -> None:
    numbers, times, indexes, _ = read(clip("hevc_open_gop.mp4"), decoder, every=10, batch_frames=3)
    assert numbers == indexes == [0, 10, 20, 30, 40]
    np.testing.assert_allclose(times, np.arange(5) * 0.4, atol=1e-6)


@pytest.mark.parametrize("decoder", ["auto", "decord", "torchcodec"])
@pytest.mark.parametrize("name", ["variable_rate.mp4", "variable_rate.mkv", "late_start.mp4"])
@pytest.mark.parametrize("fps", [0.3, 2.0, 7.0, 29.97, 1000.0])
def test_fps_takes_the_frame_shown_at_each_grid_time_and_none_twice(
    clip: Clip, name: str, fps: float, decoder: str
) -> None:
    pts_ms = np.array(CLIPS[name]["pts_ms"]) - CLIPS[name]["pts_ms"][0]
    end_ms = open_video(clip(name)).info.duration_s * 1000
    grid_ms = np.arange(0, end_ms - 0.5, 1000 / fps)
    shown = np.searchsorted(pts_ms, grid_ms + 0.01, side="right") - 1
    assert read(clip(name), decoder, fps=fps)[0] == sorted(set(shown.tolist()))


def test_fps_of_the_video_itself_takes_every_frame_despite_rounded_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "ntsc.mkv", n_frames=90, rate=30, options={"preset": "ultrafast"})
    assert list(sample_frames(open_video(path), fps=30)) == list(range(90))
    assert list(sample_frames(open_video(path), fps=15)) == list(range(0, 90, 2))


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4", "a.ts"])
def test_fps_takes_the_same_frames_whatever_a_container_counts_in(tmp_path: Path, name: str) -> None:
    """AVI counts in whole frames, whose times are exact."""
    video = open_video(write_clip(tmp_path / name, n_frames=25, codec="mpeg4"))
    assert sample_frames(video, fps=10).tolist() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    assert sample_frames(video, fps=7).tolist() == [0, 3, 7, 10, 14, 17, 21]


@pytest.mark.parametrize(("segment_s", "n_segments"), [(1e-9, 24), (0.01, 24), (0.02, 24), (0.08, 12), (100.0, 1)])
@pytest.mark.parametrize("name", ["frames.avi", "ticks.mkv"])
def test_segments_shorter_than_a_frame_hold_one_each(
    tmp_path: Path, name: str, segment_s: float, n_segments: int
) -> None:
    decoding = decode(open_video(write_clip(tmp_path / name, codec="mpeg4")), segment_s=segment_s)
    assert decoding.n_segments == n_segments
    assert [index for batch in decoding for index in batch.frame_index] == list(range(24))


@pytest.mark.parametrize(
    "settings", [{"every": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"every": 2, "fps": 5.0}, {"batch_frames": 0}]
)
def test_settings_that_mean_nothing_are_refused(clip: Clip, settings: dict) -> None:
    with pytest.raises(ConfigError):
        decode(open_video(clip("h264.mp4")), **settings)
    with pytest.raises(ConfigError, match="auto, pyav, decord, torchcodec"):
        decode(open_video(clip("h264.mp4")), decoder="ffmpeg")


def test_a_decoding_can_be_run_again(clip: Clip) -> None:
    decoding = decode(open_video(clip("h264.ts")))
    assert [len(frames) for frames in decoding] == [len(frames) for frames in decoding] == [16, 8]


def test_threads_change_nothing(clip: Clip) -> None:
    video = open_video(clip("hevc_open_gop.mp4"))
    one, two = (list(decode(video, decoder="pyav", threads=threads)) for threads in (1, 2))
    assert all((a.rgb == b.rgb).all() and (a.frame_index == b.frame_index).all() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    "name", ["clip with spaces.mp4", "-leading.mp4", "Zoë 视频.mp4", "file:colon.mp4", b"bad\xff.mp4"]
)
def test_any_file_name_can_be_opened(
    clip: Clip, tmp_path: Path, name: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
    (tmp_path / path).write_bytes(clip("h264.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert read(path)[0] == list(range(24))
    assert (refusal("decord", open_video(path)) is None) == isinstance(name, str)


def test_other_decoders_are_not_loaded_unless_they_are_asked_for() -> None:
    # decord, loaded before torch, takes torch's matrix products over, and the first convolution crashes
    code = "import sys, pipelines.video.decode; sys.exit(bool({'decord', 'torchcodec'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


_PEAKS = """
import resource, sys, torch
torch.set_num_threads(1)
from pipelines.video.decode import decode, open_video
for path in sys.argv[1:]:
    n_frames = sum(len(frames) for frames in decode(open_video(path), decoder="pyav"))
    print(n_frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_frames_that_are_still_in_use_are_never_written_again(clip: Clip) -> None:
    def batches() -> Iterator[FrameBatch]:
        return iter(decode(open_video(clip("h264.mp4")), batch_frames=4))

    copies = [batch.rgb[1:2].copy() for batch in batches()]
    views = [batch.rgb[1:2] for batch in batches()]  # of a part alone
    np.testing.assert_array_equal(np.concatenate(views), np.concatenate(copies))
    assert len({batch.rgb.ctypes.data for batch in batches()}) < len(copies), "what is free is used again"


@pytest.mark.full
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    lengths = (40, 600)
    paths = [write_clip(tmp_path / f"{n}.mp4", n_frames=n, width_px=416, height_px=240, codec="mpeg4") for n in lengths]
    result = subprocess.run(
        [sys.executable, "-c", _PEAKS, *map(str, paths)], capture_output=True, text=True, check=True
    )
    (n_short, short_kb), (n_long, long_kb) = (map(int, line.split()) for line in result.stdout.splitlines())
    assert (n_short, n_long) == lengths
    assert long_kb - short_kb < 20_000  # 560 frames more are 168 MB of pixels
