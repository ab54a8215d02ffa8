"""Faces and five landmarks with facenet-pytorch's MTCNN as it is, on every frame: the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mfer.errors import ConfigError
from pipelines.batches import Detections

__all__ = ["ALGORITHM_VERSION", "DETECT_MODES", "DetectorSettings", "FaceDetector", "parse_min_face"]

#: Raised when the same settings would give other faces: it is part of faces_id.
ALGORITHM_VERSION = 1
#: Side of the smallest window that MTCNN's proposal network looks through, in pixels.
_PNET_SIDE_PX = 12
DETECT_MODES = ("tracked", "exact")


@dataclass(frozen=True)
class DetectorSettings:
    """How faces are found.

    ``min_face_px`` is the smallest face side looked for, or ``min_face_share`` of the frame's shorter side where
    that is larger; the time of a detection falls with its square. The three ``thresholds`` and the ``pyramid_factor``
    are MTCNN's own.

    ``mode`` ``exact`` runs the package on every frame. ``tracked`` detects every ``interval_s`` seconds, at cuts, and
    ``refresh_s`` seconds after a face was lost, and follows the faces in between with MTCNN's last network, which has
    to give a followed face the probability ``keep_prob``; see ``pipelines/follow.py`` and docs/performance.md.
    """

    min_face_px: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    pyramid_factor: float = 0.709
    mode: str = "tracked"
    min_face_share: float = 0.0
    interval_s: float = 1.0
    refresh_s: float = 0.2
    keep_prob: float = 0.5

    def __post_init__(self) -> None:
        if self.min_face_px < _PNET_SIDE_PX:
            raise ConfigError(f"the smallest face is {self.min_face_px} px; MTCNN sees none below {_PNET_SIDE_PX} px")
        if not 0 <= self.min_face_share < 1:
            raise ConfigError(
                f"the smallest face is {self.min_face_share:.0%} of the frame; allowed: 0 % to below 100 %"
            )
        if self.mode not in DETECT_MODES:
            raise ConfigError(f"detection is {self.mode!r}; allowed: {', '.join(DETECT_MODES)}")
        if not (self.interval_s >= 0 and self.refresh_s >= 0):
            raise ConfigError(
                f"detection every {self.interval_s} s, {self.refresh_s} s after a loss; both must be >= 0"
            )
        if not 0 < self.keep_prob <= 1:
            raise ConfigError(f"a followed face is kept from a probability of {self.keep_prob}; allowed: above 0, to 1")

    def smallest_px(self, height_px: int, width_px: int) -> float:
        """Side of the smallest face looked for in a frame of that size, in pixels."""
        return max(self.min_face_px, self.min_face_share * min(height_px, width_px))


def parse_min_face(text: str) -> dict[str, float]:
    """The smallest face as a person writes it, ``60`` (pixels) or ``5%`` (of the frame's shorter side), as settings."""
    number, share = text.removesuffix("%"), text.endswith("%")
    try:
        return {"min_face_share": float(number) / 100} if share else {"min_face_px": int(number)}
    except ValueError:
        raise ConfigError(f"the smallest face is {text!r}; give pixels, such as 60, or a share, such as 5%") from None


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
