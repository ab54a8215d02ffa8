"""dlib's face network in ONNX Runtime: once it is exported, comparing faces loads no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mfer.card import IDENTITY_CROP
from mfer.pretrained.files import DLIB_SHA256, dlib_file
from pipelines.scoring.onnx import OnnxNet, load_or_export

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_identity"]

#: More faces at once are no quicker.
_ROWS_AT_ONCE = 8


def load_identity() -> OnnxNet:
    """The network from crops uint8 [F,3,150,150] to embeddings float32 [F,128].

    It comes from the user's cache, and is exported there the first time.

    Raises:
        ConfigError: the file of dlib's network is missing or not the published one.
    """
    dlib_file()
    example = np.zeros((2, IDENTITY_CROP.channels, IDENTITY_CROP.side_px, IDENTITY_CROP.side_px), np.uint8)
    return load_or_export(f"dlib-{DLIB_SHA256[:24]}", _module, example, ["embedding"], rows_at_once=_ROWS_AT_ONCE)


def _module() -> nn.Module:
    from mfer.pretrained.identity import FaceIdentity

    return FaceIdentity()
