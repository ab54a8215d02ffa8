"""Photographs and other still pictures to pixels, by Pillow; animated WebP and AVIF frame by frame."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import av
import numpy as np
from av.codec.context import CodecContext
from av.error import FFmpegError, InvalidDataError
from PIL import Image, UnidentifiedImageError

from mfer.pictures import as_shown
from pipelines.errors import VideoError
from pipelines.heartbeat import heartbeat
from pipelines.video.containers import check_size, require_file, too_large
from pipelines.video.limits import MAX_DURATION_S, MAX_FRAMES
from pipelines.video.orientation import orient, turn_of
from storage.schema import PICTURE_KINDS, STILL
from storage.sequences import PictureSequence, sequence_of

__all__ = ["Pictures", "fit", "look_at", "read_frames"]

#: How long a still picture is shown: every one weighs the same, and sums of seconds count pictures.
_STILL_S = 1.0
#: What browsers do with a frame of an animation that states no duration.
_UNSTATED_S = 0.1
#: Names that say another thing than the first bytes: JPEGs one after the other are a video.
_VIDEO_OF_PICTURES = frozenset({".mjpeg", ".mjpg"})
#: The first bytes of JPEG, PNG, WebP, TIFF, BMP, AVIF and HEIC, JPEG 2000 and the PNM family.
_HEADS = re.compile(
    rb"\xff\xd8\xff"
    rb"|\x89PNG\r\n\x1a\n"
    rb"|RIFF....WEBP"
    rb"|II[*+]\x00|MM\x00[*+]"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"
    rb"|....ftyp(?:avi[fs]|hei[cxms]|mif1|msf1)"
    rb"|\x00\x00\x00\x0cjP  \r\n\x87\n....ftypjp[2x]"
    rb"|P[1-6Ff][\s#]",
    re.DOTALL,
)
_HEAD_BYTES = 64
_HEIC = re.compile(rb"....ftyp(?!.*avi[fs])", re.DOTALL)
#: What Pillow may take the bytes for: EPS, for one, would start another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
_ANIMATIONS = ("WEBP", "AVIF")
_, _ANIMATION, _SEQUENCE = PICTURE_KINDS
#: TIFF's tags: of what kind the picture is (bit 0: a small preview) and the version of a camera's raw file.
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706
#: EXIF's orientation as (a, b, c, d) of a display matrix (``pipelines/video/orientation.py``).
_ORIENTATION = 0x0112
_MATRICES = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
_UPRIGHT = (1, 0, 0, 1)
#: Missing pictures, or sizes, that a message names.
_MAX_NAMED = 10


@dataclass(frozen=True)
class Pictures:
    """N frames of a picture or a sequence of them; the size, as shown, is that of the largest.

    ``frames`` are the file of each frame and which picture of it; None of one that is missing or cannot be read. Frame
    k is shown from ``times_s[k]`` to ``times_s[k + 1]``, float64 [N+1]. ``kind`` is one of ``PICTURE_KINDS``,
    ``format`` that of the file, such as "jpeg". ``note`` and ``defect`` are those of ``Video``.
    """

    kind: str
    format: str
    width_px: int
    height_px: int
    frames: tuple[tuple[Path, int] | None, ...]
    times_s: np.ndarray
    rotation_deg: int = 0
    mirrored: bool = False
    note: str = ""
    defect: tuple[str, str] | None = None


def look_at(path: Path) -> Pictures | None:
    """Read the header of a picture, or of each picture of a sequence; None where a file is no picture.

    An animated PNG and a GIF are videos.

    Raises:
        VideoError: those of ``require_file``; too_large; decode_failed where the picture, or every one of a sequence,
            is damaged or of a kind that cannot be read.
    """
    if sequence := sequence_of(path):
        return _look_at_sequence(path, sequence)
    require_file(path)
    return _look_at_picture(path) if _is_picture(path) else None


def _look_at_picture(path: Path) -> Pictures:
    with _opened(path, "open") as image:
        check_size(path, *image.size, 1)
        _refuse_raw(image, path)
        n_frames = getattr(image, "n_frames", 1)
        is_animated = image.format in _ANIMATIONS and n_frames > 1
        if is_animated:
            check_size(path, *image.size, n_frames)
        durations_s = list(_durations(image, n_frames)) if is_animated else [_STILL_S]
        rotation_deg, mirrored = (
            (0, False) if image.format == "TIFF" else turn_of(_matrix(image))
        )  # TIFF: turned already
        width_px, height_px = image.size[::-1] if rotation_deg in (90, 270) else image.size
        return Pictures(
            kind=_ANIMATION if is_animated else STILL,
            format="jpeg" if image.format == "MPO" else (image.format or "").lower(),
            width_px=width_px,
            height_px=height_px,
            frames=tuple((path, k) for k in range(len(durations_s))),
            times_s=np.cumsum([0.0, *durations_s]),
            rotation_deg=rotation_deg,
            mirrored=mirrored,
            note=""
            if is_animated or n_frames == 1
            else f"the file has {n_frames} pictures, of which the first is read",
        )


def _look_at_sequence(path: Path, sequence: PictureSequence[Path]) -> Pictures:
    require_file(path)
    files, note = sequence.frames()
    n_frames = files[-1][0] + 1
    if n_frames > MAX_FRAMES or n_frames / sequence.fps > MAX_DURATION_S:
        raise too_large(path, f"it has {n_frames} frames over {n_frames / sequence.fps:.0f} s")
    found: dict[int, Pictures] = {}
    trouble: list[VideoError] = []
    for index, file in files:
        heartbeat()
        try:
            require_file(file)
            found[index] = _look_at_picture(file)
        except VideoError as error:
            trouble.append(error)
    if not found:
        message = f"none of {len(files)} pictures can be read; the first: {trouble[0].message}"
        raise VideoError(trouble[0].code, "open", path, message)
    if trouble:
        unread = f"{len(trouble)} of {len(files)} pictures cannot be read (the first: {trouble[0].message})"
        note = "; ".join(filter(None, [note, unread]))
    sizes = [f"{picture.width_px}x{picture.height_px}" for picture in found.values()]
    if len(set(sizes)) > 1:
        sizes_note = f"the pictures have several sizes ({_some(sizes)}); each is drawn into the largest sides"
        note = "; ".join(filter(None, [note, sizes_note]))
    missing = sorted(set(range(n_frames)) - {index for index, _ in files})
    width_px, height_px = (max(getattr(each, side) for each in found.values()) for side in ("width_px", "height_px"))
    check_size(path, width_px, height_px, n_frames)
    return Pictures(
        kind=_SEQUENCE,
        format=_some(picture.format for picture in found.values()),
        width_px=width_px,
        height_px=height_px,
        frames=tuple(found[k].frames[0] if k in found else None for k in range(n_frames)),
        times_s=np.arange(n_frames + 1) / sequence.fps,
        note=note,
        defect=(
            "pictures_missing",
            f"{len(missing)} of {n_frames} pictures are missing by their numbers (frames {_some(missing)})",
        )
        if missing
        else None,
    )


def _some(values: Iterable[object]) -> str:
    """The values, each once, for a message."""
    texts = list(dict.fromkeys(map(str, values)))
    return ", ".join(texts[:_MAX_NAMED]) + (", ..." if len(texts) > _MAX_NAMED else "")


def read_frames(path: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """The pixels of some frames of a picture, in rising order: uint8 RGB [H,W,3], upright.

    Of 16 bits the upper eight are taken, and what is transparent is seen on white.

    Raises:
        VideoError: decode_failed where it is damaged.
    """
    with _opened(path, "decode") as image:
        if image.format in ("JPEG", "MPO"):
            _require_whole_jpeg(path)
        for frame in frames:
            heartbeat()
            if frame:
                image.seek(frame)
            image.load()
            yield orient(np.asarray(as_shown(image).convert("RGB")), _matrix(image))


def fit(rgb: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """A picture uint8 [H,W,3] as large as fits in the middle of a canvas [height_px,width_px,3], black around it."""
    if rgb.shape[:2] == (height_px, width_px):
        return rgb
    scale = min(width_px / rgb.shape[1], height_px / rgb.shape[0])
    drawn_px = max(round(rgb.shape[1] * scale), 1), max(round(rgb.shape[0] * scale), 1)
    drawn = np.asarray(Image.fromarray(rgb).resize(drawn_px, Image.Resampling.BICUBIC))
    canvas = np.zeros((height_px, width_px, 3), np.uint8)
    left_px, top_px = (width_px - drawn_px[0]) // 2, (height_px - drawn_px[1]) // 2
    canvas[top_px : top_px + drawn_px[1], left_px : left_px + drawn_px[0]] = drawn
    return canvas


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() in _VIDEO_OF_PICTURES:
        return False
    head = _head(path)
    return _HEADS.match(head) is not None and not (head.startswith(b"\x89PNG") and _is_animated_png(path))


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)


def _is_animated_png(path: Path) -> bool:
    """Whether a chunk acTL comes before the first data (PNG, third edition, 11.3.6.1)."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            if head[4:] == b"acTL":
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


