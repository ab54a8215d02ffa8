"""Heads that are turned by known angles: landmarks of synthetic ones, and a real face over a turned relief."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.head_pose import VIEWS, landmarks_of, synthetic_landmarks, turned_face
from pipelines.faces.head_pose import head_pose
from tests.faces import astronaut_face, carphone_faces, carphone_frames, exact


def test_a_synthetic_head_is_measured_as_it_was_turned() -> None:
    for view in VIEWS:
        for noise, mean_off_deg, most_off_deg in ((0.0, 3, 3), (0.025, 5, 20)):
            found = head_pose(synthetic_landmarks(500, *view, noise=noise, people=0.0))
            for angle, wanted in zip(found, view, strict=True):
                off = angle - wanted
                assert angle.dtype == np.float32
                assert abs(off.mean()) < 3
                assert np.abs(off).mean() < mean_off_deg
                assert np.abs(off).max() < most_off_deg


def test_size_place_and_tilt_do_not_matter_and_the_mirror_changes_the_sign_of_yaw() -> None:
    points = synthetic_landmarks(1, 20, 10)
    yaw, pitch = head_pose(points)
    for roll_deg in (-40, 15, 40):
        tilted = head_pose(3 * synthetic_landmarks(1, 20, 10, roll_deg=roll_deg) + 500)
        assert np.concatenate(tilted) == pytest.approx(np.concatenate([yaw, pitch]), abs=1.5)
    mirrored = (points * (-1, 1))[:, [1, 0, 2, 4, 3]]
    assert np.concatenate(head_pose(mirrored)) == pytest.approx(np.concatenate([-yaw, pitch]), abs=1e-3)


def test_what_cannot_be_trusted_has_no_angles() -> None:
    good = synthetic_landmarks(1, 10, 5)[0]
    turned, nodding, tilted = (
        synthetic_landmarks(1, *angles, roll_deg=roll)[0] for *angles, roll in ((75, 0, 0), (0, 60, 0), (0, 0, 60))
    )
    a_point, a_line = np.full((5, 2), 80.0), np.stack([np.linspace(0, 90, 5), np.linspace(0, 90, 5)], 1)
    swapped = good[[3, 4, 2, 0, 1]]  # mouth above eyes
    scattered = good + np.array([[25, 0], [0, 20], [-25, 10], [20, -15], [0, 20]])
    tiny = good / 60
    yaw, pitch = head_pose(np.stack([good, turned, nodding, tilted, a_point, a_line, swapped, scattered, tiny]))
    assert np.isfinite(yaw).tolist() == [True] + [False] * 8
    assert np.isfinite(pitch).tolist() == [True] + [False] * 8
    assert head_pose(np.zeros((0, 5, 2)))[0].shape == (0,)


@pytest.mark.parametrize("face", ["woman", "man in a car"])
def test_a_real_face_over_a_turned_relief_is_measured_beyond_its_frontal_view(face: str) -> None:
    rgb, points = carphone_frames()[0], carphone_faces().landmarks_px[0]
    if face == "woman":
        rgb = astronaut_face()
        points = landmarks_of(rgb, exact(36))
    assert points is not None

    def measured(yaw_deg: float, pitch_deg: float) -> np.ndarray:
        seen = landmarks_of(turned_face(rgb, points, yaw_deg, pitch_deg), exact(36))
        assert seen is not None
        return np.concatenate(head_pose(seen[None]))

    frontal = measured(0, 0)
    for view in ((15, 0), (-15, 0), (30, 0), (-30, 0), (0, 15), (0, -15)):
        off = np.abs(measured(*view) - frontal - view)
        assert off[0 if view[0] else 1] < 10
        assert off.max() < 14


def test_a_man_in_a_car_looks_about_him_but_not_far() -> None:
    yaw, pitch = head_pose(carphone_faces().landmarks_px)
    assert np.isfinite(yaw).mean() > 0.97
    assert abs(np.nanmedian(yaw)) < 10
    assert abs(np.nanmedian(pitch)) < 15
