"""A tiny model with random weights: real files, real loading, scores that mean nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from mfer.card import Architecture, Card, CropContract
from mfer.checkpoint import save_model
from mfer.classes import EXPRESSIONS
from mfer.network import MFER

__all__ = ["tiny_model"]

_ARCHITECTURE = Architecture(name="mfer_atto", in_channels=1, ds="depthwise", stem="conv2", layer_scale=1.0)


def tiny_model(folder: Path, *, name: str = "mfer_atto.random_v1", seed: int = 0) -> Path:
    """Write a model that ``--model FOLDER`` can name, the smallest there is; the same seed gives the same model_id.

    Returns:
        The folder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MFER(_ARCHITECTURE)
    save_model(folder, model, Card(name, EXPRESSIONS, _ARCHITECTURE, CropContract(side_px=40), 1.0, "", licence="none"))
    return folder