@contextmanager
def _opened(path: Path, stage: str) -> Iterator[Image.Image]:
    """Open a picture, and close it; every way in which Pillow fails becomes a VideoError."""
    is_heic = _HEIC.match(_head(path)) is not None
    if is_heic:
        _load_heif(path)
    try:
        with Image.open(path, formats=["HEIF"] if is_heic else _FORMATS) as image:
            yield image
    except (VideoError, MemoryError, GeneratorExit):
        raise
    except Image.DecompressionBombError as error:
        raise too_large(path, "it has far over the pixels that are allowed") from error
    except UnidentifiedImageError as error:
        message = "the picture is damaged, or of a kind that cannot be read; copy it again, or save it as JPEG or PNG"
        raise VideoError("decode_failed", stage, path, message) from error
    except Exception as error:  # damaged files let Pillow raise many kinds
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        message = f"the picture is damaged ({reason}); copy it again, or save it anew as JPEG or PNG"
        raise VideoError("decode_failed", stage, path, message) from error


def _load_heif(path: Path) -> None:
    """Let Pillow read HEIC, where the package for it is installed."""
    if "HEIF" in Image.OPEN:
        return
    for name in ("pi_heif", "pillow_heif"):
        try:
            import_module(name).register_heif_opener()
        except ImportError:
            continue
        return
    message = "HEIC pictures need another package: pip install 'mfer[heic]', or save them as JPEG"
    raise VideoError("decode_failed", "open", path, message)


