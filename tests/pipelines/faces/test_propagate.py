"""Following faces between detections: the faces of every frame, as the detector on every frame would find them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from mfer.errors import ConfigError
from pipelines.batches import Detections, FrameBatch
from pipelines.faces.detectors import Detector, load_detector
from pipelines.faces.finder import FaceFinder
from pipelines.faces.mtcnn import Mtcnn
from pipelines.faces.track import box_iou
from pipelines.settings import DetectorSettings, TrackerSettings, parse_min_face
from tests.faces import as_batch, astronaut, astronaut_face, carphone_faces, carphone_frames, exact

SETTINGS = DetectorSettings(min_face_px=36)


class CountingMtcnn(Mtcnn):
    """The real networks, and how many frames they were asked to search."""

    n_detections = n_of_large_faces = 0

    def detect(self, rgb: np.ndarray, min_prob: float | None = None, *, large_only: bool = False) -> Detections:
        self.n_detections += len(rgb)
        self.n_of_large_faces += large_only * len(rgb)
        return super().detect(rgb, min_prob, large_only=large_only)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector(SETTINGS)


def finder(settings: DetectorSettings = SETTINGS) -> tuple[FaceFinder, CountingMtcnn]:
    made = FaceFinder(settings, TrackerSettings(), "cpu")
    made.detector = counting = CountingMtcnn(settings, Mtcnn.networks(settings, "cpu"))
    return made, counting


def batches(rgb: np.ndarray, size: int = 16, fps: float = 30000 / 1001) -> Iterator[FrameBatch]:
    for first in range(0, len(rgb), size):
        yield as_batch(rgb[first : first + size], fps, first)


def find(rgb: np.ndarray, size: int = 16, settings: DetectorSettings = SETTINGS) -> tuple[Detections, np.ndarray, int]:
    """All faces (frame_row counts through the clip), their tracks, and the number of detections."""
    made, counting = finder(settings)
    rows, boxes, points, prob, tracks, index = [], [], [], [], [], []
    for frames, faces, track in made(batches(rgb, size)):
        index.append(frames.frame_index)
        rows.append(frames.frame_index[faces.frame_row])
        boxes.append(faces.box_xyxy_px)
        points.append(faces.landmarks_px)
        prob.append(faces.prob)
        tracks.append(track)
    assert np.concatenate(index).tolist() == list(range(len(rgb)))
    joined = (np.concatenate(parts) for parts in (rows, boxes, points, prob))
    return Detections(*joined), np.concatenate(tracks), counting.n_detections


def faces_per_frame(faces: Detections, n_frames: int) -> list[int]:
    return np.bincount(faces.frame_row, minlength=n_frames).tolist()


def landmark_errors(faces: Detections, reference: Detections) -> np.ndarray:
    """Mean landmark distance to the reference's face in the same place, in eye distances, per face of both."""
    errors = []
    for row in np.unique(reference.frame_row):
        ours, theirs = faces.frame_row == row, reference.frame_row == row
        iou = box_iou(reference.box_xyxy_px[theirs], faces.box_xyxy_px[ours])
        for i, points in enumerate(reference.landmarks_px[theirs]):
            if iou[i].max(initial=0) >= 0.4:
                distance = np.linalg.norm(faces.landmarks_px[ours][iou[i].argmax()] - points, axis=1).mean()
                errors.append(distance / np.linalg.norm(points[0] - points[1]))
    return np.array(errors)


def test_talking_man_is_found_in_every_frame_with_few_detections() -> None:
    faces, track, n_detections = find(carphone_frames())
    assert faces_per_frame(faces, 120) == [1] * 120
    assert set(track.tolist()) == {0}
    assert n_detections <= 10
    reference = carphone_faces()
    errors = landmark_errors(faces, reference)
    assert len(errors) == 120
    assert np.median(errors) < 0.05  # MTCNN itself moves by as much when the picture is shifted by one pixel


def test_batches_make_no_difference() -> None:
    clip = carphone_frames()[:40]
    whole, track, _ = find(clip, 40)
    for size in (1, 7):
        faces, numbers, _ = find(clip, size)
        for name in ("frame_row", "box_xyxy_px", "landmarks_px", "prob"):
            np.testing.assert_array_equal(getattr(faces, name), getattr(whole, name))
        assert numbers.tolist() == track.tolist()


def slide(positions: Iterable[int | None], every: int = 2) -> np.ndarray:
    """Frames [N,144,320,3]: the photograph's face with its left edge at each position, None for an empty frame.

    ``every`` so many pixels are taken: 2 gives a face of about 50 px.
    """
    side = 200 // every
    face = np.asarray(astronaut_face())[::every, ::every][:side, :side]
    rng = np.random.default_rng(0)
    background = rng.integers(90, 110, (144, 320, 3)).astype(np.uint8)
    frames = []
    for x in positions:
        frame = background.copy()
        if x is not None:
            left, right = max(x, 0), min(x + side, 320)
            frame[22 : 22 + side, left:right] = face[:, left - x : right - x]
        frames.append(frame)
    return np.stack(frames)


def test_a_face_that_enters_between_detections_is_there_from_its_first_frame_on() -> None:
    clip = slide([None] * 7 + [120 + i for i in range(33)])
    reference = exact(36).detect(clip)
    faces, track, n_detections = find(clip)
    assert reference.frame_row.tolist() == list(range(7, 40))
    assert faces.frame_row.tolist() == list(range(7, 40))
    assert set(track.tolist()) == {0}
    assert n_detections <= 6


