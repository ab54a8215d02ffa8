from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mfer.card import CropContract
from mfer.crop import align_matrix, warp_faces
from mfer.errors import ConfigError
from pipelines.batches import AlignedFaces, Detections
from pipelines.faces.detectors import load_detector
from pipelines.faces.quality import QUALITY_CROP, FaceQuality, UprightCheck, measure_quality
from pipelines.settings import QualitySettings
from tests.faces import astronaut, carphone_faces, carphone_frames, exact


def measure(rgb: np.ndarray, faces: Detections, crop: CropContract = QUALITY_CROP, **limits: float) -> FaceQuality:
    matrix = align_matrix(faces.landmarks_px, crop)
    pixels = warp_faces(np.atleast_1d(rgb).copy(), faces.frame_row, matrix, crop)
    return measure_quality(faces, AlignedFaces(pixels, matrix), QualitySettings(**limits))


def woman() -> tuple[np.ndarray, Detections]:
    return astronaut()[None], exact().detect(astronaut().copy()[None])


def blurred(rgb: np.ndarray, factor: int) -> np.ndarray:
    """As from a camera with ``factor`` times fewer pixels, uint8 [T,H,W,3]."""
    pixels = torch.from_numpy(rgb.copy()).permute(0, 3, 1, 2).float()  # [T,H,W,3] -> [T,3,H,W]
    small = F.avg_pool2d(pixels, factor)
    large = F.interpolate(small, size=pixels.shape[2:], mode="bilinear")
    return large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def turned(faces: Detections, quarter_turns: int, side_px: int) -> Detections:
    """The faces of a square picture turned counter-clockwise, as numpy.rot90 turns it."""
    landmarks = faces.landmarks_px.copy()
    for _ in range(quarter_turns):
        landmarks = np.stack([landmarks[..., 1], side_px - 1 - landmarks[..., 0]], -1)
    return replace(faces, landmarks_px=landmarks)


def test_good_faces_are_ok() -> None:
    assert measure(*woman()).quality_ok.tolist() == [True]
    assert measure(carphone_frames(), carphone_faces()).quality_ok.mean() > 0.95


def test_size_is_the_side_of_the_box_in_frame_pixels() -> None:
    rgb, faces = woman()
    quality = measure(rgb, faces)
    x1, y1, x2, y2 = faces.box_xyxy_px[0]
    assert quality.face_px[0] == pytest.approx(np.sqrt((x2 - x1) * (y2 - y1)), rel=1e-6)
    assert 85 < quality.face_px[0] < 115
    assert measure(rgb, faces, min_face_px=85).quality_ok.all()
    assert not measure(rgb, faces, min_face_px=120).quality_ok.any()


@pytest.mark.parametrize("crop", [CropContract(), CropContract(side_px=112, colour="rgb")], ids=["grey 48", "rgb 112"])
def test_sharpness_falls_with_every_step_of_blur(crop: CropContract) -> None:
    rgb, faces = woman()
    steps = [float(measure(blurred(rgb, k), faces, crop).sharpness[0]) for k in (1, 4, 8, 16)]
    assert steps[0] > steps[1] > steps[2] > steps[3] > 0
    assert steps[0] > 4 * steps[2]


def test_a_very_blurred_face_is_not_ok() -> None:
    rgb, faces = woman()
    assert not measure(blurred(rgb, 16), faces).quality_ok.any()
    assert measure(blurred(rgb, 16), faces, min_sharpness=0).quality_ok.all()


def test_brightness_and_contrast_hardly_change_sharpness() -> None:
    rgb, faces = woman()
    plain = measure(rgb, faces).sharpness[0]
    for gain, offset in ((0.5, 0), (0.5, 100), (0.7, 20)):
        light = (rgb * gain + offset).astype(np.uint8)
        assert measure(light, faces).sharpness[0] == pytest.approx(plain, rel=0.1)


def test_brightness_is_the_mean_luma_in_any_crop() -> None:
    rgb, faces = woman()
    values = []
    for crop in (CropContract(), CropContract(side_px=112, colour="rgb")):
        plain = measure(rgb, faces, crop).brightness[0]
        assert plain.dtype == np.float32
        assert measure((rgb * 0.3).astype(np.uint8), faces, crop).brightness[0] == pytest.approx(0.3 * plain, abs=0.01)
        assert measure(np.full_like(rgb, 255), faces, crop).brightness[0] == pytest.approx(1)
        assert measure(np.zeros_like(rgb), faces, crop).brightness[0] == 0
        values.append(plain)
    assert 0.3 < values[0] < 0.8
    assert values[0] == pytest.approx(values[1], abs=0.01)


def test_a_flat_crop_has_no_sharpness() -> None:
    rgb, faces = woman()
    noise = np.random.default_rng(0).integers(100, 102, rgb.shape).astype(np.uint8)
    assert measure(np.zeros_like(rgb), faces).sharpness.tolist() == [0]
    assert measure(noise, faces).sharpness[0] < measure(rgb, faces).sharpness[0]


def test_yaw_changes_sign_in_the_mirror() -> None:
    rgb, faces = woman()
    mirrored = np.ascontiguousarray(rgb[:, :, ::-1])
    there, back = measure(rgb, faces), measure(mirrored, exact().detect(mirrored))
    assert abs(there.yaw_deg[0]) < 15
    assert there.yaw_deg[0] == pytest.approx(-back.yaw_deg[0], abs=5)
    assert there.pitch_deg[0] == pytest.approx(back.pitch_deg[0], abs=5)
    assert there.roll_deg[0] == pytest.approx(-back.roll_deg[0], abs=3)


