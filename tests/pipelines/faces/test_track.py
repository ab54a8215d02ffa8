from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from mfer.errors import ConfigError
from pipelines.batches import Detections, FrameBatch
from pipelines.faces.track import Tracker, cut_scores
from pipelines.settings import TrackerSettings
from tests.faces import as_batch, astronaut, astronaut_face, carphone_faces, carphone_frames, exact

#: Where MTCNN puts eyes, nose and mouth corners of a frontal face, in box sides.
POINTS = np.array([[0.28, 0.36], [0.76, 0.38], [0.5, 0.61], [0.24, 0.7], [0.74, 0.73]])


def join(per_frame: Iterable[Sequence[tuple[float, float, float]]], seed: int = 0) -> Detections:
    """Detections of faces (centre x, centre y, side) with MTCNN's jitter, 1 % of the side, frame by frame."""
    random = np.random.default_rng(seed)
    rows, boxes, points = [], [], []
    for row, faces in enumerate(per_frame):
        for x, y, side in faces:
            corner = np.array([x, y]) - side / 2
            rows.append(row)
            boxes.append(np.concatenate([corner, corner + side]) + random.normal(0, side / 100, 4))
            points.append(corner + POINTS * side + random.normal(0, side / 100, (5, 2)))
    n = len(rows)
    return Detections(
        np.array(rows, np.int64),
        np.array(boxes, np.float32).reshape(n, 4),
        np.array(points, np.float32).reshape(n, 5, 2),
        np.ones(n, np.float32),
    )


def blank(n_frames: int, fps: float = 25.0, first_s: float = 0.0) -> FrameBatch:
    index = np.arange(n_frames, dtype=np.int64)
    rgb = np.zeros((n_frames, 32, 32, 3), np.uint8)
    return FrameBatch(rgb=rgb, frame_index=index, pts_s=first_s + index / fps, duration_s=np.full(n_frames, 1 / fps))


def cut(batch: FrameBatch, faces: Detections, size: int) -> Iterable[tuple[FrameBatch, Detections]]:
    """The same frames and faces in batches of a size."""
    for start in range(0, len(batch), size):
        part = slice(start, start + size)
        chosen = (faces.frame_row >= start) & (faces.frame_row < start + size)
        yield (
            FrameBatch(
                rgb=batch.rgb[part],
                frame_index=batch.frame_index[part],
                pts_s=batch.pts_s[part],
                duration_s=batch.duration_s[part],
            ),
            Detections(
                faces.frame_row[chosen] - start,
                faces.box_xyxy_px[chosen],
                faces.landmarks_px[chosen],
                faces.prob[chosen],
            ),
        )


def without(faces: Detections, frames: Iterable[int]) -> Detections:
    kept = ~np.isin(faces.frame_row, list(frames))
    return faces[kept]


def same_place_as_carphone() -> tuple[np.ndarray, Detections]:
    """The astronaut, framed so that her face lies where the talking man's is, uint8 [144,176,3]."""
    man = carphone_faces().box_xyxy_px[0]
    x, y = ((man[:2] + man[2:]) / 2).round().astype(int)
    woman = astronaut()[::2, ::2]  # face 49 px around (112, 58)
    picture = np.zeros((144, 176, 3), np.uint8)
    dx, dy = x - 112, y - 58
    rows, columns = np.clip(np.arange(144) - dy, 0, 255), np.clip(np.arange(176) - dx, 0, 255)
    picture[:] = woman[rows][:, columns]
    faces = exact().detect(picture[None])
    assert len(faces) == 1
    return picture, faces


@pytest.mark.parametrize("every", [1, 3, 15, 30], ids=["30 fps", "10 fps", "2 fps", "1 fps"])
def test_one_talking_man_is_one_track_at_any_sampling(every: int) -> None:
    sampled = np.arange(0, 120, every)
    kept = np.isin(carphone_faces().frame_row, sampled)
    everyone = carphone_faces()
    faces = Detections(
        everyone.frame_row[kept] // every, everyone.box_xyxy_px[kept], everyone.landmarks_px[kept], everyone.prob[kept]
    )
    numbers = Tracker()(as_batch(carphone_frames()[sampled], fps=30000 / 1001 / every), faces)
    assert numbers.dtype == np.int64
    assert (numbers == 0).mean() > 0.98


