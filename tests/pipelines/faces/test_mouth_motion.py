"""A mouth that moves by itself is told from a face that is moved, however frames are batched and cropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.speaking import moved
from mfer.card import CropContract
from mfer.crop import align_matrix, warp_faces
from pipelines.batches import AlignedFaces, Detections
from pipelines.faces.mouth_motion import MouthMotion
from storage.summary import SPEAKING_MOTION
from tests.faces import as_batch, astronaut_face, carphone_faces, carphone_frames, exact

FPS = 12.5


def motion(
    rgb: np.ndarray, faces: Detections, fps: float, batches: Sequence[int] = (), crop: CropContract | None = None
) -> np.ndarray:
    """Motion of one face per frame, cut into batches before the given frames."""
    crop = crop or CropContract()
    mouth, found = MouthMotion(crop), []
    for first, end in zip([0, *batches], [*batches, len(rgb)], strict=True):
        batch = as_batch(rgb[first:end], fps, first)
        here = faces[(faces.frame_row >= first) & (faces.frame_row < end)]
        some = Detections(here.frame_row - first, here.box_xyxy_px, here.landmarks_px, here.prob)
        matrix = align_matrix(some.landmarks_px, crop)
        crops = AlignedFaces(warp_faces(batch.rgb, some.frame_row, matrix, crop), matrix)
        found.append(mouth(batch, some, crops, np.zeros(len(some), np.int64)))
    return np.concatenate(found)


def opening_and_closing(n_frames: int) -> list[np.ndarray]:
    """The woman's face with a mouth that opens up to four times a second, unevenly."""
    points = exact(36).detect(as_batch(astronaut_face()[None]).rgb).landmarks_px[0]
    (x, y), wide = points[3:].mean(0), (points[4, 0] - points[3, 0]) / 3
    pictures = []
    for k in range(n_frames):
        high = 8 * abs(np.sin(2 * np.pi * 1.7 * k / FPS) * np.sin(2 * np.pi * 0.9 * k / FPS))
        picture = Image.fromarray(astronaut_face())
        ImageDraw.Draw(picture).ellipse((x - wide, y - high / 2, x + wide, y + high), (60, 20, 20))
        pictures.append(np.asarray(picture))
    return pictures


def shaken(pictures: Sequence[np.ndarray], seed: int = 0) -> tuple[np.ndarray, Detections]:
    """Each picture as the shaking camera shows it at its time, with the face that the detector finds there."""
    rgb = np.stack(list(moved(pictures, strength=0.7, seed=seed)))
    faces = exact(36).detect(as_batch(rgb).rgb)
    assert faces.frame_row.tolist() == list(range(len(rgb)))
    return rgb, faces


def speaking(found: np.ndarray) -> float:
    return float((found[np.isfinite(found)] > SPEAKING_MOTION).mean())


def test_a_mouth_that_moves_is_told_from_a_face_that_is_moved() -> None:
    n = 30
    assert speaking(motion(*shaken([astronaut_face()] * n), FPS)) < 0.1
    assert speaking(motion(*shaken(opening_and_closing(n)), FPS)) > 0.6


def test_a_man_speaks_in_the_second_half_of_his_clip() -> None:
    found = motion(carphone_frames(), carphone_faces(), 30000 / 1001)
    assert speaking(found[60:]) > 0.5 > speaking(found[:60])


def test_batches_and_the_models_crop_make_no_difference() -> None:
    rgb, faces = carphone_frames()[:24], carphone_faces()[np.arange(24)]
    whole = motion(rgb, faces, 30)
    assert np.isnan(whole).tolist() == [True] * 5 + [False] * 19  # nobody was seen 0.15 s before
    np.testing.assert_allclose(motion(rgb, faces, 30, (1, 2, 9, 20)), whole, rtol=1e-5)
    large = CropContract(side_px=112, colour="rgb", template="face_evolve")
    np.testing.assert_allclose(motion(rgb, faces, 30, (8,), large), whole, rtol=1e-5)


def test_faces_that_are_seen_too_seldom_have_no_motion() -> None:
    rgb, faces = carphone_frames()[:12], carphone_faces()[np.arange(12)]
    assert np.isfinite(motion(rgb, faces, 5)).sum() == 11
    assert np.isnan(motion(rgb, faces, 2)).all()
    away = faces[np.array([0, 1, 2, 11])]
    assert np.isnan(motion(rgb, away, 25)).all()
    assert motion(rgb, faces[:0], 25).shape == (0,)
