"""What is written about a model beside its weights, and how an input to it is made. Quick to import: no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mfer.classes import EXPRESSIONS
from mfer.errors import ConfigError, ModelError
from mfer.metrics import class_shares
from mfer.ranges import Range, require_ranges

__all__ = [
    "ARCHITECTURES",
    "CARD_FILE",
    "IDENTITY_CROP",
    "INT8_ARCHITECTURES",
    "MEAN_LANDMARKS_48PX",
    "PRETRAINED_ARCHITECTURES",
    "SIDES_PX",
    "WEIGHTS_FILE",
    "Architecture",
    "Card",
    "CropContract",
    "packaged_models",
    "read_card",
    "read_model",
    "verify_model",
]

#: Mean MTCNN landmarks of the 28,561 FER+ training pictures in their 48 px pixel coordinates, made symmetric:
#: eyes, nose, mouth corners. Also the fallback where a labelled 48 px face shows the detector no landmarks.
MEAN_LANDMARKS_48PX = (
    (14.71, 17.96),
    (32.29, 17.96),
    (23.50, 28.33),
    (16.21, 37.44),
    (30.79, 37.44),
)


def _framed(eye_distance: float) -> tuple[tuple[float, float], ...]:
    """The mean landmarks in a unit square, shrunk or enlarged about its centre until the eyes are so far apart."""
    points = [((x + 0.5) / 48, (y + 0.5) / 48) for x, y in MEAN_LANDMARKS_48PX]
    scale = eye_distance / (points[1][0] - points[0][0])
    return tuple((0.5 + scale * (x - 0.5), 0.5 + scale * (y - 0.5)) for x, y in points)


#: Template name -> five points in the unit square of the crop (pixel centre convention removed).
_TEMPLATES: dict[str, tuple[tuple[float, float], ...]] = {
    # the framing of FER pictures themselves: forehead to chin fills the crop
    "ferplus_tight": tuple(((x + 0.5) / 48, (y + 0.5) / 48) for x, y in MEAN_LANDMARKS_48PX),
    # about as the two teachers saw faces when they learned them: some forehead and chin, and all of the face
    "faceres": _framed(0.40),
    "dlib": _framed(1 / 3),
    # dlib's own face chips of 150 px with a padding of 0.25 (means of its landmarks of eyes, nose and mouth corners),
    # a tenth larger, which tells people apart better by MTCNN's landmarks
    "dlib_chip": tuple(
        (0.5 + 1.1 * ((x + 0.5) / 150 - 0.5), 0.5 + 1.1 * ((y + 0.5) / 150 - 0.5))
        for x, y in ((47.5, 46.6), (100.5, 46.6), (74.0, 76.6), (50.4, 103.0), (97.6, 103.0))
    ),
    # face.evoLVe's 112 px template, as MFER was published: more forehead, hair and neck
    "face_evolve": tuple(
        ((x + 0.5) / 112, (y + 0.5) / 112)
        for x, y in (
            (38.2946, 51.6963),
            (73.5318, 51.5014),
            (56.0252, 71.7366),
            (41.5493, 92.3655),
            (70.7299, 92.2041),
        )
    ),
}
#: Architecture name -> timm backbone.
ARCHITECTURES: dict[str, str] = {
    f"mfer_{size}": f"convnext_{size}" for size in ("base", "tiny", "nano", "pico", "femto", "atto")
}
#: MFER on a network that knew faces before, and the networks that teach; see mfer.pretrained.
PRETRAINED_ARCHITECTURES = ("mfer_faceres", "faceres_mobilenet", "dlib_resnet")
#: Those of them whose activations are bounded: they can be served in numbers of eight bits (``mfer.int8``).
INT8_ARCHITECTURES = ("mfer_faceres", "faceres_mobilenet")
#: Sides of a crop.
SIDES_PX = Range(16, 512)
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "card.json"
_CARD_VERSION = 1


@dataclass(frozen=True)
class CropContract:
    """How a face becomes network input.

    ``template`` names the five target points, ``side_px`` the crop side, ``colour`` is ``grey`` or ``rgb``,
    pixels outside the picture repeat its border, and a face larger than the crop is first averaged over
    ``round(scale)`` pixel blocks (``low_pass = "box"``), so that a sharp large face and a small one look alike.
    ``mean`` and ``std`` normalise pixels in 0..1.
    """

    template: str = "ferplus_tight"
    side_px: int = 48
    colour: str = "grey"
    low_pass: str = "box"
    mean: float = 0.5
    std: float = 0.25

    def __post_init__(self) -> None:
        for name, allowed in (
            ("template", tuple(_TEMPLATES)),
            ("colour", ("grey", "rgb")),
            ("low_pass", ("box",)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"crop {name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        require_ranges(self, "crop", {"side_px": SIDES_PX, "mean": Range(0, 1), "std": Range(0, above=True)})

    @property
    def channels(self) -> int:
        return 1 if self.colour == "grey" else 3

    @property
    def crop_id(self) -> str:
        """Twelve hex digits that differ where the crop would."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def template_px(self) -> np.ndarray:
        """The five target points in crop pixels, float64 [5,2]; integer coordinates are pixel centres."""
        return np.asarray(_TEMPLATES[self.template]) * self.side_px - 0.5

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CropContract:
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise ConfigError(f"this version does not know the crop settings {sorted(unknown)}")
        return cls(**values)


