"""Expression probabilities of aligned faces, by one model on one device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mfer.checkpoint import load_model
from mfer.crop import align_matrix, normalise, warp_faces
from mfer.errors import ConfigError
from pipelines.batches import AlignedFaces, Detections, ExpressionScores, FrameBatch

__all__ = ["Scorer", "choose_device"]

#: Faces in one pass through the network; more than that fills no device better and costs memory.
_CHUNK = 256


def choose_device(name: str) -> str:
    """``auto`` is a CUDA device where there is one; anything else must exist."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); use --device auto or cpu") from error
    return name


class Scorer:
    """A model ready to score: it aligns by its own crop contract and gives calibrated probabilities.

    Args:
        folder: a model's folder (weights and card).
        device: ``cpu`` or a CUDA device; there the network runs in bfloat16.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        model, self.card = load_model(folder)
        self.device = torch.device(device)
        self.model = model.to(self.device)

    @property
    def model_id(self) -> str:
        return self.card.model_id

    def align(self, frames: FrameBatch, faces: Detections) -> AlignedFaces:
        """Cut the faces out of their frames by the crop contract that the model was trained with."""
        matrix = align_matrix(faces.landmarks_px, self.card.crop)
        return AlignedFaces(warp_faces(frames.rgb, faces.frame_row, matrix, self.card.crop), matrix)

    @torch.inference_mode()
    def __call__(self, crops: AlignedFaces) -> ExpressionScores:
        """Probabilities of each face, ``softmax(logits / temperature)``."""
        parts = [np.zeros((0, len(self.card.class_names)), np.float32)]
        for chunk in crops.pixels.split(_CHUNK) if len(crops) else ():
            x = normalise(chunk.to(self.device), self.card.crop)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                logits = self.model(x)
            parts.append(torch.softmax(logits.float() / self.card.temperature, dim=1).cpu().numpy())
        return ExpressionScores(np.concatenate(parts), self.card.class_names, self.model_id)
