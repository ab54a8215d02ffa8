"""Augmentation in two parts: of the affine map that cuts the face, and of the pixels that it cut.

The map is perturbed before the one crop function runs, so that a training face is resampled once, as a served
face is. Blur and loss of resolution make 48 px pictures and sharp video frames look alike. What happens to a face is
drawn first and applied later, so that networks with different crops can be shown the same view of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mfer.card import CropContract
from mfer.ranges import Range, require_ranges

__all__ = ["Augmentation", "Perturbation", "give_mouths", "mix"]

#: What low resolution shrinks a face to; few, so that the faces of a batch share their resizing.
_LOW_RESOLUTIONS = (0.2, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85)
#: Deviations of a Gaussian blur, as shares of the crop's side. The largest is a ninth of the distance of the eyes.
_BLURS = (0.006, 0.01, 0.015, 0.021, 0.028, 0.036, 0.045)

#: How far a mouth's surroundings reach up, down and to each side, in half widths of the mouth, and how wide the seam
#: around them is, in parts of that.
_NOSE, _CHIN, _CHEEK, _SEAM = 0.75, 1.9, 1.6, 0.4


_SHARE, _LOGARITHM = Range(0, 1), Range(0, 3)
_ALLOWED = {
    "flip": _SHARE,
    "rotate_deg": Range(0, 180),
    "scale": _LOGARITHM,
    "stretch": _LOGARITHM,
    "shift": _SHARE,
    "brightness": _SHARE,
    "contrast": _LOGARITHM,
    "gamma": _LOGARITHM,
    "blur": _SHARE,
    "low_resolution": _SHARE,
    "noise": _SHARE,
    "erase": _SHARE,
    "erase_side": _SHARE,
    "mixup": Range(0),
    "open_mouth": _SHARE,
}


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random perturbations; a zero switches one off.

    Angles in degrees; ``scale`` and ``stretch`` as logarithms of a factor, ``shift`` as a share of the crop;
    ``flip``, ``blur``, ``low_resolution`` and ``erase`` are probabilities per face; ``gamma`` and ``contrast`` are
    logarithms of the exponent and the factor, ``brightness`` and ``noise`` in units of the pixels' range 0..1;
    ``mixup`` is the parameter of a beta distribution from which each batch draws one share. ``open_mouth`` is the
    probability that a face that most raters call neutral gets the mouth of a surprised one (``give_mouths``).
    """

    flip: float = 0.5
    rotate_deg: float = 12.0
    scale: float = 0.12
    stretch: float = 0.06
    shift: float = 0.06
    brightness: float = 0.25
    contrast: float = 0.3
    gamma: float = 0.3
    blur: float = 0.2
    low_resolution: float = 0.25
    noise: float = 0.02
    erase: float = 0.25
    erase_side: float = 0.4
    mixup: float = 0.0
    open_mouth: float = 0.0

    def __post_init__(self) -> None:
        require_ranges(self, "augmentation", _ALLOWED)

    def unsharp(self) -> Augmentation:
        """Nothing but the blur and the lost resolution of these settings."""
        nothing = {field.name: 0.0 for field in fields(self)}
        return Augmentation(**nothing | {"blur": self.blur, "low_resolution": self.low_resolution})


