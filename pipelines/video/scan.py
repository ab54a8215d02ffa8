"""One pass over a file's packets: how many frames it must give, when each is shown, and how the picture is turned."""

from __future__ import annotations

import math
import os
from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.batches import VideoInfo
from pipelines.errors import VideoError
from pipelines.heartbeat import heartbeat
from pipelines.video.containers import (
    another_follows,
    check_size,
    claims_more_bytes,
    damage_reports,
    open_container,
    shown_stream,
    stream_texts,
    too_large,
    video_packets,
    video_stream,
    video_streams,
)
from pipelines.video.limits import MAX_DURATION_S, MAX_FRAMES, MAX_TIME_S
from pipelines.video.orientation import display_matrix, turn_of
from pipelines.video.pictures import Pictures, look_at
from pipelines.video.seams import PARSED_AHEAD, REORDERED_PACKETS, continue_times
from pipelines.video.shapes import Shape, ShapeChanges, canvas_of, square_pixels

__all__ = ["Video", "list_streams", "open_video"]

#: Containers whose header states a duration that was measured when the file was finished.
_DURATION_FORMATS = {"matroska,webm", "flv"}
_PLAIN_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"}
_PLAIN_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "mjpeg"}
#: A file that ends this much before the duration in its header was cut short; audio padding is far below it.
_CUT_SHORT_S = 1.0
#: Bytes of a chunk's name and size in AVI, which lie between where the index points and where the packet begins.
_AVI_CHUNK_HEAD = 8
#: Frames further apart than so many usual steps have lost one between them.
_GAP_STEPS = 1.5
#: How exact the times of pictures are.
_PICTURE_TICK_S = 1e-6
#: Packets that are decoded, at most, to see one frame and the display matrix that it carries.
_PROBE_PACKETS = 64


@dataclass(frozen=True, repr=False)
class Video:
    """A file that was scanned and can be decoded; N frames in presentation order, P packets in decoding order.

    ``pts_s`` and ``duration_s`` are float64 [N], in seconds: when each frame is shown, and for how long.
    ``n_missing`` of the N frames are promised by the header and not in the file (it was cut short); their times are
    estimates, at the rate of the rest. ``frame_of_packet`` int64 [P] is each packet's place among the
    frames, -1 if it shows none. Where ``exact_pts`` is False the container's times do not say which packet is
    which frame, and frames are counted instead. ``can_seek`` says that the container finds
    a frame by its ``pts_s``. ``display_matrix`` is (a, b, c, d): a point (x, y), y down, of the
    stored picture is shown at (a x + c y, b x + d y). ``stored_width_px`` and ``stored_height_px`` have square pixels
    and come before that turn; where the picture has several ``shapes``, each is drawn into that size. ``is_joined``
    says that recordings were joined end to end, whose times go on at the seams. ``doubt`` is why
    a decoder that does not go packet by packet is not proven right on the file. ``defect`` is the code and the message
    of what the file as a whole lacks, and ``note`` what its reader should know of it beside. ``pictures`` are the N
    files, and which picture of each, where the video is a picture or a sequence of them; None of one that is missing.
    """

    info: VideoInfo
    pts_s: np.ndarray
    duration_s: np.ndarray
    tick_s: float
    n_missing: int
    frame_of_packet: np.ndarray
    is_key: np.ndarray
    is_corrupt: np.ndarray
    exact_pts: bool
    can_seek: bool
    display_matrix: tuple[int, int, int, int]
    stored_width_px: int
    stored_height_px: int
    shapes: tuple[Shape, ...]
    is_joined: bool
    doubt: str | None
    defect: tuple[str, str] | None
    note: str
    pictures: tuple[tuple[Path, int] | None, ...] = ()

    def __repr__(self) -> str:
        return f"Video({self.info}, n_missing={self.n_missing}, doubt={self.doubt!r})"


