"""Train a model with its card from labelled faces, and measure a model."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from flows.export import export_onnx
from flows.revision import code_revision
from mfer.card import Card, CropContract, read_card
from mfer.checkpoint import load_model, save_model
from mfer.crop import align_matrix, normalise
from mfer.data import read_faces, read_unlabelled
from mfer.distill import Views, predict_views
from mfer.errors import ConfigError
from mfer.evaluate import Evaluation, Predict, evaluate
from mfer.explain import grad_cam
from mfer.faces import EncodedPictures, LabelledFaces, halves, name_bytes
from mfer.network import ExpressionNetwork
from mfer.precision import fast_bfloat16
from mfer.prepared import PreparedFaces
from mfer.recipe import Recipe
from mfer.report import write_report
from mfer.train import Trained, Trainer
from pipelines.batches import AlignedFaces, Detections
from pipelines.faces.quality import QUALITY_CROP, measure_quality
from pipelines.learning.clips import LeadingExpressions
from pipelines.learning.prepare import prepare_faces

__all__ = [
    "DataParts",
    "MoreFaces",
    "StageProgress",
    "evaluate_model",
    "export_onnx",
    "read_parts",
    "score_faces",
    "train_model",
]

#: Called with (stage, done, total); what follows a colon in the stage is its present state.
StageProgress = Callable[[str, int, int], None]

#: Below this many faces, metrics move by several points from one training to the next.
_FEW_FACES = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Settings of an architecture that change neither names nor shapes of weights.
_SHAPELESS = ("layer_scale", "drop_path", "mirror")


@dataclasses.dataclass(frozen=True)
class MoreFaces:
    """Faces to learn from beside those of the data (None: there are none), and what the card is to say of them."""

    faces: PreparedFaces | None
    record: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class DataParts:
    """The faces to train on, to select on and to report on; ``how`` says in words how they were split."""

    train: LabelledFaces
    selection: LabelledFaces
    report: LabelledFaces
    how: str


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """The parts with landmarks, as they are learned and measured; ``dropped`` counts what all parts lost, by reason,
    ``n_seen`` the faces of the other parts whose picture is in the training part too."""

    train: PreparedFaces
    selection: PreparedFaces
    report: PreparedFaces
    how: str
    dropped: dict[str, int]
    n_seen: int


def train_model(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    device: str = "cpu",
    threads: int = 1,
    name: str | None = None,
    initial: Path | None = None,
    more: MoreFaces | None = None,
    teachers: Sequence[Path] = (),
    unlabelled: Path | None = None,
    progress: StageProgress | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Card, Evaluation]:
    """Train a recipe on labelled faces, calibrate it, measure it on faces that chose nothing, and save it with a card.

    Args:
        recipe: what to train; its number of classes is taken from the data.
        data: a layout that ``mfer.data.read_faces`` knows. Where it has no validation part (a single Parquet file, or
            plain folders per class) a tenth of the faces, by a hash of their names, is held out; the card says so.
        out: gets ``weights.safetensors`` and ``card.json``, and under ``run`` the state that a killed run resumes from.
        device: ``cpu`` or a CUDA device.
        threads: threads for a CPU batch.
        name: of the model; the default is ``architecture.data_v1``.
        initial: folder of a model to refresh: training starts from its weights and keeps its classes.
        more: faces to learn from beside those of ``data``, with the same classes.
        teachers: folders of models whose predictions are learned beside the votes, as the recipe's
            ``distillation`` says; kept in the user's cache folder.
        unlabelled: faces of which only the teachers' predictions are learned; what ``mfer.data.read_unlabelled`` reads.
        progress: called with the stages ``find faces``, ``teacher predictions``, ``train`` and ``evaluate``.
        tell: called with each warning that a person should read before hours of training.

    Returns:
        The model's card, and how it was measured on the report half.

    Raises:
        ConfigError: no training part, faces that are in both parts, or settings that do not fit the data.
        ModelError: ``initial`` is no model.
    """
    show, tell = progress or _show_nothing, tell or (lambda note: None)
    _require_folder(out)
    read = read_parts(data)
    weights, parent = None, None
    if initial is not None:
        weights, parent = _initial_weights(initial, recipe)
        if parent.architecture.mirror and not recipe.architecture.mirror:
            tell(
                f"{parent.model_id} averages each face with its mirror image, the recipe {recipe.name} does not: the"
                " new model is twice as fast and less accurate; mirror = true in the recipe's [architecture] keeps it"
            )
    if unlabelled is not None and not teachers:
        raise ConfigError(f"{unlabelled} has no labels; name the teachers that know them")
    name = _model_name(name, recipe, read.train, data)
    class_names = read.train.class_names if parent is None else parent.class_names
    parts = _prepare(data, read, class_names, recipe, device, show)
    _tell_of(parts, parent, tell)
    train = parts.train
    labelled = np.ones(len(train), bool)
    if unlabelled is not None:
        unknown = read_unlabelled(unlabelled, train.faces.class_names)
        added = prepare_faces(unknown, recipe.crop.channels, device, partial(show, "find faces: unlabelled"))
        train, labelled = train.joined(added), np.append(labelled, np.zeros(len(added), bool))
    predictions = None
    if teachers:
        views = Views(recipe.augmentation, recipe.distillation.views, len(train))
        cache = user_cache_path("mfer") / "teacher-predictions"
        report_progress = partial(show, "teacher predictions")
        predictions = predict_views(teachers, train, labelled, views, cache, threads, report_progress)
    if more is not None and more.faces is not None:
        train = train.joined(more.faces)  # what people said of these is learned, not what a teacher says
    recipe = recipe.taught_by(read_card(folder).model_id for folder in teachers)
    trainer = Trainer(
        recipe,
        train,
        parts.selection,
        out / "run",
        device,
        threads,
        weights,
        predictions,
        initial_id=None if parent is None else parent.model_id,
    )
    trained = trainer.run(lambda step, n, loss: show(f"train: loss {loss:.3f}", step, n))
    card = Card(
        name=name,
        class_names=train.faces.class_names,
        architecture=trainer.recipe.architecture,
        crop=recipe.crop,
        temperature=trained.temperature,
        weights_sha256="",
        training={
            **_training_record(trainer.recipe, trained, parts, device),
            **({} if more is None else {"labels": more.record}),
            **({} if predictions is None else {"n_unlabelled": int((~predictions.labelled).sum())}),
        },
        licence=_licence(parts.train.faces, trained.model),
        parent=parent.model_id if parent else None,
    )
    with TemporaryDirectory() as scratch:  # the metrics are of the rounded weights that are served
        save_model(Path(scratch), trained.model, card)
        model, card = load_model(Path(scratch))
    found = _evaluate(model.to(device), card, parts.report, "report", device, show)
    metrics = _metrics(found, parts, trained, trainer.recipe)
    return save_model(out, model, dataclasses.replace(card, metrics=metrics)), found


def score_faces(
    folder: Path, faces: PreparedFaces, split: str, *, device: str = "cpu", progress: StageProgress | None = None
) -> Evaluation:
    """Measure a model on faces that are prepared and have its classes; see ``evaluate_model``."""
    model, card = load_model(folder)
    return _evaluate(model.to(device), card, faces, split, device, progress or _show_nothing)


def evaluate_model(
    folder: Path,
    data: Path,
    split: str,
    *,
    device: str = "cpu",
    report: Path | None = None,
    flip: bool = False,
    talking: LeadingExpressions | None = None,
    progress: StageProgress | None = None,
) -> Evaluation:
    """Measure a model on labelled faces.

    Args:
        folder: the model's.
        data: a layout that ``mfer.data.read_faces`` knows; faces of classes that the model lacks are left out.
        split: ``all``, ``selection`` or ``report`` (halves) of the validation part, or ``train``.
        device: ``cpu`` or a CUDA device.
        report: folder for an HTML page with charts, mistakes and Grad-CAM; None writes none.
        flip: average the logits of each face and its mirror image, as a model with ``mirror`` does everywhere.
        talking: how the model reads people who talk, for the page.
        progress: called with the stages ``find faces`` and ``evaluate``.

    Raises:
        ConfigError: data in no known layout, or without a face of the model's classes.
        ModelError: the folder holds no sound model.
    """
    show = progress or _show_nothing
    if report is not None:
        _require_folder(report)
    model, card = load_model(folder)
    model.to(device)
    model.mirror = model.mirror or flip
    labelled = read_faces(data, split)
    prepared = prepare_faces(labelled, card.crop.channels, device, partial(show, f"find faces: {split}"))
    faces = prepared.with_classes(card.class_names)
    found = _evaluate(model, card, faces, split, device, show)
    if report is not None:
        crops = faces.crops(card.crop)

        def cam(pixels: Tensor, classes: Tensor) -> np.ndarray:
            return grad_cam(model, normalise(pixels.to(device), card.crop), classes.to(device))

        write_report(
            report,
            found,
            crops,
            cam=cam,
            quality=_quality(faces),
            own=card.metrics or None,
            talking=talking.line() if talking else "",
        )
    return found


def _require_folder(path: Path) -> None:
    """Refuse a place for results that is, or lies in, a file; before hours of work for it."""
    if (there := next(p for p in (path, *path.absolute().parents) if p.exists())) and not there.is_dir():
        raise ConfigError(f"{there} is a file; give the name of a folder")


# the parts of a data set


def read_parts(data: Path) -> DataParts:
    """The parts of a data set. Raises ConfigError where it has no training part or too few faces."""
    files = [name for name in ("train.parquet", "valid.parquet") if (data / name).is_file()]
    if len(files) == 1:
        raise ConfigError(
            f"{data} holds {files[0]} alone; training needs train.parquet and valid.parquet there, or name the one"
            " file itself, of which a tenth is then held out"
        )
    train, valid = read_faces(data, "train"), read_faces(data, "all")
    how = "the set's own training and validation part, the latter halved by a hash of the names"
    if data.is_file() or _same_sources(train, valid):
        held = _held_out(train.names)
        train, valid = train.take(~held), train.take(held)
        how = "no validation part: a tenth by a hash of the names held out of training, and halved by another"
    elif common := _shared_faces(train, valid):
        raise ConfigError(
            f"{len(common)} faces are in both the training and the validation part of {data} (the first:"
            f" {common[0]}); take them out of one, or the metrics are of faces that were learned"
        )
    valid = valid.with_classes(train.class_names)
    in_report = halves(valid.names)
    parts = DataParts(train, valid.take(~in_report), valid.take(in_report), how)
    _require_faces(parts, data)
    return parts


def _require_faces(parts: DataParts, data: Path) -> None:
    n_train, n_selection, n_report = len(parts.train), len(parts.selection), len(parts.report)
    if not (n_train and n_selection and n_report):
        raise ConfigError(
            f"{data} leaves {n_train} faces to train, {n_selection} to select and {n_report} to report on; every part"
            " needs some"
        )


def _same_sources(train: LabelledFaces, valid: LabelledFaces) -> bool:
    a, b = train.pictures, valid.pictures
    return isinstance(a, EncodedPictures) and isinstance(b, EncodedPictures) and list(a.sources) == list(b.sources)


def _held_out(names: list[str]) -> np.ndarray:
    """A tenth of the faces, bool [N], whatever else the set holds; independent of ``halves``."""
    digests = [hashlib.sha256(name_bytes(name)).digest() for name in names]
    return np.array([int.from_bytes(digest[1:3]) % 10 == 0 for digest in digests], dtype=bool)


def _shared_faces(train: LabelledFaces, valid: LabelledFaces) -> list[str]:
    """Names that both parts have for the same picture (many sets number each part's files from 1)."""
    at = {name: i for i, name in enumerate(train.names)}
    return [
        name
        for i, name in enumerate(valid.names)
        if name in at and np.array_equal(train.pictures[at[name]], valid.pictures[i])
    ]


def _with_classes(parts: DataParts, class_names: tuple[str, ...]) -> DataParts:
    train, selection, report = (
        faces.with_classes(class_names) for faces in (parts.train, parts.selection, parts.report)
    )
    return DataParts(train, selection, report, parts.how)


def _prepare(
    data: Path, read: DataParts, class_names: tuple[str, ...], recipe: Recipe, device: str, show: StageProgress
) -> _Prepared:
    """The parts with landmarks and the classes that are learned. Raises ConfigError where nothing is left of one."""
    chosen = _with_classes(read, class_names)
    _require_faces(chosen, data)
    train, selection, report = (
        prepare_faces(faces, recipe.crop.channels, device, partial(show, f"find faces: {part}"))
        for part, faces in (("train", chosen.train), ("selection", chosen.selection), ("report", chosen.report))
    )
    _require_faces(DataParts(train.faces, selection.faces, report.faces, read.how), data)
    dropped = Counter(train.faces.dropped)
    for prepared, before in ((selection, read.selection), (report, read.report)):
        dropped.update(Counter(prepared.faces.dropped) - Counter(before.dropped))  # not what the reader dropped
    learned = set(_picture_ids(train))
    n_seen = sum(picture in learned for part in (selection, report) for picture in _picture_ids(part))
    return _Prepared(train, selection, report, read.how, dict(dropped), n_seen)


def _picture_ids(faces: PreparedFaces) -> list[bytes]:
    return [hashlib.sha256(picture.numpy().tobytes()).digest() for picture in faces.pictures]


def _tell_of(parts: _Prepared, parent: Card | None, tell: Callable[[str], None]) -> None:
    """What a person should know of the faces before they are learned."""
    n_learned, n_measured = len(parts.train), len(parts.selection) + len(parts.report)
    if n_learned < _FEW_FACES:
        tell(
            f"{n_learned} faces are few to learn from, and {len(parts.report)} few to measure with: expect wide "
            "intervals" + ("" if parent else ", and start from a model (--initial default) rather than from nothing")
        )
    if parts.n_seen:
        tell(
            f"{parts.n_seen} of the {n_measured} faces to select and to report on are also learned, as equal pictures"
            " under other names: the metrics may be better than those of new faces"
        )


# what the card says


def _model_name(name: str | None, recipe: Recipe, train: LabelledFaces, data: Path) -> str:
    if name is None:
        word = train.source.split()[0] if train.source.strip() else ""
        if word in ("", "train"):  # a folder of classes is called after its folder
            word = data.resolve().name
        slug = re.sub(r"[^a-z0-9]+", "", word.lower()) or "faces"
        return f"{recipe.architecture.name}.{slug}_v1"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"model name {name!r}; use letters, digits, '.', '_' and '-', such as mfer_atto.mine_v1")
    return name