def test_small_faces_are_looked_for_by_every_other_detection_and_lose_no_frame() -> None:
    clip = slide([None] * 6 + [max(320 - 2 * i, 220) for i in range(64)], every=3)  # a face of about 33 px
    reference = exact(36).detect(clip)
    made, counting = finder()
    found = [(frames.frame_index[faces.frame_row], track) for frames, faces, track in made(batches(clip))]
    rows, tracks = (np.concatenate(column) for column in zip(*found, strict=True))
    assert rows.tolist() == list(range(rows[0], 70))
    assert 0 <= reference.frame_row[0] - rows[0] <= 4  # O-Net alone also sees a face that is partly in the picture
    assert set(tracks.tolist()) == {0}
    assert (counting.n_detections, counting.n_of_large_faces) == (4, 1)  # at 0, 1 (without it), 2 s and at the end


def test_large_faces_are_found_alike_with_and_without_small_ones(detector: Detector) -> None:
    frame = np.asarray(astronaut())[None]
    every, large = detector.detect(frame), detector.detect(frame, large_only=True)
    assert len(every) == 1
    np.testing.assert_array_equal(large.landmarks_px, every.landmarks_px)
    small = np.ascontiguousarray(frame[:, ::4, ::4])  # a face of about 45 px, with 36 the smallest
    assert len(detector.detect(small)) == 1
    assert len(detector.detect(small, large_only=True)) == 0


def test_a_face_that_leaves_is_gone_at_once() -> None:
    clip = slide([60 + 2 * i for i in range(20)] + [None] * 25)
    faces, _, n_detections = find(clip)
    assert faces.frame_row.tolist() == list(range(20))
    assert n_detections <= 8


def test_a_fast_face_is_not_lost() -> None:
    clip = slide([10 + 9 * i for i in range(22)])  # nearly a fifth of its side per frame
    faces, track, _ = find(clip)
    assert faces_per_frame(faces, 22) == [1] * 22
    assert set(track.tolist()) == {0}
    nose = faces.landmarks_px[:, 2, 0]
    np.testing.assert_allclose(np.diff(nose), 9, atol=4)


def test_cuts_bring_detections_on_both_sides() -> None:
    man = carphone_frames()[:10]
    woman = np.ascontiguousarray(np.asarray(astronaut())[30:174, 130:306])
    dark = np.zeros_like(man[0])
    clip = np.concatenate([man, np.repeat(woman[None], 10, 0), np.repeat(dark[None], 5, 0), man[::-1]])
    faces, track, n_detections = find(clip)
    assert faces_per_frame(faces, 35) == [1] * 20 + [0] * 5 + [1] * 10
    assert track.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert n_detections <= 10


def test_frames_far_apart_are_all_searched() -> None:
    made, counting = finder()
    clip = carphone_frames()[::30]
    found = list(made([as_batch(clip, fps=1)]))
    assert sum(len(faces) for _, faces, _ in found) == 4
    assert counting.n_detections == 4


def test_no_frames_and_empty_batches_are_fine() -> None:
    made, _ = finder()
    assert list(made([])) == []
    empty = as_batch(carphone_frames()[:0])
    ((frames, faces, track),) = made([empty])
    assert (len(frames), len(faces), len(track)) == (0, 0, 0)


def test_detection_over_the_pyramid_agrees_with_the_package(detector: Detector) -> None:
    picture = np.array(astronaut())[None]
    ours, theirs = detector.detect(picture), exact(36).detect(picture)
    assert len(ours) == len(theirs) == 1
    assert box_iou(ours.box_xyxy_px, theirs.box_xyxy_px)[0, 0] > 0.85
    assert landmark_errors(ours, theirs)[0] < 0.05
    assert ours.prob[0] > 0.99


def test_a_frame_has_the_same_faces_whatever_its_neighbours(detector: Detector) -> None:
    frames = carphone_frames()[::20].copy()
    together = detector.detect(frames)
    alone = [detector.detect(frame[None]) for frame in frames]
    assert together.frame_row.tolist() == [row for row, faces in enumerate(alone) for _ in range(len(faces))]
    for name in ("box_xyxy_px", "landmarks_px", "prob"):
        np.testing.assert_allclose(
            getattr(together, name), np.concatenate([getattr(f, name) for f in alone]), atol=2e-3
        )


@pytest.mark.parametrize("shape", [(1, 1), (20, 400), (36, 36), (400, 20)])
def test_nothing_is_found_in_noise_of_any_shape(detector: Detector, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
    assert len(detector.detect(noise)) == 0


def test_smallest_face_is_in_pixels_or_a_share_of_the_frame() -> None:
    assert parse_min_face("60") == {"min_face_px": 60}
    assert parse_min_face("5%") == {"min_face_share": 0.05}
    with pytest.raises(ConfigError, match=r"'small'; give pixels, such as 60, or a share, such as 5%"):
        parse_min_face("small")
    assert DetectorSettings(min_face_px=20, min_face_share=0.05).smallest_px(720, 1280) == 36
    assert DetectorSettings(min_face_px=20, min_face_share=0.01).smallest_px(720, 1280) == 20
    picture = np.array(astronaut())[None]  # the face is about a fifth of its side
    assert len(load_detector(DetectorSettings(min_face_share=0.1)).detect(picture)) == 1
    assert len(load_detector(DetectorSettings(min_face_share=0.7)).detect(picture)) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "fast"}, "detection is 'fast'; allowed: tracked, exact"),
        ({"min_face_share": 1.0}, "smallest face is 100% of the frame"),
        ({"interval_s": -1.0}, "must be >= 0"),
        ({"keep_prob": 0.0}, "allowed: above 0, to 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorSettings(**wrong)
