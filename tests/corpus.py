"""The awkward corpus: files as they lie in old archives, made here, each with what is true of it.

Every frame carries its number as a barcode (tests/clips.py), so that a test knows which frame it got. A file is read
rightly if each delivered frame is the one that was shown at its time and every other is named as undecodable, or if it
is refused with the code that says why.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.clips import draw_frame, write_audio, write_clip
from tests.pictures import animation, bomb, heic, lab, picture, sixteen_bits

__all__ = ["CORPUS", "Kind"]

B_FRAMES = {"bf": "3", "g": "12"}
MPEG4 = {"bf": "2", "g": "12", "b": "2000000"}
FAST_VPX = {"cpu-used": "8", "deadline": "realtime", "b": "1000000"}
X265 = {"x265-params": "log-level=none:keyint=12:bframes=3:pools=none"}
X265_OPEN = {"x265-params": "log-level=none:keyint=12:bframes=3:open-gop=1:pools=none"}
VFR_MS = [k * k * 3 + 40 * k for k in range(24)]
FPS = 25


@dataclass(frozen=True)
class Kind:
    """One kind of file and what is true of it.

    Args:
        name: of the file, unique.
        make: writes it under a path and returns the path to open.
        code: the VideoError that it must end with; empty if frames can be read.
        shown: (number on the frame, its time in seconds from the first) of every frame that the file shows.
        lost: how many of these may be undecodable, least and most.
        silent: frames that are gone without a trace in the file, so that nobody can name them: at most so many.
        grey: the picture has no colours.
        heavy: takes a second or more; only in the long run.
    """

    name: str
    make: Callable[[Path], Path]
    code: str = ""
    shown: Sequence[tuple[int, float]] = field(default_factory=lambda: [(k, k / FPS) for k in range(24)])
    lost: tuple[int, int] = (0, 0)
    silent: int = 0
    grey: bool = False
    heavy: bool = False


def _clip(**settings: Any) -> Callable[[Path], Path]:
    return lambda path: write_clip(path, **settings)


def _then(change: Callable[[Path], None], **settings: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        write_clip(path, **settings)
        change(path)
        return path

    return make


# -- damage -----------------------------------------------------------------------------------------------------------


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def garble(share: float, n_bytes: int = 400, seed: int = 1) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        start = int(len(data) * share)
        n = min(n_bytes, len(data) - start)
        data[start : start + n] = np.random.default_rng(seed).bytes(n)
        path.write_bytes(data)

    return change


def rot(n_bits: int, seed: int = 3) -> Callable[[Path], None]:
    """Flip single bits anywhere behind the first kilobyte."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        rng = np.random.default_rng(seed)
        for at in rng.integers(1024, len(data), n_bits):
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)

    return change


def cut_front(n_bytes: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[n_bytes:]) and None


def twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def poke(mark: bytes, offset: int, form: str, *values: int) -> Callable[[Path], None]:
    """Overwrite a field of a header, ``offset`` bytes behind the first place of ``mark``."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        struct.pack_into(form, data, data.index(mark) + offset, *values)
        path.write_bytes(data)

    return change


def _trim(path: Path) -> None:
    """Let the edit list end after half a second."""
    data = path.read_bytes()
    timescale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    poke(b"elst", 12, ">I", timescale // 2)(path)


# -- files with more than one stream, or none -------------------------------------------------------------------------


def _encode(out: Any, stream: Any, numbers: Sequence[int], width_px: int, height_px: int) -> None:
    for index, number in enumerate(numbers):
        frame = av.VideoFrame.from_ndarray(draw_frame(number, width_px, height_px), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def two_streams(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        streams = [(out.add_stream("mpeg4", rate=FPS, options=dict(MPEG4)), size) for size in ((208, 120), (104, 60))]
        for stream, (width_px, height_px) in streams:
            stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for (stream, size), first in zip(streams, (0, 500), strict=True):
            _encode(out, stream, range(first, first + 24), *size)
    return path


def with_cover(codec: str | None) -> Callable[[Path], Path]:
    """A file with a cover picture: beside a video, or (None) beside nothing but sound."""

    def make(path: Path) -> Path:
        with av.open(str(path), "w") as out:
            cover = out.add_stream("mjpeg", rate=FPS)
            cover.width, cover.height, cover.pix_fmt = 640, 480, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            stream = out.add_stream(codec or "aac", rate=FPS if codec else 48000)
            if codec:
                stream.width, stream.height, stream.pix_fmt = 208, 120, "yuv420p"
            picture = av.VideoFrame.from_ndarray(draw_frame(999, 640, 480), format="rgb24")
            out.mux(cover.encode(picture))
            out.mux(cover.encode(None))
            if codec:
                _encode(out, stream, range(24), 208, 120)
            else:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts, silence.time_base = 48000, 0, Fraction(1, 48000)
                out.mux([*stream.encode(silence), *stream.encode(None)])
        return path

    return make


def two_sizes(path: Path) -> Path:
    """A broadcast that changes its picture size in mid-stream."""
    first = write_clip(path.with_suffix(".1.ts"), container="mpegts", n_frames=24, options=B_FRAMES)
    second = write_clip(
        path.with_suffix(".2.ts"),
        container="mpegts",
        width_px=312,
        height_px=180,
        pts_ms=[1040 + 40 * k for k in range(24)],
        options=B_FRAMES,
    )
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def mjpeg_picture(path: Path) -> Path:
    """A photograph with a video's name."""
    with av.open(str(path), "w", format="image2") as out:
        stream = out.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 208, 120, "yuvj420p"
        _encode(out, stream, [0], 208, 120)
    return path


def gif(width_px: int, height_px: int, n_frames: int) -> bytes:
    """A GIF whose every frame paints one pixel of a large canvas."""
    head = b"GIF89a" + struct.pack("<HH", width_px, height_px) + b"\xf0\x00\x00" + b"\x00\x00\x00\xff\xff\xff"
    paint = b"\x21\xf9\x04\x00\x04\x00\x00\x00\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\x00\x02\x02\x44\x01\x00"
    return head + paint * n_frames + b"\x3b"


# -- names ------------------------------------------------------------------------------------------------------------


def named(name: str | bytes, source: Callable[[Path], Path] | None = None) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        written = (source or _clip(options=B_FRAMES))(path.with_suffix(".original.mp4"))
        target = path.parent / (name if isinstance(name, str) else os.fsdecode(name))
        os.replace(written, target)
        return target

    return make


def linked(path: Path) -> Path:
    path.symlink_to(write_clip(path.with_name("target.mp4"), options=B_FRAMES))
    return path


def link_to(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(path.parent / (target or path.name))
        return path

    return make


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def locked(path: Path) -> Path:
    write_clip(path, n_frames=2)
    path.chmod(0)
    return path


# -- the corpus -------------------------------------------------------------------------------------------------------

LONG = {"n_frames": 100, "options": {"bf": "3", "g": "25"}}
_JOINED = [(k % 24, k / FPS) for k in range(48)]
_HUNDRED = [(k, k / FPS) for k in range(100)]
_TURNS = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)][1:]
_CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "00112233445566778899aabbccddeeff",
    "encryption_kid": "00112233445566778899aabbccddeeff",
}