def _refuse_raw(image: Image.Image, path: Path) -> None:
    tags = getattr(image, "tag_v2", None)
    if tags is not None and (_DNG_VERSION in tags or int(tags.get(_SUBFILE_TYPE, 0)) & 1):
        message = "this is a camera's raw file, of which only a preview could be read; save it as JPEG, PNG or TIFF"
        raise VideoError("decode_failed", "open", path, message)


def _durations(image: Image.Image, n_frames: int) -> Iterator[float]:
    for frame in range(n_frames):
        heartbeat()
        image.seek(frame)
        image.load()
        yield image.info.get("duration", 0) / 1000 or _UNSTATED_S


def _matrix(image: Image.Image) -> tuple[int, int, int, int]:
    try:
        return _MATRICES.get(image.getexif().get(_ORIENTATION, 1), _UPRIGHT)
    except Exception:  # what else a picture says of itself may be damaged
        return _UPRIGHT


def _require_whole_jpeg(path: Path) -> None:
    """Refuse a JPEG with damaged data: libjpeg patches it without a word, libav's decoder can be strict.

    What libav's decoder does not know, such as arithmetic coding, is not checked.
    """
    decoder = CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode"}
    try:
        decoder.decode(av.Packet(path.read_bytes()))
    except InvalidDataError as error:
        message = "the picture's data are damaged; copy it again"
        raise VideoError("decode_failed", "decode", path, message) from error
    except FFmpegError:
        return
