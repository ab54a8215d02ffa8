"""Faces of a batch of frames by MTCNN's networks: proposals on a shrunk pyramid, landmarks at full resolution.

Large faces are averaged before they are sampled for O-Net; a frame's faces do not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mfer.card import CropContract
from mfer.crop import warp_faces
from pipelines.batches import Detections
from pipelines.faces.mtcnn import ONET_SIDE_PX, CascadeNets, Mtcnn, square, suppress
from pipelines.profile import stage
from pipelines.settings import DetectorSettings

__all__ = ["Cascade"]

#: How O-Net's faces are cut; only the side, the colour and the averaging of large faces matter here.
_ONET_CROP = CropContract(side_px=ONET_SIDE_PX, colour="rgb")
#: Share of the smaller of two finished faces from which the weaker one is dropped.
_SAME_FACE_SHARE = 0.7


class Cascade:
    """Detection from nothing, and O-Net alone near boxes that are known.

    Args:
        settings: smallest face, thresholds and pyramid.
        device: where the networks run.
        nets: networks that were loaded elsewhere, in place of own ones.
    """

    def __init__(
        self,
        settings: DetectorSettings | None = None,
        device: str | torch.device = "cpu",
        nets: CascadeNets | None = None,
    ) -> None:
        self.settings = settings or DetectorSettings()
        self._nets = nets or Mtcnn(self.settings, device)

    @torch.inference_mode()
    def detect(self, rgb: Tensor, threshold: float | None = None) -> Detections:
        """Every face of a batch.

        Args:
            rgb: uint8 [T,H,W,3], on any device.
            threshold: of O-Net's probability, in place of the third one.

        Returns:
            Detections in frame pixels, by frame and then falling box area.
        """
        t, h, w, _ = rgb.shape
        if t == 0 or min(h, w) < self.settings.smallest_px(h, w):
            return Detections.empty()
        with stage("detect"):
            row, box = self._nets.propose(rgb)
        return self.refine(rgb, row, box, threshold)

    @torch.inference_mode()
    def refine(
        self, rgb: Tensor, frame_row: np.ndarray, box_xyxy_px: np.ndarray, threshold: float | None = None
    ) -> Detections:
        """O-Net alone: the faces near some boxes.

        Args:
            rgb: uint8 [T,H,W,3].
            frame_row: int64 [F], the frame of each box.
            box_xyxy_px: float [F,4].
            threshold: of O-Net's probability, in place of the third one of the settings.

        Returns:
            The boxes in which O-Net sees a face, moved onto it, without doubles; as ``detect`` orders them.
        """
        if not len(box_xyxy_px):
            return Detections.empty()
        with stage("follow"):
            region = square(box_xyxy_px.astype(np.float64))
            low, side = region[:, :2] - 1, region[:, 2:] - region[:, :2] + 1  # boxes name first and last pixel, from 1
            matrix = np.zeros((len(region), 2, 3), np.float32)
            scale = ONET_SIDE_PX / side
            matrix[:, (0, 1), (0, 1)] = scale
            matrix[:, :, 2] = (0.5 - low) * scale - 0.5
            crops = warp_faces(rgb, frame_row, matrix, _ONET_CROP)
            offset, points, prob = self._nets.look(crops)
            landmarks = np.stack([points[:, :5], points[:, 5:]], 2) * side[:, None] + low[:, None]
            moved = region + offset * np.tile(side, 2)
            keep = np.flatnonzero(prob > (self.settings.thresholds[2] if threshold is None else threshold))
            chosen = keep[suppress(moved[keep], prob[keep], frame_row[keep], _SAME_FACE_SHARE, of_smaller=True)]
            area = (moved[chosen, 2:] - moved[chosen, :2]).prod(1)
            chosen = chosen[np.lexsort((-area, frame_row[chosen]))]
            return Detections(
                frame_row[chosen].astype(np.int64),
                moved[chosen].astype(np.float32),
                landmarks[chosen].astype(np.float32),
                prob[chosen].astype(np.float32),
            )