def test_batch_borders_make_no_difference() -> None:
    picture, woman = same_place_as_carphone()
    rgb = np.concatenate([carphone_frames()[:60], np.stack([picture] * 10), carphone_frames()[60:110]])
    man = carphone_faces()
    row = np.where(man.frame_row < 60, man.frame_row, man.frame_row + 10)
    both = np.concatenate([row, np.arange(60, 70)])
    order = np.argsort(both, kind="stable")
    faces = Detections(
        both[order],
        np.concatenate([man.box_xyxy_px, np.repeat(woman.box_xyxy_px, 10, 0)])[order],
        np.concatenate([man.landmarks_px, np.repeat(woman.landmarks_px, 10, 0)])[order],
        np.concatenate([man.prob, np.repeat(woman.prob, 10)])[order],
    )
    faces = without(faces, [*range(20, 30), *range(75, 119)])  # a short gap, and one that is too long
    faces = without(faces, range(120, 200))
    batch = as_batch(rgb)
    whole = Tracker()(batch, faces)
    assert set(whole.tolist()) == {0, 1, 2, 3}
    for size in (1, 7, 64):
        tracker = Tracker()
        assert np.concatenate([tracker(*part) for part in cut(batch, faces, size)]).tolist() == whole.tolist()


def test_a_hard_cut_ends_all_tracks_even_where_the_next_face_is_in_the_same_place() -> None:
    picture, woman = same_place_as_carphone()
    man = without(carphone_faces(), range(1, 120))
    tracker = Tracker()
    assert tracker(as_batch(carphone_frames()[:1]), man).tolist() == [0]
    assert tracker(as_batch(picture[None], first=1), woman).tolist() == [1]
    assert tracker(as_batch(picture[None], first=2), woman).tolist() == [1]
    assert tracker(as_batch(carphone_frames()[:1], first=3), man).tolist() == [2]


def test_a_cut_between_two_shots_that_look_alike_ends_the_track() -> None:
    """Another head in the same place before the same background."""
    picture, woman = same_place_as_carphone()
    man = carphone_frames()[:20]
    head = (slice(19, 110), slice(49, 126))
    other = man[19].copy()
    other[head] = picture[head]
    rgb = np.concatenate([man, np.repeat(other[None], 10, 0)])
    assert cut_scores(rgb)[0].max() < TrackerSettings().cut_threshold / 2
    faces = without(carphone_faces(), range(20, 120))
    per_row = np.arange(20, 30)
    faces = Detections(
        np.concatenate([faces.frame_row, per_row]),
        np.concatenate([faces.box_xyxy_px, np.repeat(woman.box_xyxy_px, 10, 0)]),
        np.concatenate([faces.landmarks_px, np.repeat(woman.landmarks_px, 10, 0)]),
        np.concatenate([faces.prob, np.repeat(woman.prob, 10)]),
    )
    whole = Tracker()(as_batch(rgb), faces)
    assert whole.tolist() == [0] * 20 + [1] * 10
    tracker = Tracker()
    assert np.concatenate([tracker(*part) for part in cut(as_batch(rgb), faces, 4)]).tolist() == whole.tolist()


def test_a_fade_through_black_ends_the_track() -> None:
    """Of a man into a woman in the same place; no two frames in a row differ much."""
    picture, woman = same_place_as_carphone()
    light = np.linspace(1, 0, 12, dtype=np.float32)[:, None, None, None]
    rgb = np.concatenate([carphone_frames()[:12] * light, picture[None] * light[::-1]]).astype(np.uint8)
    assert sorted(cut_scores(rgb)[0])[-2] < TrackerSettings().cut_threshold
    man, seen = without(carphone_faces(), range(8, 120)), np.arange(15, 24)
    faces = Detections(
        np.concatenate([man.frame_row, seen]),
        np.concatenate([man.box_xyxy_px, np.repeat(woman.box_xyxy_px, 9, 0)]),
        np.concatenate([man.landmarks_px, np.repeat(woman.landmarks_px, 9, 0)]),
        np.concatenate([man.prob, np.repeat(woman.prob, 9)]),
    )
    assert Tracker()(as_batch(rgb), faces).tolist() == [0] * 8 + [1] * 9


