"""Frames to numbered faces: followed, detected on every frame, or those that the lake has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipelines.batches import Detections, FrameBatch
from pipelines.faces.cascade import Cascade
from pipelines.faces.mtcnn import CascadeNets
from pipelines.faces.mtcnn_reference import FaceDetector
from pipelines.faces.propagate import follow_faces
from pipelines.faces.track import Tracker
from pipelines.profile import stage
from pipelines.settings import DetectorSettings, TrackerSettings
from storage.schema import LANDMARKS

__all__ = ["FaceFinder", "FaceNets", "FoundFaces", "StoredFaces"]

#: Boxes and landmarks are rounded as the lake stores them before anything is computed from them, so that scoring
#: stored faces with the same model gives the same numbers.
_PIXEL_STEP = 8
FoundFaces = tuple[FrameBatch, Detections, np.ndarray]


class FaceNets(CascadeNets, Protocol):
    """What finding faces asks of networks, wherever they run."""

    def detect(self, rgb: torch.Tensor) -> Detections:
        """``FaceDetector``'s call."""


class FaceFinder:
    """The networks of a detector, loaded once; each call is one segment of one video.

    Args:
        detector, tracker: settings.
        device: where the networks run.
        nets: networks that were loaded elsewhere, in place of own ones.
    """

    def __init__(
        self,
        detector: DetectorSettings,
        tracker: TrackerSettings,
        device: str | torch.device = "cpu",
        nets: FaceNets | None = None,
    ) -> None:
        self._tracker = tracker
        is_exact = detector.mode == "exact"
        self._exact = (nets.detect if nets else FaceDetector(detector, device)) if is_exact else None
        self._cascade = None if is_exact else Cascade(detector, device, nets)

    def __call__(self, batches: Iterable[FrameBatch]) -> Iterator[FoundFaces]:
        """Every batch with its faces and their track numbers, int64 [F]; some frames late."""
        tracker = Tracker(self._tracker)
        for frames, cuts, found in self._find(_with_cuts(batches, tracker)):
            faces = Detections(
                found.frame_row,
                np.round(found.box_xyxy_px * _PIXEL_STEP) / _PIXEL_STEP,
                np.round(found.landmarks_px * _PIXEL_STEP) / _PIXEL_STEP,
                found.prob,
            )
            with stage("track"):
                numbers = tracker(frames, faces, cuts)
            yield frames, faces, numbers

    def _find(
        self, batches: Iterable[tuple[FrameBatch, np.ndarray]]
    ) -> Iterator[tuple[FrameBatch, np.ndarray, Detections]]:
        if self._cascade is not None:
            yield from follow_faces(batches, self._cascade)
            return
        assert self._exact is not None
        for frames, cuts in batches:
            with stage("detect"):
                faces = self._exact(frames.rgb)
            yield frames, cuts, faces


def _with_cuts(batches: Iterable[FrameBatch], tracker: Tracker) -> Iterator[tuple[FrameBatch, np.ndarray]]:
    for frames in batches:
        with stage("cuts"):
            cuts = tracker.cuts(frames.rgb)
        yield frames, cuts


class StoredFaces:
    """The faces of a finished analysis, batch by batch, so that a new model needs no detector."""

    def __init__(self, rows: pa.Table) -> None:
        rows = rows.filter(pc.is_valid(rows["face_index"]))
        self._frame = rows["frame_index"].to_numpy()
        names = [f"box_{c}_px" for c in ("x1", "y1", "x2", "y2")]
        self._box = np.stack([rows[n].to_numpy() for n in names], 1).astype(np.float32)
        points = [f"{point}_{axis}_px" for point in LANDMARKS for axis in "xy"]
        self._landmarks = np.stack([rows[n].to_numpy() for n in points], 1).astype(np.float32).reshape(-1, 5, 2)
        self._prob = rows["det_prob"].to_numpy().astype(np.float32)
        self._track = rows["track"].to_numpy().astype(np.int64)

    def __call__(self, batches: Iterable[FrameBatch]) -> Iterator[FoundFaces]:
        """Every batch with its faces and their track numbers, int64 [F]."""
        for frames in batches:
            chosen = np.flatnonzero(np.isin(self._frame, frames.frame_index))
            row = np.searchsorted(frames.frame_index, self._frame[chosen])
            faces = Detections(row.astype(np.int64), self._box[chosen], self._landmarks[chosen], self._prob[chosen])
            yield frames, faces, self._track[chosen]
