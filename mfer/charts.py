"""Pictures of an evaluation. Colours and markers tell classes apart for colour-blind eyes too (Okabe and Ito 2008)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from mfer.evaluate import Evaluation
from mfer.metrics import reliability, wilson_interval

__all__ = [
    "draw_confusion",
    "draw_embedding",
    "draw_faces",
    "draw_quality",
    "draw_recall",
    "draw_reliability",
    "save_confusion",
]

_COLOURS = ("#999999", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
_MARKERS = "oDs^vPX*"
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_DPI = 110
_FACE_IN = 1.4
#: Groups of faces with equally many members in the curve of accuracy against quality.
_N_QUALITY_GROUPS = 10


def save_confusion(evaluation: Evaluation, path: str | Path) -> None:
    """Write the confusion matrices as a PNG. Missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    draw_confusion(evaluation).savefig(path, dpi=_DPI, format="png")


def draw_confusion(evaluation: Evaluation) -> Canvas:
    """Counts beside shares of each row."""
    canvas = _canvas(13, 6.2, evaluation.title)
    counts = evaluation.confusion
    seen = counts.sum(1, keepdims=True)
    share = np.divide(counts, seen, out=np.zeros(counts.shape), where=seen > 0)
    left, right = canvas.subplots(1, 2)
    _matrix(left, evaluation.class_names, share, counts.astype(str), "faces", evaluation.truth)
    shown = np.where(seen > 0, np.char.add(np.rint(share * 100).astype(int).astype(str), " %"), "")
    _matrix(right, evaluation.class_names, share, shown, "share of the row", evaluation.truth)
    return canvas


def draw_recall(evaluation: Evaluation) -> Canvas:
    """Recall of every class with its bootstrap interval, over the thin line of its Wilson interval."""
    names, recall = evaluation.class_names, evaluation.metrics.per_class_recall
    canvas = _canvas(8.5, 0.45 * len(names) + 1.8, f"Recall by class, 95 % intervals\n{evaluation.title}")
    axes = canvas.subplots()
    for row, (metric, n) in enumerate(zip(recall, evaluation.confusion.sum(1), strict=True)):
        if n:
            # A class of which no face, or every face, is read rightly has a bootstrap interval of no width.
            axes.plot(wilson_interval(evaluation.confusion[row, row], n), [row, row], color=_BLUE, lw=1)
            axes.plot([metric.low, metric.high], [row, row], color=_BLUE, lw=3, solid_capstyle="butt", alpha=0.5)
            axes.plot(metric.value, row, "o", color=_BLUE, ms=8)
        axes.text(
            1.02, row, f"{metric.value:.2f}" if n else "no faces", va="center", transform=axes.get_yaxis_transform()
        )
    mean = evaluation.metrics.mean_recall
    axes.axvline(mean.value, color=_ORANGE, ls="--", lw=1.5, label=f"mean recall {mean.value:.3f}")
    labels = [f"{name} ({n:,})" for name, n in zip(names, evaluation.confusion.sum(1), strict=True)]
    axes.set(yticks=range(len(names)), yticklabels=labels, xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="recall")
    axes.grid(axis="x", alpha=0.3)
    canvas.legend(loc="outside lower right", frameon=False)
    return canvas


def draw_reliability(evaluation: Evaluation) -> Canvas:
    """Accuracy against confidence, with Wilson intervals, over the number of faces."""
    bins = reliability(evaluation.prob, evaluation.majority)
    n_bins = len(bins.count)
    ece = evaluation.metrics.ece
    title = f"Reliability: expected calibration error {ece.value:.3f} (temperature {evaluation.temperature:.3f})"
    canvas = _canvas(7.5, 7, f"{title}\n{evaluation.title}")
    top, bottom = canvas.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    top.plot([0, 1], [0, 1], color="#555555", ls="--", lw=1, label="perfectly calibrated")
    filled = np.flatnonzero(bins.count)
    low, high = _wilson(bins.accuracy[filled], bins.count[filled])
    top.vlines(bins.confidence[filled], low, high, color=_BLUE, lw=3, alpha=0.4)
    top.plot(bins.confidence[filled], bins.accuracy[filled], "o-", color=_BLUE, label="this model, 95 % intervals")
    top.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    top.legend(loc="upper left")
    top.grid(alpha=0.3)
    centres = (np.arange(n_bins) + 0.5) / n_bins
    bottom.bar(centres, bins.count, width=0.9 / n_bins, color="#999999")
    for x, count in zip(centres, bins.count, strict=True):
        bottom.text(x, count, f"{count:,}" if count else "", ha="center", va="bottom", fontsize=7)
    bottom.set(xlabel="probability of the top class", ylabel="faces", ylim=(0, bins.count.max() * 1.18))
    return canvas


