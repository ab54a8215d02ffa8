"""A training recipe: one frozen object, read from TOML, changed by options, stored whole in the model's card."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mfer.augment import Augmentation
from mfer.card import Architecture, CropContract
from mfer.errors import ConfigError

__all__ = ["Recipe", "recipe_names"]

#: How a person calls the kinds of values in a TOML file.
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes", tuple: "a list"}


@dataclass(frozen=True)
class Optimisation:
    """How the weights move.

    ``optimizer`` is ``adamw`` or ``muon`` (AdamW where a parameter is no matrix); ``schedule`` is ``cosine`` or
    ``exponential`` (times ``decay`` every epoch, as published). ``ema`` is the decay of the averaged weights per
    step, 0 for none. With ``layer_decay`` below 1 layers learn the slower the nearer they are to the input, as suits
    pretrained weights. ``feature_loss`` is weighted by ``feature_loss_weight``. ``logit_adjustment`` is a power of the
    classes' shares that the network need not learn, so that rare expressions are told sooner: 0 learns the shares of
    the training faces, 1 learns as if all were equally frequent (Menon et al. 2021, arXiv:2007.07314). For the first
    ``small_share`` of the epochs faces of ``small_side_px`` are used, which is quicker (0: never). ``keep_initial`` is
    the share of the weights that training began with in the mean that it ends with, which keeps more of what these knew
    of other faces (Wortsman et al. 2022, arXiv:2109.01903).
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
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError("epochs, batch_size and learning_rate must be positive")
        if not 0 <= self.logit_adjustment <= 1:
            raise ConfigError(f"optimisation logit_adjustment is {self.logit_adjustment}; allowed: 0 (off) to 1")
        if not 0 <= self.keep_initial < 1:
            raise ConfigError(f"optimisation keep_initial is {self.keep_initial}; allowed: 0 (off) to below 1")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"optimisation layer_decay is {self.layer_decay}; allowed: above 0, up to 1 (off)")


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
        if not 0 < self.weight <= 1 or self.temperature <= 0 or self.views < 1:
            raise ConfigError(
                f"distillation has weight {self.weight}, temperature {self.temperature} and {self.views} views;"
                " allowed: a weight above 0, up to 1, a positive temperature and 1 or more views"
            )


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
            text = path.read_text()
        elif name_or_path in recipe_names():
            text = (resources.files("mfer") / "recipes" / f"{name_or_path}.toml").read_text()
        else:
            raise ConfigError(
                f"no recipe {name_or_path!r}; there are {', '.join(recipe_names())}, or give a .toml file"
            )
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
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