#: The faces that dlib's network tells apart: about its own chips.
IDENTITY_CROP = CropContract(template="dlib_chip", side_px=150, colour="rgb", mean=0.0, std=1.0)


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes what an MFER computes; recorded in a model's card.

    ``ds`` is ``dense`` (published), ``depthwise`` or ``none``; ``stem`` is ``patch4`` (published, stride 4) or
    ``conv2`` (3x3, stride 2, for faces of 40 to 64 px); ``layer_scale`` is its starting value. With
    ``mirror`` the logits of a face and its mirror image are averaged in evaluation mode, at twice the cost, wherever
    the model runs.
    """

    name: str = "mfer_base"
    n_classes: int = 8
    in_channels: int = 3
    ds: str = "dense"
    multiscale: bool = True
    stem: str = "patch4"
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    mirror: bool = False

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[Any, ...]] = {
            "name": (*ARCHITECTURES, *PRETRAINED_ARCHITECTURES),
            "ds": ("dense", "depthwise", "none"),
            "stem": ("patch4", "conv2"),
            "in_channels": (1, 3),
        }
        for name, values in allowed.items():
            got = getattr(self, name)
            if got not in values:
                raise ConfigError(f"architecture {name} is {got!r}; allowed: {', '.join(map(str, values))}")
        ranges = {"n_classes": Range(1), "layer_scale": Range(0), "drop_path": Range(0, 1, below=True)}
        require_ranges(self, "architecture", ranges)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        known = {f.name for f in fields(cls)}
        if unknown := set(values) - known:
            raise ConfigError(f"unknown architecture settings {sorted(unknown)}; known: {sorted(known)}")
        return cls(**values)


@dataclass(frozen=True)
class Card:
    """What must be known of a model to use it rightly.

    ``name`` is ``architecture.training_set_version``; ``class_names`` are in the order of the logits;
    probabilities are ``softmax(logits / temperature)``. ``training`` holds the resolved recipe and the data with its
    licence, ``metrics`` the measured values with their protocol, ``parent`` the model that it was refreshed from.
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

    def class_shares(self) -> np.ndarray | None:
        """The share of each class among the training faces, float64 [K], none of them 0; None where it is unknown."""
        counts = self.training.get("data", {}).get("n_train_by_class")
        if not counts:
            return None
        return class_shares([counts.get(name, 0) for name in self.class_names])

    @property
    def logit_adjustment(self) -> float:
        """That of the recipe (``mfer.recipe.Optimisation``)."""
        return float(self.training.get("recipe", {}).get("optimisation", {}).get("logit_adjustment", 0.0))

    def log_share_left_out(self) -> np.ndarray:
        """The part of each class's log share that ``logit_adjustment`` kept out of the logits, float64 [K]."""
        shares = self.class_shares() if self.logit_adjustment else None
        return np.zeros(len(self.class_names)) if shares is None else self.logit_adjustment * np.log(shares)

    def class_shares_by_name(self) -> dict[str, float] | None:
        """``class_shares`` as the lake keeps them, to six digits."""
        shares = self.class_shares()
        return None if shares is None else dict(zip(self.class_names, shares.round(6).tolist(), strict=True))

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
    return read_model(folder)[0]


def read_model(folder: Path) -> tuple[Card, bytes]:
    """The card and the bytes of the weights file that it names; ModelError where they do not belong together."""
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


def packaged_models() -> dict[str, Path]:
    """Name -> folder of the models that ship with the package."""
    root = Path(str(resources.files("mfer"))) / "models"
    return (
        {entry.name: entry for entry in sorted(root.iterdir()) if (entry / CARD_FILE).is_file()}
        if root.is_dir()
        else {}
    )
