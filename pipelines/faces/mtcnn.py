"""The detector MTCNN: proposals on a shrunk pyramid and landmarks at full resolution, or the package as it is.

Large faces are averaged before they are sampled for O-Net; a frame's faces do not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from mfer.card import CropContract
from mfer.crop import warp_faces
from pipelines.batches import Detections
from pipelines.faces.detectors import DetectorSettings, Network, Networks
from pipelines.faces.mtcnn_networks import ONET_SIDE_PX, MtcnnNetworks, square, suppress

__all__ = ["Mtcnn"]

#: How O-Net's faces are cut; only the side, the colour and the averaging of large faces matter here.
_ONET_CROP = CropContract(side_px=ONET_SIDE_PX, colour="rgb")
#: Share of the smaller of two finished faces from which the weaker one is dropped.
_SAME_FACE_SHARE = 0.7


class Mtcnn:
    """MTCNN: in mode ``exact`` by the package, otherwise by the same networks over whole batches."""

    def __init__(self, settings: DetectorSettings, networks: Networks) -> None:
        self.settings = settings
        self._networks = networks

    @staticmethod
    def networks(settings: DetectorSettings, device: str) -> dict[str, Network]:
        """``look``, and ``detect`` (exact) or ``propose`` and ``propose_large`` (tracked)."""
        ours = MtcnnNetworks(settings, device)
        look = {"look": Network(ours.look, by_row=True)}
        if settings.mode == "exact":
            from pipelines.faces.mtcnn_reference import MtcnnReference  # late: it loads PyTorch

            return {**look, "detect": Network(MtcnnReference(settings, device))}
        return {**look, "propose": Network(ours.propose), "propose_large": Network(ours.propose_large)}

    def detect(self, rgb: np.ndarray, min_prob: float | None = None, *, large_only: bool = False) -> Detections:
        """Find the faces of every frame; see ``Detector``."""
        t, h, w, _ = rgb.shape
        if t == 0 or min(h, w) < self.settings.smallest_px(h, w):
            return Detections.empty()
        if self.settings.mode == "exact":
            faces = Detections(*self._networks["detect"](rgb))
            return faces if min_prob is None else faces[faces.prob > min_prob]
        row, box = self._networks["propose_large" if large_only else "propose"](rgb)
        return self.refine(rgb, row, box, min_prob)

    def refine(
        self, rgb: np.ndarray, frame_row: np.ndarray, box_xyxy_px: np.ndarray, min_prob: float | None = None
    ) -> Detections:
        """Find the faces near some boxes, by O-Net alone; see ``Detector``."""
        if not len(box_xyxy_px):
            return Detections.empty()
        region = square(box_xyxy_px.astype(np.float64))
        low, side = region[:, :2] - 1, region[:, 2:] - region[:, :2] + 1  # boxes name first and last pixel, from 1
        matrix = np.zeros((len(region), 2, 3), np.float32)
        scale = ONET_SIDE_PX / side
        matrix[:, (0, 1), (0, 1)] = scale
        matrix[:, :, 2] = (0.5 - low) * scale - 0.5
        crops = warp_faces(rgb, frame_row, matrix, _ONET_CROP)
        offset, points, prob = self._networks["look"](crops)
        landmarks = np.stack([points[:, :5], points[:, 5:]], 2) * side[:, None] + low[:, None]
        moved = region + offset * np.tile(side, 2)
        keep = np.flatnonzero(prob > (self.settings.min_prob if min_prob is None else min_prob))
        chosen = keep[suppress(moved[keep], prob[keep], frame_row[keep], _SAME_FACE_SHARE, of_smaller=True)]
        area = (moved[chosen, 2:] - moved[chosen, :2]).prod(1)
        chosen = chosen[np.lexsort((-area, frame_row[chosen]))]
        return Detections(
            frame_row[chosen].astype(np.int64),
            moved[chosen].astype(np.float32),
            landmarks[chosen].astype(np.float32),
            prob[chosen].astype(np.float32),
        )
