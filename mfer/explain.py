"""Where in a face the network found its expression."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor
from torch.nn import functional as F

from mfer.network import ExpressionNetwork

__all__ = ["grad_cam", "overlay"]

#: A smaller map says no more than "somewhere in the face".
_SMALLEST_MAP_PX = 4
#: How much of the colour covers the face where the heat is greatest.
_OPACITY = 0.6


def grad_cam(model: ExpressionNetwork, x: Tensor, classes: Tensor) -> np.ndarray:
    """Grad-CAM with gradients place by place: heat(x,y) = ReLU(sum_c d logit / d a_c(x,y) * a_c(x,y)).

    a is the output of the deepest stage, DS attention included, whose map has 4 or more pixels a side: the last one
    for crops of 128 px, an earlier one for the 48 px faces of FER+. After the last stage all places have the same
    gradient, because they are averaged next, and this is Grad-CAM as published (Selvaraju et al. 2017,
    arXiv:1610.02391); at an earlier stage averaging it would mix up the places (Draelos and Carin 2020, HiResCAM,
    arXiv:2011.08891). Of a model with ``mirror`` the mirror image's heat is turned back and added.

    Args:
        model: in evaluation mode.
        x: float [N,C,S,S], normalised as the crop contract says, on the model's device.
        classes: int64 [N], the class to explain for each face.

    Returns:
        float32 [N,S,S] in 0..1, greatest 1; all 0 where nothing speaks for the class.
    """
    maps: list[Tensor] = []
    hooks = [
        stage.register_forward_hook(lambda _module, _given, out: maps.append(out)) for stage in model.stage_outputs()
    ]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = model(x.clone().requires_grad_(True))
            wide = [a for a in maps if min(a.shape[2:]) >= _SMALLEST_MAP_PX] or maps[:1]
            (gradient,) = torch.autograd.grad(logits.gather(1, classes.clone()[:, None]).sum(), wide[-1])
    finally:
        for hook in hooks:
            hook.remove()
    heat = (gradient * wide[-1].detach()).sum(1, keepdim=True)  # [N,C,h,w] -> [N,1,h,w]
    if len(heat) == 2 * len(x):
        heat = heat[: len(x)] + heat[len(x) :].flip(3)
    heat = F.relu(heat)
    heat = F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    greatest = heat.amax((1, 2), keepdim=True)
    return (heat / greatest.clamp_min(1e-12)).cpu().numpy()


def overlay(crop: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A crop uint8 [C,S,S] under its heat [S,S] in 0..1 -> uint8 RGB [S,S,3]; where heat is 0 the face shows."""
    face = np.broadcast_to(crop, (3, *crop.shape[1:])).transpose(1, 2, 0) / 255  # [C,S,S] -> [S,S,3]
    cover = _OPACITY * heat[..., None]
    mixed = (1 - cover) * face + cover * colormaps["inferno"](heat)[..., :3]
    return np.rint(mixed * 255).astype(np.uint8)
