"""What a model scores on labelled faces, with intervals, as one object that prints, serialises and draws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfer.errors import ConfigError
from mfer.faces import LabelledFaces
from mfer.metrics import REWEIGHT_POWER, Metric, Metrics, confusion_matrix, measure, reweight, softmax, unseen_interval

__all__ = ["Evaluation", "Predict", "evaluate"]

#: uint8 crops [N,C,S,S] -> logits [N,K] before temperature, features [N,D].
Predict = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Probabilities of N faces and what they are worth.

    prob float64 [N,K] after temperature, target float32 [N,K] and majority int64 [N] as in LabelledFaces, features
    float32 [N,D]. metrics holds all faces; agreed_metrics only those with an absolute majority, as the FER+ authors
    evaluate; reweighted_metrics all faces with probabilities by ``mfer.metrics.reweight``, None where the shares of the
    training faces are unknown. confusion int64 [K,K] counts faces by majority (rows) and top class (columns).
    """

    model: str
    source: str
    split: str
    licence: str
    class_names: tuple[str, ...]
    names: list[str]
    prob: np.ndarray
    target: np.ndarray
    majority: np.ndarray
    agreed: np.ndarray
    features: np.ndarray
    temperature: float
    metrics: Metrics
    agreed_metrics: Metrics
    reweighted_metrics: Metrics | None
    confusion: np.ndarray
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Evaluation({self.title}: accuracy {self.metrics.accuracy}, ece {self.metrics.ece})"

    @property
    def title(self) -> str:
        """Model, faces, split and number of faces."""
        return f"{self.model} on {self.source} (split {self.split}, n = {len(self):,})"

    @property
    def has_votes(self) -> bool:
        """Whether several raters judged a face: one label a face is certain by itself."""
        return self.agreed_metrics.n < len(self)

    @property
    def truth(self) -> str:
        """What the model's answers are compared with, in a word."""
        return "majority" if self.has_votes else "label"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; intervals are 95 % and what could not be measured is None."""
        low, high = unseen_interval(self.metrics.accuracy.value, len(self), len(self))
        return {
            "model": self.model,
            "data": self.source,
            "split": self.split,
            "n": len(self),
            "dropped": dict(self.dropped),
            "class_names": list(self.class_names),
            "temperature": self.temperature,
            **_metrics_dict(self.metrics, self.class_names),
            "unseen_accuracy_interval": [low, high],
            "agreed": {"n": self.agreed_metrics.n, **_metrics_dict(self.agreed_metrics, self.class_names)},
            "reweighted": self._reweighted_dict(),
            "confusion": self.confusion.tolist(),
        }

    def _reweighted_dict(self) -> dict[str, Any] | None:
        if self.reweighted_metrics is None:
            return None
        return {"power": REWEIGHT_POWER, **_metrics_dict(self.reweighted_metrics, self.class_names)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def table(self) -> str:
        """Metrics, recall and confusion matrix as text for a terminal."""
        shown: tuple[tuple[str, Metric], ...] = (
            ("accuracy", self.metrics.accuracy),
            ("mean recall", self.metrics.mean_recall),
            ("calibration error", self.metrics.ece),
            ("neg. log-likelihood", self.metrics.nll),
        )
        if self.has_votes:
            shown += (
                ("KL from raters", self.metrics.kl),
                (f"accuracy, agreed {self.agreed_metrics.n:,}", self.agreed_metrics.accuracy),
            )
        if self.reweighted_metrics is not None:
            shown += (
                ("accuracy, reweighted", self.reweighted_metrics.accuracy),
                ("mean recall, reweighted", self.reweighted_metrics.mean_recall),
            )
        lines = [self.title, *(f"  dropped: {n} {why}" for why, n in self.dropped.items() if n), ""]
        lines += [f"  {name:<24}{metric}" for name, metric in shown]
        width = max(9, *(len(name) for name in self.class_names)) + 1
        lines += ["", f"  {'class':<{width}}{'faces':>7}   recall"]
        for name, n, metric in zip(self.class_names, self.confusion.sum(1), self.metrics.per_class_recall, strict=True):
            lines.append(f"  {name:<{width}}{n:>7}   {metric if n else '-'}")
        lines += [
            "",
            "  " + self.truth.ljust(width) + "".join(f"{name[:8]:>9}" for name in self.class_names),
        ]
        for name, row in zip(self.class_names, self.confusion, strict=True):
            lines.append("  " + name.ljust(width) + "".join(f"{count:>9}" for count in row))
        return "\n".join(lines)


def evaluate(
    predict: Predict,
    faces: LabelledFaces,
    crops: np.ndarray | Tensor,
    *,
    model: str,
    split: str = "all",
    temperature: float = 1.0,
    shares: np.ndarray | None = None,
    batch: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score every face and compare with its label.

    Args:
        predict: a model from crops to logits and features; its classes are those of ``faces``, in that order
            (``LabelledFaces.with_classes`` arranges that).
        faces: the labels.
        crops: uint8 [N,C,S,S], the aligned faces in the same order.
        model: its name, for titles.
        split: which part of the data this is, for titles.
        temperature: divides the logits.
        shares: [K], of the classes among the faces that the model learned from, for the reweighted metrics.
        batch: faces per call of predict.
        progress: called with the number of faces done.

    Raises:
        ConfigError: no faces, or numbers of crops, classes and labels that do not fit.
    """
    n, k = len(faces), len(faces.class_names)
    if n == 0:
        raise ConfigError(f"{faces.source}: no faces to evaluate; dropped {dict(faces.dropped)}")
    if len(crops) != n:
        raise ConfigError(f"{len(crops)} crops for {n} labelled faces; prepare the faces again")
    logits, features = [], []
    for start in range(0, n, batch):
        chunk = torch.as_tensor(crops[start : start + batch])
        some_logits, some_features = predict(chunk)
        logits.append(some_logits.detach().double().cpu().numpy())
        features.append(some_features.detach().float().cpu().numpy())
        if progress is not None:
            progress(len(chunk))
    prob = softmax(np.concatenate(logits), temperature)
    if prob.shape != (n, k):
        raise ConfigError(f"the model gives {prob.shape[1]} classes, the faces have {', '.join(faces.class_names)}")
    agreed = faces.agreed
    return Evaluation(
        model=model,
        source=faces.source,
        split=split,
        licence=faces.licence,
        class_names=faces.class_names,
        names=faces.names,
        prob=prob,
        target=faces.target,
        majority=faces.majority,
        agreed=agreed,
        features=np.concatenate(features),
        temperature=temperature,
        metrics=measure(prob, faces.target, faces.majority),
        agreed_metrics=measure(prob[agreed], faces.target[agreed], faces.majority[agreed]),
        reweighted_metrics=None if shares is None else measure(reweight(prob, shares), faces.target, faces.majority),
        confusion=confusion_matrix(prob, faces.majority),
        dropped=faces.dropped,
    )


def _metrics_dict(measured: Metrics, class_names: tuple[str, ...]) -> dict[str, Any]:
    names = ("accuracy", "mean_recall", "ece", "nll", "kl")
    single: dict[str, Metric] = {name: getattr(measured, name) for name in names}
    recall = dict(zip(class_names, measured.per_class_recall, strict=True))
    return {
        **{name: _number(metric.value) for name, metric in single.items()},
        "per_class_recall": {name: _number(metric.value) for name, metric in recall.items()},
        "intervals": {
            **{name: _interval(metric) for name, metric in single.items()},
            "per_class_recall": {name: _interval(metric) for name, metric in recall.items()},
        },
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _interval(metric: Metric) -> list[float | None]:
    return [_number(metric.low), _number(metric.high)]
