"""Training: one loop, from prepared faces and a recipe to a calibrated checkpoint.

Every random number comes from (seed, step), so that a run which was killed and resumed from its last state ends with
the same weights as one that was left alone.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from mfer.augment import Perturbation, give_mouths, mix
from mfer.build import build_network
from mfer.card import CropContract
from mfer.crop import align_matrix, normalise, warp_faces
from mfer.distill import TeacherPredictions
from mfer.errors import ConfigError
from mfer.losses import make_feature_loss
from mfer.metrics import class_shares, fit_temperature, measure, softmax
from mfer.muon import Muon, parameter_groups
from mfer.network import ExpressionNetwork
from mfer.precision import fast_bfloat16
from mfer.prepared import PreparedFaces
from mfer.recipe import Recipe

__all__ = ["EpochReport", "Trained", "Trainer", "predict_logits"]

_STATE_FILE = "state.safetensors"
_LOG_FILE = "epochs.jsonl"
#: Of the blur that the temperature is fitted with, the same in every run.
_CALIBRATION_SEED = 20261130


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """One line of a run's log; accuracy, mean recall and nll are of the averaged weights on the selection half."""

    epoch: int
    loss: float
    accuracy: float
    mean_recall: float
    nll: float
    images_per_s: float


@dataclasses.dataclass(frozen=True)
class Trained:
    """The outcome: the averaged weights of the best epoch, its number, selection accuracy and temperature."""

    model: ExpressionNetwork
    epoch: int
    accuracy: float
    temperature: float
    reports: list[EpochReport]


@dataclasses.dataclass(frozen=True, repr=False)
class Batch:
    """x float [n,C,S,S], normalised; target and teacher_prob float [n,K], shares of votes and teachers' predictions;
    majority int64 [n], the classes that the feature loss goes by."""

    x: Tensor
    target: Tensor
    teacher_prob: Tensor
    majority: Tensor

    def take(self, rows: Tensor) -> Batch:
        return Batch(self.x[rows], self.target[rows], self.teacher_prob[rows], self.majority[rows])


