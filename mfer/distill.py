"""Distillation: teachers' predictions for fixed views of each face, computed once, and learned beside the votes.

Source: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent" (arXiv:2106.05237):
teacher and student see the same view of a face, and the schedule is long. The views are fixed, so that a teacher is
asked once for each and its answers can be kept (Shen and Xing 2022, "A Fast Knowledge Distillation Framework for
Visual Recognition", arXiv:2112.01528).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mfer.augment import Augmentation, Perturbation
from mfer.card import Card
from mfer.checkpoint import load_model
from mfer.crop import align_matrix, warp_faces
from mfer.errors import ConfigError
from mfer.network import ExpressionNetwork
from mfer.precision import fast_bfloat16
from mfer.prepared import PreparedFaces

__all__ = ["TeacherPredictions", "Views", "predict_views"]

#: Of the fixed views; not the run's seed, so that runs share a teacher's answers.
_SEED = 20
_AT_ONCE = 64


@dataclass(frozen=True)
class Views:
    """Fixed perturbations of N faces: view v of face i is the same in every epoch, for teacher and student.

    But the teacher sees each face sharp: what can be seen of an expression in a sharp picture is what the student is
    to find in a blurred or small one.
    """

    augmentation: Augmentation
    n_views: int
    n_faces: int

    @cached_property
    def _drawn(self) -> Perturbation:
        return Perturbation.draw(self.augmentation, self.n_views * self.n_faces, np.random.default_rng(_SEED))

    def of(self, rows: np.ndarray, view: np.ndarray | int) -> Perturbation:
        """The perturbation of each of the faces ``rows`` in its view."""
        return self._drawn.take(view * self.n_faces + rows)

    def sharp(self) -> Views:
        """The same without blur and lost resolution."""
        return replace(self, augmentation=replace(self.augmentation, blur=0.0, low_resolution=0.0))


@dataclass(frozen=True, repr=False)
class TeacherPredictions:
    """Teachers' predictions: log_prob float16 [V,N,K], the logarithm of their mean probabilities of each view, of faces
    that are distributed as the training faces are (whatever a teacher's own ``logit_adjustment`` was);
    labelled bool [N], false where nothing else is known of the face."""

    views: Views
    log_prob: np.ndarray
    labelled: np.ndarray

    def probabilities(self, rows: np.ndarray, view: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """float32 [n,K], softened by the temperature."""
        logits = self.log_prob[view, rows].astype(np.float32) / temperature
        prob = np.exp(logits - logits.max(1, keepdims=True))
        return prob / prob.sum(1, keepdims=True)


def predict_views(
    teachers: Sequence[Path],
    faces: PreparedFaces,
    labelled: np.ndarray,
    views: Views,
    cache: Path,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TeacherPredictions:
    """Each teacher's predictions for each view of each face, computed or read from the cache.

    Args:
        teachers: folders of models with the classes of the faces, in their order.
        faces: N faces to learn from, as the student's trainer gets them.
        labelled: bool [N], false where nothing but the teachers' predictions is known.
        views: the perturbations.
        cache: folder for the answers; a killed run goes on from them.
        threads: CPU threads.
        progress: called with (answers, answers in all).

    Raises:
        ConfigError: no teacher, or one with other classes.
        ModelError: a folder holds no sound model.
    """
    if not teachers:
        raise ConfigError("distillation has no teachers; name at least one model's folder")
    loaded = [load_model(folder) for folder in teachers]
    seen = views.sharp()
    for _, card in loaded:
        if card.class_names != faces.faces.class_names:
            raise ConfigError(
                f"teacher {card.model_id} tells {', '.join(card.class_names)} apart and the faces have"
                f" {', '.join(faces.faces.class_names)}; train the teacher on the same classes"
            )
    cache.mkdir(parents=True, exist_ok=True)
    total = len(loaded) * views.n_views * len(faces)
    mean = np.zeros((views.n_views, len(faces), len(faces.faces.class_names)), np.float32)
    for at, (network, card) in enumerate(loaded):
        answers = _Answers(cache, card, faces, seen)
        before = at * views.n_views * len(faces)

        def show(n: int, before: int = before) -> None:
            if progress:
                progress(before + n, total)

        answers.complete(network, threads, show)
        scaled = torch.from_numpy(answers.stored.astype(np.float32)) / card.temperature
        scaled += torch.from_numpy(card.log_share_left_out().astype(np.float32))
        mean += torch.softmax(scaled, 2).numpy() / len(loaded)
    return TeacherPredictions(views, np.log(np.maximum(mean, 1e-6)).astype(np.float16), labelled)


class _Answers:
    """The logits of one teacher in a file float16 [V,N,K], NaN where it is not computed yet."""

    def __init__(self, cache: Path, card: Card, faces: PreparedFaces, views: Views) -> None:
        self.card, self.faces, self.views = card, faces, views
        shape = (views.n_views, len(faces), len(card.class_names))
        path = cache / f"predictions-{_fingerprint(card, faces, views)}.npy"
        if not path.is_file():
            fresh = path.with_suffix(".new")
            np.save(fresh.with_suffix(".new.npy"), np.full(shape, np.nan, np.float16))
            fresh.with_suffix(".new.npy").replace(path)
        self.stored = np.lib.format.open_memmap(path, mode="r+")

    def complete(self, network: ExpressionNetwork, threads: int, progress: Callable[[int], None]) -> None:
        """Compute what is missing. ``progress`` is called with the number of faces done."""
        network.mirror = False  # half of the views are mirror images
        crop = self.card.crop
        matrix = align_matrix(self.faces.landmarks_px, crop)
        missing = [
            (view, rows)
            for view in range(self.views.n_views)
            for rows in np.array_split(np.arange(len(self.faces)), -(-len(self.faces) // _AT_ONCE))
            if np.isnan(self.stored[view, rows]).any()
        ]
        done = self.stored.shape[0] * self.stored.shape[1] - sum(len(rows) for _, rows in missing)

        @torch.inference_mode()
        def answer(work: tuple[int, np.ndarray]) -> np.ndarray:
            view, rows = work
            drawn = self.views.of(rows, view)
            pixels = warp_faces(self.faces.pictures, rows, drawn.of_matrix(matrix[rows], crop), crop)
            x = drawn.of_pixels(pixels.float().div_(255), np.random.default_rng([_SEED, view, int(rows[0])]))
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16(torch.device("cpu"))):
                return network((x - crop.mean) / crop.std).float().numpy()

        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for (view, rows), logits in zip(missing, pool.map(answer, missing), strict=True):
                self.stored[view, rows] = logits
                done += len(rows)
                progress(done)
        self.stored.flush()


def _fingerprint(card: Card, faces: PreparedFaces, views: Views) -> str:
    """Differs where the teacher, the faces or their views do."""
    seen = asdict(replace(views.augmentation, mixup=0.0, open_mouth=0.0))
    digest = hashlib.sha256(json.dumps([card.model_id, card.crop.crop_id, seen, views.n_views, _SEED]).encode())
    digest.update(np.ascontiguousarray(faces.landmarks_px).data)
    for picture in faces.pictures:
        digest.update(picture.numpy().tobytes())
    return digest.hexdigest()[:24]