def _whole() -> list[Kind]:
    """Nothing is missing: every frame, at its time, upright."""
    return [
        Kind("h264_b_frames.mp4", _clip(options=B_FRAMES, with_audio=True)),
        Kind("h264_fragments.mp4", _clip(options=B_FRAMES, container_options={"movflags": "frag_keyframe+empty_moov"})),
        Kind("h264_negative_ctts.mp4", _clip(options=B_FRAMES, container_options={"movflags": "negative_cts_offsets"})),
        Kind("h264.mkv", _clip(options=B_FRAMES)),
        Kind("h264_live.mkv", _clip(options=B_FRAMES, container_options={"live": "1"})),
        Kind("h264.flv", _clip(options=B_FRAMES)),
        Kind("h264_b_frames.ts", _clip(options=B_FRAMES, container="mpegts")),
        Kind("h264.m2ts", _clip(options=B_FRAMES, container="mpegts", container_options={"mpegts_m2ts_mode": "1"})),
        Kind("h264.avi", _clip(options=B_FRAMES)),
        Kind("h264.3gp", _clip(options=B_FRAMES)),
        Kind("raw.h264", _clip(options={"bf": "0"}, container="h264")),
        Kind("raw.hevc", _clip(codec="libx265", options={"x265-params": "log-level=none:bframes=0:pools=none"})),
        Kind("raw.m2v", _clip(codec="mpeg2video", options=MPEG4, container="mpeg2video")),
        Kind("hevc_8bit.mp4", _clip(codec="libx265", options=X265)),
        Kind("hevc_10bit.mp4", _clip(codec="libx265", options=X265, pix_fmt="yuv420p10le")),
        Kind("hevc_12bit.mkv", _clip(codec="libx265", options=X265, pix_fmt="yuv420p12le")),
        Kind("hevc_hdr.mp4", _hdr),
        Kind("hevc_open_gop.mp4", _clip(codec="libx265", options=X265_OPEN)),
        Kind("h264_open_gop.mkv", _clip(options={"x264-params": "open-gop=1:keyint=12:bframes=3"})),
        Kind("h264_444.mp4", _clip(options=B_FRAMES, pix_fmt="yuv444p")),
        Kind("h264_10bit.mp4", _clip(options=B_FRAMES, pix_fmt="yuv420p10le")),
        Kind("h264_interlaced.ts", _clip(container="mpegts", options={"x264-params": "tff=1:bframes=2"})),
        Kind("mpeg2_interlaced.mpg", _clip(codec="mpeg2video", options={**MPEG4, "flags": "+ildct+ilme"})),
        Kind("vp8.webm", _clip(codec="libvpx", options=FAST_VPX)),
        Kind("vp9.webm", _clip(codec="libvpx-vp9", options=FAST_VPX)),
        Kind("vp9_alpha.webm", _clip(codec="libvpx-vp9", options=FAST_VPX, pix_fmt="yuva420p")),
        Kind("vp9.ivf", _clip(codec="libvpx-vp9", options=FAST_VPX)),
        Kind("av1.mp4", _clip(codec="libsvtav1", options={"preset": "12"})),
        Kind("av1.mkv", _clip(codec="libsvtav1", options={"preset": "12"})),
        Kind("mpeg1.mpg", _clip(codec="mpeg1video", options=MPEG4)),
        Kind("mpeg2.mpg", _clip(codec="mpeg2video", options=MPEG4)),
        Kind("mpeg2_b_frames.ts", _clip(codec="mpeg2video", options=MPEG4, container="mpegts")),
        Kind("mpeg2.vob", _clip(codec="mpeg2video", options=MPEG4, container="vob")),
        Kind("mpeg2.mxf", _clip(codec="mpeg2video", options=MPEG4, container="mxf")),
        Kind("mpeg4.mp4", _clip(codec="mpeg4", options=MPEG4)),
        Kind("mpeg4_b_frames.avi", _clip(codec="mpeg4", options=MPEG4)),
        Kind("msmpeg4.avi", _clip(codec="msmpeg4", options={"b": "2000000"})),
        Kind("mjpeg.avi", _clip(codec="mjpeg", pix_fmt="yuvj420p")),
        Kind("mjpeg.mov", _clip(codec="mjpeg", pix_fmt="yuvj420p")),
        Kind("huffyuv.avi", _clip(codec="huffyuv", pix_fmt="yuv422p")),
        Kind("wmv2.wmv", _clip(codec="wmv2", container="asf", options={"b": "2000000"})),
        Kind("flv1.flv", _clip(codec="flv", options={"b": "2000000"})),
        Kind("h263.3gp", _clip(codec="h263", width_px=352, height_px=288, options={"b": "4000000"})),
        Kind("prores.mov", _clip(codec="prores_ks", pix_fmt="yuv422p10le")),
        Kind("prores_4444_alpha.mov", _clip(codec="prores_ks", pix_fmt="yuva444p10le")),
        Kind("dnxhr.mov", _dnxhr),
        Kind("png_alpha.mov", _clip(codec="png", pix_fmt="rgba")),
        Kind("animation_rle.mov", _clip(codec="qtrle", pix_fmt="argb")),
        Kind("ffv1_odd_size.mkv", _clip(codec="ffv1", pix_fmt="yuv444p", width_px=211, height_px=121)),
        Kind("ffv1_grey16.mkv", _clip(codec="ffv1", pix_fmt="gray16le"), grey=True),
        Kind("h264_odd_size.mp4", _clip(pix_fmt="yuv444p", width_px=211, height_px=121)),
        Kind("dv_pal.dv", _clip(codec="dvvideo", container="dv", width_px=720, height_px=576), heavy=True),
        Kind("uncompressed.y4m", _clip(codec="wrapped_avframe", container="yuv4mpegpipe")),
        Kind("animation.gif", _clip(codec="gif", pix_fmt="rgb8")),
        Kind("animation.apng", _clip(codec="apng", pix_fmt="rgb24", container="apng")),
        Kind(
            "uhd_4k.mp4",
            _clip(width_px=3840, height_px=2160, n_frames=3, options={"preset": "ultrafast"}),
            shown=[(k, k / FPS) for k in range(3)],
            heavy=True,
        ),
        Kind("one_frame.mp4", _clip(n_frames=1), shown=[(0, 0.0)]),
        Kind("jpeg_named.mp4", mjpeg_picture, shown=[(0, 0.0)]),
        Kind("pattern.mp4", named("frame%03d.png", mjpeg_picture), shown=[(0, 0.0)]),
        Kind("wide_pixels.mp4", _clip(stored_width_px=156, sample_aspect_ratio=Fraction(4, 3))),
        Kind("wide_pixels_turned.mp4", _clip(stored_width_px=160, sample_aspect_ratio=Fraction(3, 4), rotation_deg=90)),
        *(
            Kind(f"turned_{degrees}{'_mirrored' * mirrored}.mp4", _clip(rotation_deg=degrees, mirrored=mirrored))
            for degrees, mirrored in _TURNS
        ),
        *(
            Kind(
                f"variable_rate.{ext}",
                _clip(options=B_FRAMES, pts_ms=VFR_MS),
                shown=[(k, ms / 1000) for k, ms in enumerate(VFR_MS)],
            )
            for ext in ("mp4", "mkv")
        ),
        *(
            Kind(f"late_start.{ext}", _clip(options=B_FRAMES, pts_ms=[5000 + 40 * k for k in range(24)]))
            for ext in ("mp4", "mkv")
        ),
        Kind(
            "clock_wraps.ts",
            _clip(options=B_FRAMES, container="mpegts", pts_ms=[95_443_717 - 480 + 40 * k for k in range(24)]),
        ),
        Kind(
            "edit_list_hides_the_start.mp4",
            _clip(options=B_FRAMES, pts_ms=[40 * (k - 6) for k in range(24)]),
            shown=[(k + 6, k / FPS) for k in range(18)],
        ),
        Kind("edit_list_hides_the_end.mp4", _then(_trim, options=B_FRAMES), shown=[(k, k / FPS) for k in range(13)]),
        Kind("two_video_streams.mkv", two_streams),
        Kind("cover_art.mp4", with_cover("mpeg4")),
        Kind(
            "joined.mpg", _then(twice, codec="mpeg2video", options=MPEG4), shown=[(k % 24, k / FPS) for k in range(48)]
        ),
        Kind(
            "joined.ts",
            _then(twice, options=B_FRAMES, container="mpegts"),
            shown=[(k % 24, k / FPS) for k in range(48)],
            lost=(0, 4),
        ),
        Kind("size_changes.ts", two_sizes, shown=_JOINED, lost=(0, 4)),
        Kind("header_counts_too_few.avi", _then(poke(b"strh", 40, "<I", 10), codec="mpeg4", options=MPEG4)),
        Kind("wrong_extension.avi", _clip(container="mp4", options=B_FRAMES)),
        Kind("link.mp4", linked),
        *(
            Kind(f"name_{number}.mp4", named(name))
            for number, name in enumerate(
                (
                    "with spaces.mp4",
                    "-leading.mp4",
                    "Zoë 视频.mp4",
                    "file:colon.mp4",
                    "50%d.mp4",
                    'it\'s "$(x)";&|.mp4',
                    "line\nbreak\x1b[2J.mp4",
                    b"not\xffutf8.mp4",
                )
            )
        ),
    ]


