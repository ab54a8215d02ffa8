from __future__ import annotations

import numpy as np
import pytest

from mfer.errors import ConfigError
from pipelines.batches import Detections
from pipelines.settings import DetectorSettings
from tests.faces import astronaut, astronaut_face, carphone_faces, carphone_frames, exact


def find(*pictures: np.ndarray, min_face_px: int = 20) -> Detections:
    return exact(min_face_px).detect(np.stack(pictures))


def test_box_and_landmarks_lie_on_the_face() -> None:
    faces = find(astronaut())
    assert len(faces) == 1
    assert faces.prob[0] > 0.99
    # read off the photograph by eye: pupils, tip of the nose, corners of the mouth
    seen = np.array([[205, 102], [246, 103], [225, 125], [202, 140], [245, 142]])
    assert np.abs(faces.landmarks_px[0] - seen).max() < 6
    x1, y1, x2, y2 = faces.box_xyxy_px[0]
    assert (x1 < seen[:, 0].min()) & (seen[:, 0].max() < x2) & (y1 < seen[:, 1].min()) & (seen[:, 1].max() < y2)


def test_eyes_are_left_and_right_as_the_picture_shows_them_also_in_a_mirror() -> None:
    plain, mirrored = (find(np.ascontiguousarray(p)) for p in (astronaut(), astronaut()[:, ::-1]))
    for faces in (plain, mirrored):
        assert faces.landmarks_px[0, 0, 0] < faces.landmarks_px[0, 1, 0]
    left_eye = 511 - mirrored.landmarks_px[0, 1]
    assert abs(left_eye[0] - plain.landmarks_px[0, 0, 0]) < 4


def test_a_face_is_found_in_every_frame_of_the_talking_man() -> None:
    faces = carphone_faces()
    assert set(faces.frame_row.tolist()) == set(range(120))
    assert len(faces) <= 122


def test_batch_equals_singles() -> None:
    frames = carphone_frames()[::15]
    batch = find(*frames)
    singles = [find(frame) for frame in frames]
    assert batch.frame_row.tolist() == [row for row, single in enumerate(singles) for _ in range(len(single))]
    # equal scores are tied in the detector's last suppression, and which of two near-equal boxes wins is then open
    for name in ("box_xyxy_px", "landmarks_px"):
        alone = np.concatenate([getattr(single, name) for single in singles])
        np.testing.assert_allclose(getattr(batch, name), alone, atol=1.0)
    np.testing.assert_allclose(batch.prob, np.concatenate([single.prob for single in singles]), atol=1e-4)


def test_frames_without_a_face_change_nothing_for_their_neighbours() -> None:
    black, white = np.zeros_like(astronaut()), np.full_like(astronaut(), 255)
    between = find(black, astronaut(), white, black)
    alone = find(astronaut())
    assert between.frame_row.tolist() == [1]
    np.testing.assert_allclose(between.box_xyxy_px, alone.box_xyxy_px, atol=1.0)
    np.testing.assert_allclose(between.landmarks_px, alone.landmarks_px, atol=1.0)


def test_several_faces_in_one_frame_come_largest_first() -> None:
    face = astronaut_face()
    small = np.zeros_like(face)
    small[:100, :100] = face[::2, ::2]
    tile = np.concatenate([np.concatenate([small, face], 1), np.concatenate([face, face[:, ::-1]], 1)], 0)
    faces = find(tile, np.zeros_like(tile), tile)
    assert faces.frame_row.tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    for row in (0, 2):
        boxes = faces.box_xyxy_px[faces.frame_row == row]
        sides = boxes[:, 2:] - boxes[:, :2]
        area = sides.prod(1)
        assert (np.diff(area) <= 0).all()
        assert area[3] < area[2] / 2
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert sorted((centres // 200).astype(int).tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert (centres[3] < 100).all()


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((144, 176, 3), np.uint8),
        np.full((144, 176, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (144, 176, 3), np.uint8),
        np.random.default_rng(1).integers(0, 256, (20, 400, 3), np.uint8),
        np.random.default_rng(2).integers(0, 256, (20, 20, 3), np.uint8),
        np.zeros((19, 300, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
    ],
    ids=["black", "white", "noise", "strip", "as small as a face", "lower than a face", "one pixel"],
)
def test_no_face_is_an_empty_result(frame: np.ndarray) -> None:
    for faces in (find(frame), find(frame, frame)):
        assert len(faces) == 0
        assert faces.box_xyxy_px.shape == (0, 4)
        assert faces.landmarks_px.shape == (0, 5, 2)


def test_an_empty_batch_is_an_empty_result() -> None:
    assert len(exact().detect(np.zeros((0, 144, 176, 3), np.uint8))) == 0


def test_a_face_cut_off_by_the_frame_does_no_harm() -> None:
    tight = astronaut()[62:172, 181:268]  # the box itself: proposals reach far outside
    half = astronaut()[:, :225]
    for picture in (tight, half, tight[:60], tight[:, :40]):
        faces = find(np.ascontiguousarray(picture))
        assert np.isfinite(faces.box_xyxy_px).all()
        assert np.isfinite(faces.landmarks_px).all()


def test_smallest_face_is_a_setting() -> None:
    small = np.ascontiguousarray(astronaut()[::2, ::2])  # the face is 49 px
    assert len(find(small, min_face_px=24)) == 1
    assert len(find(small, min_face_px=120)) == 0
    assert len(find(astronaut(), min_face_px=60)) == 1
    with pytest.raises(ConfigError, match=r"smallest face is 5 px.* 12 px"):
        DetectorSettings(min_face_px=5)


def test_colours_are_read_as_rgb() -> None:
    rgb, bgr = find(astronaut()), find(np.ascontiguousarray(astronaut()[..., ::-1]))
    assert rgb.prob[0] > bgr.prob[0]


def test_input_is_left_as_it_was() -> None:
    frame = astronaut_face().copy()[None]
    before = frame.copy()
    exact().detect(frame)
    assert (frame == before).all()
