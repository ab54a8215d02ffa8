"""The shapes of a stream's picture: some recordings change size, or the shape of their pixels, in the middle."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.codec.context import CodecContext
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

__all__ = ["Shape", "ShapeChanges", "canvas_of", "draw", "shape_at", "square_pixels"]

#: What scaling to whole pixels states as the shape of a pixel, such as 448:447: to resample frames for it costs time.
_SQUARE_ENOUGH = Fraction(1, 100)
#: A stream that never stops changing is not followed for ever.
_MAX_SHAPES = 64
#: Where key frames state the size: H.264 and HEVC in table 7-1 (types 7 and 33), MPEG-2 in 6.2.2.1, MPEG-4 in 6.2.3,
#: AV1 in 5.5, VP8 in section 9.1 of RFC 6386, VP9 in 6.2, JPEG in B.2.2, PNG in 11.2.2.
_HEADERS = {
    "av1": re.compile(rb"\A(?:\x12\x00)?\x0a.{10}", re.DOTALL),
    "h264": re.compile(rb"\x00\x00\x01[\x07\x27\x47\x67].{4,80}?(?=\x00\x00[\x00\x01])", re.DOTALL),
    "hevc": re.compile(rb"\x00\x00\x01\x42.{4,160}?(?=\x00\x00[\x00\x01])", re.DOTALL),
    "mjpeg": re.compile(rb"\xff[\xc0-\xc2]\x00[\x0b\x11]\x08.{4}[\x01\x03]\x01", re.DOTALL),
    "mpeg1video": re.compile(rb"\x00\x00\x01\xb3.{4}", re.DOTALL),
    "mpeg2video": re.compile(rb"\x00\x00\x01\xb3.{4}", re.DOTALL),
    "mpeg4": re.compile(rb"\x00\x00\x01[\x20-\x2f].{4,80}?(?=\x00\x00\x01)", re.DOTALL),
    "png": re.compile(rb"\A\x89PNG\r\n\x1a\n.{4}IHDR.{8}", re.DOTALL),
    "vp8": re.compile(rb"\x9d\x01\x2a.{4}", re.DOTALL),
    "vp9": re.compile(rb"\x49\x83\x42.{5}", re.DOTALL),
}
#: Headers come before the picture.
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Shape:
    """From which packet on, in decoding order, the stored picture has this size in square pixels; ``aspect`` of one."""

    first_packet: int
    width_px: int
    height_px: int
    aspect: Fraction


def square_pixels(aspect: Fraction | None) -> Fraction:
    """Width of a pixel over its height; 1 where none is stated, or one that differs from 1 by rounding alone."""
    aspect = aspect or Fraction(1)
    return Fraction(1) if abs(aspect - 1) < _SQUARE_ENOUGH else Fraction(aspect)


class ShapeChanges:
    """Finds the packets at which the shape changes, and decodes no other."""

    def __init__(self, stream: VideoStream) -> None:
        self._context: VideoCodecContext = stream.codec_context
        self._header = _HEADERS.get(self._context.codec.canonical_name)
        self._nal_length_bytes = _nal_length_bytes(self._context)
        self._known: dict[bytes, tuple[int, int, Fraction] | None] = {}
        self._stored: tuple[int, int, Fraction] | None = None
        self._first: av.Packet | None = None  # the first key frame, if its size is stated outside the packets
        self.found: list[Shape] = []

    def see(self, position: int, packet: av.Packet) -> None:
        """Look at the packet at this position, in decoding order."""
        if not packet.is_keyframe or len(self.found) == _MAX_SHAPES:
            return
        stated = self._stated(packet)
        if stated is None:
            self._first = self._first or packet
            return
        if stated not in self._known:
            self._known[stated] = self._decoded(packet)
        stored = self._known[stated]
        if self._first is not None and not self.found and (first := self._decoded(self._first)) is not None:
            self._add(0, first)
        if stored is not None and stored != self._stored:
            self._add(position, stored)

    def _add(self, position: int, stored: tuple[int, int, Fraction]) -> None:
        width_px, height_px, aspect = self._stored = stored
        self.found.append(Shape(position, round(width_px * aspect), height_px, aspect))

    def _stated(self, packet: av.Packet) -> bytes | None:
        """The bytes that say the size, to be compared."""
        for data in packet.iter_sidedata() if packet.has_sidedata("new_extradata") else ():
            if data.data_type == "new_extradata":
                return bytes(data)
        head = bytes(memoryview(packet)[:_HEAD_BYTES])
        if self._nal_length_bytes:
            return _parameter_set(head, self._nal_length_bytes, is_hevc=self._context.codec.canonical_name == "hevc")
        match = self._header.search(head) if self._header else None
        return match.group() if match else None

    def _decoded(self, packet: av.Packet) -> tuple[int, int, Fraction] | None:
        context = CodecContext.create(self._context.codec.name, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = self._context.extradata
        context.options = self._context.options
        try:
            frames = [*context.decode(packet), *context.decode(None)]
        except FFmpegError:
            return None
        if not frames:
            return None
        return frames[0].width, frames[0].height, square_pixels(context.sample_aspect_ratio)


def _nal_length_bytes(context: VideoCodecContext) -> int:
    """Bytes of the length before each NAL unit of H.264 or HEVC in MP4, Matroska, FLV; 0 where start codes part them.

    ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1.
    """
    name, extra = context.codec.canonical_name, context.extradata or b""
    at = {"h264": 4, "hevc": 21}.get(name, len(extra))
    return (extra[at] & 3) + 1 if extra[:1] == b"\x01" and len(extra) > at else 0


def _parameter_set(head: bytes, n_length_bytes: int, *, is_hevc: bool) -> bytes | None:
    """The first sequence parameter set among the NAL units before the picture's own; None where there is none."""
    at = 0
    while at + n_length_bytes < len(head):
        start = at + n_length_bytes
        at = start + int.from_bytes(head[at:start])
        kind = head[start] >> 1 & 0x3F if is_hevc else head[start] & 0x1F
        if kind == (33 if is_hevc else 7):
            return head[start:at]
        if kind < 32 if is_hevc else 1 <= kind <= 5:
            return None
    return None


