"""Refresh the production model: collect, train, compare, decide, publish; works without a server.

The promotion gate (``mfer/gate.py``) decides; the candidate's card keeps every check. The cards of the
lake's models say what earlier candidates learned and were tested on, so that no test face is ever learned.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from flows.reanalyze import Reanalysis, reanalyze
from flows.training import MoreFaces, StageProgress, read_parts, score_faces, train_model
from mfer.card import WEIGHTS_FILE, Card, read_card
from mfer.errors import ConfigError, ModelError
from mfer.evaluate import Evaluation
from mfer.gate import Decision, GateRules, PairedScores, decide_promotion
from mfer.prepared import PreparedFaces
from mfer.recipe import Recipe
from pipelines.learning.collect import LakeFaces, collect_faces, known_faces
from pipelines.learning.golden import compare_speed, score_clips
from pipelines.learning.prepare import prepare_faces
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import choose_device
from storage.annotations.labels import read_labels
from storage.lake import Lake
from storage.models import ModelStore

__all__ = ["RefreshOutcome", "RefreshRequest", "outcome_text", "read_rules", "refresh_model"]

#: The lake's faces make up at least this share of what is learned from, by being shown several times an epoch ...
_MIN_SHARE = 0.1
#: ... but no face more often than that: it would be learned by heart.
_MAX_REPEATS = 8
_REVISION = re.compile(r"_r\d+$")


@dataclass(frozen=True)
class RefreshRequest:
    """What to refresh and how: plain values, so that it crosses process and flow borders.

    ``data`` is the base set (a layout of ``mfer.data.read_faces``); ``recipe`` gives optimisation and augmentation, the
    rest is the production model's own; ``golden`` are clips on which both models should agree; ``min_new_faces`` are
    needed to begin at all; ``promote`` false publishes only; ``force`` trains though nothing is new; ``reanalyze``
    scores what the old model scored with the promoted one; ``work`` keeps a killed run's state (default: the user's
    cache).
    """

    data: str
    lake: str = "lake"
    recipe: str = "refresh"
    epochs: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    golden: tuple[str, ...] = ()
    rules: GateRules = field(default_factory=GateRules)
    min_new_faces: int = 1
    promote: bool = True
    force: bool = False
    reanalyze: bool = False
    device: str = "auto"
    threads: int = 1
    work: str | None = None

    def __post_init__(self) -> None:
        if self.min_new_faces < 1 or self.threads < 1:
            raise ConfigError(
                f"min_new_faces is {self.min_new_faces} and threads {self.threads}; both must be at least 1"
            )


@dataclass(frozen=True)
class RefreshOutcome:
    """The outcome of a refresh. ``status`` is nothing_new, refused, published (and not to be promoted) or promoted."""

    status: str
    message: str
    production: str
    candidate: str | None = None
    decision: Decision | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    reanalysis: Reanalysis | None = None
    elapsed_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["decision"] = None if self.decision is None else self.decision.to_dict()
        plain["reanalysis"] = None if self.reanalysis is None else self.reanalysis.to_dict()
        return plain


@dataclass(frozen=True)
class _Memory:
    """What the lake's earlier models learned and were tested on."""

    tested: frozenset[str]
    learned: frozenset[str]
    faces: frozenset[str]

    @classmethod
    def of(cls, store: ModelStore) -> _Memory:
        records = [model.card.get("training", {}).get("labels", {}) for model in store.published()]
        tested, learned = (
            frozenset(mark for record in records for mark in record.get(side, ()))
            for side in ("tested_videos", "learned_videos")
        )
        return cls(tested, learned, frozenset(m for r in records for m in r.get("learned_faces", "").split()))


