"""Expression probabilities of aligned faces, by one model on one device."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mfer.card import INT8_ARCHITECTURES, Card, read_card, verify_model
from mfer.errors import ConfigError
from pipelines.align import align_faces
from pipelines.batches import AlignedFaces, Detections, ExpressionScores, FrameBatch
from pipelines.scoring.onnx import load_or_export
from pipelines.scoring.settings import RUNTIMES

if TYPE_CHECKING:
    from mfer.network import ServedMFER

__all__ = ["Scorer", "ScoringNet", "choose_device"]

#: Faces in one pass through the network, on a CPU and on a GPU. docs/performance.md has the table of the first.
_ROWS_ON_CPU, _ROWS_ON_GPU = 16, 256
_ONNX_RUNTIMES = ("onnx", "int8")
#: The library without which no GPU can be used: NVIDIA's driver on Linux and Windows, and AMD's device.
_GPU_LIBRARIES, _GPU_DEVICES = ("libcuda.so.1", "nvcuda.dll"), ("/dev/kfd",)


def choose_device(name: str) -> str:
    """Resolve ``auto`` to a CUDA device if there is one; any other device must exist."""
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch  # late: a CPU does without it

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); use --device auto or cpu") from error
    return name


def _may_have_gpu() -> bool:
    """False where PyTorch, which takes two seconds to ask, would find no GPU."""
    for library in _GPU_LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return any(map(os.path.exists, _GPU_DEVICES))


class ScoringNet:
    """A model's network on one device: crops uint8 [F,C,S,S] to calibrated probabilities float32 [F,K].

    Args:
        folder: a model's folder (weights and card).
        device: ``cpu`` or a CUDA device; there the network runs in bfloat16.
        runtime: ``torch``, ``onnx`` or ``int8`` (ONNX Runtime, on the CPU only), or ``auto``: the quickest of them.

    Raises:
        ModelError: the folder holds no sound model. ConfigError: the runtime is unavailable on the device.
    """

    def __init__(self, folder: Path, device: str = "cpu", runtime: str = "auto") -> None:
        self._net: Callable[[np.ndarray], tuple[np.ndarray, ...]]
        chosen = _choose_runtime(runtime, device, folder)
        if chosen in _ONNX_RUNTIMES:
            self.card = verify_model(folder)
            crop = self.card.crop
            example = np.zeros((2, crop.channels, crop.side_px, crop.side_px), np.uint8)
            self._net = load_or_export(
                f"{_fingerprint(self.card)}-{chosen}",
                lambda: _served(folder, chosen == "int8"),
                example,
                ("prob",),
                rows_at_once=_ROWS_ON_CPU,
            )
        else:
            from pipelines.scoring.torch_net import TorchNet  # late: it loads PyTorch

            self.card = read_card(folder)
            rows_at_once = _ROWS_ON_CPU if device == "cpu" else _ROWS_ON_GPU
            self._net = TorchNet(_served(folder), device, rows_at_once, bfloat16=True)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return self._net(crops)[0] if len(crops) else np.zeros((0, len(self.card.class_names)), np.float32)


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
        net: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._net = net or ScoringNet(folder, device, runtime)
        self.card = self._net.card if isinstance(self._net, ScoringNet) else read_card(folder)

    @property
    def model_id(self) -> str:
        return self.card.model_id

    def align(self, frames: FrameBatch, faces: Detections) -> AlignedFaces:
        """Cut the faces out of their frames by the crop contract that the model was trained with."""
        return align_faces(frames, faces, self.card.crop)

    def __call__(self, crops: AlignedFaces) -> ExpressionScores:
        """Probabilities of each face, ``softmax(logits / temperature)``."""
        return ExpressionScores(self._net(crops.pixels), self.card.class_names, self.model_id)


def _choose_runtime(name: str, device: str, folder: Path) -> str:
    if name not in RUNTIMES:
        raise ConfigError(f"runtime is {name!r}; allowed: {', '.join(RUNTIMES)}")
    if name in _ONNX_RUNTIMES and device != "cpu":
        raise ConfigError(f"the runtime {name} runs on the CPU, not on {device}; use --runtime auto or torch")
    if name == "auto" and device != "cpu":
        return "torch"
    if name in ("auto", "int8"):
        network = read_card(folder).architecture.name
        if network in INT8_ARCHITECTURES:
            return "int8"
        if name == "int8":
            raise ConfigError(f"the network {network} cannot run in int8; use --runtime auto or onnx")
        return "onnx"
    return name


def _served(folder: Path, int8: bool = False) -> ServedMFER:
    from mfer.checkpoint import load_model  # late: they load PyTorch
    from mfer.network import ServedMFER

    model, card = load_model(folder)
    rounded = model.with_int8() if int8 else model
    assert rounded is not None
    return ServedMFER(rounded, card.temperature, card.crop).eval()


def _fingerprint(card: Card) -> str:
    """Differs where the network's weights or sums do."""
    crop = card.crop
    parts = [card.weights_sha256, card.architecture.to_dict(), card.temperature, crop.mean, crop.std, crop.side_px]
    return f"mfer-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]}"
