"""From an architecture's name to its network."""

from __future__ import annotations

from mfer.card import Architecture
from mfer.network import MFER, ExpressionNetwork
from mfer.pretrained.dlib_resnet import DlibResNet
from mfer.pretrained.faceres import FaceresMobileNet

__all__ = ["build_network"]

_PRETRAINED: dict[str, type[ExpressionNetwork]] = {
    "mfer_faceres": FaceresMobileNet,
    "faceres_mobilenet": FaceresMobileNet,
    "dlib_resnet": DlibResNet,
}


def build_network(architecture: Architecture) -> ExpressionNetwork:
    """The network that an architecture names, with random weights."""
    return _PRETRAINED.get(architecture.name, MFER)(architecture)