def refresh_model(request: RefreshRequest, progress: StageProgress | None = None) -> RefreshOutcome:
    """Train a candidate from the production model on the base set and the lake's labels, and promote it if it may be.

    A run that was killed goes on from its last state with the same request, while labels and production are the same.

    Args:
        request: what and how.
        progress: called with the stages ``cut faces``, ``find faces``, ``train`` and ``evaluate``.

    Raises:
        ConfigError, ModelError, LakeError: settings, data, model or lake do not allow it; nothing was published.
    """
    show = progress or (lambda stage, done, total: None)
    started = time.monotonic()
    lake = Lake.open(request.lake)
    store, device = ModelStore(lake), choose_device(request.device)
    production = find_model("default", lake)
    parent = read_card(production)
    recipe = _recipe(request, parent)
    if (left := _left_to_promote(store, parent)) is not None and request.promote:
        store.promote(left)
        message = f"{left} was published before and its promotion was cut off; promoted now"
        return RefreshOutcome("promoted", message, parent.model_id, left)
    faces = _collect(lake, parent, _Memory.of(store), request, show)
    if isinstance(faces, RefreshOutcome):
        return faces
    work = _work_folder(request, parent, recipe, faces)
    card, _ = train_model(
        recipe,
        Path(request.data),
        work,
        device=device,
        threads=request.threads,
        name=_next_name(parent.name, [model.name for model in store.published()]),
        initial=production,
        more=_more(faces, request),
        teachers=[find_model(teacher, lake) for teacher in recipe.distillation.teachers],
        progress=show,
    )
    decision, metrics = _judge(work, production, _earlier(lake, parent), faces, request, device, show)
    candidate = store.publish(card.name, work / WEIGHTS_FILE, _with_gate(card, decision, metrics, parent, request))
    status = "refused" if not decision.passes else "promoted" if request.promote else "published"
    again = None
    if status == "promoted":
        store.promote(candidate)
        again = reanalyze(lake, parent.model_id, candidate, device) if request.reanalyze else None
    shutil.rmtree(work, ignore_errors=True)
    message = f"{candidate} is {'in production' if status == 'promoted' else 'published'}; {decision.summary}"
    return RefreshOutcome(
        status,
        message,
        parent.model_id,
        candidate,
        decision,
        metrics,
        _counts(faces),
        faces.missing,
        again,
        time.monotonic() - started,
    )


def read_rules(path: Path | None) -> GateRules:
    """The gate's rules from a TOML file, the defaults where it is silent; ConfigError where it says something else."""
    if path is None:
        return GateRules()
    try:
        return GateRules.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the gate's rules {path} cannot be read: {error}") from error


def outcome_text(outcome: RefreshOutcome) -> str:
    """What came of it, for a terminal: the decision with every check, or why there was none."""
    lines = [outcome.message]
    for name, metrics in outcome.metrics.items():
        shown = ", ".join(
            f"{metric} {metrics['production'][metric]:.4f} -> {metrics['candidate'][metric]:.4f}"
            for metric in ("accuracy", "mean_recall", "ece")
        )
        lines.append(f"  {name}, {metrics['n']} faces: {shown}")
    for check in outcome.decision.checks if outcome.decision else ():
        lines.append(f"  {check.outcome:10} {check.name} on {check.subject}: {check.reason}")
    lines += [f"  {n} labelled faces left out: {reason}" for reason, n in outcome.labels.get("dropped", {}).items()]
    lines += [f"  gone or changed: {path}" for path in outcome.missing]
    if outcome.reanalysis is not None:
        n_again = sum(len(run.outcomes) for run in outcome.reanalysis.runs)
        n_left = len(outcome.reanalysis.missing) + len(outcome.reanalysis.outdated)
        lines.append(f"  {n_again} videos scored again, {n_left} could not be")
    return "\n".join(lines)


def _recipe(request: RefreshRequest, parent: Card) -> Recipe:
    """The recipe with the shape and the logit adjustment of the model that it starts from."""
    recipe = Recipe.load(request.recipe, architecture=parent.architecture, crop=parent.crop)
    return recipe.replace(
        epochs=request.epochs,
        learning_rate=request.learning_rate,
        seed=request.seed,
        logit_adjustment=parent.logit_adjustment,
    )


def _left_to_promote(store: ModelStore, parent: Card) -> str | None:
    """The last candidate, where its run was killed between publishing and promoting it."""
    published = store.published()
    if not published:
        return None
    gate = published[-1].card.get("metrics", {}).get("gate", {})
    wanted = gate.get("passes") and gate.get("promote") and gate.get("production") == parent.model_id
    return published[-1].model_id if wanted and not store.was_promoted(published[-1].model_id) else None


def _collect(
    lake: Lake, parent: Card, memory: _Memory, request: RefreshRequest, show: StageProgress
) -> LakeFaces | RefreshOutcome:
    """The lake's faces, or the end where there is nothing new to learn from; which is found out before one is cut."""
    labels = read_labels(lake)
    sides = {"tested": memory.tested, "learned": memory.learned}
    n_new = len(known_faces(labels, parent.class_names, **sides) - memory.faces)
    if not request.force and n_new < request.min_new_faces:
        videos = {face.video_id for face in labels.faces}
        gone = tuple(sorted(labels.files[v][0]["path"] for v in videos if labels.file_of(v) is None))
        return _nothing_new(n_new, parent, request, {"dropped": dict(labels.dropped)}, gone)
    faces = collect_faces(
        labels,
        parent.class_names,
        parent.crop.channels,
        **sides,
        progress=lambda done, total: show("cut faces", done, total),
    )
    n_new = len(set(faces.marks) - memory.faces)  # fewer, where frames could not be read
    if not request.force and n_new < request.min_new_faces:
        return _nothing_new(n_new, parent, request, _counts(faces), faces.missing)
    return faces


