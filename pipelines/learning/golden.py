"""Two models on the same unlabelled faces: do they say the same, and which is quicker?"""

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
from pipelines.faces.mtcnn_reference import FaceDetector
from pipelines.remote import local_copy
from pipelines.scoring.scorer import Scorer
from pipelines.sources import find_videos
from pipelines.video.decode import decode, open_video

__all__ = ["compare_speed", "score_clips"]

#: Golden clips are looked at twice a second, where one frame differs from the next.
_FPS = 2.0
_BATCH_FRAMES = 4
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
    found = find_videos(clips)
    if found.problems or not found.videos:
        raise ConfigError(f"golden clips {', '.join(clips)}: {found.problems[0] if found.problems else 'no video'}")
    scorers = [Scorer(folder, device) for folder in (candidate, production)]
    detector = FaceDetector(device=device)
    prob: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for path in found.videos:
        with local_copy(path) as file:
            for batch in decode(open_video(file), fps=_FPS, batch_frames=_BATCH_FRAMES):
                faces = detector(batch.rgb)
                for scorer, kept in zip(scorers, prob, strict=True):
                    kept.append(scorer(scorer.align(batch, faces)).prob)
    scores = GoldenScores(*(np.concatenate(kept) for kept in prob))
    if not len(scores.candidate):
        raise ConfigError(f"golden clips {', '.join(clips)}: no face in {len(found.videos)} videos")
    return scores


def compare_speed(candidate: Path, production: Path, crops: Tensor, device: str = "cpu") -> Speed:
    """CPU seconds (on a GPU: seconds) of each model for the same crops uint8 [N,C,S,S], in turns."""
    few = crops[:_TIMED_FACES]
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
