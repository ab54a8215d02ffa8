"""Faces and five landmarks with facenet-pytorch's MTCNN, batched over frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import detect_face

from mfer.errors import ConfigError
from pipelines.batches import Detections

__all__ = ["ALGORITHM_VERSION", "DetectorSettings", "FaceDetector"]

#: Raised when the same settings would give other faces: it is part of faces_id.
ALGORITHM_VERSION = 1
#: Side of the smallest window that MTCNN's proposal network looks through, in pixels.
_PNET_SIDE_PX = 12


@dataclass(frozen=True)
class DetectorSettings:
    """``min_face_px`` is the smallest face side looked for; the three thresholds are MTCNN's own defaults."""

    min_face_px: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    pyramid_factor: float = 0.709

    def __post_init__(self) -> None:
        if self.min_face_px < _PNET_SIDE_PX:
            raise ConfigError(f"the smallest face is {self.min_face_px} px; MTCNN sees none below {_PNET_SIDE_PX} px")


class FaceDetector:
    """MTCNN (Zhang et al. 2016, doi 10.1109/LSP.2016.2603342) with facenet-pytorch's weights.

    Args:
        settings: smallest face, thresholds and pyramid.
        device: where the three networks run.
    """

    def __init__(self, settings: DetectorSettings | None = None, device: str | torch.device = "cpu") -> None:
        self.settings = settings or DetectorSettings()
        self.device = torch.device(device)
        self._nets = MTCNN(keep_all=True, device=self.device).eval()

    @torch.inference_mode()
    def __call__(self, rgb: torch.Tensor) -> Detections:
        """Find the faces of a batch of frames.

        Args:
            rgb: uint8 [T,H,W,3].

        Returns:
            Detections in frame pixels, by frame and then falling box area; empty where there is no face.
        """
        t, h, w, _ = rgb.shape
        if t == 0 or min(h, w) < self.settings.min_face_px:
            return Detections.empty()
        boxes, landmarks = detect_face(
            rgb,
            self.settings.min_face_px,
            self._nets.pnet,
            self._nets.rnet,
            self._nets.onet,
            list(self.settings.thresholds),
            self.settings.pyramid_factor,
            self.device,
        )
        rows: list[np.ndarray] = []
        found: list[np.ndarray] = []
        points: list[np.ndarray] = []
        for row in range(t):
            box = np.asarray(boxes[row], dtype=np.float32).reshape(-1, 5)
            area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
            order = np.argsort(-area, kind="stable")
            rows.append(np.full(len(box), row, dtype=np.int64))
            found.append(box[order])
            points.append(np.asarray(landmarks[row], dtype=np.float32).reshape(-1, 5, 2)[order])
        box = np.concatenate(found)
        return Detections(
            np.concatenate(rows),
            np.ascontiguousarray(box[:, :4]),
            np.concatenate(points),
            np.ascontiguousarray(box[:, 4]),
        )