def _nothing_new(
    n_new: int, parent: Card, request: RefreshRequest, labels: dict[str, Any], missing: tuple[str, ...]
) -> RefreshOutcome:
    needed = f"{n_new} faces that no candidate has learned, {request.min_new_faces} are needed"
    message = f"nothing new to learn from: {needed}"
    return RefreshOutcome("nothing_new", message, parent.model_id, labels=labels, missing=missing)


def _counts(faces: LakeFaces) -> dict[str, Any]:
    return {name: value for name, value in faces.record().items() if not isinstance(value, list | str)}


def _more(faces: LakeFaces, request: RefreshRequest) -> MoreFaces:
    """The lake's faces, often enough to count beside the base set."""
    if faces.train is None:
        return MoreFaces(None, faces.record())
    n_base, n = len(read_parts(Path(request.data)).train), len(faces.train)
    repeats = min(_MAX_REPEATS, max(1, math.ceil(_MIN_SHARE * n_base / n)))
    return MoreFaces(faces.train.take(np.tile(np.arange(n), repeats)), {**faces.record(), "repeats": repeats})


def _earlier(lake: Lake, production: Card) -> dict[str, Path]:
    """The models that were in production before, by model_id, back to the last that somebody promoted by hand.

    The cards say so: a model that passed the gate names the one that it replaced. So a rollback returns to the earlier
    line, and promoting another model by hand begins a new one.
    """
    found: dict[str, Path] = {}
    card = production
    while (gate := card.metrics.get("gate", {})).get("passes") and gate["production"] not in found:
        try:
            folder = find_model(gate["production"], lake)
        except ModelError:  # of a version of the package that is gone
            break
        card = read_card(folder)
        found[card.model_id] = folder
    return found


def _judge(
    work: Path,
    production: Path,
    earlier: dict[str, Path],
    faces: LakeFaces,
    request: RefreshRequest,
    device: str,
    show: StageProgress,
) -> tuple[Decision, dict[str, Any]]:
    """All models on every frozen test set, on the golden clips and on the clock, and the gate's decision."""
    card = read_card(production)
    base = read_parts(Path(request.data)).report.with_classes(card.class_names)
    prepared = prepare_faces(base, card.crop.channels, device, lambda done, n: show("find faces: report", done, n))
    tests: list[tuple[str, PreparedFaces, Sequence[str]]] = [("base set", prepared, prepared.faces.names)]
    if faces.test is not None:
        tests.append(("labels", faces.test, faces.groups))
    sets, metrics = [], {}
    for name, test, groups in tests:
        candidate, before, *others = (
            score_faces(folder, test, name, device=device, progress=show)
            for folder in (work, production, *earlier.values())
        )
        sets.append(
            PairedScores(
                name,
                candidate.prob,
                before.prob,
                before.target,
                before.majority,
                groups,
                card.class_names,
                {model_id: other.prob for model_id, other in zip(earlier, others, strict=True)},
            )
        )
        metrics[name] = {"n": len(test), "candidate": _metrics(candidate), "production": _metrics(before)}
    golden = score_clips(request.golden, work, production, device) if request.golden else None
    speed = compare_speed(work, production, prepared.crops(card.crop), device)
    return decide_promotion(sets, request.rules, golden, speed), metrics


def _metrics(found: Evaluation) -> dict[str, Any]:
    measured = found.to_dict()
    return {name: measured[name] for name in ("accuracy", "mean_recall", "ece", "nll", "per_class_recall")}


def _with_gate(
    card: Card, decision: Decision, metrics: dict[str, Any], parent: Card, request: RefreshRequest
) -> dict[str, Any]:
    gate = {
        "summary": decision.summary,
        **decision.to_dict(),
        "promote": request.promote,
        "production": parent.model_id,
        "rules": dataclasses.asdict(request.rules),
        "metrics": metrics,
    }
    return dataclasses.replace(card, metrics={**card.metrics, "gate": gate}).to_dict()


def _next_name(parent: str, taken: Sequence[str]) -> str:
    """The parent's name with the next revision that no model of the lake has: ferplus_v3_r1, ferplus_v3_r2."""
    base = _REVISION.sub("", parent)
    numbers = [int(name[len(base) + 2 :]) for name in taken if re.fullmatch(re.escape(base) + _REVISION.pattern, name)]
    return f"{base}_r{max(numbers, default=0) + 1}"


def _work_folder(request: RefreshRequest, parent: Card, recipe: Recipe, faces: LakeFaces) -> Path:
    """Where this very training keeps its state: another recipe, parent, label or base set is another folder."""
    cache = user_cache_path("mfer") / "refresh"
    data = Path(request.data).absolute()
    files = sorted(path for path in (data, *data.rglob("*")) if path.is_file())
    base = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    inputs = [parent.model_id, recipe.to_dict(), faces.marks, str(data), base]
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    return Path(request.work or cache) / key
