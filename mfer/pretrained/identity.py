"""Whose face it is: dlib's face network as it was published, with its last matrix."""

from __future__ import annotations

from torch import Tensor, nn

from mfer.card import Architecture
from mfer.pretrained.dlib_resnet import DlibResNet, read_dlib

__all__ = ["FaceIdentity"]


class FaceIdentity(nn.Module):
    """Embeds faces so that two of one person lie near each other; dlib calls two faces one person's below 0.6.

    Raises:
        ConfigError: the file of dlib's network is missing or not the published one.
    """

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        state, matrix = read_dlib()
        self.network = DlibResNet(Architecture("dlib_resnet", in_channels=3, ds="none", multiscale=False))
        self.network.load_state_dict(state, strict=False)  # without the head of expressions
        self.register_buffer("matrix", matrix)
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Crops by ``mfer.card.IDENTITY_CROP``, uint8 [F,3,150,150], to embeddings float32 [F,128]."""
        return self.network.maps(pixels.float() / 255)[-1].mean((2, 3)) @ self.matrix