@dataclass
class _Scan:
    """The packets of the video stream in decoding order, as compact arrays: an hour at 30 fps is about 5 MB.

    ``heard`` is how much sound was read before each, and ``sound_at`` before which the first was, in ticks and packets.
    ``is_shifted``: the times are not those of libav.
    """

    pts: array[int]
    dts: array[int]
    duration: array[int]
    is_key: bytearray
    is_corrupt: bytearray
    is_hidden: bytearray
    offset: array[int]
    heard: array[int]
    n_empty: int = 0
    n_unstamped: int = 0
    end_s: float = 0.0
    sound_start_s: float = math.inf
    sound_at: int = 0
    sound_ticks: int = 0
    first_frame: VideoFrame | None = None
    has_hole: bool = False
    is_joined: bool = False
    is_shifted: bool = False
    shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class _Timeline:
    """The fields of the same names in Video."""

    pts_s: np.ndarray
    duration_s: np.ndarray
    tick_s: float
    n_missing: int
    frame_of_packet: np.ndarray
    exact_pts: bool


def open_video(path: str | Path, video_id: str = "", *, stream: int | None = None) -> Video:
    """Scan a file without decoding it (but for one frame, which carries the display matrix).

    A picture is a video of one frame that is shown for a second.

    Args:
        path: the file, or the name of a sequence of pictures (``storage/sequences.py``).
        video_id: kept in ``info``.
        stream: number of the video stream, from 0, without cover pictures; None: the one that players show.

    Raises:
        VideoError: missing, not_a_file, empty_file, unreadable, not_a_video, truncated, no_video_stream,
            no_such_stream, no_frames, encrypted, decode_failed (an unknown codec), too_large or out_of_memory.
    """
    try:
        return _open(Path(path), video_id, stream)
    except OverflowError as error:
        raise too_large(path, "its times are beyond all bounds") from error
    except MemoryError as error:
        raise VideoError("out_of_memory", "open", path, "not enough memory to scan it; use fewer workers") from error


def list_streams(path: str | Path) -> tuple[int, list[str]]:
    """The number of the video stream that players show, and each stream as text; reads headers only.

    Raises:
        VideoError: as ``open_video``, of what a header shows.
    """
    if found := look_at(Path(path)):
        return 0, [f"0: {found.format} {found.width_px}x{found.height_px}"]
    with open_container(path) as container:
        return shown_stream(container, path), stream_texts(container, path)


def _open(path: Path, video_id: str, number: int | None) -> Video:
    if found := look_at(path):
        if number:
            raise VideoError("no_such_stream", "open", path, f"there is no video stream {number} in a picture")
        return _of_pictures(found, path, video_id)
    with open_container(path) as container:
        number = shown_stream(container, path) if number is None else number
        stream = video_stream(container, path, number)
        scan = _scan_packets(container, stream)
        if len(scan.pts) == sum(scan.is_hidden):
            raise VideoError("no_frames", "open", path, "the video stream holds no frame; record or convert it again")
        timeline = _lay_out(scan, container, stream)
        frame = scan.first_frame
        matrix = display_matrix(frame)
        rotation_deg, mirrored = turn_of(matrix)
        stored_width_px, stored_height_px = canvas_of(scan.shapes)
        if min(stored_width_px, stored_height_px) < 1:
            message = "the video states no size, or one that no decoder takes; record or convert it again"
            raise VideoError("not_a_video", "open", path, message)
        check_size(path, stored_width_px, stored_height_px, len(timeline.pts_s))
        turned = rotation_deg in (90, 270)
        pts_s, duration_s = timeline.pts_s, timeline.duration_s
        start_s = min(float(pts_s[0]), scan.sound_start_s)
        info = VideoInfo(
            path=path,
            video_id=video_id,
            width_px=stored_height_px if turned else stored_width_px,
            height_px=stored_width_px if turned else stored_height_px,
            rotation_deg=rotation_deg,
            mirrored=mirrored,
            sample_aspect_ratio=float(scan.shapes[0].aspect),
            codec=stream.codec_context.codec.canonical_name,
            container=container.format.name,
            n_frames=len(pts_s),
            duration_s=float(pts_s[-1] + duration_s[-1] - start_s),
            start_s=start_s,
            stream=number,
            n_streams=len(video_streams(container)),
        )
        doubt = _doubt(info, container, stream, scan, timeline)
        defect, note = _defect(container, scan, timeline), _note(scan, container, info, timeline.n_missing)
    return Video(
        info=info,
        pts_s=pts_s,
        duration_s=duration_s,
        tick_s=timeline.tick_s,
        n_missing=timeline.n_missing,
        frame_of_packet=timeline.frame_of_packet,
        is_key=np.frombuffer(scan.is_key, bool),
        is_corrupt=np.frombuffer(scan.is_corrupt, bool),
        exact_pts=timeline.exact_pts,
        can_seek=timeline.exact_pts
        and not scan.is_shifted
        and len(scan.shapes) == 1
        and container.format.name != "avi",
        display_matrix=matrix,
        stored_width_px=stored_width_px,
        stored_height_px=stored_height_px,
        shapes=scan.shapes,
        is_joined=scan.is_joined,
        doubt=doubt,
        defect=defect,
        note=note,
    )