def _initial_weights(folder: Path, recipe: Recipe) -> tuple[dict[str, Tensor], Card]:
    model, card = load_model(folder)
    wanted = {**recipe.architecture.to_dict(), "n_classes": card.architecture.n_classes}
    differ = [
        f"{setting} {given!r} (recipe: {wanted[setting]!r})"
        for setting, given in card.architecture.to_dict().items()
        if given != wanted[setting] and setting not in _SHAPELESS
    ]
    if differ:
        raise ConfigError(
            f"{card.model_id} cannot start this recipe: it has {', '.join(differ)}; use a recipe of its shape"
        )
    return model.state_dict(), card


def _training_record(recipe: Recipe, trained: Trained, parts: _Prepared, device: str) -> dict[str, Any]:
    faces = parts.train.faces
    counts = np.bincount(faces.majority, minlength=len(faces.class_names))
    return {
        "recipe": recipe.to_dict(),
        "data": {
            "source": faces.source,
            "licence": faces.licence,
            "parts": parts.how,
            "n_train": len(parts.train),
            "n_selection": len(parts.selection),
            "n_report": len(parts.report),
            "n_seen_in_training": parts.n_seen,
            "n_train_by_class": dict(zip(faces.class_names, counts.tolist(), strict=True)),
            "dropped": parts.dropped,
            "landmarks_found": round(float(parts.train.found.mean()), 4),
        },
        "epochs": {
            "n": len(trained.reports),
            "chosen": trained.epoch,
            "loss": [round(r.loss, 4) for r in trained.reports],
            "selection_accuracy": [round(r.accuracy, 4) for r in trained.reports],
        },
        "device": device,
        "matrix_products": "bfloat16" if fast_bfloat16(torch.device(device)) else "float32",
        "code_revision": code_revision(),
        "versions": {package: version(package) for package in ("torch", "timm", "numpy")},
    }