def _pictures() -> list[Kind]:
    """Photographs and other pictures: one frame, upright; animations as videos."""
    stills: list[tuple[str, Callable[[Path], Path]]] = [
        ("photo.jpg", picture(quality=90)),
        ("progressive.JPEG", picture(progressive=True)),
        ("cmyk.jpg", picture(mode="CMYK")),
        ("photo.png", picture()),
        ("palette.png", picture(mode="P")),
        ("palette_transparent.png", picture(mode="P", transparency=200)),
        ("alpha.png", picture(mode="RGBA")),
        ("named_as_another.png", picture(format="JPEG")),
        ("named_as_a_film.mov", picture(format="WEBP")),
        ("photo.webp", picture(lossless=True)),
        ("alpha.webp", picture(mode="RGBA", lossless=True)),
        ("photo.tif", picture()),
        ("lzw.tiff", picture(compression="tiff_lzw")),
        ("cmyk.tif", picture(mode="CMYK")),
        ("lab.tif", lab),
        ("photo.bmp", picture()),
        ("photo.avif", picture()),
        ("photo.heic", heic()),
        ("turned.heic", heic(1)),
        ("photo.jp2", picture()),
        ("photo.ppm", picture()),
        ("motion_photo.jpg", _then_change(picture(), lambda path: path.open("ab").write(bytes(9000)) and None)),
        *((f"exif_{k}.{ext}", picture(orientation=k)) for k in range(2, 9) for ext in ("jpg", "png", "webp", "tif")),
        ("exif.avif", picture(orientation=6)),
    ]
    greys = [
        ("grey.jpg", picture(mode="L")),
        ("one_bit.png", picture(mode="1")),
        ("grey_alpha.png", picture(mode="LA")),
        ("grey_16_bits.png", sixteen_bits),
        ("grey_16_bits.tif", sixteen_bits),
        ("grey.pgm", picture(mode="L")),
    ]
    ms = [100, 100, 300, 100, 100]
    moving = [(k, sum(ms[:k]) / 1000) for k in range(5)]
    return [
        *(Kind(name, make, shown=[(0, 0.0)]) for name, make in stills),
        *(Kind(name, make, shown=[(0, 0.0)], grey=True) for name, make in greys),
        Kind("pages.tif", animation(ms), shown=[(0, 0.0)]),
        Kind("animation.webp", animation(ms, lossless=True), shown=moving),
        Kind("animation.avif", animation(ms), shown=moving),
        Kind("animation.png", animation(ms), shown=moving),
        Kind("cut.jpg", _then_change(picture(), cut(0.5)), code="decode_failed"),
        Kind("damaged.jpg", _then_change(picture(quality=95), garble(0.6, 40)), code="decode_failed"),
        Kind("damaged.png", _then_change(picture(), garble(0.6, 40)), code="decode_failed"),
        Kind("cut.tif", _then_change(picture(), cut(0.5)), code="decode_failed"),
        Kind("cut.heic", _then_change(heic(), cut(0.9)), code="decode_failed"),
        Kind("head_alone.png", _bytes(b"\x89PNG\r\n\x1a\n"), code="decode_failed"),
        Kind("text.jpg", _bytes(b"no picture\n" * 99), code="not_a_video"),
        Kind("raw_file_of_a_camera.dng", picture(format="TIFF", tiffinfo={50706: b"\1\4\0\0"}), code="decode_failed"),
        Kind("bomb.png", bomb(60_000, 60_000), code="too_large"),
        Kind("bomb.bmp", _then_change(picture(), poke(b"BM", 18, "<ii", 30_000, 30_000)), code="too_large"),
    ]


