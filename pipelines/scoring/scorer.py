"""Expression probabilities of aligned faces, by one model on one device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mfer.card import Card, read_card, verify_model
from mfer.checkpoint import load_model
from mfer.crop import align_matrix, normalise, warp_faces
from mfer.errors import ConfigError
from mfer.network import CalibratedMFER
from pipelines.batches import AlignedFaces, Detections, ExpressionScores, FrameBatch
from pipelines.scoring.onnx import load_or_export
from pipelines.scoring.settings import RUNTIMES

__all__ = ["Scorer", "ScoringNet", "choose_device"]


#: Faces in one pass through the network; more than that fills no device better and costs memory.
_CHUNK = 256


def choose_device(name: str) -> str:
    """Resolve ``auto`` to a CUDA device if there is one; any other device must exist."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); use --device auto or cpu") from error
    return name


class ScoringNet:
    """A model's network on one device: crops uint8 [F,C,S,S] to calibrated probabilities float32 [F,K].

    Args:
        folder: a model's folder (weights and card).
        device: ``cpu`` or a CUDA device; there the network runs in bfloat16.
        runtime: ``torch``, ``onnx`` (ONNX Runtime, on the CPU only), or ``auto``: the quicker of the two.

    Raises:
        ModelError: the folder holds no sound model. ConfigError: the runtime is unavailable on the device.
    """

    def __init__(self, folder: Path, device: str = "cpu", runtime: str = "auto") -> None:
        self.device = torch.device(device)
        self._net: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
        if _choose_runtime(runtime, self.device) == "onnx":
            self.card = verify_model(folder)
            crop = self.card.crop
            example = torch.zeros(2, crop.channels, crop.side_px, crop.side_px)
            self._net = load_or_export(_fingerprint(self.card), lambda: _calibrated(folder), example, ("prob",))
        else:
            self._net = _calibrated(folder).to(self.device)
            self.card = read_card(folder)

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> np.ndarray:
        parts = [np.zeros((0, len(self.card.class_names)), np.float32)]
        for chunk in crops.split(_CHUNK) if len(crops) else ():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                out = self._net(normalise(chunk.to(self.device), self.card.crop))
            parts.append((out[0] if isinstance(out, tuple) else out).cpu().numpy())
        return np.concatenate(parts)


class Scorer:
    """A model ready to score: it aligns by its own crop contract and gives calibrated probabilities.

    Args:
        folder, device, runtime: of its network, see ``ScoringNet``.
        net: the same model's network, if another process has loaded it.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        runtime: str = "auto",
        net: Callable[[Tensor], np.ndarray] | None = None,
    ) -> None:
        self._net = net or ScoringNet(folder, device, runtime)
        self.card = self._net.card if isinstance(self._net, ScoringNet) else read_card(folder)

    @property
    def model_id(self) -> str:
        return self.card.model_id

    def align(self, frames: FrameBatch, faces: Detections) -> AlignedFaces:
        """Cut the faces out of their frames by the crop contract that the model was trained with."""
        matrix = align_matrix(faces.landmarks_px, self.card.crop)
        return AlignedFaces(warp_faces(frames.rgb, faces.frame_row, matrix, self.card.crop), matrix)

    def __call__(self, crops: AlignedFaces) -> ExpressionScores:
        """Probabilities of each face, ``softmax(logits / temperature)``."""
        return ExpressionScores(self._net(crops.pixels), self.card.class_names, self.model_id)


def _choose_runtime(name: str, device: torch.device) -> str:
    if name not in RUNTIMES:
        raise ConfigError(f"runtime is {name!r}; allowed: {', '.join(RUNTIMES)}")
    if name == "onnx" and device.type != "cpu":
        raise ConfigError(f"the runtime onnx runs on the CPU, not on {device}; use --runtime auto or torch")
    return ("onnx" if device.type == "cpu" else "torch") if name == "auto" else name


def _calibrated(folder: Path) -> CalibratedMFER:
    model, card = load_model(folder)
    return CalibratedMFER(model, card.temperature).eval()


def _fingerprint(card: Card) -> str:
    """Differs where the network's weights or sums do."""
    parts = [card.weights_sha256, card.architecture.to_dict(), card.temperature]
    return f"mfer-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]}"
