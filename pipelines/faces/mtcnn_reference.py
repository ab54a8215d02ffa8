"""Faces and five landmarks with facenet-pytorch's MTCNN as it is, on every frame: the reference."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.batches import Detections
from pipelines.settings import DetectorSettings

__all__ = ["FaceDetector"]


class FaceDetector:
    """MTCNN (Zhang et al. 2016, doi 10.1109/LSP.2016.2603342) with facenet-pytorch's weights.

    Args:
        settings: smallest face, thresholds and pyramid.
        device: where the three networks run.
    """

    def __init__(self, settings: DetectorSettings | None = None, device: str | torch.device = "cpu") -> None:
        from facenet_pytorch import MTCNN  # late: it loads torchvision, two seconds that ``tracked`` does without

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
        from facenet_pytorch.models.utils.detect_face import detect_face

        t, h, w, _ = rgb.shape
        smallest_px = self.settings.smallest_px(h, w)
        if t == 0 or min(h, w) < smallest_px:
            return Detections.empty()
        boxes, landmarks = detect_face(
            rgb,
            smallest_px,
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