def _licence(faces: LabelledFaces, model: ExpressionNetwork) -> str:
    learned = f"weights learned from {faces.source}: {faces.licence}"
    return f"{learned}; {model.pretrained_licence}" if model.pretrained_licence else learned


def _metrics(found: Evaluation, parts: _Prepared, trained: Trained, recipe: Recipe) -> dict[str, Any]:
    averaged = "logits of the crop and its mirror image averaged" if recipe.architecture.mirror else "no averaging"
    measured = found.to_dict()
    wanted = (
        "split",
        "n",
        "accuracy",
        "mean_recall",
        "ece",
        "nll",
        "kl",
        "per_class_recall",
        "intervals",
        "reweighted",
    )
    return {
        "protocol": (
            f"top class against the raters' majority (or the only label), one crop a face, {averaged};"
            f" {parts.how}; epoch and temperature chosen on the selection half, figures of the report half, 95 %"
            " bootstrap intervals"
        ),
        **{key: measured[key] for key in wanted},
        "unseen_accuracy_interval": measured["unseen_accuracy_interval"],
        "selection": {"n": len(parts.selection), "accuracy": trained.accuracy},
        "temperature": trained.temperature,
    }


# scoring


def _show_nothing(stage: str, done: int, total: int) -> None:
    pass


def _evaluate(
    model: ExpressionNetwork,
    card: Card,
    faces: PreparedFaces,
    split: str,
    device: str,
    show: StageProgress,
) -> Evaluation:
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        show("evaluate", done, len(faces))

    return evaluate(
        _predictor(model, card.crop, device),
        faces.faces,
        faces.crops(card.crop),
        model=card.model_id + (" with mirror images" if model.mirror and not card.architecture.mirror else ""),
        split=split,
        temperature=card.temperature,
        shares=card.class_shares(),
        progress=count,
    )


def _predictor(model: ExpressionNetwork, crop: CropContract, device: str) -> Predict:
    """Crops uint8 [N,C,S,S] -> logits [N,K] and features [N,D]."""

    @torch.inference_mode()
    def predict(crops: Tensor) -> tuple[Tensor, Tensor]:
        return model.read(normalise(crops.to(device), crop))

    return predict


def _quality(faces: PreparedFaces) -> dict[str, np.ndarray]:
    """What video's ``quality_ok`` looks at, float [N]; higher is better, NaN where the detector saw no face."""
    n, points = len(faces), faces.landmarks_px
    corners = np.concatenate([points.min(1), points.max(1)], 1)
    detections = Detections(np.arange(n), corners, points, np.ones(n, np.float32))
    crops = AlignedFaces(faces.crops(QUALITY_CROP).cpu().numpy(), align_matrix(points, QUALITY_CROP))
    measured = measure_quality(detections, crops)
    eyes = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
    found = {
        "sharpness": measured.sharpness,
        "eye distance in px": eyes,
        "turn of the head (0 frontal, -2 profile)": -measured.nose_offset,
    }
    return {name: np.where(faces.found, values, np.nan) for name, values in found.items()}