def test_a_head_whose_nose_nears_an_eye_is_not_ok() -> None:
    rgb, faces = woman()
    left, right = faces.landmarks_px[0, 0], faces.landmarks_px[0, 1]
    for share, ok in ((0.0, True), (0.5, True), (0.7, False), (1.0, False), (-0.7, False)):
        landmarks = faces.landmarks_px.copy()
        landmarks[0, 2] = (left + right) / 2 + share * (right - left) / 2 + [0, 20]
        quality = measure(rgb, replace(faces, landmarks_px=landmarks), min_sharpness=0)
        assert quality.nose_offset[0] == pytest.approx(abs(share), abs=0.06)  # the eyes are not quite level
        assert quality.quality_ok.tolist() == [ok]


def test_roll_follows_the_head_and_the_nose_does_not() -> None:
    rgb, faces = woman()
    upright = measure(rgb, faces)
    assert abs(upright.roll_deg[0]) < 10
    for quarter_turns in (1, 2, 3):
        quality = measure(np.rot90(rgb, quarter_turns, (1, 2)), turned(faces, quarter_turns, 512))
        difference = (upright.roll_deg[0] - 90 * quarter_turns - quality.roll_deg[0] + 180) % 360 - 180
        assert difference == pytest.approx(0, abs=0.01)
        assert quality.nose_offset[0] == pytest.approx(upright.nose_offset[0], abs=1e-4)


def test_batch_equals_singles() -> None:
    faces = carphone_faces()
    whole = measure(carphone_frames(), faces)
    for face in (0, 50, len(faces) - 1):
        one = faces[[face]]
        single = measure(carphone_frames(), one)
        for name in ("face_px", "sharpness", "brightness", "yaw_deg", "pitch_deg", "roll_deg", "nose_offset"):
            values = getattr(whole, name)
            assert values.dtype == np.float32
            assert getattr(single, name)[0] == pytest.approx(values[face], rel=1e-4, abs=1e-5)


class CountingDetector:
    """The real detector, and how many crops it looked at."""

    def __init__(self) -> None:
        self._detector = load_detector()
        self.settings = self._detector.settings
        self.n_looks = 0

    def detect(self, rgb: np.ndarray, min_prob: float | None = None, *, large_only: bool = False) -> Detections:
        return self._detector.detect(rgb, min_prob)

    def refine(
        self, rgb: np.ndarray, frame_row: np.ndarray, box_xyxy_px: np.ndarray, min_prob: float | None = None
    ) -> Detections:
        self.n_looks += len(box_xyxy_px)
        return self._detector.refine(rgb, frame_row, box_xyxy_px, min_prob)


def aligned(faces: Detections) -> AlignedFaces:
    matrix = align_matrix(faces.landmarks_px, QUALITY_CROP)
    frames = carphone_frames().copy()
    return AlignedFaces(warp_faces(frames, faces.frame_row, matrix, QUALITY_CROP), matrix)


def test_only_faces_that_the_detector_is_not_sure_of_are_checked_and_once_per_occasion() -> None:
    faces = carphone_faces()[np.arange(0, 20)]
    sure, unsure = (replace(faces, prob=np.full(20, prob, np.float32)) for prob in (0.9999, 0.9))
    for occasion, shown, n_looks in (
        (None, sure, 0),
        (None, unsure, 20),
        (np.zeros((20, 2), np.int64), unsure, 1),
        (np.stack([np.zeros(20, np.int64), np.arange(20) // 5], 1), unsure, 4),
    ):
        detector = CountingDetector()
        quality = measure_quality(shown, aligned(shown), upright=UprightCheck(detector), occasion=occasion)
        assert detector.n_looks == n_looks
        assert quality.quality_ok.all()


def test_a_check_is_remembered_from_batch_to_batch() -> None:
    faces = carphone_faces()[np.arange(0, 20)]
    unsure = replace(faces, prob=np.full(20, 0.9, np.float32))
    detector = CountingDetector()
    check = UprightCheck(detector)
    for half in (np.arange(10), np.arange(10, 20)):
        measure_quality(unsure[half], aligned(unsure[half]), upright=check, occasion=np.zeros((10, 1), np.int64))
    assert detector.n_looks == 1


def test_tilted_heads_are_not_ok_beyond_the_limit() -> None:
    rgb, faces = woman()
    assert measure(rgb, faces, max_abs_roll_deg=10).quality_ok.all()
    assert not measure(rgb, faces, max_abs_roll_deg=1).quality_ok.any()


def test_no_faces_are_empty_measures() -> None:
    crop = QUALITY_CROP
    none = AlignedFaces(np.zeros((0, 1, crop.side_px, crop.side_px), np.uint8), np.zeros((0, 2, 3), np.float32))
    quality = measure_quality(Detections.empty(), none)
    assert len(quality) == 0
    assert quality.quality_ok.dtype == np.bool_
    assert quality.sharpness.dtype == quality.face_px.dtype == np.float32


def test_landmarks_on_one_point_give_finite_measures() -> None:
    rgb, faces = woman()
    quality = measure(rgb, replace(faces, landmarks_px=np.full((1, 5, 2), 9, np.float32)))
    for name in ("face_px", "sharpness", "brightness", "roll_deg", "nose_offset"):
        assert np.isfinite(getattr(quality, name)).all()
    assert np.isnan([quality.yaw_deg, quality.pitch_deg]).all()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_face_px is -1"):
        QualitySettings(min_face_px=-1)
