"""Faces cut out of frames by a crop contract."""

from __future__ import annotations

from mfer.card import CropContract
from mfer.crop import align_matrix, warp_faces
from pipelines.batches import AlignedFaces, Detections, FrameBatch

__all__ = ["align_faces"]


def align_faces(frames: FrameBatch, faces: Detections, crop: CropContract) -> AlignedFaces:
    """The faces as the contract shows them: their landmarks at its template."""
    matrix = align_matrix(faces.landmarks_px, crop)
    return AlignedFaces(warp_faces(frames.rgb, faces.frame_row, matrix, crop), matrix)
