"""Whose face it is: dlib's face network as it was published, with its last matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from mfer.card import Architecture, CropContract
from mfer.pretrained.dlib_resnet import DlibResNet, read_dlib

__all__ = ["IDENTITY_CROP", "IDENTITY_DIM", "FaceIdentity"]

#: The faces that the network takes: about dlib's own chips.
IDENTITY_CROP = CropContract(template="dlib_chip", side_px=150, colour="rgb", mean=0.0, std=1.0)
IDENTITY_DIM = 128


class FaceIdentity:
    """Embeds faces so that two of one person lie near each other; dlib calls two faces one person's below 0.6.

    Raises:
        ConfigError: the file of dlib's network is missing or not the published one.
    """

    def __init__(self) -> None:
        state, self._matrix = read_dlib()
        self._network = DlibResNet(Architecture("dlib_resnet", in_channels=3, ds="none", multiscale=False)).eval()
        self._network.load_state_dict(state, strict=False)  # without the head of expressions

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Crops by ``IDENTITY_CROP``, uint8 [F,3,150,150], to embeddings float32 [F,128]."""
        return self._network.maps(pixels.float() / 255)[-1].mean((2, 3)) @ self._matrix
