"""Labelled faces whose landmarks are known, as one stack of pictures that the crop function can cut from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mfer.card import MEAN_LANDMARKS_48PX, CropContract
from mfer.crop import align_matrix, warp_faces
from mfer.faces import LabelledFaces

__all__ = ["PreparedFaces", "mean_landmarks"]

#: Larger pictures are shrunk to this side in the stack: four times the usual crop, so that nothing visible is lost.
STACK_SIDE_PX = 192
#: Of a larger picture no more is kept than a square of so many distances between eyes, or eyes and mouth: every
#: template's crop, turned by any angle, and what training shifts it by.
STACK_WINDOW = 8
#: More would hold tens of gigabytes of float patches for a large set.
_CROPS_AT_ONCE = 4096


def mean_landmarks(height_px: int, width_px: int) -> np.ndarray:
    """Where the five points lie on average in a picture framed as FER2013 frames faces, float32 [5,2].

    The documented fallback for a labelled picture in which the detector finds no face.
    """
    unit = (np.asarray(MEAN_LANDMARKS_48PX) + 0.5) / 48
    return (unit * (width_px, height_px) - 0.5).astype(np.float32)


@dataclass(frozen=True, repr=False)
class PreparedFaces:
    """pictures uint8 [N,H,W,C], or N of differing sizes; landmarks_px float32 [N,5,2] in them; found bool [N], false
    where the fallback stands in; faces, the labels, in the same order."""

    pictures: Tensor | tuple[Tensor, ...]
    landmarks_px: np.ndarray
    found: np.ndarray
    faces: LabelledFaces

    def __post_init__(self) -> None:
        n = len(self.faces)
        if len(self.pictures) != n or self.landmarks_px.shape != (n, 5, 2) or self.found.shape != (n,):
            raise ValueError(f"{n} faces, {len(self.pictures)} pictures, landmarks {self.landmarks_px.shape}")

    def __len__(self) -> int:
        return len(self.faces)

    def __repr__(self) -> str:
        sizes = sorted({tuple(picture.shape) for picture in self.pictures})
        return f"PreparedFaces({len(self)} faces, pictures {sizes}, {self.found.mean():.1%} found)"

    @classmethod
    def stack(cls, faces: LabelledFaces, landmarks_px: np.ndarray, found: np.ndarray, channels: int) -> PreparedFaces:
        """Stack the pictures; those of differing sizes are cut around the face, shrunk and padded to one size, their
        landmarks with them."""
        if isinstance(faces.pictures, np.ndarray):
            pictures = torch.from_numpy(faces.pictures)
            return cls(pictures[..., None] if pictures.ndim == 3 else pictures, landmarks_px, found, faces)
        side = STACK_SIDE_PX
        pictures = torch.zeros(len(faces), side, side, channels, dtype=torch.uint8)
        landmarks_px = landmarks_px.copy()
        for i in range(len(faces)):
            picture = torch.from_numpy(np.array(faces.pictures[i]))
            picture = picture[..., None] if picture.ndim == 2 else picture
            left, top, right, bottom = _window(landmarks_px[i], *picture.shape[:2])
            picture, landmarks_px[i] = picture[top:bottom, left:right], landmarks_px[i] - (left, top)
            x = picture.permute(2, 0, 1)[None].float()  # [H,W,C] -> [1,C,H,W]
            if channels == 1 and x.shape[1] == 3:
                x = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
            factor = min(1.0, side / max(x.shape[2:]))
            if factor < 1:
                size = (max(1, int(x.shape[2] * factor)), max(1, int(x.shape[3] * factor)))
                landmarks_px[i] = (landmarks_px[i] + 0.5) * (size[1] / x.shape[3], size[0] / x.shape[2]) - 0.5
                x = F.interpolate(x, size=size, mode="area")
            x = F.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]), mode="replicate")
            pictures[i] = (x[0] + 0.5).to(torch.uint8).permute(1, 2, 0).expand(-1, -1, channels)
        return cls(pictures, landmarks_px, found, faces)

    def take(self, index: np.ndarray | slice) -> PreparedFaces:
        """The faces at a boolean mask [N], a slice or integer rows."""
        rows = np.arange(len(self))[index]
        whole = isinstance(self.pictures, Tensor)
        pictures = self.pictures[torch.from_numpy(rows)] if whole else tuple(self.pictures[i] for i in rows)
        return PreparedFaces(pictures, self.landmarks_px[rows], self.found[rows], self.faces.take(rows))

    def joined(self, other: PreparedFaces) -> PreparedFaces:
        """These faces and then those of another set with the same classes; pictures keep their sizes."""
        return PreparedFaces(
            (*self.pictures, *other.pictures),
            np.concatenate([self.landmarks_px, other.landmarks_px]),
            np.concatenate([self.found, other.found]),
            self.faces.joined(other.faces),
        )

    def with_classes(self, class_names: tuple[str, ...]) -> PreparedFaces:
        """The same faces with a model's classes; those the model lacks are left out."""
        faces = self.faces.with_classes(class_names)
        if len(faces) == len(self):
            return replace(self, faces=faces)
        known = set(faces.class_names)
        kept = np.array([self.faces.class_names[i] in known for i in self.faces.majority], dtype=bool)
        return replace(self.take(kept), faces=faces)

    def to(self, device: torch.device) -> PreparedFaces:
        """The same faces with their pictures on a device."""
        pictures = self.pictures
        moved = (
            pictures.to(device) if isinstance(pictures, Tensor) else tuple(picture.to(device) for picture in pictures)
        )
        return replace(self, pictures=moved)

    def crops(self, crop: CropContract) -> Tensor:
        """Every face as the contract cuts it, uint8 [N,C,S,S]."""
        matrix = align_matrix(self.landmarks_px, crop)
        rows = np.split(np.arange(len(self)), range(_CROPS_AT_ONCE, len(self), _CROPS_AT_ONCE))
        return torch.cat([warp_faces(self.pictures, some, matrix[some], crop) for some in rows])


def _window(landmarks_px: np.ndarray, height_px: int, width_px: int) -> tuple[int, int, int, int]:
    """The part of a picture that its face needs: left, top, right and bottom; all of a picture that fits the stack."""
    if max(height_px, width_px) <= STACK_SIDE_PX:
        return 0, 0, width_px, height_px
    eyes, mouth = landmarks_px[:2].mean(0), landmarks_px[3:].mean(0)
    reach = max(float(np.linalg.norm(d)) for d in (landmarks_px[1] - landmarks_px[0], mouth - eyes)) * STACK_WINDOW / 2
    x, y = (eyes + mouth) / 2
    left, top = int(np.clip(x - reach, 0, width_px - 1)), int(np.clip(y - reach, 0, height_px - 1))
    return left, top, int(np.clip(x + reach, left + 1, width_px)), int(np.clip(y + reach, top + 1, height_px))
