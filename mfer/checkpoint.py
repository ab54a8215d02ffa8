"""Models on disk: safetensors beside a JSON card, named by content and loaded strictly. Pickle is never read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from mfer.build import build_network
from mfer.card import CARD_FILE, WEIGHTS_FILE, Card, read_model
from mfer.errors import ModelError
from mfer.network import ExpressionNetwork

__all__ = ["load_model", "save_model"]

#: Matrices and kernels from so many numbers on are stored as int8, with a scale for each output channel.
_INT8_FROM = 20_000
_INT8_SCALE = ".int8_scale"


def save_model(folder: Path, model: ExpressionNetwork, card: Card) -> Card:
    """Write weights and the card; returns the card with the weights' hash filled in.

    Large matrices are rounded to int8 with a scale per output channel, everything else to float16: half of the size of
    float16 alone, and probabilities move by 0.001 in the mean (docs/training.md). A model that was loaded is saved
    again without any change.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS_FILE
    safetensors.torch.save_file(dict(_rounded(model.state_dict())), path)
    values = {**card.to_dict(), "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    card = Card.from_dict(values)
    (folder / CARD_FILE).write_text(json.dumps(card.to_dict(), indent=2) + "\n")
    return card


def load_model(folder: Path) -> tuple[ExpressionNetwork, Card]:
    """A model ready for inference, in float32 on the CPU, with its card.

    Raises ModelError where the weights' hash, names or shapes are not those of the card.
    """
    card, data = read_model(folder)
    path = folder / WEIGHTS_FILE
    with torch.device("meta"):
        model = build_network(card.architecture)
    try:
        model.load_state_dict(_restored(safetensors.torch.load(data)), strict=True, assign=True)
    except Exception as error:  # safetensors and torch raise many kinds for a wrong file
        raise ModelError(f"{path} does not fit its card: {error}") from error
    return model.eval(), card


def _rounded(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        value = value.detach().cpu().float().contiguous()
        if value.ndim > 1 and value.numel() >= _INT8_FROM:
            rows = value.flatten(1)
            # bfloat16, so that the products with it are exact and the next rounding finds the same scale
            scale = (rows.abs().amax(1) / 127).bfloat16()
            steps = (rows / scale.float().clamp_min(torch.finfo().tiny)[:, None]).round().clamp(-127, 127)
            yield name, steps.to(torch.int8).reshape(value.shape)
            yield name + _INT8_SCALE, scale
        else:
            yield name, value.half()


def _restored(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float32 weights of a file of ``_rounded``, or of one that is float16 throughout."""
    weights = {name: value.float() for name, value in stored.items() if not name.endswith(_INT8_SCALE)}
    for name, value in weights.items():
        if (scale := stored.get(name + _INT8_SCALE)) is not None:
            value.mul_(scale.float().reshape(-1, *[1] * (value.ndim - 1)))
    return weights
