"""The promotion gate: may a candidate take the place of the model in production? A pure function with its reasons.

A set of test faces that is large enough has to *show* that the candidate loses no more than a margin: the far end of
the 95 % interval of a paired bootstrap lies within it (a test of non-inferiority). A smaller set cannot show that, and
a gate that required it would never pass; it fails a candidate only where the near end of the interval lies beyond the
margin. Without one large enough set the gate fails.

Margins would add up over many candidates, each a little worse than the one before it. So a candidate is also compared
with the models that were in production earlier, and the one that it loses most against decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from mfer.errors import ConfigError
from mfer.metrics import Metric, paired_differences
from mfer.ranges import Range, require_ranges

__all__ = ["Check", "Decision", "GateRules", "GoldenScores", "PairedScores", "Speed", "decide_promotion"]


@dataclass(frozen=True)
class GateRules:
    """What a candidate may lose.

    The defaults fit the report half of FER+ (1,808 faces). There the default model with and without mirror images,
    which names 4.9 % of the faces otherwise, has intervals of +-0.9 points of accuracy, +-1.1 of mean recall and +-1.5
    of calibration error: a model that is as good gets through.
    """

    max_accuracy_loss: float = 0.02
    max_mean_recall_loss: float = 0.03
    max_ece_rise: float = 0.03
    max_class_recall_loss: float = 0.10
    #: Recall of fewer faces than that is chance.
    min_class_faces: int = 10
    #: From so many faces on a set has to show that the candidate is no worse.
    min_faces: int = 300
    min_golden_agreement: float = 0.75
    #: CPU time per face, candidate over production.
    max_slowdown: float = 1.25
    n_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        losses = ("max_accuracy_loss", "max_mean_recall_loss", "max_ece_rise", "max_class_recall_loss")
        allowed = {
            **dict.fromkeys((*losses, "min_golden_agreement"), Range(0, 1)),
            "min_class_faces": Range(1),
            "min_faces": Range(2),
            "max_slowdown": Range(0, above=True),
            "n_resamples": Range(100),
            "seed": Range(0),
        }
        require_ranges(self, "gate rule", allowed)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GateRules:
        """Raises ConfigError for a rule that does not exist or a value that is no number."""
        known = {rule.name: type(getattr(cls, rule.name)) for rule in fields(cls)}
        if unknown := set(values) - set(known):
            raise ConfigError(f"unknown gate rules {sorted(unknown)}; known: {sorted(known)}")
        given = {}
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"gate rule {name} is {value!r}; expected a number")
            if known[name] is int and not (math.isfinite(value) and value == int(value)):
                raise ConfigError(f"gate rule {name} is {value!r}; expected a whole number")
            given[name] = known[name](value)  # JSON and Prefect make a float of 30
        return cls(**given)


@dataclass(frozen=True)
class PairedScores:
    """Both models on one frozen set of N test faces.

    candidate, production: [N,K] probabilities; target [N,K] and majority int64 [N] as in LabelledFaces; group: N names,
    the same for faces that are no independent witnesses (one video); earlier: [N,K] by model_id, of models that were in
    production before.
    """

    name: str
    candidate: np.ndarray
    production: np.ndarray
    target: np.ndarray
    majority: np.ndarray
    group: Sequence[str]
    class_names: tuple[str, ...]
    earlier: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.majority), len(self.class_names))
        parts = (self.candidate, self.production, self.target, *self.earlier.values())
        if not shape[0] or not all(part.shape == shape for part in parts):
            raise ValueError(
                f"{self.name}: {shape[0]} faces of {shape[1]} classes, scores {self.candidate.shape} and"
                f" {self.production.shape}, targets {self.target.shape}"
            )
        if len(self.group) != shape[0]:
            raise ValueError(f"{self.name}: {len(self.group)} groups for {shape[0]} faces")


@dataclass(frozen=True)
class GoldenScores:
    """Both models on the same faces of clips that nobody labelled, [M,K] each."""

    candidate: np.ndarray
    production: np.ndarray


@dataclass(frozen=True)
class Speed:
    """CPU seconds that each model takes for the same faces."""

    candidate_s: float
    production_s: float


@dataclass(frozen=True)
class Check:
    """One question to the candidate. ``outcome`` is pass, fail or not judged; ``value`` is what it loses, with its 95 %
    interval, ``threshold`` what it may."""

    name: str
    subject: str
    outcome: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class Decision:
    """Whether the gate passes, and every check that was made."""

    passes: bool
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome == "fail")

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.passes:
            return f"the gate passes: {sum(c.outcome == 'pass' for c in self.checks)} checks passed"
        return "the gate fails: " + "; ".join(f"{c.name} on {c.subject}: {c.reason}" for c in self.failed)

    def to_dict(self) -> dict[str, Any]:
        return {"passes": self.passes, "checks": [asdict(check) for check in self.checks]}

    def markdown(self) -> str:
        """A table of the checks."""
        lines = [
            "| check | on | outcome | loss | 95 % | allowed | reason |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for c in self.checks:
            interval = "" if c.low is None or c.high is None else f"{c.low:+.4f} to {c.high:+.4f}"
            value, threshold = (("" if x is None else f"{x:+.4f}") for x in (c.value, c.threshold))
            lines.append(f"| {c.name} | {c.subject} | {c.outcome} | {value} | {interval} | {threshold} | {c.reason} |")
        return "\n".join(lines)


def decide_promotion(
    sets: Sequence[PairedScores],
    rules: GateRules,
    golden: GoldenScores | None = None,
    speed: Speed | None = None,
) -> Decision:
    """Judge a candidate against the model in production.

    Args:
        sets: both models on every frozen test set.
        rules: what the candidate may lose.
        golden: both models on unlabelled clips; None: not judged.
        speed: None: not judged.

    Returns:
        The decision; the gate passes if no check failed. The draws are seeded: equal inputs give equal decisions.
    """
    checks = [_enough_faces(sets, rules)]
    for each in sets:
        checks += _set_checks(each, rules)
    checks += [_golden_check(golden, rules), _speed_check(speed, rules)]
    return Decision(all(check.outcome != "fail" for check in checks), tuple(checks))


def _enough_faces(sets: Sequence[PairedScores], rules: GateRules) -> Check:
    most = max((len(each.majority) for each in sets), default=0)
    enough = most >= rules.min_faces
    reason = f"the largest set has {most} faces, {rules.min_faces} are needed to show that a model is no worse"
    return Check("enough faces", "all sets", _outcome(enough), float(most), None, None, float(rules.min_faces), reason)


def _set_checks(each: PairedScores, rules: GateRules) -> list[Check]:
    losses, recall = _losses(each, each.production, rules)
    large = len(each.majority) >= rules.min_faces
    limits = {
        "accuracy": rules.max_accuracy_loss,
        "mean recall": rules.max_mean_recall_loss,
        "calibration error": rules.max_ece_rise,
    }
    checks = [_loss_check(name, each.name, losses[name], limit, large) for name, limit in limits.items()]
    n_faces = np.bincount(each.majority, minlength=len(each.class_names))
    for name, n, metric in zip(each.class_names, n_faces.tolist(), recall, strict=True):
        checks.append(_class_check(name, each.name, n, _negated(metric), rules, large))
    return checks + _earlier_checks(each, limits, large, rules)


def _losses(each: PairedScores, other: np.ndarray, rules: GateRules) -> tuple[dict[str, Metric], list[Metric]]:
    """What the candidate loses against another model, by metric; and its gain in recall of each class."""
    metrics, recall = paired_differences(
        each.candidate, other, each.target, each.majority, each.group, n_resamples=rules.n_resamples, seed=rules.seed
    )
    losses = {"accuracy": _negated(metrics["accuracy"]), "mean recall": _negated(metrics["mean_recall"])}
    return {**losses, "calibration error": metrics["ece"]}, recall


def _earlier_checks(each: PairedScores, limits: Mapping[str, float], large: bool, rules: GateRules) -> list[Check]:
    """The same margins against each earlier model; the hardest comparison of each metric is reported.

    Classes are left to the mean recall: the best of many models on a dozen faces would be chance.
    """
    found = {model_id: _losses(each, prob, rules)[0] for model_id, prob in each.earlier.items()}
    checks = []
    for name, limit in limits.items() if found else ():
        hardest = max(found, key=lambda model_id: _judged(found[model_id][name], large))
        check = _loss_check(f"{name} since earlier models", each.name, found[hardest][name], limit, large)
        checks.append(replace(check, reason=f"{check.reason}, against {hardest}, the hardest of {len(found)}"))
    return checks


def _judged(loss: Metric, large: bool) -> float:
    """The end of the interval that has to lie within the margin."""
    return loss.high if large else loss.low


def _loss_check(name: str, subject: str, loss: Metric, limit: float, large: bool) -> Check:
    passed = _judged(loss, large) <= limit
    if large:
        reason = f"may lose {limit:.3f}, loses at most {loss.high:.3f} with 95 % confidence"
    else:
        shown = f"a loss of {loss.low:.3f} or more" if loss.low > 0 else "no loss"
        reason = f"may lose {limit:.3f}, the few faces show {shown} with 95 % confidence"
    return Check(name, subject, _outcome(passed), *_numbers(loss), limit, reason)


def _class_check(name: str, subject: str, n: int, loss: Metric, rules: GateRules, large: bool) -> Check:
    limit, title = rules.max_class_recall_loss, f"recall of {name}"
    if n < rules.min_class_faces:
        reason = f"{n} faces, {rules.min_class_faces} are needed"
        return Check(title, subject, "not judged", *_numbers(loss), limit, reason)
    passed = loss.value <= limit or (not large and loss.low <= limit)
    reason = f"may lose {limit:.3f}, loses {loss.value:.3f} on {n} faces"
    return Check(title, subject, _outcome(passed), *_numbers(loss), limit, reason)


def _golden_check(golden: GoldenScores | None, rules: GateRules) -> Check:
    limit = 1 - rules.min_golden_agreement
    if golden is None or not len(golden.candidate):
        return Check("agreement", "golden clips", "not judged", None, None, None, limit, "no faces of golden clips")
    disagree = float((golden.candidate.argmax(1) != golden.production.argmax(1)).mean())
    reason = f"the same expression on {1 - disagree:.1%} of {len(golden.candidate)} faces, {1 - limit:.1%} are needed"
    return Check("agreement", "golden clips", _outcome(disagree <= limit), disagree, None, None, limit, reason)


def _speed_check(speed: Speed | None, rules: GateRules) -> Check:
    if speed is None:
        return Check("speed", "test faces", "not judged", None, None, None, rules.max_slowdown - 1, "not measured")
    slower = speed.candidate_s / speed.production_s - 1
    reason = f"takes {slower:+.1%} CPU time a face, {rules.max_slowdown - 1:+.1%} is allowed"
    outcome = _outcome(slower <= rules.max_slowdown - 1)
    return Check("speed", "test faces", outcome, slower, None, None, rules.max_slowdown - 1, reason)


def _outcome(passed: bool) -> str:
    return "pass" if passed else "fail"


def _negated(gain: Metric) -> Metric:
    return Metric(0.0 - gain.value, 0.0 - gain.high, 0.0 - gain.low)  # not -gain: there is a -0.0


def _numbers(metric: Metric) -> tuple[float | None, float | None, float | None]:
    value, low, high = (None if math.isnan(x) else x for x in (metric.value, metric.low, metric.high))
    return value, low, high
