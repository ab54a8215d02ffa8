"""Muon for the weight matrices of a network, AdamW for everything else.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers", with the scaling by 0.2 sqrt(max side) of Liu et al.
2025 (arXiv 2502.16982), which lets both parts share one learning rate. Those of PyTorch and timm orthogonalise in
bfloat16 everywhere; this one takes float32 on a CPU without bfloat16 units, where that is fifty times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mfer.precision import fast_bfloat16

__all__ = ["Muon", "parameter_groups"]

#: Quintic Newton-Schulz coefficients of the five steps (Jordan et al. 2024).
_STEPS = ((3.4445, -4.7750, 2.0315),) * 5


def parameter_groups(model: nn.Module, extra: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Sort parameters: matrices (dense kernels flattened) go to Muon; vectors and depthwise kernels are not decayed.

    Returns groups with keys ``params``, ``weight_decay`` and ``muon``. The first layer and the last linear maps to
    the classes are matrices that Muon does not suit; they and ``extra`` (loss centres) get AdamW.
    """
    matrices, plain, flat = [], [], []
    for name, p in model.named_parameters():
        if p.ndim < 2 or (p.ndim == 4 and p.shape[1] == 1):
            flat.append(p)
        elif name.startswith("stem") or (p.ndim == 2 and min(p.shape) <= 16):
            plain.append(p)
        else:
            matrices.append(p)
    return [
        {"params": matrices, "weight_decay": weight_decay, "muon": True},
        {"params": plain, "weight_decay": weight_decay, "muon": False},
        {"params": [*flat, *extra], "weight_decay": 0.0, "muon": False},
    ]


class Muon(torch.optim.Optimizer):
    """One optimizer over the groups of :func:`parameter_groups`; each has its ``lr`` scaled by a schedule."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        mapper: Callable[[Callable[[Tensor], Tensor], Iterable[Tensor]], Iterable[Tensor]] = map,
    ) -> None:
        self.mapper = mapper  # the map of a thread pool makes the matrices' updates side by side
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "muon": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            for p in moving:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            if group["muon"]:
                directions = self.mapper(orthogonalise, [self._momentum(p, group) for p in moving])
                for p, direction in zip(moving, directions, strict=True):
                    p.add_(direction.view_as(p), alpha=-group["lr"] * 0.2 * max(direction.shape) ** 0.5)
            else:
                for p in moving:
                    self._adam_step(p, group)

    def _momentum(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov's momentum as a matrix [m,n]."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)

    def _adam_step(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        grad, state = p.grad, self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        b1, b2 = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - b1)
        state["square"].lerp_(grad.square(), 1 - b2)
        t = state["step"].item()
        mean, square = state["mean"] / (1 - b1**t), state["square"] / (1 - b2**t)
        p.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"])


@torch.no_grad()
def orthogonalise(matrix: Tensor) -> Tensor:
    """Newton-Schulz: float [m,n] to a near-orthogonal matrix with the same singular vectors; float64 stays exact."""
    x = matrix.bfloat16() if matrix.dtype == torch.float32 and fast_bfloat16(matrix.device) else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for a, b, c in _STEPS:
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
