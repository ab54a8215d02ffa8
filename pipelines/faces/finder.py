"""Find and number the faces of frames: by a detector, or from the lake, where an earlier analysis found them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batches import Detections, FrameBatch
from pipelines.faces.detectors import DETECTORS, Detector, DetectorSettings, Networks, load_detector
from pipelines.faces.propagate import follow_faces
from pipelines.faces.rotation import Turn
from pipelines.faces.settings import TrackerSettings
from pipelines.faces.track import Tracker
from pipelines.profile import stage
from storage.schema import LANDMARKS, OBSERVATIONS

__all__ = ["FaceFinder", "FoundFaces", "StoredFaces"]

FoundFaces = tuple[FrameBatch, Detections, np.ndarray]


class FaceFinder:
    """Finds and numbers faces with a detector that is loaded once; each call handles one segment of one video.

    Args:
        detector, tracker: settings.
        device: where the detector's networks run.
        networks: the detector's networks, if another process has loaded them.
    """

    def __init__(
        self,
        detector: DetectorSettings,
        tracker: TrackerSettings,
        device: str = "cpu",
        networks: Networks | None = None,
    ) -> None:
        self.detector = load_detector(detector, device, networks)
        self._tracker = tracker

    @property
    def refiner(self) -> Detector | None:
        """The detector, if it can refine faces."""
        return self.detector if DETECTORS[self.detector.settings.name].follows else None

    def __call__(self, batches: Iterable[FrameBatch]) -> Iterator[FoundFaces]:
        """Yield every batch with its faces and their track numbers, int64 [F]; a batch may come some frames late."""
        tracker = Tracker(self._tracker)
        for frames, cuts, found in self._find(_with_cuts(batches, tracker)):
            faces = _as_stored(found)
            with stage("track"):
                numbers = tracker(frames, faces, cuts)
            yield frames, faces, numbers

    def _find(
        self, batches: Iterable[tuple[FrameBatch, np.ndarray]]
    ) -> Iterator[tuple[FrameBatch, np.ndarray, Detections]]:
        if self.detector.settings.mode == "tracked":
            yield from follow_faces(batches, self.detector)
            return
        for frames, cuts in batches:
            with stage("detect"):
                faces = self.detector.detect(frames.rgb)
            yield frames, cuts, faces


def _as_stored(faces: Detections) -> Detections:
    """Round faces as the lake does, so that scoring stored faces with the same model gives the same numbers."""

    def rounded(values: np.ndarray, column: str) -> np.ndarray:
        step = float(OBSERVATIONS.schema.field(column).metadata[b"step"])
        return np.round(values / step) * step

    return replace(
        faces,
        box_xyxy_px=rounded(faces.box_xyxy_px, "box_x1_px"),
        landmarks_px=rounded(faces.landmarks_px, "nose_x_px"),
        prob=rounded(faces.prob, "det_prob"),
    )


def _with_cuts(batches: Iterable[FrameBatch], tracker: Tracker) -> Iterator[tuple[FrameBatch, np.ndarray]]:
    for frames in batches:
        with stage("cuts"):
            cuts = tracker.cuts(frames)
        yield frames, cuts


class StoredFaces:
    """The faces of a finished analysis, so that a new model needs no detection.

    Args:
        rows: of ``observations``, by frame.
        turn: how the frames are turned.
    """

    def __init__(self, rows: pa.Table, turn: Turn) -> None:
        rows = rows.filter(pc.is_valid(rows["face_index"]))
        boxes = [f"box_{c}_px" for c in ("x1", "y1", "x2", "y2")]
        points = [f"{point}_{axis}_px" for point in LANDMARKS for axis in "xy"]
        self._faces = turn.faces(
            Detections(  # here, frame_row is the frame's number in the video
                rows["frame_index"].to_numpy(),
                np.stack([rows[name].to_numpy() for name in boxes], 1).astype(np.float32),
                np.stack([rows[name].to_numpy() for name in points], 1).astype(np.float32).reshape(-1, 5, 2),
                rows["det_prob"].to_numpy().astype(np.float32),
            )
        )
        self._track = rows["track"].to_numpy().astype(np.int64)

    def __call__(self, batches: Iterable[FrameBatch]) -> Iterator[FoundFaces]:
        """Yield every batch with its faces and their track numbers, int64 [F]."""
        for frames in batches:
            chosen = np.flatnonzero(np.isin(self._faces.frame_row, frames.frame_index))
            faces = self._faces[chosen]
            row = np.searchsorted(frames.frame_index, faces.frame_row).astype(np.int64)
            yield frames, replace(faces, frame_row=row), self._track[chosen]
