"""How good probabilities are: accuracy, recall, calibration and divergence from the raters, with intervals.

Every metric is a function of sums over faces. So the sums of all faces give the metrics, and the sums of faces drawn
with replacement give their bootstrap intervals in one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "N_CALIBRATION_BINS",
    "REWEIGHT_POWER",
    "Metric",
    "Metrics",
    "Reliability",
    "class_shares",
    "confusion_matrix",
    "fit_temperature",
    "measure",
    "paired_differences",
    "reliability",
    "reweight",
    "softmax",
    "unseen_interval",
    "wilson_interval",
]

#: Equal-width bins of the top class's probability, as in Guo et al. 2017 (arXiv:1706.04599).
N_CALIBRATION_BINS = 15
N_RESAMPLES = 1000
#: Half way (as a power: the square root) between the training faces' shares and equal ones.
REWEIGHT_POWER = 0.5
#: Two-sided 95 %.
_QUANTILES = (0.025, 0.975)
_Z = 1.959964
#: A probability of 0 would make one face's loss infinite.
_SMALLEST_PROB = 1e-12
#: Elements of the matrix of draws that are held at once.
_DRAWS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Metric:
    """A metric and the 95 % interval of its bootstrap; NaN where there is nothing to measure."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Metrics:
    """What ``measure`` measures.

    mean_recall is over the expressions that occur, per_class_recall has one value per class. ece is the expected
    calibration error, sum over bins of n_b/N |accuracy_b - confidence_b|; its interval lies high, because drawing
    with replacement adds scatter to every bin. nll is the mean -ln p of the majority. kl is the mean divergence of prob
    from the raters, sum_k t_k ln(t_k / p_k).
    """

    n: int
    accuracy: Metric
    mean_recall: Metric
    ece: Metric
    nll: Metric
    kl: Metric
    per_class_recall: list[Metric]


@dataclass(frozen=True)
class Reliability:
    """Faces by confidence in B equal bins of 0..1: count int64 [B], mean confidence and accuracy float64 [B] or NaN."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Logits [N,K] divided by the temperature -> float64 probabilities [N,K]."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def class_shares(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Of the faces of each class [K] their shares, float64 [K]; a class without faces counts as one, so none is 0."""
    n = np.maximum(counts, 1).astype(np.float64)
    return np.asarray(n / n.sum())


def reweight(prob: np.ndarray, share: np.ndarray, power: float = REWEIGHT_POWER) -> np.ndarray:
    """Probabilities as they would be if rare expressions were less rare, float64 [N,K], rows sum to 1.

    A model that learned from faces of which few show contempt holds contempt to be unlikely. Dividing by the share of
    each class among those faces, to a power, takes that off: 0 changes nothing, 1 makes all classes equally likely
    beforehand (Saerens et al. 2002, doi 10.1162/089976602753284446).

    Args:
        prob: [N,K], rows sum to 1.
        share: [K], of the classes among the training faces; none is 0.
        power: how much of it is taken off, 0 to 1.
    """
    weighted = np.asarray(prob, dtype=np.float64) / np.asarray(share, dtype=np.float64) ** power
    return weighted / weighted.sum(1, keepdims=True)


def confusion_matrix(prob: np.ndarray, majority: np.ndarray) -> np.ndarray:
    """Faces by expression (rows) and top class (columns), int64 [K,K]."""
    k = prob.shape[1]
    return np.bincount(majority * k + prob.argmax(1), minlength=k * k).reshape(k, k)


