"""An evaluation as one HTML page that needs nothing but itself: metrics, charts and the faces behind them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure as Canvas
from torch import Tensor

from mfer.charts import draw_confusion, draw_embedding, draw_faces, draw_quality, draw_recall, draw_reliability
from mfer.errors import ConfigError
from mfer.evaluate import Evaluation
from mfer.explain import overlay
from mfer.metrics import Metric

__all__ = ["Cam", "write_report"]

#: uint8 crops [N,C,S,S] and classes int64 [N] -> heat float [N,S,S] in 0..1.
Cam = Callable[[Tensor, Tensor], np.ndarray]

_N_MISTAKES = 24
_MISTAKES_A_ROW = 8
_N_CAM_FACES = 7
#: Faces of a class that its mean heat is taken over.
_N_CAM_MEAN = 64
#: t-SNE of more takes minutes and shows no more.
_N_EMBEDDED = 3000
_FEWEST_EMBEDDED = 10

_TEMPLATES = Environment(loader=PackageLoader("mfer"), autoescape=True, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True)
class _Section:
    """A chart with what it shows, or, without ``png`` (base64), why there is none."""

    title: str
    about: str
    png: str = ""


def write_report(
    folder: str | Path,
    evaluation: Evaluation,
    crops: np.ndarray | Tensor,
    *,
    cam: Cam | None = None,
    quality: Mapping[str, np.ndarray] | None = None,
    own: Mapping[str, Any] | None = None,
    talking: str = "",
) -> Path:
    """Write ``index.html`` and ``evaluation.json``.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        evaluation: what to show.
        crops: uint8 [N,C,S,S], the evaluated faces in its order.
        cam: heat of a class over faces (mfer.explain.grad_cam behind the crop's normalisation); None leaves it out.
        quality: numbers per face float [N], higher is better, by what they are ("sharpness", "face side, px").
        own: the metrics of the model's card, measured on faces like those it learned from: shown beside these.
        talking: a sentence on how people who talk are read; empty where it was not measured.

    Returns:
        The path of the page.

    Raises:
        ConfigError: crops or quality that are not one for each face.
    """
    for name, values in {"crops": crops, **(quality or {})}.items():
        if len(values) != len(evaluation):
            raise ConfigError(f"{len(values)} {name} for {len(evaluation)} evaluated faces")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = torch.as_tensor(crops)
    parts = [_section("Confusion", draw_confusion(evaluation), "Shade is the share of the row in both.")]
    about = "Faces of each class in brackets. Thick: bootstrap; thin: Wilson's interval, the honest one for few faces."
    parts.append(_section("Recall of each class", draw_recall(evaluation), about))
    about = "Points below the line are over-confident. Below: the number of faces in each of 15 equal-width bins."
    parts.append(_section("Reliability", draw_reliability(evaluation), about))
    for name, values in (quality or {}).items():
        canvas = draw_quality(evaluation, name, np.asarray(values, dtype=np.float64))
        parts.append(
            _section(f"Accuracy against {name}", canvas, "Where the left curve falls, a score is not worth keeping.")
        )
    parts.append(_mistakes(evaluation, pixels))
    parts.append(_cams(evaluation, pixels, cam))
    parts.append(_embedding(evaluation))
    page = folder / "index.html"
    text = _TEMPLATES.get_template("evaluation.html").render(
        evaluation=evaluation,
        metrics=_metrics(evaluation, own or {}),
        own=own,
        talking=talking,
        dropped="; ".join(f"{n:,} {why}" for why, n in evaluation.dropped.items() if n) or "none",
        sections=parts,
    )
    page.write_text(text, encoding="utf-8")
    (folder / "evaluation.json").write_text(evaluation.to_json() + "\n")
    return page


def _metrics(evaluation: Evaluation, own: Mapping[str, Any]) -> list[tuple[str, str, Metric, float | None]]:
    """Name, meaning and value of each metric that the page shows, and the value in the model's card."""
    measured, agreed, evened = evaluation.metrics, evaluation.agreed_metrics, evaluation.reweighted_metrics
    shown = [
        ("accuracy", f"share whose top class is the {evaluation.truth}", measured.accuracy, own.get("accuracy")),
        ("mean recall", "mean over classes that occur", measured.mean_recall, own.get("mean_recall")),
        (
            "expected calibration error",
            "15 equal-width bins of the top class's probability",
            measured.ece,
            own.get("ece"),
        ),
        ("negative log-likelihood", f"of the {evaluation.truth}, nats", measured.nll, own.get("nll")),
    ]
    if evened is not None:
        about, theirs = "as reweighted() gives them, for rare expressions", own.get("reweighted") or {}
        shown += [
            ("accuracy, reweighted", about, evened.accuracy, theirs.get("accuracy")),
            ("mean recall, reweighted", about, evened.mean_recall, theirs.get("mean_recall")),
        ]
    if evaluation.has_votes:
        about = "mean Kullback-Leibler divergence of their vote shares, nats"
        shown += [
            ("divergence from the raters", about, measured.kl, own.get("kl")),
            ("accuracy where raters agree", f"{agreed.n:,} faces with an absolute majority", agreed.accuracy, None),
        ]
    return shown


def _section(title: str, canvas: Canvas, about: str) -> _Section:
    png = io.BytesIO()
    canvas.savefig(png, format="png")
    return _Section(title, about, base64.b64encode(png.getvalue()).decode())


def _picture(pixels: Tensor) -> np.ndarray:
    """uint8 [C,S,S] -> [S,S] or [S,S,3]."""
    picture = pixels.cpu().permute(1, 2, 0).numpy()  # [C,S,S] -> [S,S,C]
    return picture[..., 0] if picture.shape[2] == 1 else picture


def _mistakes(evaluation: Evaluation, pixels: Tensor) -> _Section:
    title = "The most confident mistakes"
    top, confidence = evaluation.prob.argmax(1), evaluation.prob.max(1)
    wrong = np.flatnonzero(top != evaluation.majority)
    if not len(wrong):
        return _Section(title, "There are none.")
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_N_MISTAKES]
    names = evaluation.class_names
    shown = []
    for i in worst:
        truth = int(evaluation.majority[i])
        caption = f"{names[top[i]]} {confidence[i]:.0%}\n{evaluation.truth}: {names[truth]}"
        if evaluation.has_votes:
            caption += f"\n{evaluation.target[i, truth]:.0%} of votes"
        shown.append((_picture(pixels[i]), caption))
    rows = [shown[i : i + _MISTAKES_A_ROW] for i in range(0, len(shown), _MISTAKES_A_ROW)]
    about = (
        f"Of {len(wrong):,} faces that are read otherwise than the {evaluation.truth} says, those with the highest"
        f" probability. Above each face: what the model says, then the {evaluation.truth}"
        + (" and its share of the raters' votes." if evaluation.has_votes else ".")
    )
    return _section(title, draw_faces(evaluation.title, rows), about)


