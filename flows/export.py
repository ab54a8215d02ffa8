"""A model as ONNX, for runtimes other than PyTorch, checked on real faces before it is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

from flows.demo_clips import astronaut_path
from mfer.augment import Augmentation, Perturbation
from mfer.card import CropContract
from mfer.checkpoint import load_model
from mfer.crop import align_matrix, normalise, warp_faces
from mfer.errors import ModelError
from mfer.network import CalibratedMFER
from pipelines.faces.detectors import DetectorSettings, load_detector
from pipelines.scoring.onnx import export
from storage.files import whole_file

__all__ = ["export_onnx"]

_LARGEST_DIFFERENCE = 1e-4


def export_onnx(folder: Path, out: Path) -> float:
    """Write a model as ONNX, checked with ONNX Runtime against PyTorch on real faces.

    Input ``faces`` float32 [N,C,S,S], normalised as the crop contract says; output ``prob`` float32 [N,K], after
    temperature. The file's metadata holds model_id, class_names (JSON), crop (JSON) and licence.

    Returns:
        The greatest difference of a probability between the two, at most 1e-4.

    Raises:
        ConfigError: the photograph to check with (extra ``demo``) is missing.
        ModelError: the folder holds no sound model, or the exported one gives other probabilities.
    """
    model, card = load_model(folder)
    served = CalibratedMFER(model, card.temperature).eval()
    faces = normalise(_photographed_faces(card.crop), card.crop)
    with whole_file(out) as fresh:
        export(served, faces[:2], fresh, "faces", ["prob"])
        proto = onnx.load(fresh)
        facts = {"class_names": list(card.class_names), "crop": card.crop.to_dict()}
        texts = {"model_id": card.model_id, "licence": card.licence, **{k: json.dumps(v) for k, v in facts.items()}}
        onnx.helper.set_model_props(proto, texts)
        onnx.save(proto, fresh)
        difference = _greatest_difference(fresh, served, faces)
        if not difference <= _LARGEST_DIFFERENCE:
            raise ModelError(f"{card.model_id} as ONNX gives probabilities that differ by {difference:.1e}")
    return difference


def _photographed_faces(crop: CropContract) -> Tensor:
    """Crops of a real face, straight and in perturbed framings, uint8 [9,C,S,S]."""
    with Image.open(astronaut_path()) as image:
        frame = np.array(image.convert("RGB"))[None]
    faces = load_detector(DetectorSettings()).detect(frame)
    matrix = align_matrix(faces.landmarks_px[:1], crop).repeat(9, 0)
    perturbation = Perturbation.draw(Augmentation(), len(matrix) - 1, np.random.default_rng(0))
    matrix[1:] = perturbation.of_matrix(matrix[1:], crop)
    return torch.from_numpy(warp_faces(frame, np.zeros(len(matrix), np.int64), matrix, crop))


def _greatest_difference(path: Path, served: nn.Module, faces: Tensor) -> float:
    """The greatest difference of a probability, for all faces at once and for one alone."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = served(faces).numpy()
    batch, single = (session.run(None, {"faces": x.numpy()})[0] for x in (faces, faces[:1]))
    return float(max(np.abs(batch - expected).max(), np.abs(single - expected[:1]).max()))