def reliability(prob: np.ndarray, majority: np.ndarray, n_bins: int = N_CALIBRATION_BINS) -> Reliability:
    """Confidence against accuracy, by equal-width bins of the top class's probability."""
    row, top, right = _bins(prob, majority, n_bins)
    count = np.bincount(row, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(row, top, n_bins) / count
        accuracy = np.bincount(row, right, n_bins) / count
    return Reliability(count, confidence, accuracy)


def measure(
    prob: np.ndarray, target: np.ndarray, majority: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Metrics:
    """All metrics with their bootstrap intervals.

    Args:
        prob: [N,K], rows sum to 1.
        target: [N,K], the raters' vote shares or one-hot.
        majority: int64 [N].
        n_resamples: draws of N faces with replacement.
        seed: of the draws.
    """
    prob = np.asarray(prob, dtype=np.float64)
    parts = _addends(prob, np.asarray(target, dtype=np.float64), majority)
    n, k = prob.shape
    point = _from_sums(parts.sum(0, keepdims=True), k)
    rng = np.random.default_rng(seed)
    at_once = max(1, min(n_resamples, _DRAWS_AT_ONCE // max(n, 1)))
    sums = [_draw_counts(rng, n, min(at_once, n_resamples - start)) @ parts for start in range(0, n_resamples, at_once)]
    drawn = _from_sums(np.concatenate(sums), k)
    recall = [
        Metric(float(value), *_interval(draws))
        for value, draws in zip(point.pop("per_class_recall")[0], drawn["per_class_recall"].T, strict=True)
    ]
    others = {name: Metric(float(value[0]), *_interval(drawn[name])) for name, value in point.items()}
    return Metrics(n=n, per_class_recall=recall, **others)


def paired_differences(
    prob: np.ndarray,
    other: np.ndarray,
    target: np.ndarray,
    majority: np.ndarray,
    group: Sequence[str],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[dict[str, Metric], list[Metric]]:
    """What one model scores more than another on the same faces, with the 95 % intervals of a paired bootstrap.

    Both models are measured on the same draws, so what makes a draw easy or hard cancels. Whole groups are drawn,
    because faces of one video are no independent witnesses.

    Args:
        prob, other: [N,K], the model and the one that is taken off.
        target: [N,K], the raters' vote shares or one-hot.
        majority: int64 [N].
        group: N names; faces of one name are drawn together.
        n_resamples: draws of as many groups as there are, with replacement.
        seed: of the draws.

    Returns:
        Differences by metric (accuracy, mean_recall, ece, nll, kl), and of the recall of each class.
    """
    _, row = np.unique(np.asarray(group), return_inverse=True)
    n_groups, k = int(row.max()) + 1, prob.shape[1]
    sums = []
    for each in (prob, other):
        addends = _addends(np.asarray(each, np.float64), np.asarray(target, np.float64), majority)
        of_group = np.zeros((n_groups, addends.shape[1]))
        np.add.at(of_group, row, addends)
        sums.append(of_group)
    rng, at_once = np.random.default_rng(seed), max(1, _DRAWS_AT_ONCE // n_groups)
    drawn: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, n_resamples, at_once):
        counts = _draw_counts(rng, n_groups, min(at_once, n_resamples - start))
        for kept, of_group in zip(drawn, sums, strict=True):
            kept.append(counts @ of_group)
    point = [_from_sums(of_group.sum(0, keepdims=True), k) for of_group in sums]
    draws = [_from_sums(np.concatenate(kept), k) for kept in drawn]
    values = {name: (point[0][name] - point[1][name], draws[0][name] - draws[1][name]) for name in point[0]}
    value, found = values.pop("per_class_recall")
    recall = [Metric(float(v), *_interval(d)) for v, d in zip(value[0], found.T, strict=True)]
    return {name: Metric(float(value[0]), *_interval(found)) for name, (value, found) in values.items()}, recall


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, right of n (Wilson 1927): sound for few faces, where a bootstrap is not."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    centre = share + _Z**2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return (centre - spread) / (1 + _Z**2 / n), (centre + spread) / (1 + _Z**2 / n)


def unseen_interval(accuracy: float, n: int, n_unseen: int) -> tuple[float, float]:
    """Where the accuracy on other faces will lie with 95 %, if they are drawn as these were.

    Both samples are finite, so the variances add: p (1 - p) (1/n + 1/n_unseen), the normal approximation.
    """
    spread = _Z * math.sqrt(accuracy * (1 - accuracy) * (1 / n + 1 / n_unseen))
    return max(0.0, accuracy - spread), min(1.0, accuracy + spread)


def fit_temperature(
    logits: np.ndarray, majority: np.ndarray, low: float = 0.05, high: float = 20.0, n_steps: int = 60
) -> float:
    """The temperature T that makes softmax(logits / T) most likely (Guo et al. 2017, arXiv:1706.04599).

    The loss is convex in b = 1/T and its slope, mean(E_p[z] - z_y), rises with b: bisection on ln T finds the root.

    Args:
        logits: [N,K], of faces that the model was not trained on.
        majority: int64 [N].
        low, high: the answer is kept within them (all faces right drives T to 0).
        n_steps: halvings of the interval of ln T.
    """
    logits = np.asarray(logits, dtype=np.float64)
    own = logits[np.arange(len(logits)), majority].mean()
    bottom, top = math.log(low), math.log(high)
    for _ in range(n_steps):
        middle = (bottom + top) / 2
        slope = (softmax(logits, math.exp(middle)) * logits).sum(1).mean() - own
        bottom, top = (middle, top) if slope > 0 else (bottom, middle)
    return math.exp((bottom + top) / 2)


def _bins(prob: np.ndarray, majority: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bin int64 [N], the confidence and whether it was right, float64 [N], of every face."""
    top = prob.max(1)
    row = np.minimum((top * n_bins).astype(np.int64), n_bins - 1)
    return row, top, (prob.argmax(1) == majority).astype(np.float64)


def _addends(prob: np.ndarray, target: np.ndarray, majority: np.ndarray) -> np.ndarray:
    """What each face adds to the sums, float64 [N, 3 + 2K + B]: 1, nll, kl, per class seen and right, per bin."""
    n, k = prob.shape
    row, top, right = _bins(prob, majority, N_CALIBRATION_BINS)
    safe = np.maximum(prob, _SMALLEST_PROB)
    own = np.eye(k)[majority]
    nll = -np.log(safe[np.arange(n), majority])
    kl = (target * (np.log(np.maximum(target, _SMALLEST_PROB)) - np.log(safe))).sum(1)
    surplus = np.eye(N_CALIBRATION_BINS)[row] * (right - top)[:, None]
    return np.column_stack([np.ones(n), nll, kl, own, own * right[:, None], surplus])


def _from_sums(sums: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Metrics [R] or [R,K] from sums [R, 3 + 2K + B]."""
    n, nll, kl = sums[:, :3].T
    seen, right, surplus = sums[:, 3 : 3 + k], sums[:, 3 + k : 3 + 2 * k], sums[:, 3 + 2 * k :]
    with np.errstate(invalid="ignore"):
        recall = right / seen
        present = (seen > 0).sum(1)
        return {
            "accuracy": right.sum(1) / n,
            "mean_recall": np.nansum(recall, axis=1) / present,
            "per_class_recall": recall,
            "ece": np.abs(surplus).sum(1) / n,
            "nll": nll / n,
            "kl": kl / n,
        }


def _draw_counts(rng: np.random.Generator, n: int, n_draws: int) -> np.ndarray:
    """How often each of n faces is in each draw of n with replacement, float64 [draws,n]."""
    faces = rng.integers(0, max(n, 1), size=(n_draws, n)) + np.arange(n_draws)[:, None] * n
    return np.bincount(faces.ravel(), minlength=n_draws * n).reshape(n_draws, n).astype(np.float64)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    measured = drawn[~np.isnan(drawn)]
    if not len(measured):
        return math.nan, math.nan
    low, high = np.quantile(measured, _QUANTILES)
    return float(low), float(high)
