"""Networks in PyTorch, for GPUs and for comparison."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

__all__ = ["TorchNet"]


class TorchNet:
    """A network in PyTorch on one device; called with the input's rows as an array, returns the outputs'.

    Args:
        net: takes one tensor and returns one, or several.
        device: ``cpu`` or a CUDA device.
        rows_at_once: more rows are split into passes of so many: more fills no device better and costs memory.
        bfloat16: run it in bfloat16 on a GPU.
    """

    def __init__(self, net: nn.Module, device: str, rows_at_once: int, *, bfloat16: bool = False) -> None:
        self._device, self._rows_at_once = torch.device(device), rows_at_once
        self._net = net.eval().to(self._device)
        self._bfloat16 = bfloat16 and self._device.type == "cuda"

    @torch.inference_mode()
    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Raises MemoryError where the device has not enough memory."""
        parts = []
        try:
            for rows in torch.from_numpy(np.ascontiguousarray(x)).split(self._rows_at_once):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
                    out = self._net(rows.to(self._device))
                parts.append(out if isinstance(out, tuple) else (out,))
            return tuple(torch.cat(part).float().cpu().numpy() for part in zip(*parts, strict=True))
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
