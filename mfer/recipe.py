"""A training recipe: one frozen object, read from TOML, changed by options, stored whole in the model's card."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mfer.augment import Augmentation
from mfer.card import SIDES_PX, Architecture, CropContract
from mfer.errors import ConfigError
from mfer.ranges import Range, require_ranges

__all__ = ["Recipe", "recipe_names"]

#: How a person calls the kinds of values in a TOML file.
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes", tuple: "a list"}


_SHARE, _BELOW_ONE, _POSITIVE, _NOT_NEGATIVE = Range(0, 1), Range(0, 1, below=True), Range(0, above=True), Range(0)
_OPTIMISATION = {
    "epochs": Range(1),
    "batch_size": Range(1),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "warmup_epochs": _NOT_NEGATIVE,
    "decay": Range(0, 1, above=True),
    "label_smoothing": _BELOW_ONE,
    "logit_adjustment": _SHARE,
    "feature_loss_weight": _NOT_NEGATIVE,
    "ema": _BELOW_ONE,
    "layer_decay": Range(0, 1, above=True),
    "clip_norm": _NOT_NEGATIVE,
    "small_share": _SHARE,
    "keep_initial": _BELOW_ONE,
    "seed": Range(0, 2**32 - 1),
}


@dataclass(frozen=True)
class Optimisation:
    """How the weights move.

    ``optimizer`` is ``adamw`` or ``muon`` (AdamW where a parameter is no matrix); ``schedule`` is ``cosine`` or
    ``exponential`` (times ``decay`` every epoch, as published). ``ema`` is the decay of the averaged weights per step,
    0 for none. With ``layer_decay`` below 1 layers learn the slower the nearer they are to the input, as suits
    pretrained weights. ``clip_norm`` is the largest norm of the whole gradient, 0 for any. ``feature_loss`` is weighted
    by ``feature_loss_weight``. ``logit_adjustment`` is a power of the classes' shares that the network need not learn,
    so that rare expressions are told sooner: 0 learns the shares of the training faces, 1 learns as if all were equally
    frequent (Menon et al. 2021, arXiv:2007.07314). For the first ``small_share`` of the epochs faces of
    ``small_side_px`` are used, which is quicker (0: never). ``keep_initial`` is the share of the weights that training
    began with in the mean that it ends with, which keeps more of what these knew of other faces (Wortsman et al. 2022,
    arXiv:2109.01903).
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_epochs: float = 0.5
    schedule: str = "cosine"
    decay: float = 0.95
    label_smoothing: float = 0.05
    logit_adjustment: float = 0.0
    soft_targets: bool = True
    feature_loss: str = "dsf"
    feature_loss_weight: float = 1e-3
    ema: float = 0.998
    layer_decay: float = 1.0
    clip_norm: float = 5.0
    small_side_px: int = 0
    small_share: float = 0.0
    keep_initial: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", ("adamw", "muon")),
            ("schedule", ("cosine", "exponential")),
            ("feature_loss", ("none", "centre", "island", "lgm", "dsf")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"optimisation {name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        require_ranges(self, "optimisation", _OPTIMISATION)
        if len(self.betas) != 2 or not all(type(beta) in (int, float) and 0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimisation betas is {list(self.betas)}; allowed: two numbers, each 0 to below 1")
        if self.small_side_px:
            require_ranges(self, "optimisation", {"small_side_px": SIDES_PX})


@dataclass(frozen=True)
class Distillation:
    """What is learned from teachers beside the votes; see ``mfer.distill``.

    ``teachers`` are names or folders of models (none: off). Their predictions have the share ``weight`` of the loss,
    softened by ``temperature``; a face without votes has theirs alone. Each face is seen in ``views`` fixed views.
    """

    teachers: tuple[str, ...] = ()
    weight: float = 0.7
    temperature: float = 1.5
    views: int = 8

    def __post_init__(self) -> None:
        allowed = {"weight": Range(0, 1, above=True), "temperature": _POSITIVE, "views": Range(1)}
        require_ranges(self, "distillation", allowed)
        if not all(isinstance(teacher, str) for teacher in self.teachers):
            raise ConfigError(f"distillation teachers is {list(self.teachers)}; allowed: names or folders of models")


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes a training run but the data."""

    name: str
    description: str = ""
    architecture: Architecture = field(default_factory=Architecture)
    crop: CropContract = field(default_factory=CropContract)
    optimisation: Optimisation = field(default_factory=Optimisation)
    augmentation: Augmentation = field(default_factory=Augmentation)
    distillation: Distillation = field(default_factory=Distillation)

    def __post_init__(self) -> None:
        if self.architecture.in_channels != self.crop.channels:
            raise ConfigError(
                f"the network takes {self.architecture.in_channels} channels and the crop is {self.crop.colour};"
                " in_channels must be 1 for grey and 3 for rgb"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **given: Any) -> Recipe:
        """A recipe from its sections; ``given`` stand in for sections of the same name."""
        sections = {f.name: f.default_factory for f in dataclasses.fields(cls) if callable(f.default_factory)}
        if unknown := set(values) - set(sections) - {"name", "description"}:
            raise ConfigError(f"unknown recipe sections {sorted(unknown)}; known: {sorted(sections)}")
        built = {key: _section(kind, key, values.get(key, {})) for key, kind in sections.items()}  # type: ignore[arg-type]
        return cls(values.get("name", "unnamed"), values.get("description", ""), **{**built, **given})

    @classmethod
    def load(cls, name_or_path: str, **given: Any) -> Recipe:
        """Read a recipe that ships with the package, by name, or any TOML file, by path.

        ``given`` stand in for sections: a model that learns on keeps its own ``architecture`` and ``crop``.
        """
        path = Path(name_or_path)
        if path.suffix == ".toml":
            if not path.is_file():
                raise ConfigError(f"no recipe file {path}")
            source: Traversable = path
        elif name_or_path in recipe_names():
            source = resources.files("mfer") / "recipes" / f"{name_or_path}.toml"
        else:
            raise ConfigError(
                f"no recipe {name_or_path!r}; there are {', '.join(recipe_names())}, or give a .toml file"
            )
        try:
            values = tomllib.loads(source.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # no TOML, or no UTF-8
            raise ConfigError(f"{name_or_path}: {error}") from error
        return cls.from_dict({"name": path.stem, **values}, **given)

    def taught_by(self, teachers: Iterable[str]) -> Recipe:
        """A copy with other teachers."""
        return dataclasses.replace(self, distillation=dataclasses.replace(self.distillation, teachers=tuple(teachers)))

    def replace(self, **optimisation: Any) -> Recipe:
        """A copy with other optimisation settings; None leaves a setting as it is."""
        changed = {k: v for k, v in optimisation.items() if v is not None}
        return dataclasses.replace(self, optimisation=dataclasses.replace(self.optimisation, **changed))


def _section(kind: type, key: str, values: dict[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{key} is {values!r}; expected a section [{key}] with settings")
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := set(values) - known:
        raise ConfigError(f"[{key}] has unknown settings {sorted(unknown)}; known: {sorted(known)}")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, value in given.items():
        wanted = type(getattr(kind, name))
        if not (type(value) is wanted or (wanted is float and type(value) is int)):
            raise ConfigError(f"[{key}] {name} is {value!r}; expected {_KINDS.get(wanted, wanted.__name__)}")
    return kind(**given)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("mfer") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
