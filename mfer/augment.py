"""Augmentation in two parts: of the affine map that cuts the face, and of the pixels that it cut.

The map is disturbed before the one crop function runs, so that a training face is resampled once, as a served
face is. Blur and loss of resolution make 48 px pictures and sharp video frames look alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mfer.card import CropContract

__all__ = ["Augmentation", "disturb_matrix", "disturb_pixels", "mix"]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random disturbances; a zero switches one off.

    Angles in degrees; ``scale`` and ``stretch`` as logarithms of a factor, ``shift`` as a share of the crop;
    ``flip``, ``blur``, ``low_resolution`` and ``erase`` are probabilities per face; ``gamma`` and ``contrast`` are
    logarithms of the exponent and the factor, ``brightness`` and ``noise`` in units of the pixels' range 0..1;
    ``mixup`` is the parameter of a beta distribution from which each batch draws one share.
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


def disturb_matrix(
    crop_from_frame: np.ndarray, crop: CropContract, settings: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Compose each map [F,2,3] with a random rotation, scale, stretch, shift and mirror about the crop's centre."""
    n = len(crop_from_frame)
    angle = np.deg2rad(rng.uniform(-settings.rotate_deg, settings.rotate_deg, n))
    zoom = np.exp(rng.uniform(-settings.scale, settings.scale, n))
    stretch = np.exp(rng.uniform(-settings.stretch, settings.stretch, n))
    mirror = np.where(rng.random(n) < settings.flip, -1.0, 1.0)
    move = rng.uniform(-settings.shift, settings.shift, (n, 2)) * crop.side_px
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    turn = np.stack([np.stack([cos * stretch * mirror, -sin], 1), np.stack([sin * stretch * mirror, cos], 1)], 1)
    centre = (crop.side_px - 1) / 2
    out = np.empty_like(crop_from_frame, dtype=np.float64)
    out[:, :, :2] = turn @ crop_from_frame[:, :, :2]
    out[:, :, 2] = np.einsum("fij,fj->fi", turn, crop_from_frame[:, :, 2] - centre) + centre + move
    return out.astype(np.float32)


def disturb_pixels(x: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    """Disturb pixels float [F,C,S,S] in 0..1 (values may leave the range); returns a new tensor."""
    n = len(x)

    def draw(low: float, high: float) -> Tensor:
        return torch.as_tensor(rng.uniform(low, high, n), dtype=x.dtype, device=x.device)[:, None, None, None]

    if settings.low_resolution:
        x = _lose_resolution(x, settings.low_resolution, rng)
    if settings.blur:
        x = _blur(x, settings.blur, rng)
    if settings.gamma:
        x = x.clamp_min(1e-4) ** torch.exp(draw(-settings.gamma, settings.gamma))
    if settings.contrast:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * torch.exp(draw(-settings.contrast, settings.contrast)) + mean
    if settings.brightness:
        x = x + draw(-settings.brightness, settings.brightness)
    if settings.noise:
        sigma = draw(0, settings.noise)
        x = x + torch.as_tensor(rng.standard_normal(x.shape, dtype=np.float32), device=x.device) * sigma
    if settings.erase:
        x = _erase(x, settings, rng)
    return x


def _lose_resolution(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Shrink a share of the faces, all by one random factor of the batch, and enlarge them again."""
    chosen = torch.as_tensor(np.flatnonzero(rng.random(len(x)) < share), device=x.device)
    side = x.shape[-1]
    small = round(side * rng.uniform(0.35, 0.85))
    if len(chosen):
        shrunk = F.interpolate(x[chosen], size=(small, small), mode="area")
        x = x.clone()
        x[chosen] = F.interpolate(shrunk, size=(side, side), mode="bilinear", align_corners=False)
    return x


def _blur(x: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """A 3x3 binomial-like blur of random strength on a share of the faces."""
    weight = np.where(rng.random(len(x)) < share, rng.uniform(0.1, 0.33, len(x)), 0.0)
    w = torch.as_tensor(weight, dtype=x.dtype, device=x.device)[:, None, None, None]
    padded = F.pad(x, (1, 1, 0, 0), mode="replicate")
    x = w * (padded[..., :-2] + padded[..., 2:]) + (1 - 2 * w) * x
    padded = F.pad(x, (0, 0, 1, 1), mode="replicate")
    return w * (padded[..., :-2, :] + padded[..., 2:, :]) + (1 - 2 * w) * x


def _erase(x: Tensor, settings: Augmentation, rng: np.random.Generator) -> Tensor:
    """Cover a random rectangle of a share of the faces with the face's own mean."""
    n, side = len(x), x.shape[-1]
    size = rng.uniform(0.15, settings.erase_side, (n, 2)) * side
    start = rng.uniform(0, 1, (n, 2)) * (side - size)
    size[rng.random(n) >= settings.erase] = 0
    at = torch.arange(side, device=x.device)
    low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (start, start + size))
    inside = (at >= low[:, :, None]) & (at < high[:, :, None])  # [F,2,S]
    covered = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    return torch.where(covered, x.mean((1, 2, 3), keepdim=True), x)


def mix(x: Tensor, target: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): blend each face and its target with another's by one beta-distributed share."""
    share = float(rng.beta(alpha, alpha))
    other = torch.as_tensor(rng.permutation(len(x)), device=x.device)
    return share * x + (1 - share) * x[other], share * target + (1 - share) * target[other]
