"""Score the faces of some clips without a lake: to compare models, and to check people who talk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfer.card import read_card
from mfer.errors import ConfigError
from pipelines.faces.detectors import DetectorSettings, load_detector
from pipelines.remote import local_copy
from pipelines.scoring.scorer import Scorer
from pipelines.sources import find_videos
from pipelines.video.decode import decode, open_video

__all__ = ["LeadingExpressions", "leading_expressions", "score_faces_of"]

_BATCH_FRAMES = 4


def score_faces_of(
    clips: Sequence[str], models: Sequence[Path], device: str = "cpu", fps: float | None = None
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the path of each clip and, for each model, the probabilities float32 [F,K] of every face in its frames.

    Args:
        clips: files and folders of videos.
        models: their folders; each cuts faces out by its own contract.
        device: where detector and models run.
        fps: frames a second that are looked at; None takes every frame.

    Raises:
        ConfigError: no video is there.
        VideoError: a clip cannot be read.
    """
    found = find_videos(clips)
    if found.problems or not found.videos:
        raise ConfigError(f"{', '.join(clips)}: {found.problems[0] if found.problems else 'no video'}")
    scorers = [Scorer(folder, device) for folder in models]
    detector = load_detector(DetectorSettings(mode="exact"), device)
    for path in found.videos:
        prob: list[list[np.ndarray]] = [[] for _ in scorers]
        with local_copy(path) as file:
            for batch in decode(open_video(file), fps=fps, batch_frames=_BATCH_FRAMES):
                faces = detector.detect(batch.rgb)
                for scorer, kept in zip(scorers, prob, strict=True):
                    kept.append(scorer(scorer.align(batch, faces)).prob)
        yield str(path), [np.concatenate(kept) for kept in prob]


@dataclass(frozen=True)
class LeadingExpressions:
    """How often each of K expressions leads: counts int64 [V,K] of the faces in V clips, ``paths`` in their order."""

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    counts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Shares of all faces, and of surprise in each clip, as plain numbers."""
        surprise = self.class_names.index("surprise") if "surprise" in self.class_names else None
        n_faces = self.counts.sum(1)
        return {
            "n_faces": int(n_faces.sum()),
            "n_clips": len(self.paths),
            "shares": dict(zip(self.class_names, (self.counts.sum(0) / n_faces.sum()).tolist(), strict=True)),
            "surprise_by_clip": {}
            if surprise is None
            else {
                Path(path).name: float(self.counts[i, surprise] / n_faces[i])
                for i, path in enumerate(self.paths)
                if n_faces[i]
            },
        }

    def line(self) -> str:
        """One sentence for a terminal."""
        found = self.to_dict()
        shown = ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items() if share >= 0.001)
        worst = max(found["surprise_by_clip"].values(), default=0.0)
        faces = f"{found['n_faces']:,} faces of people who talk, in {found['n_clips']} clips"
        return f"{faces}: {shown}; surprise at most {worst:.0%} of a clip"


def leading_expressions(clips: Sequence[str], model: Path, device: str = "cpu") -> LeadingExpressions:
    """Count the leading expressions over every face of every frame of some clips.

    Of people who speak with a neutral face, what is not neutral is the model's mistake: open mouths look surprised.

    Raises:
        ConfigError: no video is there, or none of them shows a face.
        VideoError: a clip cannot be read.
    """
    class_names = read_card(model).class_names
    scored = list(score_faces_of(clips, [model], device))
    counts = np.array([np.bincount(prob.argmax(1), minlength=len(class_names)) for _, (prob,) in scored])
    if not counts.sum():
        raise ConfigError(f"{', '.join(clips)}: no face in {len(scored)} videos")
    return LeadingExpressions(class_names, tuple(path for path, _ in scored), counts)