@dataclass(frozen=True, repr=False)
class Perturbation:
    """What is done to each of n faces: drawn once, and the same at every size of the crop but for the grain of noise.

    turn [n,2,2] and move [n,2] (a share of the crop) act on the map about the crop's centre. The others act on pixels
    in 0..1: low_resolution [n] is the share of the side that a face is shrunk to and enlarged from again; blur [n] is
    the deviation of a Gaussian as a share of the side; gamma, contrast, brightness and noise [n] are strengths;
    cover_start and cover_size [n,2] (shares of the side, in rows and columns) are a rectangle that takes on the face's
    mean.
    """

    turn: np.ndarray
    move: np.ndarray
    low_resolution: np.ndarray
    blur: np.ndarray
    gamma: np.ndarray
    contrast: np.ndarray
    brightness: np.ndarray
    noise: np.ndarray
    cover_start: np.ndarray
    cover_size: np.ndarray

    @classmethod
    def draw(cls, settings: Augmentation, n: int, rng: np.random.Generator) -> Perturbation:
        """Draw within the ranges of the settings."""

        def within(limit: float, *shape: int) -> np.ndarray:
            return rng.uniform(-limit, limit, (n, *shape))

        angle = np.deg2rad(within(settings.rotate_deg))
        zoom, stretch = np.exp(within(settings.scale)), np.exp(within(settings.stretch))
        mirror = np.where(rng.random(n) < settings.flip, -1.0, 1.0)
        cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
        turn = np.stack([np.stack([cos * stretch * mirror, -sin], 1), np.stack([sin * stretch * mirror, cos], 1)], 1)
        cover_size = rng.uniform(min(0.15, settings.erase_side), settings.erase_side, (n, 2))
        cover_start = rng.uniform(0, 1, (n, 2)) * (1 - cover_size)
        cover_size[rng.random(n) >= settings.erase] = 0
        return cls(
            turn=turn,
            move=within(settings.shift, 2),
            low_resolution=np.where(rng.random(n) < settings.low_resolution, rng.choice(_LOW_RESOLUTIONS, n), 1.0),
            blur=np.where(rng.random(n) < settings.blur, rng.choice(_BLURS, n), 0.0),
            gamma=np.exp(within(settings.gamma)),
            contrast=np.exp(within(settings.contrast)),
            brightness=within(settings.brightness),
            noise=rng.uniform(0, settings.noise, n),
            cover_start=cover_start,
            cover_size=cover_size,
        )

    def take(self, rows: np.ndarray) -> Perturbation:
        """What is done to some of the faces."""
        return Perturbation(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: np.ndarray, other: Perturbation) -> Perturbation:
        """The same with that of the faces ``rows`` (bool [n]) replaced by another's, in their order."""
        values = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, value in values.items():
            value[rows] = getattr(other, name)
        return Perturbation(**values)

    def of_matrix(self, crop_from_frame: np.ndarray, crop: CropContract) -> np.ndarray:
        """Each map float32 [n,2,3] followed by the turn and the move, about the crop's centre."""
        centre = (crop.side_px - 1) / 2
        out = np.empty_like(crop_from_frame, dtype=np.float64)
        out[:, :, :2] = self.turn @ crop_from_frame[:, :, :2]
        shifted = np.einsum("fij,fj->fi", self.turn, crop_from_frame[:, :, 2] - centre)
        out[:, :, 2] = shifted + centre + self.move * crop.side_px
        return out.astype(np.float32)

    def of_pixels(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Perturbed pixels float [n,C,S,S] of those in 0..1 (values may leave the range); ``rng`` gives the noise."""

        def each(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=x.dtype, device=x.device)[:, None, None, None]

        if (self.low_resolution < 1).any():
            x = _lose_resolution(x, self.low_resolution)
        if self.blur.any():
            x = _blur(x, self.blur)
        if (self.gamma != 1).any():
            x = x.clamp_min(1e-4) ** each(self.gamma)
        if (self.contrast != 1).any():
            mean = x.mean((1, 2, 3), keepdim=True)
            x = (x - mean) * each(self.contrast) + mean
        if self.brightness.any():
            x = x + each(self.brightness)
        if self.cover_size.any():
            x = self._cover(x)
        if self.noise.any():
            grain = torch.as_tensor(rng.standard_normal(x.shape, dtype=np.float32), device=x.device)
            x = x + grain * each(self.noise)
        return x

    def _cover(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        at = torch.arange(side, device=x.device)
        limits = (self.cover_start * side, (self.cover_start + self.cover_size) * side)
        low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in limits)
        inside = (at >= low[:, :, None]) & (at < high[:, :, None])  # [n,2,S]
        covered = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
        return torch.where(covered, x.mean((1, 2, 3), keepdim=True), x)


def _lose_resolution(x: Tensor, share: np.ndarray) -> Tensor:
    """Faces shrunk to a share of the side and enlarged again; one of share 1 stays as it is."""
    side = x.shape[-1]
    x = x.clone()
    for one in np.unique(share[share < 1]):
        chosen = torch.as_tensor(np.flatnonzero(share == one), device=x.device)
        shrunk = F.interpolate(x[chosen], size=(round(side * one),) * 2, mode="area")
        x[chosen] = F.interpolate(shrunk, size=(side, side), mode="bilinear", align_corners=False)
    return x


def _blur(x: Tensor, share: np.ndarray) -> Tensor:
    """Faces blurred by Gaussians of these deviations, shares of the side; one of share 0 stays as it is."""
    n_channels, side = x.shape[1:3]
    x = x.clone()
    for one in np.unique(share[share > 0]):
        chosen = torch.as_tensor(np.flatnonzero(share == one), device=x.device)
        radius = max(1, round(3 * one * side))
        weight = torch.exp(-(torch.arange(-radius, radius + 1, device=x.device) ** 2) / (2 * (one * side) ** 2))
        kernel = (weight / weight.sum()).to(x.dtype).expand(n_channels, 1, 1, -1)
        rows = F.conv2d(F.pad(x[chosen], (radius, radius, 0, 0), mode="replicate"), kernel, groups=n_channels)
        padded = F.pad(rows, (0, 0, radius, radius), mode="replicate")
        x[chosen] = F.conv2d(padded, kernel.transpose(2, 3), groups=n_channels)
    return x


def give_mouths(x: Tensor, corners: np.ndarray, givers: Tensor, their_corners: np.ndarray) -> Tensor:
    """Faces float [n,C,S,S] with the mouths of others blended in, between nose and chin.

    A neutral face with the open mouth of a surprised one is a face that speaks.

    Args:
        x: pixels in 0..1.
        corners: of their mouths, px [n,2,2], in any order; no face is upside down.
        givers: the other faces, float [n,C,S,S], cut by the same contract; a mouth keeps its size.
        their_corners: of their mouths, px [n,2,2].
    """
    side = x.shape[-1]
    (own, along, half), (other, their_along, their_half) = _mouth_line(corners), _mouth_line(their_corners)
    half = np.maximum(half, their_half)

    def each(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=x.dtype, device=x.device)[:, None, None]

    at = torch.arange(side, dtype=x.dtype, device=x.device)
    dx, dy = at[None, None, :] - each(own[:, 0]), at[None, :, None] - each(own[:, 1])
    # across from the mouth's middle and down from the line through its corners, px
    across, down = dx * each(along[:, 0]) + dy * each(along[:, 1]), dy * each(along[:, 0]) - dx * each(along[:, 1])
    column = each(other[:, 0]) + across * each(their_along[:, 0]) - down * each(their_along[:, 1])
    row = each(other[:, 1]) + across * each(their_along[:, 1]) + down * each(their_along[:, 0])
    grid = torch.stack([column, row], 3) * (2 / (side - 1)) - 1
    given = F.grid_sample(givers, grid, mode="bilinear", padding_mode="border", align_corners=True)
    above, below = -_NOSE * each(half), _CHIN * each(half)
    height = (below - above) / 2
    distance = ((across / (_CHEEK * each(half))) ** 4 + ((down - (above + below) / 2) / height) ** 4) ** 0.25
    share = ((1 - distance) / _SEAM + 0.5).clamp(0, 1)[:, None]
    seam = share * (1 - share)
    brightness = (x * seam).sum((1, 2, 3)) / (given * seam).sum((1, 2, 3)).clamp_min(1e-3)
    given = (given * brightness.clamp(0.4, 2.5)[:, None, None, None]).clamp(0, 1)
    return x + share * (given - x)


def _mouth_line(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle px [n,2], direction [n,2] to the right of the picture and half width px [n] of mouths [n,2,2]."""
    corners = np.take_along_axis(corners, corners[:, :, :1].argsort(1), 1)
    half = np.maximum(np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1) / 2, 1.0)
    return corners.mean(1), (corners[:, 1] - corners[:, 0]) / (2 * half[:, None]), half


def mix(rng: np.random.Generator, alpha: float, *stacks: Tensor) -> tuple[Tensor, ...]:
    """Mixup (Zhang et al. 2018): blend each face, and its targets, with another's by one beta-distributed share.

    Every stack is float [n,...]; all are blended with the same partners.
    """
    share = float(rng.beta(alpha, alpha))
    other = torch.as_tensor(rng.permutation(len(stacks[0])), device=stacks[0].device)
    return tuple(share * x + (1 - share) * x[other] for x in stacks)
