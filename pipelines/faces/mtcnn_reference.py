"""Faces and five landmarks with facenet-pytorch's MTCNN as it is, on every frame: the reference."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.faces.detectors import DetectorSettings
from pipelines.faces.mtcnn_networks import PYRAMID_FACTOR, THRESHOLDS

__all__ = ["MtcnnReference"]


class MtcnnReference:
    """MTCNN (Zhang et al. 2016, doi 10.1109/LSP.2016.2603342) with facenet-pytorch's weights.

    Args:
        settings: smallest face and least probability.
        device: where the three networks run.
    """

    def __init__(self, settings: DetectorSettings, device: str | torch.device = "cpu") -> None:
        from facenet_pytorch import MTCNN  # late: it loads torchvision

        self.settings = settings
        self.device = torch.device(device)
        self._nets = MTCNN(keep_all=True, device=self.device).eval()

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray) -> tuple[np.ndarray, ...]:
        """Find the faces of a batch of frames, uint8 [T,H,W,3]: the four arrays of Detections."""
        from facenet_pytorch.models.utils.detect_face import detect_face

        boxes, landmarks = detect_face(
            torch.from_numpy(rgb),
            self.settings.smallest_px(*rgb.shape[1:3]),
            self._nets.pnet,
            self._nets.rnet,
            self._nets.onet,
            [*THRESHOLDS, self.settings.min_prob],
            PYRAMID_FACTOR,
            self.device,
        )
        rows: list[np.ndarray] = []
        found: list[np.ndarray] = []
        points: list[np.ndarray] = []
        for row in range(len(rgb)):
            box = np.asarray(boxes[row], dtype=np.float32).reshape(-1, 5)
            area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
            order = np.argsort(-area, kind="stable")
            rows.append(np.full(len(box), row, dtype=np.int64))
            found.append(box[order])
            points.append(np.asarray(landmarks[row], dtype=np.float32).reshape(-1, 5, 2)[order])
        box = np.concatenate(found)
        return (
            np.concatenate(rows),
            np.ascontiguousarray(box[:, :4]),
            np.concatenate(points),
            np.ascontiguousarray(box[:, 4]),
        )
