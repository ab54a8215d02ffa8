"""Files in which not every packet is a picture, or a picture carries more than its pixels."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.video.decode import decode, open_video
from pipelines.video.stills import read_still
from tests.clips import draw_frame, read_number, write_clip


def numbers(path: Path) -> list[int]:
    """The number on each frame that is read."""
    return [read_number(rgb) for batch in decode(open_video(path)) for rgb in batch.rgb]


def write_pictures(path: Path, codec: str, form: str, at: list[int]) -> Path:
    """A file whose k-th packet is a whole JPEG or PNG with EXIF, shown at tick ``at[k]`` of 25 a second."""
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 208, 120, "rgb24" if codec == "png" else "yuvj420p"
        stream.time_base = Fraction(1, 25)
        for number, tick in enumerate(at):
            encoded = io.BytesIO()
            Image.fromarray(draw_frame(number)).save(encoded, form, exif=exif)
            packet = av.Packet(encoded.getvalue())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = tick
            packet.duration = 1
            out.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "form"), [("a.avi", "mjpeg", "JPEG"), ("a.mov", "mjpeg", "JPEG"), ("a.mp4", "png", "PNG")]
)
def test_frames_with_exif_are_read(tmp_path: Path, name: str, codec: str, form: str) -> None:
    path = write_pictures(tmp_path / name, codec, form, list(range(6)))
    assert numbers(path) == list(range(6))
    assert read_number(read_still(path, float(open_video(path).pts_s[4]))) == 4


def test_packets_that_only_others_refer_to_are_no_frames(tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "plain.webm", n_frames=30, codec="libvpx", options={"g": "5"})
    path = tmp_path / "hidden.webm"
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if (
                packet.is_keyframe and packet.pts
            ):  # an encoder with two passes hides such references before what is shown
                data = bytearray(bytes(packet))
                data[0] &= ~0x10  # show_frame of RFC 6386, section 9.1
                hidden = av.Packet(bytes(data))
                hidden.stream, hidden.time_base, hidden.is_keyframe = stream, packet.time_base, True
                hidden.pts = hidden.dts = packet.pts - 20
                out.mux(hidden)
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 35
    video = open_video(path)
    assert (video.info.n_frames, video.n_missing) == (30, 0)
    np.testing.assert_allclose(video.pts_s, 0.04 * np.arange(30), atol=1e-3)
    np.testing.assert_allclose(video.duration_s, 0.04, atol=1e-3)
    assert numbers(path) == list(range(30))


def test_a_frame_before_dropped_ones_lasts_longer_and_nothing_is_missing(tmp_path: Path) -> None:
    at = [0, 1, 3, 4, 8, 9]
    path = write_pictures(tmp_path / "dropped.avi", "mjpeg", "JPEG", at)
    video = open_video(path)
    assert (video.info.n_frames, video.n_missing) == (6, 0)
    np.testing.assert_allclose(video.pts_s, np.array(at) / 25)
    np.testing.assert_allclose(video.duration_s, np.diff([*at, 10]) / 25)
    assert numbers(path) == list(range(6))


def test_pixels_that_are_nearly_square_are_taken_as_square(tmp_path: Path) -> None:
    nearly = write_clip(tmp_path / "nearly.mp4", n_frames=3, sample_aspect_ratio=Fraction(448, 447))
    assert open_video(nearly).info.sample_aspect_ratio == 1
    assert (open_video(nearly).info.width_px, open_video(nearly).info.height_px) == (208, 120)
    oblong = write_clip(tmp_path / "oblong.mp4", n_frames=3, sample_aspect_ratio=Fraction(104, 100))
    assert open_video(oblong).info.width_px == round(208 * 1.04)
    assert read_still(oblong, 0.0).shape == (120, 216, 3)


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_what_was_joined_end_to_end_is_read_one_after_the_other(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == ".webm" else "libx264"
    one = write_clip(tmp_path / f"one{suffix}", n_frames=20, codec=codec, options={"g": "5"})
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(one.read_bytes() * 2)
    video = open_video(joined)
    read = numbers(joined)
    assert (read, video.defect) == (list(range(20)) * 2, None)
    assert (np.diff(video.pts_s) > 0).all()
    assert video.info.duration_s == pytest.approx(1.6, abs=0.1)
    for index in (3, 19, 20, 33):
        assert read_number(read_still(joined, float(video.pts_s[index]))) == index % 20


def test_no_frame_is_lost_where_transport_streams_with_b_frames_were_joined(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.ts", n_frames=20, options={"bf": "2", "g": "10"}, with_audio=True)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() * 3)
    assert open_video(joined).defect is None
    assert numbers(joined) == list(range(20)) * 3
    cut = one.read_bytes()[: -len(one.read_bytes()) // 4]  # in the middle of a frame
    joined.write_bytes(cut + one.read_bytes())
    read = numbers(joined)
    whole = read.index(0, 1)
    assert read[:whole] == list(range(whole))
    assert read[whole:] == list(range(20))


@pytest.mark.parametrize(("suffix", "n_parts"), [(".mp4", 2), (".mov", 2), (".flv", 2), (".mkv", 3)])
def test_what_was_appended_and_is_not_read_is_said(tmp_path: Path, suffix: str, n_parts: int) -> None:
    one = write_clip(tmp_path / f"one{suffix}", n_frames=20)
    assert open_video(one).defect is None
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(one.read_bytes() * n_parts)
    defect = open_video(joined).defect
    assert defect is not None
    assert defect[0] == "joined"


def written_as(tmp_path: Path, suffix: str, sizes: list[tuple[int, int]]) -> Path:
    """A recording of 20 frames of each size, joined; each shows its number in the middle of a frame without borders.

    Where files cannot be joined end to end, the packets are copied one part after the other, as ``-f concat`` does.
    """
    codec = {".webm": "libvpx", ".mpg": "mpeg2video", ".avi": "mjpeg"}.get(suffix, "libx264")
    of_part = suffix if suffix in (".webm", ".mpg", ".avi") else ".ts"
    options, pixels = ({}, "yuvj420p") if codec == "mjpeg" else ({"g": "5", "bf": "0"}, "yuv420p")
    parts = [
        write_clip(
            tmp_path / f"{k}{of_part}",
            codec=codec,
            n_frames=20,
            options=options,
            pix_fmt=pixels,
            width_px=w,
            height_px=h,
        )
        for k, (w, h) in enumerate(sizes)
    ]
    joined = tmp_path / f"joined{suffix}"
    if suffix in (".webm", ".ts", ".mpg"):
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
        return joined
    with av.open(str(joined), "w") as out:
        stream, n_written = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                stream = stream or out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream, packet.time_base = stream, Fraction(1, 25)
                        packet.pts = packet.dts = n_written
                        packet.duration = 1
                        out.mux(packet)
                        n_written += 1
    return joined


def test_empty_chunks_after_every_frame_of_an_avi_are_no_missing_frames(tmp_path: Path) -> None:
    """What ffmpeg writes where the rate is stated as twice of what it is, as for H.264 copied from MP4."""
    path = write_pictures(tmp_path / "doubled.avi", "mjpeg", "JPEG", [0, 2, 4, 6, 8, 10])
    data = bytearray(path.read_bytes())
    length = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[length : length + 4], "little") == 11
    data[length : length + 4] = (12).to_bytes(4, "little")
    path.write_bytes(data)
    video = open_video(path)
    assert (video.info.n_frames, video.n_missing) == (6, 0)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="PyAV has no encoder of Theora")
def test_headers_between_joined_recordings_are_no_frames(tmp_path: Path) -> None:
    one, joined = tmp_path / "one.ogv", tmp_path / "joined.ogv"
    source = write_clip(tmp_path / "a.mkv", n_frames=20, codec="ffv1")
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-c:v", "libtheora", "-q:v", "9", one], check=True)
    joined.write_bytes(one.read_bytes() * 2)
    assert numbers(joined) == list(range(20)) * 2
    np.testing.assert_allclose(open_video(joined).pts_s, 0.04 * np.arange(40), atol=1e-6)


@pytest.mark.parametrize("suffix", [".webm", ".ts", ".mpg", ".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize(
    ("first", "then", "whole"),
    [((208, 120), (416, 240), (416, 240)), ((416, 240), (208, 120), (416, 240)), ((240, 416), (416, 240), (416, 416))],
    ids=["larger", "smaller", "turned"],
)
def test_each_size_keeps_its_shape_and_the_largest_is_worked_at(
    tmp_path: Path, suffix: str, first: tuple[int, int], then: tuple[int, int], whole: tuple[int, int]
) -> None:
    video = open_video(written_as(tmp_path, suffix, [first, then]))
    assert (video.info.width_px, video.info.height_px) == whole
    assert f"{first[0]}x{first[1]}, {then[0]}x{then[1]}" in video.note
    pictures = {int(i): p for b in decode(video) for i, p in zip(b.frame_index, b.rgb, strict=True)}
    assert len(pictures) >= 38  # a decoder may lose the two before the seam, and says so
    for index, size in ((3, first), (25, then)):
        picture = pictures[index]
        assert picture.shape[:2] == whole[::-1]
        scale = min(whole[0] / size[0], whole[1] / size[1])
        lit = np.argwhere(picture.max(axis=2) > 40)
        (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0) + 1
        assert (right - left, bottom - top) == pytest.approx((size[0] * scale, size[1] * scale), abs=4)
        assert (left + right, top + bottom) == pytest.approx(whole, abs=4)
        assert read_number(picture[top:bottom, left:right]) == index % 20
        np.testing.assert_array_equal(read_still(video.info.path, float(video.pts_s[index])), picture)


def test_pixels_that_change_their_shape_in_the_middle(tmp_path: Path) -> None:
    parts = [
        write_clip(tmp_path / f"{k}.ts", n_frames=20, codec="mpeg2video", sample_aspect_ratio=aspect)
        for k, aspect in enumerate((Fraction(12, 11), Fraction(16, 11)))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    narrow_px, wide_px = (open_video(part).info.width_px for part in parts)
    assert narrow_px < wide_px == open_video(joined).info.width_px


def test_several_video_streams_are_said(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        streams = [out.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 208, 120, "yuv420p"
        for number in range(3):
            for stream in streams:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(draw_frame(number), format="rgb24")))
        for stream in streams:
            out.mux(stream.encode(None))
    assert "2 video streams" in open_video(tmp_path / "two.mkv").note


@pytest.mark.parametrize("size", ["unknown", "whole", "cut"])
def test_a_header_that_claims_a_longer_film_is_believed_only_of_a_file_that_was_cut(tmp_path: Path, size: str) -> None:
    """A recorder in a browser states no size of its segment, and at times the duration of something else."""
    path = write_clip(tmp_path / "recorded.webm", n_frames=60, codec="libvpx", options={"g": "5"})
    data = bytearray(path.read_bytes())
    duration = data.index(b"\x44\x89\x88") + 3
    data[duration : duration + 8] = struct.pack(">d", 12_000.0)
    segment = data.index(b"\x18\x53\x80\x67") + 4
    if size == "unknown":
        data[segment : segment + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(data[:-20] if size == "cut" else data)
    video = open_video(path)
    if size == "cut":
        assert video.n_missing > 200
        assert video.defect is not None
        return
    assert (video.info.n_frames, video.n_missing, video.defect) == (60, 0, None)
    assert video.note == "the header claims 12.0 s; the file is whole and ends at 2.4 s"
    assert video.info.duration_s == pytest.approx(2.4, abs=0.01)
