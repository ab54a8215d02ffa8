"""Find the landmarks of labelled pictures with the detector that video uses.

Only landmarks are kept between runs (a small file in the user's cache folder), never pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor
from torch.nn import functional as F

from mfer.faces import LabelledFaces, name_bytes
from mfer.pictures import DECODING_VERSION
from mfer.prepared import PreparedFaces, mean_landmarks
from pipelines.faces.detectors import Detector, DetectorSettings, load_detector
from pipelines.settings import ALGORITHM_VERSIONS
from storage.files import whole_file

__all__ = ["prepare_faces"]

#: A small labelled picture is framed by its face: the detector looks at it enlarged to this side ...
_ENLARGED_SIDE_PX = 144
#: ... with a repeated border of this share of the side, because detectors want some room around a face ...
_BORDER = 1 / 6
#: ... and for faces of at least this share of the side.
_MIN_FACE = 0.5
#: A larger picture may show more than the face: the detector looks at all of it, at most this long ...
_WHOLE_SIDE_PX = 640
#: ... for faces of at least this side; the largest counts.
_WHOLE_MIN_FACE_PX = 32
#: No face frames a picture that is more oblong than this.
_FRAMED_ASPECT = 1.5
_BATCH = 64


def prepare_faces(
    faces: LabelledFaces,
    channels: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> PreparedFaces:
    """Find the five landmarks of every labelled face.

    A picture of up to 144 px is taken as framed by its face; in a larger one the largest face counts, wherever it is.

    Args:
        faces: pictures and labels.
        channels: 1 or 3, what the crop contract wants of the pictures.
        device: where the detector runs.
        progress: called with (faces done, faces in all).
        cache: folder for found landmarks; the default is the user's cache.

    Returns:
        The faces with landmarks in their own pixels. Where the detector finds none in a small picture (about one in
        ten of FER2013: hands, profiles, drawings) the mean landmarks of faces so framed, and ``found`` false. Larger
        pictures without a face are left out and counted in ``dropped``.
    """
    folder = cache or user_cache_path("mfer")
    path = folder / f"landmarks-{_fingerprint(faces)}.npy"
    try:
        landmarks = np.load(path, allow_pickle=False)
        if landmarks.shape != (len(faces), 5, 2):
            raise ValueError
    except (OSError, EOFError, ValueError):  # not there, or cut short
        landmarks = _find_landmarks(faces, device, progress)
        # a cache that cannot be written costs time, not the result
        with contextlib.suppress(OSError), whole_file(path) as fresh:
            np.save(fresh, landmarks)
    found = np.isfinite(landmarks[:, 0, 0])
    kept = np.ones(len(faces), bool)
    for i in np.flatnonzero(~found):
        height_px, width_px = faces.pictures[int(i)].shape[:2]
        kept[i] = max(height_px, width_px) <= _ENLARGED_SIDE_PX
        landmarks[i] = mean_landmarks(height_px, width_px)
    if not kept.all():
        dropped = {**faces.dropped, "no face found in the picture": int((~kept).sum())}
        faces, landmarks, found = replace(faces.take(kept), dropped=dropped), landmarks[kept], found[kept]
    return PreparedFaces.stack(faces, landmarks, found, channels)


def _fingerprint(faces: LabelledFaces) -> str:
    """A hash of the pictures and of how landmarks are found."""
    framed = (_ENLARGED_SIDE_PX, _BORDER, _MIN_FACE, _FRAMED_ASPECT)
    how = (ALGORITHM_VERSIONS["detect"], *framed, _WHOLE_SIDE_PX, _WHOLE_MIN_FACE_PX, len(faces))
    digest = hashlib.sha256(repr(how).encode())
    if isinstance(faces.pictures, np.ndarray):
        digest.update(np.ascontiguousarray(faces.pictures).data)
    else:
        digest.update(bytes([DECODING_VERSION]))
        for source in faces.pictures.sources:
            if isinstance(source, bytes):
                digest.update(hashlib.sha256(source).digest())
            else:
                stat = source.stat()
                digest.update(name_bytes(source) + f" {stat.st_size} {stat.st_mtime_ns}".encode())
        if faces.pictures.box_xywh_px is not None:
            digest.update(np.ascontiguousarray(faces.pictures.box_xywh_px).data)
    return digest.hexdigest()[:24]


def _find_landmarks(faces: LabelledFaces, device: str, progress: Callable[[int, int], None] | None) -> np.ndarray:
    """float32 [N,5,2] in each picture's own pixels; NaN where no face was found."""
    out = np.full((len(faces), 5, 2), np.nan, dtype=np.float32)
    framed = load_detector(_exact(round(_ENLARGED_SIDE_PX * _MIN_FACE)), device)
    whole = load_detector(_exact(_WHOLE_MIN_FACE_PX), device)
    for start in range(0, len(faces), _BATCH):
        rows = range(start, min(start + _BATCH, len(faces)))
        pictures = [_planes(faces.pictures[i]) for i in rows]
        for at, picture in enumerate(pictures):
            if max(picture.shape[2:]) > _ENLARGED_SIDE_PX:
                out[start + at] = _largest_face(whole, picture)
        missing = [
            at
            for at, picture in enumerate(pictures)
            if np.isnan(out[start + at, 0, 0]) and max(picture.shape[2:]) <= _FRAMED_ASPECT * min(picture.shape[2:])
        ]
        if missing:
            out[[start + at for at in missing]] = _framed_faces(framed, [pictures[at] for at in missing])
        if progress:
            progress(rows.stop, len(faces))
    return out


