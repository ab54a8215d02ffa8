"""Models on disk: safetensors beside a JSON card, named by content and loaded strictly. Pickle is never read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch

from mfer.build import build_network
from mfer.card import CARD_FILE, WEIGHTS_FILE, Card, read_model
from mfer.errors import ModelError
from mfer.network import ExpressionNetwork

__all__ = ["load_model", "save_model"]


def save_model(folder: Path, model: ExpressionNetwork, card: Card) -> Card:
    """Write weights as float16 and the card; returns the card with the weights' hash filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    path = folder / WEIGHTS_FILE
    safetensors.torch.save_file(weights, path)
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
        weights = {name: value.float() for name, value in safetensors.torch.load(data).items()}
        model.load_state_dict(weights, strict=True, assign=True)
    except Exception as error:  # safetensors and torch raise many kinds for a wrong file
        raise ModelError(f"{path} does not fit its card: {error}") from error
    return model.eval(), card