def _of_pictures(found: Pictures, path: Path, video_id: str) -> Video:
    n_frames = len(found.frames)
    info = VideoInfo(
        path=path,
        video_id=video_id,
        width_px=found.width_px,
        height_px=found.height_px,
        rotation_deg=found.rotation_deg,
        mirrored=found.mirrored,
        sample_aspect_ratio=1.0,
        codec=found.format,
        container=found.kind,
        n_frames=n_frames,
        duration_s=float(found.times_s[-1]),
        start_s=0.0,
    )
    return Video(
        info=info,
        pts_s=found.times_s[:-1],
        duration_s=np.diff(found.times_s),
        tick_s=_PICTURE_TICK_S,
        n_missing=sum(frame is None for frame in found.frames),
        frame_of_packet=np.arange(n_frames),
        is_key=np.ones(n_frames, bool),
        is_corrupt=np.zeros(n_frames, bool),
        exact_pts=True,
        can_seek=False,
        display_matrix=(1, 0, 0, 1),
        stored_width_px=found.width_px,
        stored_height_px=found.height_px,
        shapes=(Shape(0, found.width_px, found.height_px, Fraction(1)),),
        is_joined=False,
        doubt="it is a picture",
        defect=found.defect,
        note=found.note,
        pictures=found.frames,
    )


def _scan_packets(container: InputContainer, stream: VideoStream) -> _Scan:
    scan = _Scan(array("q"), array("q"), array("q"), bytearray(), bytearray(), bytearray(), array("q"), array("q"))
    changes = ShapeChanges(stream)
    with damage_reports(container) as complaints:
        _read_packets(scan, container, stream, changes)
    scan.has_hole = any(name == container.format.name for _, name, _ in complaints)
    if scan.first_frame is None and scan.pts:
        scan.first_frame = _first_frame(stream, None)
    scan.shapes = tuple(changes.found) if len(changes.found) > 1 else (_only_shape(scan.first_frame, stream),)
    if container.format.name == "avi" and len(stream.index_entries) > len(scan.pts) + scan.n_empty:
        _doubt_after_hole(scan, stream)
    if container.format.name != "avi":  # whose times only count packets
        _continue_times(scan, container)
    if container.format.name == "mpegts":
        _trust_before_keys(scan)
    return scan


