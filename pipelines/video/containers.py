"""Opening a local video file with libav: every way in which that fails becomes a VideoError."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from pipelines.errors import VideoError
from pipelines.video.limits import MAX_PIXELS, MAX_PIXELS_PER_BYTE, MAX_PIXELS_UNPROVEN, MAX_STREAMS
from storage.sequences import sequence_of, status_of

__all__ = [
    "another_follows",
    "check_size",
    "claims_more_bytes",
    "damage_reports",
    "open_container",
    "require_file",
    "shown_stream",
    "stream_texts",
    "too_large",
    "video_packets",
    "video_stream",
    "video_streams",
]

av.logging.set_skip_repeated(False)  # damage_reports counts on every line
av.logging.set_level(None)  # libav's own log lines are noise on a user's terminal; errors arrive as exceptions

#: Demuxers that read text or name other files: their bytes are not the video.
_NOT_VIDEO_FORMATS = {"concat", "concatf", "dash", "hls", "imf", "sdp", "tty", "vobsub", "webvtt"}

#: The first bytes of a file. FLV: sound, pictures or both (Video File Format Specification, version 10, annex E.2).
#: Matroska: an EBML header (RFC 8794, 11.2.1) that holds a DocType; libav reads on into a second segment, not a third.
_HEADS = {
    "flv": re.compile(rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09"),
    "matroska,webm": re.compile(rb"\x1a\x45\xdf\xa3.{1,48}\x42\x82.(webm|matroska)", re.DOTALL),
}
_MAX_PACKET_BYTES = 16 << 20
_SEGMENT_ID = b"\x18\x53\x80\x67"
#: The segment of a Matroska file follows a header of some dozen bytes.
_MATROSKA_HEAD_BYTES = 4096
#: Demuxers that leave damaged parts of a file out and tell nobody but the log.
_SILENT_DEMUXERS = {"matroska,webm"}


def require_file(path: str | Path) -> None:
    """Raise a VideoError unless the path is a regular file with bytes that may be read; never opens a FIFO.

    Of a sequence of pictures there has to be one at least.
    """
    try:
        if sequence := sequence_of(Path(path)):
            sequence.status()
            return
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
            kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
            raise VideoError("not_a_file", "open", path, f"this is {kind}, not a file; give the video file itself")
        if status.st_size == 0:
            raise VideoError("empty_file", "open", path, "the file has no bytes; copy or record it again")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise VideoError("missing", "open", path, "there is no such file; check the name and the mount") from None
    except OSError as error:
        message = f"the file cannot be read ({error.strerror}); check its permissions and the disk"
        raise VideoError("unreadable", "open", path, message) from error


@contextmanager
def open_container(path: str | Path) -> Iterator[InputContainer]:
    """Open a local file with libav, and close it; foreign exceptions become VideoErrors."""
    require_file(path)
    try:
        # An absolute path is never taken for a protocol, as "clip:one.mp4" would be; and no file may name others.
        container = av.open(
            os.path.abspath(path),
            "r",
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except MemoryError as error:  # what libav also says of more than a thousand streams
        message = "not enough memory to open the file, or it has thousands of streams; use fewer workers"
        raise VideoError("out_of_memory", "open", path, message) from error
    except (FFmpegError, ValueError) as error:
        raise _not_a_video(path) from error
    with container:
        if container.format.name == "image2":  # by its name alone: its bytes are those of no picture
            raise _not_a_video(path)
        if container.format.name in _NOT_VIDEO_FORMATS:
            message = f"this is text or a playlist ({container.format.name}), not a video; give the video file itself"
            raise VideoError("not_a_video", "open", path, message)
        if len(container.streams) > MAX_STREAMS:
            raise too_large(path, f"it has over {MAX_STREAMS} streams")
        yield container


def video_streams(container: InputContainer) -> list[VideoStream]:
    """The video streams by their numbers, as ffmpeg counts ``V:0``, ``V:1``: cover pictures are none."""
    return [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]


def shown_stream(container: InputContainer, path: str | Path) -> int:
    """The number of the video stream that players show: libav's choice. Raises VideoError: no_video_stream."""
    streams = video_streams(container)
    if not streams:
        raise VideoError("no_video_stream", "open", path, "the file has sound or data but no video; leave it out")
    best = container.streams.best("video")
    return next((n for n, s in enumerate(streams) if best is not None and s.index == best.index), 0)


def stream_texts(container: InputContainer, path: str | Path) -> list[str]:
    """Each video stream in a few words, such as ``0: h264 1280x720, which players show``."""
    shown, texts = shown_stream(container, path), []
    for number, stream in enumerate(video_streams(container)):
        context = stream.codec_context
        what = (
            "of an unknown codec"
            if context is None
            else f"{context.codec.canonical_name} {context.width}x{context.height}"
        )
        title = f" {stream.metadata['title']!r}" if stream.metadata.get("title") else ""
        texts.append(f"{number}: {what}{title}{', which players show' if number == shown else ''}")
    return texts