def canvas_of(shapes: Sequence[Shape]) -> tuple[int, int]:
    """(width, height) in square pixels on which each of the shapes can be drawn at no less than its own size."""
    return max(shape.width_px for shape in shapes), max(shape.height_px for shape in shapes)


def shape_at(shapes: Sequence[Shape], position: int) -> Shape:
    """The shape of the packet at a position in decoding order."""
    return shapes[max(bisect_right(shapes, position, key=lambda shape: shape.first_packet) - 1, 0)]


def draw(frame: VideoFrame, aspect: Fraction, width_px: int, height_px: int, threads: int = 1) -> np.ndarray:
    """A frame with square pixels, uint8 RGB [height_px,width_px,3]: as large as fits, in the middle, black around it.

    Raises:
        FFmpegError, ValueError: the frame cannot be converted.
    """
    shown_width_px = frame.width * float(aspect)
    scale = min(width_px / shown_width_px, height_px / frame.height)
    drawn_width_px, drawn_height_px = round(shown_width_px * scale), round(frame.height * scale)
    if max(width_px - drawn_width_px, height_px - drawn_height_px) <= 1:  # of rounding
        return frame.to_ndarray(format="rgb24", width=width_px, height=height_px, threads=threads)
    rgb = frame.to_ndarray(format="rgb24", width=drawn_width_px, height=drawn_height_px, threads=threads)
    canvas = np.zeros((height_px, width_px, 3), np.uint8)
    left_px, top_px = (width_px - drawn_width_px) // 2, (height_px - drawn_height_px) // 2
    canvas[top_px : top_px + drawn_height_px, left_px : left_px + drawn_width_px] = rgb
    return canvas