def _read_packets(scan: _Scan, container: InputContainer, stream: VideoStream, changes: ShapeChanges) -> None:
    for packet in video_packets(container, *container.streams):
        heartbeat()
        if packet.pts is not None and packet.time_base:
            scan.end_s = max(scan.end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            _note_sound(scan, packet, container)
            continue
        if packet.size == 0:  # a frame that the camera dropped, or the end
            scan.n_empty += packet.dts is not None
            continue
        if not scan.pts and packet.has_sidedata("encryption_info"):
            message = "the video is encrypted; export it with the program that has its key"
            raise VideoError("encrypted", "open", container.name, message)
        changes.see(len(scan.pts), packet)
        scan.n_unstamped += packet.pts is None
        previous_dts = scan.dts[-1] + (scan.duration[-1] or 1) if scan.dts else 0
        scan.dts.append(packet.dts if packet.dts is not None else previous_dts)
        scan.pts.append(packet.pts if packet.pts is not None else scan.dts[-1])
        scan.duration.append(packet.duration or 0)
        scan.is_key.append(packet.is_keyframe)
        scan.is_corrupt.append(packet.is_corrupt)
        scan.is_hidden.append(packet.is_discard or _shows_nothing(packet, stream))
        scan.offset.append(packet.pos if packet.pos is not None else -1)
        scan.heard.append(scan.sound_ticks)
        if len(scan.pts) > MAX_FRAMES:
            raise too_large(container.name, f"it has over {MAX_FRAMES} frames")
        if scan.first_frame is None and len(scan.pts) <= _PROBE_PACKETS:
            scan.first_frame = _first_frame(stream, packet)


def _only_shape(frame: VideoFrame | None, stream: VideoStream) -> Shape:
    stated, aspect = stream.codec_context, square_pixels(stream.sample_aspect_ratio)
    width_px, height_px = (frame.width, frame.height) if frame else (stated.width, stated.height)
    return Shape(0, round(width_px * aspect), height_px, aspect)


def _shows_nothing(packet: av.Packet, stream: VideoStream) -> bool:
    """Whether a packet shows no picture, of which its first byte says so: a hidden frame of VP8, to which others refer,
    or a header of Theora, where recordings were joined."""
    first = bytes(memoryview(packet)[:1])[0]
    name = stream.codec_context.name
    return (name in ("vp8", "libvpx") and not first & 0x10) or (name == "theora" and first & 0x80 != 0)


def _note_sound(scan: _Scan, packet: av.Packet, container: InputContainer) -> None:
    """Keep when the first sound is heard, and how long the first stream of sound is so far. What lies before 0 is what
    its decoder needs to begin, and is not played."""
    if packet.stream.type != "audio" or packet.is_discard:
        return
    if packet.stream_index == container.streams.audio[0].index:
        scan.sound_ticks += packet.duration or 0
    if scan.sound_start_s == math.inf and packet.pts is not None and packet.time_base:
        scan.sound_start_s = max(float(packet.pts * packet.time_base), 0.0)
        scan.sound_at = len(scan.pts)


def _continue_times(scan: _Scan, container: InputContainer) -> None:
    """Let the times of recordings that were joined end to end go on, see ``pipelines.video.seams``."""
    stated = np.frombuffer(scan.pts, np.int64)
    pts, dts, starts = continue_times(
        container=container.format.name,
        pts=stated,
        dts=np.frombuffer(scan.dts, np.int64),
        duration=np.frombuffer(scan.duration, np.int64),
        is_key=np.frombuffer(scan.is_key, bool),
        is_hidden=np.frombuffer(scan.is_hidden, bool),
        offset=np.frombuffer(scan.offset, np.int64),
        heard=np.frombuffer(scan.heard, np.int64),
    )
    scan.is_joined, scan.is_shifted = bool(starts), bool((pts != stated).any())
    if starts and scan.sound_at >= max(starts[0] - PARSED_AHEAD, 1):  # by the clock of a later recording
        scan.sound_start_s = math.inf
    scan.pts, scan.dts = array("q", pts.tobytes()), array("q", dts.tobytes())


def _trust_before_keys(scan: _Scan) -> None:
    """Take back the doubt about the last packets before a key frame if no frame is missing there.

    Where recordings were joined the transport stream's counters begin anew, which libav takes for a loss. A packet that
    is really cut short fails to decode.
    """
    pts = np.frombuffer(scan.pts, np.int64)
    rising = np.unique(pts)
    most = _GAP_STEPS * np.median(np.diff(rising)) if len(rising) > 1 else 0
    for key in np.flatnonzero(np.frombuffer(scan.is_key, bool)).tolist():
        first = max(key - PARSED_AHEAD, 0)
        if any(scan.is_corrupt[first:key]):
            around = pts[max(key - REORDERED_PACKETS // 2, 0) : key + 1]
            steps = np.diff(rising[(rising >= around.min()) & (rising <= around.max())])
            if steps.max(initial=0) <= most:
                scan.is_corrupt[first:key] = bytes(key - first)


def _doubt_after_hole(scan: _Scan, stream: VideoStream) -> None:
    """Mark the packets after the first lost one: AVI's times only count packets, so theirs are too early."""
    expected = (entry.pos + _AVI_CHUNK_HEAD for entry in stream.index_entries)
    pairs = enumerate(zip(scan.offset, expected, strict=False))
    hole = next((position for position, (got, want) in pairs if got != want), len(scan.pts))
    if stream.codec_context.has_b_frames:  # what is shown after some that are lost is too early as well
        key = scan.is_key.rfind(1, 0, hole)
        hole = max(hole - REORDERED_PACKETS, key + 1)
    scan.is_corrupt[hole:] = b"\x01" * (len(scan.pts) - hole)


def _first_frame(stream: VideoStream, packet: av.Packet | None) -> VideoFrame | None:
    try:
        frames = stream.codec_context.decode(packet)
    except FFmpegError:
        return None
    return frames[0] if frames else None


def _lay_out(scan: _Scan, container: InputContainer, stream: VideoStream) -> _Timeline:
    """Put the packets in the order in which their frames are shown.

    Some streams leave presentation times out or repeat them, and AVI stores none: libav's guess is no order at all if
    it rises in decoding order although the codec reorders. There, only the set of times is used.
    """
    hidden = np.frombuffer(scan.is_hidden, bool)
    shown = np.flatnonzero(~hidden)
    ticks = np.frombuffer(scan.dts if scan.n_unstamped else scan.pts, np.int64)[shown]
    exact_pts = not scan.n_unstamped and len(np.unique(ticks)) == len(ticks)
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        exact_pts = exact_pts and bool((np.diff(ticks) < 0).any())
    order = np.argsort(ticks, kind="stable")
    tick = stream.time_base
    assert tick is not None
    pts_s = _seconds(ticks[order], tick, container.name)

    last_s = float(scan.duration[shown[order[-1]]] * tick)
    step_s = float(np.median(np.diff(pts_s))) if len(pts_s) > 1 else last_s
    if not 0 < last_s <= MAX_DURATION_S:
        last_s = step_s if step_s > 0 else float(1 / stream.average_rate) if stream.average_rate else 0.0
    frame_index = np.arange(len(shown))
    n_missing = _count_missing(container, stream, scan, step_s)
    if len(shown) + n_missing > MAX_FRAMES:
        raise too_large(
            container.name, f"its header promises {len(shown) + n_missing} frames, {MAX_FRAMES} are allowed"
        )
    if n_missing:
        held_s = pts_s
        pts_s = np.sort(np.append(held_s, _missing_times(held_s, step_s, n_missing)))
        frame_index = np.searchsorted(pts_s, held_s) if exact_pts else frame_index
    frame_of_packet = np.full(len(hidden), -1, np.int64)
    frame_of_packet[shown[order] if exact_pts else shown] = frame_index
    return _Timeline(pts_s, np.append(np.diff(pts_s), last_s), float(tick), n_missing, frame_of_packet, exact_pts)


def _seconds(ticks: np.ndarray, tick: Fraction, path: str) -> np.ndarray:
    """Rising int64 ticks as seconds, float64; what float64 could not tell apart is refused."""
    first, last = int(ticks[0]), int(ticks[-1])
    if max(-first, last) * tick > MAX_TIME_S or (last - first) * tick > MAX_DURATION_S:
        days = float((last - first) * tick) / 86_400
        raise too_large(path, f"its times run over {days:.0f} days, up to {float(last * tick):.0f} s")
    return ticks.astype(np.float64) * tick.numerator / tick.denominator


def _missing_times(held_s: np.ndarray, step_s: float, n_missing: int) -> np.ndarray:
    """Times for frames that are not in the file: the empty places of a constant rate, else after the last one.

    The last frames that a cut file holds may be shown after some that it lost.
    """
    grid_s = held_s[0] + step_s * np.arange(len(held_s) + n_missing)
    after = np.clip(np.searchsorted(held_s, grid_s), 1, len(held_s) - 1) if len(held_s) > 1 else np.zeros(1, np.int64)
    distance_s = np.minimum(np.abs(grid_s - held_s[after]), np.abs(grid_s - held_s[after - 1]))
    free_s = grid_s[distance_s > step_s / 2]
    return free_s if len(free_s) == n_missing else held_s[-1] + step_s * np.arange(1, n_missing + 1)


def _count_missing(container: InputContainer, stream: VideoStream, scan: _Scan, step_s: float) -> int:
    """Frames that the header promises beyond those in the file; an estimate where it only states a duration."""
    n_seen = len(scan.pts) + scan.n_empty
    if container.format.name.startswith("mov"):
        return max(0, len(stream.index_entries) - n_seen)
    if container.format.name == "avi":  # its times count the chunks, also those that the camera left empty
        n_short = stream.frames - max(n_seen, max(scan.dts, default=-1) + 1)
        # where every frame is followed by empty chunks, those of the last one are no frames
        return max(0, n_short // max(1, int(np.median(np.diff(scan.dts))) if len(scan.dts) > 1 else 1))
    if container.format.name in _DURATION_FORMATS and container.duration:
        short_s = _short_s(container, scan)
        if scan.has_hole and step_s > 0:  # as many as the time from the first frame to the stated end has room for
            first_s = float(min(scan.pts) * (stream.time_base or 0))
            return max(0, round((container.duration / av.time_base - first_s) / step_s) - n_seen)
        if _claims_more_time(container, scan) and (container.format.name == "flv" or claims_more_bytes(container)):
            return math.ceil(short_s / step_s) if step_s > 0 else 1
    return 0


def _defect(container: InputContainer, scan: _Scan, timeline: _Timeline) -> tuple[str, str] | None:
    if timeline.n_missing:
        return "truncated", f"the file ends {timeline.n_missing} frames before its header says"
    if another_follows(container, max(scan.offset)):
        return "joined", (
            "another recording was appended to this file, and it cannot be read, or not all of it; "
            "analyse both separately, or join them with ffmpeg -f concat"
        )
    return None


def _note(scan: _Scan, container: InputContainer, info: VideoInfo, n_missing: int) -> str:
    notes = []
    if not n_missing and _claims_more_time(container, scan):
        claimed_s = (container.duration or 0) / av.time_base
        notes.append(f"the header claims {claimed_s:.1f} s; the file is whole and ends at {scan.end_s:.1f} s")
    if len(scan.shapes) > 1:
        sizes = dict.fromkeys(f"{shape.width_px}x{shape.height_px}" for shape in scan.shapes)
        width_px, height_px = canvas_of(scan.shapes)
        notes.append(
            f"the picture changes its size or shape ({', '.join(sizes)}); each is drawn into {width_px}x{height_px}, "
            "which boxes refer to"
        )
    if info.n_streams > 1:
        shown = ", the one that players show" if info.stream == shown_stream(container, info.path) else ""
        notes.append(f"stream {info.stream} of {info.n_streams} video streams is read{shown}; --stream takes others")
    return "; ".join(notes)


def _short_s(container: InputContainer, scan: _Scan) -> float:
    """How long before the duration in its header the last packet of a file ends."""
    return (container.duration or 0) / av.time_base - scan.end_s


def _claims_more_time(container: InputContainer, scan: _Scan) -> bool:
    return container.format.name in _DURATION_FORMATS and _short_s(container, scan) > _CUT_SHORT_S


def _doubt(
    info: VideoInfo, container: InputContainer, stream: VideoStream, scan: _Scan, timeline: _Timeline
) -> str | None:
    n_packets = len(scan.pts)
    pixels = scan.first_frame.format if scan.first_frame else None
    shallow = pixels is not None and all(component.bits == 8 for component in pixels.components)
    reasons = [
        (container.format.name not in _PLAIN_CONTAINERS, f"its container is {info.container}"),
        (info.codec not in _PLAIN_CODECS, f"its codec is {info.codec}"),
        (len(container.streams.video) != 1, f"it has {len(container.streams.video)} video streams"),
        (not _is_utf8(info.path), "its name is not UTF-8"),
        (not timeline.exact_pts, "its packets have no unique times"),
        (any(scan.is_hidden), "some of its packets show nothing"),
        (min(scan.pts, default=0) < 0, "it has times below zero"),
        (
            any(scan.is_corrupt) or timeline.n_missing > 0 or scan.n_empty > 0 or scan.has_hole,
            "it is damaged or cut short",
        ),
        (stream.frames not in (0, n_packets), f"its header counts {stream.frames} frames, the file holds {n_packets}"),
        (_claims_more_time(container, scan), "its header claims a longer film"),
        (info.mirrored, "it is shown mirrored"),
        (info.sample_aspect_ratio != 1, "its pixels are not square"),
        (len(scan.shapes) > 1, "its picture changes its size"),
        (not shallow, f"its pixels are {pixels.name if pixels else 'unknown'}, not 8 bits deep"),
    ]
    return next((reason for is_so, reason in reasons if is_so), None)


def _is_utf8(path: Path) -> bool:
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