def _cams(evaluation: Evaluation, pixels: Tensor, cam: Cam | None) -> _Section:
    title = "Where the network looks (Grad-CAM)"
    if cam is None:
        return _Section(title, "Not drawn: this evaluation was made without access to the network's gradients.")
    rows, row_names = [], []
    right = evaluation.prob.argmax(1) == evaluation.majority
    for k, name in enumerate(evaluation.class_names):
        faces = np.flatnonzero(right & (evaluation.majority == k))
        faces = faces[np.argsort(-evaluation.prob[faces, k], kind="stable")][:_N_CAM_MEAN]
        if not len(faces):
            continue
        chosen = pixels[torch.as_tensor(faces)]
        heat = cam(chosen, torch.full((len(faces),), k))
        mean_heat = heat.mean(0) / max(heat.mean(0).max(), 1e-12)
        mean = overlay(chosen.float().mean(0).byte().cpu().numpy(), mean_heat)
        row = [(mean, f"mean of {len(faces)}")]
        for i, face, warmth in zip(faces, chosen[:_N_CAM_FACES].cpu().numpy(), heat[:_N_CAM_FACES], strict=False):
            row.append((overlay(face, warmth), f"{evaluation.prob[i, k]:.0%}"))
        rows.append(row)
        row_names.append(name)
    if not rows:
        return _Section(title, "Not drawn: no face was read as its label says.")
    absent = ", ".join(name for name in evaluation.class_names if name not in row_names)
    about = (
        "Bright places speak for the class of the row, in faces that were read rightly and most confidently; first the"
        " mean of them. It says what the network uses, at the coarse grid of its feature map, not what makes an"
        " expression." + (f" No face was read rightly as {absent}." if absent else "")
    )
    return _section(title, draw_faces(evaluation.title, rows, row_names), about)


def _embedding(evaluation: Evaluation) -> _Section:
    title = "Features in the plane (t-SNE)"
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return _Section(title, "Not drawn: scikit-learn is not installed (pip install 'mfer[report]' adds it).")
    rows = np.arange(len(evaluation))
    if len(rows) < _FEWEST_EMBEDDED:
        return _Section(title, f"Not drawn: {len(rows)} faces are too few.")
    if len(rows) > _N_EMBEDDED:
        rows = np.sort(np.random.default_rng(0).choice(rows, _N_EMBEDDED, replace=False))
    perplexity = min(30.0, (len(rows) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(evaluation.features[rows])
    about = (
        f"The features before the classifier (van der Maaten and Hinton 2008, perplexity {perplexity:.0f}). Near means"
        " alike to the network; sizes of groups and gaps between them mean little."
    )
    return _section(title, draw_embedding(evaluation, rows, points), about)
