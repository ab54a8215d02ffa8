"""Which numbers a setting may have: one check, and one way to say what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mfer.errors import ConfigError

__all__ = ["Range", "require_ranges"]


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``least`` to ``most``, without these ends where ``above`` or ``below`` say so."""

    least: float = 0.0
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"above {self.least:g}" if self.above else f"{self.least:g} or more"
        most = f"below {self.most:.10g}" if self.below else f"{self.most:.10g}"
        return f"above {self.least:g}, up to {most}" if self.above else f"{self.least:g} to {most}"


def require_ranges(settings: object, what: str, allowed: Mapping[str, Range]) -> None:
    """Raise ConfigError for a setting that is out of its range."""
    for name, within in allowed.items():
        if (value := getattr(settings, name)) not in within:
            raise ConfigError(f"{what} {name} is {value}; allowed: {within}")