def _exact(min_face_px: int) -> DetectorSettings:
    return DetectorSettings(min_face_px=min_face_px, mode="exact")


def _planes(picture: np.ndarray) -> Tensor:
    """uint8 [H,W] or [H,W,C] as float32 [1,3,H,W]."""
    x = torch.from_numpy(np.array(picture))
    x = x[..., None] if x.ndim == 2 else x
    return x.permute(2, 0, 1)[None].float().expand(-1, 3, -1, -1)


def _frames(planes: Tensor) -> np.ndarray:
    """float [N,3,H,W] as the uint8 [N,H,W,3] of a detector."""
    return (planes + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _largest_face(detector: Detector, picture: Tensor) -> np.ndarray:
    """float32 [5,2]: the landmarks of the largest face in a picture [1,3,H,W]; NaN where there is none."""
    height_px, width_px = picture.shape[2:]
    factor = min(1.0, _WHOLE_SIDE_PX / max(height_px, width_px))
    size = (max(1, round(height_px * factor)), max(1, round(width_px * factor)))
    small = F.interpolate(picture, size=size, mode="bilinear", antialias=True, align_corners=False)
    found = detector.detect(_frames(small))
    if not len(found):
        return np.full((5, 2), np.nan, np.float32)
    return (found.landmarks_px[0] + 0.5) * (width_px / size[1], height_px / size[0]) - 0.5


def _framed_faces(detector: Detector, pictures: list[Tensor]) -> np.ndarray:
    """float32 [n,5,2]: the landmarks of the likeliest face of each picture [1,3,H,W] that a face frames."""
    border, side = round(_ENLARGED_SIDE_PX * _BORDER), _ENLARGED_SIDE_PX
    out = np.full((len(pictures), 5, 2), np.nan, np.float32)
    enlarged = torch.cat(
        [F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False) for x in pictures]
    )
    found = detector.detect(_frames(F.pad(enlarged, (border,) * 4, mode="replicate")))
    for at in np.unique(found.frame_row):
        ours = np.flatnonzero(found.frame_row == at)
        best = ours[np.argmax(found.prob[ours])]
        scale = np.array(pictures[at].shape[:1:-1], np.float32) / side  # width, height
        out[at] = (found.landmarks_px[best] - border + 0.5) * scale - 0.5
    return out
