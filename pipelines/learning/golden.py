"""Compare two models on the same unlabelled faces: their scores and their speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mfer.errors import ConfigError
from mfer.gate import GoldenScores, Speed
from pipelines.batches import AlignedFaces
from pipelines.learning.clips import score_faces_of
from pipelines.scoring.scorer import Scorer

__all__ = ["compare_speed", "score_clips"]

#: Golden clips are looked at twice a second, where one frame differs from the next.
_FPS = 2.0
#: Faces that are timed, and how often: the quickest round counts, because others only ever slow one down.
_TIMED_FACES = 256
_ROUNDS = 5


def score_clips(clips: Sequence[str], candidate: Path, production: Path, device: str = "cpu") -> GoldenScores:
    """Both models' probabilities of every face in some clips, each cut out by the model's own contract.

    Args:
        clips: files and folders of videos.
        candidate, production: folders of models with the same classes.
        device: where detector and models run.

    Raises:
        ConfigError: no video is there, or none of them shows a face.
        VideoError: a clip cannot be read.
    """
    scored = [prob for _, prob in score_faces_of(clips, (candidate, production), device, _FPS)]
    scores = GoldenScores(*(np.concatenate(prob) for prob in zip(*scored, strict=True)))
    if not len(scores.candidate):
        raise ConfigError(f"golden clips {', '.join(clips)}: no face in {len(scored)} videos")
    return scores


def compare_speed(candidate: Path, production: Path, crops: Tensor, device: str = "cpu") -> Speed:
    """CPU seconds (on a GPU: seconds) of each model for the same crops uint8 [N,C,S,S], in turns."""
    few = crops[:_TIMED_FACES].numpy()
    faces = AlignedFaces(few, np.tile(np.eye(2, 3, dtype=np.float32), (len(few), 1, 1)))
    scorers = [Scorer(folder, device) for folder in (candidate, production)]
    clock = time.process_time if torch.device(device).type == "cpu" else time.monotonic
    taken: tuple[list[float], list[float]] = ([], [])
    for scorer in scorers:
        scorer(faces)  # the first call prepares
    for _ in range(_ROUNDS):
        for scorer, times_s in zip(scorers, taken, strict=True):
            began = clock()
            scorer(faces)
            times_s.append(clock() - began)
    return Speed(*(min(times_s) for times_s in taken))