class Trainer:
    """Train one recipe.

    Args:
        recipe: what to train.
        train: faces to learn from.
        valid: faces (the selection half) that choose the epoch and the temperature.
        folder: where the state to resume from and the log go; one folder, one run.
        device: ``cpu`` or ``cuda``.
        threads: parts that a CPU batch is cut into, each with its own thread, which beats threads inside an operation
            at these sizes. Drop path draws random numbers inside the network and needs threads = 1.
        initial: weights to start from (a model to refresh); None starts from scratch, or from what the network itself
            comes with.
        predictions: what teachers predict for the first faces of ``train``, for a recipe with distillation; the
            faces after those are learned from their votes alone.
        initial_id: the model that ``initial`` is of; a run that began with another is not resumed.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: PreparedFaces,
        valid: PreparedFaces,
        folder: Path,
        device: str = "cpu",
        threads: int = 1,
        initial: dict[str, Tensor] | None = None,
        predictions: TeacherPredictions | None = None,
        initial_id: str | None = None,
    ) -> None:
        if train.faces.class_names != valid.faces.class_names:
            raise ConfigError(f"training classes {train.faces.class_names} are not {valid.faces.class_names}")
        if len(train) < 2 or not len(valid):
            raise ConfigError(f"{len(train)} faces to train and {len(valid)} to select on; too few")
        recipe = dataclasses.replace(
            recipe, architecture=dataclasses.replace(recipe.architecture, n_classes=len(train.faces.class_names))
        )
        if recipe.optimisation.keep_initial and initial is None:
            raise ConfigError("keep_initial is for a training that begins with a model's weights; give --initial")
        if predictions is not None and len(predictions.labelled) > len(train):
            raise ConfigError(f"the teachers saw {len(predictions.labelled)} faces and {len(train)} are to be learned")
        self.recipe = recipe
        self.predictions = predictions
        self.folder = folder
        self.initial_id = initial_id
        self.faces_id = _faces_id(train, valid)
        self.device = torch.device(device)
        self.train_faces, self.valid_faces = train.to(self.device), valid.to(self.device)
        self.threads = 1 if self.device.type != "cpu" or recipe.architecture.drop_path > 0 else max(1, threads)
        self.pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
        self.loader = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self.prefetched: Future[Batch] | None = None
        opt = recipe.optimisation
        torch.manual_seed(opt.seed)
        self.model = build_network(recipe.architecture)
        self.initial = initial or {}
        if initial is not None:
            self.model.load_state_dict(initial, strict=True)
        elif not (folder / _STATE_FILE).exists():
            self.model.load_pretrained()
        self.feature_loss = make_feature_loss(opt.feature_loss, recipe.architecture.n_classes, self.model.feature_dim)
        self.model.to(self.device)
        self.feature_loss.to(self.device)
        self.average = copy.deepcopy(self.model).eval()
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.optimizer = _make_optimizer(
            recipe, self.model, self.feature_loss, self.pool.map if self.threads > 1 else map
        )
        labelled = np.ones(len(train), bool)
        if predictions is not None:  # the faces after those that the teachers saw have votes
            labelled[: len(predictions.labelled)] = predictions.labelled
        counts = np.bincount(train.faces.majority[labelled], minlength=recipe.architecture.n_classes)
        left_out = opt.logit_adjustment * np.log(class_shares(counts))
        self.log_share_left_out = torch.as_tensor(left_out, dtype=torch.float32, device=self.device)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps_per_epoch = max(1, len(train) // opt.batch_size)
        self.step = 0
        self.reports: list[EpochReport] = []
        self.best_epoch = -1
        self.loss_sum = 0.0

    @property
    def n_steps(self) -> int:
        return self.steps_per_epoch * self.recipe.optimisation.epochs

    def run(self, progress: Callable[[int, int, float], None] | None = None, save_every_s: float = 120.0) -> Trained:
        """Train to the end, from the saved state where there is one.

        Args:
            progress: called after every step with (steps done, steps in all, running loss).
            save_every_s: seconds between saved states.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        saved = started = time.monotonic()
        started_step = self.step
        while self.step < self.n_steps:
            self.loss_sum += self._train_step()
            self.step += 1
            in_epoch = (self.step - 1) % self.steps_per_epoch + 1
            if progress:
                progress(self.step, self.n_steps, self.loss_sum / in_epoch)
            ended = in_epoch == self.steps_per_epoch
            if ended:
                seconds = time.monotonic() - started
                rate = (self.step - started_step) * self.recipe.optimisation.batch_size / max(seconds, 1e-9)
                self._end_epoch(self.step // self.steps_per_epoch - 1, rate)
            if ended or time.monotonic() - saved > save_every_s:
                self._save()
                saved = time.monotonic()
        return self._choose()

    def _choose(self) -> Trained:
        """The best epoch or the last one, whichever is better as it is served, on the selection half.

        They can only change places where the epochs were measured without the recipe's mirror images, or its share of
        the weights that training began with.
        """
        kept = self.recipe.optimisation.keep_initial
        crops, majority = self.valid_faces.crops(self.recipe.crop), self.valid_faces.faces.majority
        last = {k: v.clone() for k, v in self.average.state_dict().items()}
        found = []
        for epoch, learned in ((len(self.reports) - 1, last), (self.best_epoch, self.best)):
            weights = {k: v.lerp(self.initial[k].to(v), kept) if kept else v for k, v in learned.items()}
            self.average.load_state_dict(weights)
            logits = predict_logits(self.average, crops, self.recipe.crop)
            found.append((float((logits.argmax(1) == majority).mean()), epoch, logits, weights))
        accuracy, epoch, logits, weights = max(found, key=lambda each: each[:2])
        self.average.load_state_dict(weights)
        return Trained(self.average, epoch, accuracy, self._fit_temperature(crops, logits, majority), self.reports)

    def _fit_temperature(self, crops: Tensor, logits: np.ndarray, majority: np.ndarray) -> float:
        """For faces as sharp as they are, and again as blurred and small as the recipe shows them: video has both."""
        rng = np.random.default_rng(_CALIBRATION_SEED)
        unsharp = Perturbation.draw(self.recipe.augmentation.unsharp(), len(crops), rng)
        pixels = unsharp.of_pixels(crops.float().div(255), rng).mul(255).round().clamp(0, 255).to(torch.uint8)
        again = predict_logits(self.average, pixels, self.recipe.crop)
        return fit_temperature(np.concatenate([logits, again]), np.concatenate([majority, majority]))

    # one step

    def _train_step(self) -> float:
        opt = self.recipe.optimisation
        torch.manual_seed(opt.seed * 1_000_003 + self.step)  # drop path draws from the global generator
        batch = self.prefetched.result() if self.prefetched else self._batch(self.step)
        more = self.threads > 1 and self.step + 1 < self.n_steps
        self.prefetched = self.loader.submit(self._batch, self.step + 1) if more else None
        lr = opt.learning_rate * self._lr_factor()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.model.train()
        losses, grads = self._gradients(batch)
        for p, grad in zip(self.parameters, grads, strict=True):
            p.grad = grad
        if opt.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, opt.clip_norm)
        self.optimizer.step()
        self._update_average()
        loss = float(losses)
        if not math.isfinite(loss):
            raise ConfigError(f"the loss is {loss} at step {self.step}; lower learning_rate (now {opt.learning_rate})")
        return loss

    def _batch(self, step: int) -> Batch:
        """The perturbed faces of a step and what to learn from them; the same whenever it is asked for."""
        opt, faces = self.recipe.optimisation, self.train_faces
        epoch, at = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([opt.seed, 1, epoch]).permutation(len(faces))
        rows = order[at * opt.batch_size : (at + 1) * opt.batch_size]
        rng = np.random.default_rng([opt.seed, 2, step])
        crop = self._crop_of(epoch)
        drawn = Perturbation.draw(self.recipe.augmentation, len(rows), rng)
        if self.predictions is not None:
            known = rows < len(self.predictions.labelled)
            drawn = drawn.put(known, self.predictions.views.of(rows[known], self._view(rows[known], epoch)))
        matrix = drawn.of_matrix(align_matrix(faces.landmarks_px[rows], crop), crop)
        pixels = warp_faces(faces.pictures, rows, matrix, crop).float().div_(255)
        target, teacher_prob, majority = self._targets(rows, epoch)
        if self.recipe.augmentation.open_mouth and {"neutral", "surprise"} <= set(faces.faces.class_names):
            pixels = self._with_open_mouths(pixels, matrix, rows, target, step)
        x = (drawn.of_pixels(pixels, rng) - crop.mean) / crop.std
        if self.recipe.augmentation.mixup:
            x, target, teacher_prob = mix(rng, self.recipe.augmentation.mixup, x, target, teacher_prob)
        return Batch(x, target, teacher_prob, majority)

    def _with_open_mouths(
        self, pixels: Tensor, matrix: np.ndarray, rows: np.ndarray, target: Tensor, step: int
    ) -> Tensor:
        """Some of the neutral faces speak, with mouths of surprised ones. Teachers saw their own mouths."""
        rng = np.random.default_rng([self.recipe.optimisation.seed, 3, step])
        names, votes = self.train_faces.faces.class_names, target.cpu().numpy()
        neutral = np.flatnonzero(votes[:, names.index("neutral")] > 0.5)
        surprised = np.flatnonzero(votes[:, names.index("surprise")] > 0.2)  # also a little: mouths that are half open
        opened = neutral[rng.random(len(neutral)) < self.recipe.augmentation.open_mouth]
        if not (len(opened) and len(surprised)):
            return pixels
        givers = rng.choice(surprised, len(opened))
        mouth = self.train_faces.landmarks_px[rows][:, 3:]
        corners = np.einsum("nij,nkj->nki", matrix[:, :, :2], mouth) + matrix[:, None, :, 2]
        chosen, others = (torch.as_tensor(of, device=self.device) for of in (opened, givers))
        pixels[chosen] = give_mouths(pixels[chosen], corners[opened], pixels[others], corners[givers])
        return pixels

    def _view(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """The fixed view of each face in an epoch."""
        assert self.predictions is not None
        return (rows + epoch) % self.predictions.views.n_views

    def _targets(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """The votes [n,K], what the teachers say [n,K] (where they said nothing: the votes) and the classes [n]."""
        opt, faces = self.recipe.optimisation, self.train_faces.faces
        majority = faces.majority[rows]
        votes = faces.target[rows] if opt.soft_targets else np.eye(len(faces.class_names), dtype=np.float32)[majority]
        votes = votes * (1 - opt.label_smoothing) + np.float32(opt.label_smoothing / votes.shape[1])
        teacher_prob = votes.copy()
        if self.predictions is not None:
            known = np.flatnonzero(rows < len(self.predictions.labelled))
            seen = rows[known], self._view(rows[known], epoch)
            teacher_prob[known] = self.predictions.probabilities(*seen, self.recipe.distillation.temperature)
            unknown = ~self.predictions.labelled[rows[known]]
            votes[known[unknown]] = self.predictions.probabilities(*seen)[unknown]
            majority = majority.copy()
            majority[known[unknown]] = votes[known[unknown]].argmax(1)
        return tuple(torch.as_tensor(values, device=self.device) for values in (votes, teacher_prob, majority))  # type: ignore[return-value]

    def _crop_of(self, epoch: int) -> CropContract:
        opt = self.recipe.optimisation
        if opt.small_side_px and epoch < opt.small_share * opt.epochs:
            return dataclasses.replace(self.recipe.crop, side_px=opt.small_side_px)
        return self.recipe.crop

    def _gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        def part(rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            loss = self._loss(batch.take(rows)) * (len(rows) / len(batch.x))
            return loss.detach(), torch.autograd.grad(loss, self.parameters, materialize_grads=True)

        parts = torch.arange(len(batch.x), device=self.device).chunk(self.threads)
        done = list(self.pool.map(part, parts)) if self.threads > 1 else [part(parts[0])]
        grads = [
            torch.stack(same).sum(0) if len(same) > 1 else same[0] for same in zip(*(g for _, g in done), strict=True)
        ]
        return torch.stack([loss for loss, _ in done]).sum(), grads

    def _loss(self, batch: Batch) -> Tensor:
        """The published sum, cross-entropy of every head plus the weighted feature loss; with teachers the
        cross-entropy is divided between votes and teachers' predictions, which are compared at the recipe's
        temperature. What ``logit_adjustment`` leaves out is added to the logits before either."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bfloat16(self.device)):
            feature = self.model.embed(batch.x)
            head_logits = self.model.classifier.head_logits(feature)  # [heads,N,K]
        head_logits = head_logits.float() + self.log_share_left_out
        loss = _cross_entropy(head_logits, batch.target)
        if self.predictions is not None:
            how = self.recipe.distillation
            distilled = _cross_entropy(head_logits / how.temperature, batch.teacher_prob)
            loss = (1 - how.weight) * loss + how.weight * how.temperature**2 * distilled
        weight = self.recipe.optimisation.feature_loss_weight
        return loss + weight * self.feature_loss(feature.float(), batch.majority)

    def _lr_factor(self) -> float:
        opt = self.recipe.optimisation
        warm = max(1, round(opt.warmup_epochs * self.steps_per_epoch))
        if self.step < warm:
            return (self.step + 1) / warm
        if opt.schedule == "exponential":
            return opt.decay ** (self.step // self.steps_per_epoch)
        share = (self.step - warm) / max(1, self.n_steps - warm)
        return 0.5 * (1 + math.cos(math.pi * share)) * 0.99 + 0.01

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.recipe.optimisation.ema, (1 + self.step) / (10 + self.step))
        for mean, p in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(p, 1 - keep)

    def _end_epoch(self, epoch: int, rate: float) -> None:
        faces = self.valid_faces.faces
        logits = predict_logits(self.average, self.valid_faces.crops(self.recipe.crop), self.recipe.crop)
        found = measure(softmax(logits), faces.target, faces.majority, n_resamples=1)
        report = EpochReport(
            epoch,
            self.loss_sum / self.steps_per_epoch,
            found.accuracy.value,
            found.mean_recall.value,
            found.nll.value,
            rate,
        )
        if not self.reports or report.accuracy >= max(r.accuracy for r in self.reports):
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
            self.best_epoch = epoch
        self.reports.append(report)
        self.loss_sum = 0.0
        lines = (json.dumps(dataclasses.asdict(r)) + "\n" for r in self.reports)
        (self.folder / _LOG_FILE).write_text("".join(lines))  # afresh: a resumed run may end an epoch once more

    # state

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, module in (("model", self.model), ("loss", self.feature_loss), ("average", self.average)):
            for name, value in module.state_dict().items():
                yield f"{prefix}.{name}", value
        for name, value in self.best.items():
            yield f"best.{name}", value
        for i, p in enumerate(self.parameters):
            for name, value in self.optimizer.state[p].items():
                yield f"optimizer.{i}.{name}", value

    def _save(self) -> None:
        """Write the whole state to one file that is either the old or the new one, whenever the power fails."""
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self._tensors()}
        meta = {
            "recipe": self.recipe.to_dict(),
            "faces": self.faces_id,
            "initial": self.initial_id,
            "step": self.step,
            "best_epoch": self.best_epoch,
            "loss_sum": self.loss_sum,
            "reports": [dataclasses.asdict(r) for r in self.reports],
        }
        fresh = self.folder / f"{_STATE_FILE}.new"
        safetensors.torch.save_file(tensors, fresh, {"state": json.dumps(meta)})
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(self.folder / _STATE_FILE)

    def _resume(self) -> None:
        path = self.folder / _STATE_FILE
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _what_is_learned(Recipe.from_dict(meta["recipe"])) != _what_is_learned(self.recipe):
            raise ConfigError(f"{path} is of another recipe; give another folder, or delete it to start again")
        if meta["faces"] != self.faces_id:
            raise ConfigError(f"{path} is of other faces; give another folder, or delete it to start again")
        if meta["initial"] != self.initial_id:
            began, begins = (model or "no model" for model in (meta["initial"], self.initial_id))
            raise ConfigError(
                f"{path} began with {began}, this run with {begins}; give another folder, or delete it to start again"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.feature_loss.load_state_dict(part("loss."))
        self.average.load_state_dict(part("average."))
        self.best = {k: v.to(self.device) for k, v in part("best.").items()}
        for i, p in enumerate(self.parameters):
            state = part(f"optimizer.{i}.")
            self.optimizer.state[p] = {k: v if k == "step" else v.to(self.device) for k, v in state.items()}
        self.step, self.best_epoch, self.loss_sum = meta["step"], meta["best_epoch"], meta["loss_sum"]
        self.reports = [EpochReport(**r) for r in meta["reports"]]


def _faces_id(*parts: PreparedFaces) -> str:
    """Differs where a name, a picture, a vote or their order does."""
    digest = hashlib.sha256()
    for part in parts:
        faces = part.faces
        digest.update(json.dumps([len(faces), faces.names, faces.class_names]).encode())
        for values in (faces.target, faces.majority):
            digest.update(np.ascontiguousarray(values).data)
        for picture in part.pictures:
            digest.update(f"{tuple(picture.shape)}".encode())
            digest.update(np.ascontiguousarray(picture.cpu().numpy()).data)
    return digest.hexdigest()[:16]


def _cross_entropy(head_logits: Tensor, target: Tensor) -> Tensor:
    """Of logits float [heads,N,K] and shares [N,K]: the mean over faces, added over the heads."""
    return -(target * F.log_softmax(head_logits, dim=2)).sum(2).mean(1).sum()


def _what_is_learned(recipe: Recipe) -> Recipe:
    """The recipe without what a finished run may change: its file's name, mirror images, and what it keeps of its first
    weights."""
    return dataclasses.replace(
        recipe,
        name="",
        description="",
        architecture=dataclasses.replace(recipe.architecture, mirror=False),
        optimisation=dataclasses.replace(recipe.optimisation, keep_initial=0.0),
    )


def _make_optimizer(
    recipe: Recipe, model: ExpressionNetwork, feature_loss: nn.Module, mapper: Callable[..., Any]
) -> torch.optim.Optimizer:
    opt = recipe.optimisation
    groups = parameter_groups(model, feature_loss.parameters(), opt.weight_decay)
    scale = layer_rates(model, opt.layer_decay)
    groups = [
        {**group, "params": list(same), "lr_scale": rate}
        for group in groups
        for rate, same in itertools.groupby(
            sorted(group["params"], key=lambda p: scale.get(p, 1.0)), key=lambda p: scale.get(p, 1.0)
        )
    ]
    if opt.optimizer == "muon":
        return Muon(groups, lr=opt.learning_rate, betas=opt.betas, mapper=mapper)
    plain = [{key: value for key, value in group.items() if key != "muon"} for group in groups]
    return torch.optim.AdamW(plain, lr=opt.learning_rate, betas=opt.betas)


def layer_rates(model: ExpressionNetwork, decay: float) -> dict[nn.Parameter, float]:
    """The share of the learning rate of each parameter that lies below the head.

    The last of ``model.depths()`` learns at ``decay`` of the rate, the one before at ``decay ** 2`` and so on
    (Clark et al. 2020, ELECTRA, arXiv:2003.10555): what was learned elsewhere changes slowly near the input.
    """
    return {p: decay**height for height, module in enumerate(reversed(model.depths()), 1) for p in module.parameters()}


@torch.inference_mode()
def predict_logits(model: ExpressionNetwork, pixels: Tensor, crop: CropContract, batch_size: int = 256) -> np.ndarray:
    """Logits float32 [N,K], before temperature, of uint8 crops [N,C,S,S]."""
    model.eval()
    parts = [model(normalise(part, crop)).float().cpu() for part in pixels.split(batch_size)]
    return torch.cat(parts).numpy()
