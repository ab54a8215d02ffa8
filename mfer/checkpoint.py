"""Models on disk: safetensors beside a JSON card, named by content and loaded strictly. Pickle is never read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mfer.classes import EXPRESSIONS
from mfer.crop import CropContract
from mfer.errors import ModelError
from mfer.network import MFER, Architecture

__all__ = [
    "CARD_FILE",
    "WEIGHTS_FILE",
    "Card",
    "load_model",
    "packaged_models",
    "read_card",
    "save_model",
    "verify_model",
]

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "card.json"
_CARD_VERSION = 1


@dataclass(frozen=True)
class Card:
    """What must be known of a model to use it rightly.

    ``name`` is ``architecture.training_set_version``; ``class_names`` are in the order of the logits;
    probabilities are ``softmax(logits / temperature)``. ``training`` holds the resolved recipe and the
    data with its licence, ``metrics`` the figures with their protocol, ``parent`` the model it was refreshed from.
    """

    name: str
    class_names: tuple[str, ...]
    architecture: Architecture
    crop: CropContract
    temperature: float
    weights_sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    parent: str | None = None

    @property
    def model_id(self) -> str:
        """The name, ``@`` and 12 hex digits of the weights' sha256."""
        return f"{self.name}@{self.weights_sha256[:12]}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "card_version": _CARD_VERSION,
            "model_id": self.model_id,
            "name": self.name,
            "class_names": list(self.class_names),
            "architecture": self.architecture.to_dict(),
            "crop": self.crop.to_dict(),
            "temperature": self.temperature,
            "weights_sha256": self.weights_sha256,
            "training": self.training,
            "metrics": self.metrics,
            "licence": self.licence,
            "parent": self.parent,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Card:
        """Raises ModelError for a card of another version or with classes that are not among the eight."""
        if not isinstance(values, dict):
            raise ModelError(f"a model card is one JSON object, this one is a {type(values).__name__}")
        if values.get("card_version") != _CARD_VERSION:
            raise ModelError(
                f"model card version {values.get('card_version')!r}; this version reads {_CARD_VERSION}: update mfer"
            )
        listed = values.get("class_names")
        names = tuple(listed) if isinstance(listed, list) else ()
        if not names or len(set(names)) != len(names) or not set(names) <= set(EXPRESSIONS):
            raise ModelError(f"model classes {listed}; allowed, each once: {', '.join(EXPRESSIONS)}")
        try:
            card = cls(
                name=values["name"],
                class_names=names,
                architecture=Architecture.from_dict(values["architecture"]),
                crop=CropContract.from_dict(values["crop"]),
                temperature=float(values["temperature"]),
                weights_sha256=str(values["weights_sha256"]),
                training=values["training"],
                metrics=values["metrics"],
                licence=values["licence"],
                parent=values["parent"],
            )
        except (KeyError, TypeError, ValueError) as error:  # a ConfigError is a ValueError
            raise ModelError(f"the model card does not fit this version: {error}") from error
        if card.architecture.n_classes != len(names) or not card.temperature > 0:
            raise ModelError(
                f"{len(names)} classes for {card.architecture.n_classes} logits, temperature {card.temperature}"
            )
        return card


def save_model(folder: Path, model: MFER, card: Card) -> Card:
    """Write weights as float16 and the card; returns the card with the weights' hash filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    path = folder / WEIGHTS_FILE
    safetensors.torch.save_file(weights, path)
    values = {**card.to_dict(), "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    card = Card.from_dict(values)
    (folder / CARD_FILE).write_text(json.dumps(card.to_dict(), indent=2) + "\n")
    return card


def read_card(folder: Path) -> Card:
    """The card in a model's folder; ModelError where there is none or it cannot be read."""
    path = folder / CARD_FILE
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no model: {CARD_FILE} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    try:
        return Card.from_dict(values)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def verify_model(folder: Path) -> Card:
    """The card of a model whose weights are those that the card names; ModelError where they are not."""
    return _read_model(folder)[0]


def _read_model(folder: Path) -> tuple[Card, bytes]:
    card = read_card(folder)
    path = folder / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != card.weights_sha256:
        raise ModelError(
            f"{path} is damaged or not the model of its card: sha256 {found[:12]}..., the card says"
            f" {card.weights_sha256[:12]}...; restore the file"
        )
    return card, data


def load_model(folder: Path) -> tuple[MFER, Card]:
    """A model ready for inference, in float32 on the CPU, with its card.

    Raises ModelError where the weights' hash, names or shapes are not those of the card.
    """
    card, data = _read_model(folder)
    path = folder / WEIGHTS_FILE
    with torch.device("meta"):
        model = MFER(card.architecture)
    try:
        weights = {name: value.float() for name, value in safetensors.torch.load(data).items()}
        model.load_state_dict(weights, strict=True, assign=True)
    except Exception as error:  # safetensors and torch raise many kinds for a wrong file
        raise ModelError(f"{path} does not fit its card: {error}") from error
    return model.eval(), card


def packaged_models() -> dict[str, Path]:
    """Name -> folder of the models that ship with the package."""
    root = Path(str(resources.files("mfer"))) / "models"
    return (
        {entry.name: entry for entry in sorted(root.iterdir()) if (entry / CARD_FILE).is_file()}
        if root.is_dir()
        else {}
    )