def draw_quality(evaluation: Evaluation, name: str, quality: np.ndarray) -> Canvas:
    """Accuracy against a number per face: in groups of equal size, and of the faces that a threshold would keep.

    Args:
        evaluation: N faces.
        name: what the number is, with its unit.
        quality: float [N], higher is better; NaN where it was not measured.
    """
    rows = np.flatnonzero(np.isfinite(quality))
    rows = rows[np.argsort(quality[rows], kind="stable")]
    right = (evaluation.prob.argmax(1) == evaluation.majority)[rows]
    ordered = quality[rows]
    lost = len(evaluation) - len(rows)
    note = f", {lost:,} not measured" if lost else ""
    canvas = _canvas(12, 5, f"Accuracy against {name}{note}\n{evaluation.title}")
    left, other = canvas.subplots(1, 2)
    groups = [g for g in np.array_split(np.arange(len(rows)), _N_QUALITY_GROUPS) if len(g)]
    if not groups:
        left.text(0.5, 0.5, "no face has this number", ha="center")
        return canvas
    accuracy = np.array([right[g].mean() for g in groups])
    size = np.array([len(g) for g in groups])
    place = np.array([np.median(ordered[g]) for g in groups])
    low, high = _wilson(accuracy, size)
    left.vlines(place, low, high, color=_BLUE, lw=3, alpha=0.4)
    left.plot(place, accuracy, "o-", color=_BLUE)
    for x, y, n in zip(place, high, size, strict=True):
        left.annotate(f"{n:,}", (x, y), (0, 4), textcoords="offset points", ha="center", fontsize=7)
    left.set(
        xlabel=f"{name}, median of the group", ylabel="accuracy", title="groups of equal size (faces; 95 % intervals)"
    )
    kept = np.arange(len(rows), 0, -1)
    enough = kept >= len(groups[0]) // 2
    above = (right[::-1].cumsum()[::-1] / kept)[enough]
    other.plot(ordered[enough], above, color=_BLUE, label="accuracy of the faces kept")
    other.plot(ordered[enough], (kept / len(rows))[enough], color=_ORANGE, ls="--", label="share of faces kept")
    other.set(xlabel=f"threshold on {name}", title="faces at or above a threshold", ylim=(0, 1.02))
    other.legend(loc="lower left")
    for axes in (left, other):
        axes.grid(alpha=0.3)
    return canvas


def draw_embedding(evaluation: Evaluation, rows: np.ndarray, points: np.ndarray) -> Canvas:
    """Features in the plane, float [M,2], of the faces in ``rows``, by majority."""
    shown = f", {len(rows):,} drawn" if len(rows) < len(evaluation) else ""
    canvas = _canvas(9.5, 7.5, f"t-SNE of the features{shown}\n{evaluation.title}")
    axes = canvas.subplots()
    for k, name in enumerate(evaluation.class_names):
        at = points[evaluation.majority[rows] == k]
        colour, marker = _COLOURS[k % len(_COLOURS)], _MARKERS[k % len(_MARKERS)]
        label = f"{name} ({len(at):,})"
        axes.scatter(at[:, 0], at[:, 1], s=16, color=colour, marker=marker, alpha=0.7, linewidths=0, label=label)
    axes.set(xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=1.8)
    return canvas


def draw_faces(title: str, rows: Sequence[Sequence[tuple[np.ndarray, str]]], row_names: Sequence[str] = ()) -> Canvas:
    """A grid of captioned pictures, uint8 [S,S,3] or grey [S,S]; rows may be of differing length."""
    columns = max((len(row) for row in rows), default=1)
    n_lines = max((caption.count("\n") + 1 for row in rows for _, caption in row), default=1)
    pitch = _FACE_IN + 0.15 * n_lines + 0.12
    width, height = columns * (_FACE_IN + 0.1) + 0.4, len(rows) * pitch + 0.4
    canvas = Canvas(figsize=(width, height), dpi=_DPI)
    canvas.suptitle(title, fontsize=11, y=1 - 0.08 / height, va="top")
    for i, row in enumerate(rows):
        for j, (picture, caption) in enumerate(row):
            left, bottom = 0.35 + j * (_FACE_IN + 0.1), height - 0.35 - (i + 1) * pitch
            axes = canvas.add_axes((left / width, bottom / height, _FACE_IN / width, _FACE_IN / height))
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
            axes.set_title(caption, fontsize=8, pad=3)
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
            if j == 0 and i < len(row_names):
                axes.set_ylabel(row_names[i], fontsize=10)
    return canvas


def _canvas(width_in: float, height_in: float, title: str) -> Canvas:
    canvas = Canvas(figsize=(width_in, height_in), layout="constrained", dpi=_DPI)
    canvas.suptitle(title, fontsize=11)
    return canvas


def _matrix(axes: Any, names: Sequence[str], share: np.ndarray, text: np.ndarray, title: str, truth: str) -> None:
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(share.shape):
        axes.text(
            j, i, text[i, j], ha="center", va="center", color="white" if share[i, j] > 0.5 else "black", fontsize=9
        )
    axes.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names, title=title)
    axes.set_xticklabels(names, rotation=40, ha="right")
    axes.set(xlabel="top class of the model", ylabel=truth)


def _wilson(accuracy: np.ndarray, count: np.ndarray) -> tuple[list[float], list[float]]:
    intervals = [wilson_interval(round(a * n), int(n)) for a, n in zip(accuracy, count, strict=True)]
    return [low for low, _ in intervals], [high for _, high in intervals]
