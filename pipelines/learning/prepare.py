"""Find the landmarks of labelled pictures with the detector that video uses.

Only landmarks are kept between runs (a small file in the user's cache folder), never pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from platformdirs import user_cache_path
from torch.nn import functional as F

from mfer.faces import LabelledFaces
from mfer.prepared import PreparedFaces, mean_landmarks
from pipelines.faces.detectors import DetectorSettings, load_detector
from pipelines.settings import ALGORITHM_VERSIONS
from storage.files import whole_file

__all__ = ["prepare_faces"]

#: A labelled picture is framed by its face: the detector looks at it enlarged to about this side ...
_ENLARGED_SIDE_PX = 144
#: ... with a repeated border of this share of the side, because detectors want some room around a face ...
_BORDER = 1 / 6
#: ... and for faces of at least this share of the side.
_MIN_FACE = 0.5
_BATCH = 64


def prepare_faces(
    faces: LabelledFaces,
    channels: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> PreparedFaces:
    """Find the five landmarks of every labelled face.

    Args:
        faces: pictures and labels.
        channels: 1 or 3, what the crop contract wants of the pictures.
        device: where the detector runs.
        progress: called with (faces done, faces in all).
        cache: folder for found landmarks; the default is the user's cache.

    Returns:
        The faces with landmarks in their own pixels; where the detector finds no face (about one in ten of
        FER2013: hands, profiles, drawings) the mean landmarks of faces so framed, and ``found`` false.
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
    for i in np.flatnonzero(~found):
        landmarks[i] = mean_landmarks(*faces.pictures[int(i)].shape[:2])
    return PreparedFaces.stack(faces, landmarks, found, channels)


def _fingerprint(faces: LabelledFaces) -> str:
    """A hash of the pictures and of how landmarks are found."""
    digest = hashlib.sha256(
        f"{ALGORITHM_VERSIONS['detect']} {_ENLARGED_SIDE_PX} {_BORDER} {_MIN_FACE} {len(faces)}".encode()
    )
    if isinstance(faces.pictures, np.ndarray):
        digest.update(np.ascontiguousarray(faces.pictures).data)
    else:
        for source in faces.pictures.sources:
            if isinstance(source, bytes):
                digest.update(hashlib.sha256(source).digest())
            else:
                stat = source.stat()
                digest.update(f"{source} {stat.st_size} {stat.st_mtime_ns}".encode())
        if faces.pictures.box_xywh_px is not None:
            digest.update(np.ascontiguousarray(faces.pictures.box_xywh_px).data)
    return digest.hexdigest()[:24]


def _find_landmarks(faces: LabelledFaces, device: str, progress: Callable[[int, int], None] | None) -> np.ndarray:
    """float32 [N,5,2] in each picture's own pixels; NaN where no face was found."""
    out = np.full((len(faces), 5, 2), np.nan, dtype=np.float32)
    border = round(_ENLARGED_SIDE_PX * _BORDER)
    settings = DetectorSettings(min_face_px=round(_ENLARGED_SIDE_PX * _MIN_FACE), mode="exact")
    detector = load_detector(settings, device)
    for start in range(0, len(faces), _BATCH):
        rows = range(start, min(start + _BATCH, len(faces)))
        enlarged = torch.empty(len(rows), _ENLARGED_SIDE_PX, _ENLARGED_SIDE_PX, 3)
        scale = np.empty((len(rows), 2), dtype=np.float32)
        for at, i in enumerate(rows):
            picture = torch.from_numpy(np.array(faces.pictures[i]))
            picture = picture[..., None] if picture.ndim == 2 else picture
            x = picture.permute(2, 0, 1)[None].float()  # [H,W,C] -> [1,C,H,W]
            scale[at] = x.shape[3] / _ENLARGED_SIDE_PX, x.shape[2] / _ENLARGED_SIDE_PX
            x = F.interpolate(x, size=(_ENLARGED_SIDE_PX,) * 2, mode="bilinear", antialias=True, align_corners=False)
            enlarged[at] = x[0].permute(1, 2, 0).expand(-1, -1, 3)
        padded = F.pad(enlarged.permute(0, 3, 1, 2), (border,) * 4, mode="replicate")
        found = detector.detect((padded + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())
        for at in np.unique(found.frame_row):
            ours = np.flatnonzero(found.frame_row == at)
            best = ours[np.argmax(found.prob[ours])]
            out[start + at] = (found.landmarks_px[best] - border + 0.5) * scale[at] - 0.5
        if progress:
            progress(rows.stop, len(faces))
    return out