def _then_change(make: Callable[[Path], Path], change: Callable[[Path], None]) -> Callable[[Path], Path]:
    def make_and_change(path: Path) -> Path:
        change(make(path))
        return path

    return make_and_change


def _dnxhr(path: Path) -> Path:
    return write_clip(
        path, codec="dnxhd", pix_fmt="yuv422p", options={"profile": "dnxhr_sq"}, width_px=416, height_px=240
    )


def _hdr(path: Path) -> Path:
    params = X265["x265-params"] + ":colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:hdr10=1"
    return write_clip(path, codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": params})


def _damaged() -> list[Kind]:
    """Something is missing, and it is said what."""
    faststart = {"movflags": "faststart"}
    return [
        Kind(
            "cut_with_faststart.mp4",
            _then(cut(0.6), container_options=faststart, **LONG),
            shown=_HUNDRED,
            lost=(20, 80),
        ),
        *(
            Kind(f"cut.{ext}", _then(cut(0.6), **LONG), shown=_HUNDRED, lost=(20, 80), silent=2)
            for ext in ("mkv", "avi", "flv")
        ),
        Kind("cut.ts", _then(cut(0.6), container="mpegts", **LONG), shown=_HUNDRED, lost=(0, 2), silent=60),
        Kind(
            "cut_fragments.mp4",
            _then(cut(0.6), container_options={"movflags": "frag_keyframe+empty_moov"}, **LONG),
            shown=_HUNDRED,
            lost=(0, 30),
            silent=60,
        ),
        Kind(
            "begins_in_the_middle.ts",
            _then(cut_front(188 * 40), container="mpegts", **LONG),
            shown=_HUNDRED,
            lost=(0, 40),
            silent=60,
        ),
        *(
            Kind(
                f"damaged_{place}.{ext}",
                _then(garble(share), codec=codec, n_frames=100, container=container, options={"bf": "2", "g": "25"}),
                shown=_HUNDRED,
                lost=(0 if codec == "mpeg4" else 1, 100),  # MPEG-4 does not notice each wrong bit
                silent=30 if ext == "ts" else 2,
            )
            for ext, codec, container in (("mkv", "libx264", None), ("ts", "libx264", "mpegts"), ("avi", "mpeg4", None))
            for place, share in (("near_the_start", 0.15), ("in_the_middle", 0.5), ("near_the_end", 0.8))
        ),
        Kind(
            "damaged_in_the_middle.mp4",
            _then(garble(0.5), container_options=faststart, **LONG),
            shown=_HUNDRED,
            lost=(1, 60),
        ),
        Kind(
            "damaged_hevc.mp4",
            _then(garble(0.6), codec="libx265", options=X265, n_frames=60),
            shown=_HUNDRED[:60],
            lost=(0, 40),
        ),
        Kind("damaged_counted.avi", _then(garble(0.7), **LONG), shown=_HUNDRED, lost=(20, 80)),
        Kind(
            "header_counts_too_many.avi",
            _then(poke(b"strh", 40, "<I", 30), codec="mpeg4", options=MPEG4),
            shown=[(k, k / FPS) for k in range(30)],
            lost=(6, 6),
        ),
    ]


def _refused() -> list[Kind]:
    """Nothing can be read, and the code says why."""
    return [
        Kind("cut_without_faststart.mp4", _then(cut(0.6), **LONG), code="truncated"),
        Kind("start_is_gone.mp4", _then(cut_front(4000), **LONG), code="not_a_video"),
        Kind("start_is_garbled.mp4", _then(garble(0.0, 64), **LONG), code="not_a_video"),
        Kind("no_bytes.mp4", _bytes(b""), code="empty_file"),
        Kind("no_frames.mp4", _no_frames, code="no_frames"),
        Kind("sound_alone.mp4", write_audio, code="no_video_stream"),
        Kind("sound_with_cover.m4a.mp4", with_cover(None), code="no_video_stream"),
        Kind("text_named.mp4", _bytes(b"hello, this is not a video\n" * 99), code="not_a_video"),
        Kind(
            "playlist_named.mp4",
            _bytes(b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nreal.mp4\n"),
            code="not_a_video",
        ),
        Kind("zip_named.mp4", _bytes(b"PK\x03\x04" + bytes(4000)), code="not_a_video"),
        Kind("zeros.mp4", _bytes(bytes(50_000)), code="not_a_video"),
        Kind("noise.mkv", _bytes(np.random.default_rng(0).bytes(50_000)), code="not_a_video"),
        Kind("encrypted.mp4", _clip(container_options=_CENC), code="encrypted"),
        Kind("dangling.mp4", link_to("nowhere.mp4"), code="missing"),
        Kind("loop.mp4", link_to(""), code="unreadable"),
        Kind("folder.mp4", folder, code="not_a_file"),
        Kind("pipe.mp4", pipe, code="not_a_file"),
        Kind(
            "locked.mp4", locked, code="" if os.geteuid() == 0 else "unreadable", shown=[(k, k / FPS) for k in range(2)]
        ),
        Kind("gone.mp4", lambda path: path, code="missing"),
    ]


def _no_frames(path: Path) -> Path:
    write_clip(path, container_options={"movflags": "frag_keyframe+empty_moov"})
    path.write_bytes(path.read_bytes().split(b"moof")[0][:-4])
    return path


def _hostile() -> list[Kind]:
    """More is claimed than there is (pipelines/video/limits.py)."""
    huge = _then(poke(b"strh", 40, "<I", 1_000_000_000), codec="mpeg4", options=MPEG4)
    return [
        Kind("canvas_of_4_gigapixels.gif", _bytes(gif(65_535, 65_535, 3)), code="not_a_video"),
        Kind("canvas_of_256_megapixels.gif", _bytes(gif(16_000, 16_000, 3)), code="too_large"),
        Kind("bomb.gif", _bytes(gif(8000, 8000, 16_000)), code="too_large"),
        Kind(
            "canvas.y4m", _bytes(b"YUV4MPEG2 W65535 H65535 F25:1 Ip C420jpeg\nFRAME\n" + bytes(999)), code="not_a_video"
        ),
        Kind("billion_frames.avi", huge, code="too_large"),
        Kind("age_of_the_universe.mkv", _then(poke(b"\x44\x89\x88", 3, ">Q", 0x430C6BF526340000), options=B_FRAMES)),
        Kind("times_over_millennia.mkv", _clip(n_frames=3, pts_ms=[0, 40, 2**46]), code="too_large"),
        Kind(
            "gap_of_a_year.mkv",
            _clip(n_frames=3, pts_ms=[0, 40, 31_000_000_000]),
            shown=[(0, 0.0), (1, 0.04), (2, 31_000_000.0)],
        ),
        Kind("many_streams.mkv", _many_streams(300), code="too_large"),
        Kind(
            "pixels_as_wide_as_a_street.mp4",
            _then(
                poke(b"pasp", 4, ">II", 60_000, 1), n_frames=2, stored_width_px=156, sample_aspect_ratio=Fraction(4, 3)
            ),
            code="too_large",
        ),
    ]


def _many_streams(n: int) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with av.open(str(path), "w") as out:
            streams = [out.add_stream("mpeg4", rate=FPS) for _ in range(n)]
            for stream in streams:
                stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for stream in streams:
                out.mux([*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)])
        return path

    return make


CORPUS: tuple[Kind, ...] = (*_whole(), *_pictures(), *_damaged(), *_refused(), *_hostile())