@pytest.mark.parametrize("times", [6, 12])
def test_pictures_that_a_file_repeats_are_no_stillness(times: int) -> None:
    """A recording of 10 or 5 frames per second in a file of 60: no cut is between its pictures."""
    repeated = np.repeat(carphone_frames()[:: times // 2], times, axis=0)
    assert not Tracker().cuts(as_batch(repeated, fps=60)).any()


@pytest.mark.parametrize(("gain", "lift"), [(2.0, 0), (1.5, 40), (0.4, 0)], ids=["flash", "pale flash", "light off"])
def test_another_light_ends_no_track(gain: float, lift: float) -> None:
    rgb = carphone_frames()[:30].astype(np.float32)
    rgb[12:14] = rgb[12:14] * gain + lift
    numbers = Tracker()(as_batch(rgb.clip(0, 255).astype(np.uint8)), without(carphone_faces(), range(30, 120)))
    assert set(numbers.tolist()) == {0}


def test_cut_scores_tell_a_cut_from_movement_flash_and_fade() -> None:
    threshold = TrackerSettings().cut_threshold
    moving, end = cut_scores(carphone_frames()[::30].copy())  # a second apart
    assert moving.dtype == np.float32
    assert moving[0] == 0
    assert moving.max() < threshold / 2
    picture, _ = same_place_as_carphone()
    assert cut_scores(picture[None], end)[0][0] > threshold
    still = astronaut_face().astype(np.float64)
    lit = np.stack([still, still * 1.7 + 20, still, still * 0.6, still * 0.4]).clip(0, 255).astype(np.uint8)
    assert cut_scores(lit)[0].max() < threshold
    dark = np.random.default_rng(0).integers(0, 4, (5, 64, 64, 3), np.uint8)
    assert cut_scores(dark)[0].max() < threshold


def test_cut_scores_work_on_frames_of_any_size() -> None:
    for height, width in ((1, 1), (5, 300), (1080, 1920)):
        scores, thumbnail = cut_scores(np.full((2, height, width, 3), 7, np.uint8))
        assert scores.tolist() == [0, 0]
        assert thumbnail is not None
    assert len(cut_scores(np.zeros((0, 8, 8, 3), np.uint8))[0]) == 0


def test_a_face_missed_for_a_short_time_comes_back_as_the_same_track() -> None:
    still = join([[(60, 60, 40)]] * 60)
    assert set(Tracker()(blank(60), without(still, range(10, 34)))) == {0}  # 0.96 s at 25 fps
    assert set(Tracker()(blank(60), without(still, range(10, 36)))) == {0, 1}  # 1.04 s
    patient = Tracker(TrackerSettings(max_gap_s=1.5))
    assert set(patient(blank(60), without(still, range(10, 36)))) == {0}


def test_the_gap_is_measured_in_time_not_frames() -> None:
    still = join([[(60, 60, 40)]] * 12)
    assert set(Tracker()(blank(12, fps=4), without(still, [5, 6, 7]))) == {0}
    assert set(Tracker()(blank(12, fps=4), without(still, [5, 6, 7, 8]))) == {0, 1}
    assert set(Tracker()(blank(12, fps=0.2), still)) == {0}  # a sample every five seconds, none of them missed
    assert set(Tracker()(blank(12, fps=0.2), without(still, [5]))) == {0, 1}


def test_a_hole_in_the_video_ends_no_track_that_was_seen_on_both_sides() -> None:
    still = join([[(60, 60, 40)]])
    tracker = Tracker()
    assert tracker(blank(1), still).tolist() == [0]
    assert tracker(blank(1, first_s=30), still).tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_faces_that_cross_keep_their_ids(seed: int) -> None:
    """Two equal faces walk through each other in 2 s; while one hides the other, only one is found."""
    paths = [((20 + 4 * t, 60.0, 40.0), (220 - 4 * t, 64.0, 40.0)) for t in range(50)]
    faces = join([[front] if abs(front[0] - back[0]) < 16 else [front, back] for front, back in paths], seed)
    numbers = Tracker()(blank(50), faces)
    centre = faces.box_xyxy_px[:, [0, 2]].mean(1)
    for row in (0, 49):
        x, number = centre[faces.frame_row == row], numbers[faces.frame_row == row]
        by_place = dict(zip((x > 120).tolist(), number.tolist(), strict=True))
        left, right = by_place[False], by_place[True]
        assert (left, right) == ((0, 1) if row == 0 else (1, 0))
    assert set(numbers) == {0, 1}


def test_real_faces_that_pass_each_other_keep_their_ids() -> None:
    front, back = (
        np.ascontiguousarray(face[10:170:2, 20:180:2]) for face in (astronaut_face(), astronaut_face()[:, ::-1])
    )
    rgb = np.full((30, 90, 320, 3), 96, np.uint8)
    for t, frame in enumerate(rgb):
        for face, x in ((back, 240 - 8 * t), (front, 8 * t)):
            frame[5:85, x : x + 80] = face
    faces = exact().detect(rgb)
    numbers = Tracker()(as_batch(rgb, fps=15), faces)
    centre = faces.box_xyxy_px[:, [0, 2]].mean(1)
    first, last = faces.frame_row == 0, faces.frame_row == 29
    assert sorted(numbers[first]) == sorted(numbers[last]) == [0, 1]
    walker = numbers[first][np.argmin(centre[first])]
    other = numbers[first][np.argmax(centre[first])]
    assert numbers[last][np.argmax(centre[last])] == walker
    assert numbers[last][np.argmin(centre[last])] == other


def test_fast_faces_are_followed_by_their_velocity() -> None:
    """From slow to 0.8 box sides per frame: without prediction consecutive boxes would hardly overlap."""
    x = 30 + np.cumsum(np.minimum(np.arange(40) * 1.5, 32.0))
    faces = join([[(float(at), 60.0, 40.0)] for at in x])
    assert set(Tracker()(blank(40), faces)) == {0}


def test_a_far_face_of_another_size_is_another_track() -> None:
    faces = join([[(60, 60, 40)], [(60, 60, 100)], [(160, 60, 40)]])
    assert Tracker()(blank(3), faces).tolist() == [0, 1, 2]


def test_numbers_start_at_zero_and_are_never_used_again() -> None:
    tracker = Tracker()
    assert tracker(blank(1), join([[(30, 30, 20), (90, 30, 20)]])).tolist() == [0, 1]
    assert tracker(blank(1, first_s=0.04), Detections.empty()).tolist() == []
    assert tracker(blank(1, first_s=5), join([[(30, 30, 20), (150, 30, 20)]])).tolist() == [2, 3]
    assert Tracker()(blank(1), join([[(30, 30, 20)]])).tolist() == [0]


def test_two_faces_never_share_a_number_in_one_frame() -> None:
    pair = [(60, 60, 40), (66, 62, 40)]
    faces = join([pair] * 20)
    numbers = Tracker()(blank(20), faces).reshape(20, 2)
    assert set(map(tuple, numbers.tolist())) == {(0, 1)}


def test_repeated_times_of_damaged_files_do_no_harm() -> None:
    batch = blank(4)
    batch = replace(batch, pts_s=np.array([0, 0.04, 0.04, 0.02]))
    assert Tracker()(batch, join([[(60, 60, 40)]] * 4)).tolist() == [0, 0, 0, 0]


def test_no_frames_and_no_faces_are_nothing() -> None:
    assert Tracker()(blank(0), Detections.empty()).shape == (0,)
    assert Tracker()(blank(3), Detections.empty()).dtype == np.int64


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_gap_s is -1"):
        TrackerSettings(max_gap_s=-1)
    with pytest.raises(ConfigError, match="min_iou is 2"):
        TrackerSettings(min_iou=2)