def video_stream(container: InputContainer, path: str | Path, number: int | None = None) -> VideoStream:
    """The stream to read: the one of this number, or the one that players show.

    Raises:
        VideoError: no_video_stream, no_such_stream, decode_failed (an unknown codec), too_large.
    """
    shown, streams = shown_stream(container, path), video_streams(container)
    number = shown if number is None else number
    if not 0 <= number < len(streams):
        listed = "; ".join(stream_texts(container, path))
        raise VideoError("no_such_stream", "open", path, f"there is no video stream {number}; the file has {listed}")
    stream = streams[number]
    if stream.codec_context is None:
        message = "no decoder knows this video's codec; convert it, for instance with ffmpeg -i IN -c:v libx264 OUT.mp4"
        raise VideoError("decode_failed", "open", path, message)
    width_px, height_px = stream.codec_context.width, stream.codec_context.height
    if width_px * height_px > MAX_PIXELS:
        raise too_large(path, f"its frames have {width_px}x{height_px} pixels, {MAX_PIXELS} are allowed")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the stream itself may claim more than its header
    return stream


def too_large(path: str | Path, claim: str) -> VideoError:
    """The refusal of a file that claims more than pipelines/video/limits.py allows."""
    return VideoError("too_large", "open", path, f"{claim}; cut or convert it if it is what it claims to be")


def check_size(path: Path, width_px: int, height_px: int, n_frames: int) -> None:
    """Raise the VideoError too_large for frames that are too large, or more than a file of its size can hold."""
    if width_px * height_px > MAX_PIXELS:
        raise too_large(path, f"its frames are shown with {width_px}x{height_px} pixels, {MAX_PIXELS} are allowed")
    n_pixels, size_bytes = width_px * height_px * n_frames, status_of(path).st_size
    if n_pixels > max(MAX_PIXELS_UNPROVEN, size_bytes * MAX_PIXELS_PER_BYTE):
        raise too_large(path, f"its {size_bytes} bytes claim {n_frames} frames of {width_px}x{height_px} pixels")


@contextmanager
def damage_reports(container: InputContainer) -> Iterator[list[tuple[int, str, str]]]:
    """Collect what a demuxer complains of meanwhile: Matroska's leaves out what it cannot parse, and flags nothing.

    (level, name of the part of libav, line) each; none for demuxers that flag lost packets.
    """
    if container.format.name not in _SILENT_DEMUXERS:
        yield []
        return
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines:
            yield lines
    finally:
        av.logging.set_level(None)


def video_packets(container: InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """The packets of some streams until the file ends or can no longer be read; empty ones (which mean "flush") too."""
    try:
        yield from container.demux(*streams)
    except FFmpegError:
        return


def _not_a_video(path: str | Path) -> VideoError:
    if _lacks_index(path):
        message = (
            "the recording or copy was cut short before its index (moov) was written; copy it again, or rebuild it "
            "with a repair tool and a good file of the same camera"
        )
        return VideoError("truncated", "open", path, message)
    return VideoError(
        "not_a_video", "open", path, "no format of a video or picture was recognised in these bytes; leave it out"
    )


def _lacks_index(path: str | Path) -> bool:
    """Whether the bytes are an MP4 or QuickTime file without its ``moov`` box."""
    boxes = list(_boxes(path))
    if not boxes or boxes[0][0] not in (b"ftyp", b"mdat", b"wide", b"free", b"skip", b"moov"):
        return False
    return not any(kind == b"moov" and is_whole for kind, is_whole in boxes)


def _boxes(path: str | Path) -> Iterator[tuple[bytes, bool]]:
    """The outermost boxes of an MP4 or QuickTime file, and whether each is whole (ISO/IEC 14496-12, 4.2)."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        at = 0
        while at + 8 <= end:
            file.seek(at)
            head = file.read(16)
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            size = int.from_bytes(head[8:16], "big") if size == 1 else size
            yield kind, 8 <= size <= end - at
            if size < 8:  # 0: this box reaches to the end of the file
                return
            at += size


def claims_more_bytes(container: InputContainer) -> bool:
    """Whether a Matroska or WebM file ends before its segment does: it was cut short (RFC 9559, 4.5; RFC 8794, 4).

    A segment of unknown size is what recorders write that cannot go back to their header.
    """
    with open(container.name, "rb") as file:
        head = file.read(_MATROSKA_HEAD_BYTES)
        end = file.seek(0, os.SEEK_END)
    at = head.find(_SEGMENT_ID)
    if at < 0 or at + 4 >= len(head):
        return False
    n_bytes = 9 - head[at + 4].bit_length()
    size = int.from_bytes(head[at + 4 : at + 4 + n_bytes], "big") & ((1 << 7 * n_bytes) - 1)
    is_unknown = size == (1 << 7 * n_bytes) - 1
    return not is_unknown and at + 4 + n_bytes + size > end


def another_follows(container: InputContainer, last_packet_at: int) -> bool:
    """Whether another recording was appended to a file of a kind of which libav reads the first alone, or not all.

    ``last_packet_at`` is the place of the last packet that was read, in bytes.
    """
    if container.format.name.startswith("mov"):
        return sum(kind == b"moov" for kind, _ in _boxes(container.name)) > 1
    if (head := _HEADS.get(container.format.name)) is None:
        return False
    with open(container.name, "rb") as file:
        file.seek(max(last_packet_at, 0))
        return head.search(file.read(_MAX_PACKET_BYTES)) is not None
