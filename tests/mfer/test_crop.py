"""The crop contract: where points go, what pixels become, and that every road through it gives the same."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from mfer.card import CropContract
from mfer.crop import align_matrix, normalise, warp_faces
from mfer.errors import ConfigError
from tests.faces import astronaut, astronaut_face, exact

torch.set_num_threads(1)

#: MTCNN's points of the photograph: eyes, nose, mouth corners.
ASTRONAUT_PX = np.array([[[205.0, 101.7], [246.8, 103.7], [224.7, 129.0], [201.7, 139.2], [245.3, 141.9]]], np.float32)
IDENTITY = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)


def similarity(angle_deg, scale, shift):
    a, b = scale * np.cos(np.deg2rad(angle_deg)), scale * np.sin(np.deg2rad(angle_deg))
    return np.array(
        [
            [
                a,
                -b,
                shift[0],
            ],
            [b, a, shift[1]],
        ]
    )


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def crop_astronaut(crop, frame=None, landmarks=ASTRONAUT_PX):
    frame = astronaut() if frame is None else frame
    return warp_faces(frame.copy()[None], np.zeros(1, np.int64), align_matrix(landmarks, crop), crop)


def difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int))


# where points go


@pytest.mark.parametrize("template", ["ferplus_tight", "face_evolve"])
def test_turned_scaled_and_shifted_template_is_brought_back_exactly(template):
    crop = CropContract(template=template, side_px=64)
    frames = [similarity(a, s, t) for a in (-170, -30, 0, 45, 90) for s in (0.3, 1, 7) for t in ((0, 0), (300, -20))]
    landmarks = np.stack([apply(m, crop.template_px()) for m in frames])
    found = align_matrix(landmarks, crop)
    for matrix, points, frame in zip(found.astype(np.float64), landmarks, frames, strict=True):
        np.testing.assert_allclose(apply(matrix, points), crop.template_px(), atol=1e-3)
        np.testing.assert_allclose(matrix[:, :2] @ frame[:, :2], np.eye(2), atol=1e-6)


def test_other_landmarks_come_nearest_in_the_least_squares_sense():
    crop = CropContract(side_px=48)
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    x, y = points.T
    one, zero = np.ones(5), np.zeros(5)
    # (a, b, tx, ty) of x' = a x - b y + tx, y' = b x + a y + ty
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, tx, ty = np.linalg.lstsq(system, crop.template_px().T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(align_matrix(points[None], crop)[0], [[a, -b, tx], [b, a, ty]], rtol=1e-4, atol=1e-4)


def test_mirrored_landmarks_are_not_mirrored_back():
    crop = CropContract()
    mirrored = crop.template_px() * (-1, 1)
    assert np.linalg.det(align_matrix(mirrored[None], crop)[0, :, :2].astype(np.float64)) >= 0


def test_landmarks_on_one_point_give_a_finite_crop():
    crop = CropContract()
    out = crop_astronaut(crop, landmarks=np.full((1, 5, 2), 50, np.float32))
    assert out.shape == (1, 1, 48, 48)


@pytest.mark.parametrize("angle_deg", [0, 25, -60])
def test_turned_photograph_gives_the_same_upright_face(angle_deg):
    crop = CropContract(template="face_evolve", side_px=112, colour="rgb")
    turn = similarity(angle_deg, 1.4, (0, 0))
    turn[:, 2] = np.array([255.5, 255.5]) - turn[:, :2] @ [224, 120]  # the face goes to the middle
    back = np.linalg.inv(np.vstack([turn, [0, 0, 1]]))
    # Pillow's coordinates are those of pixel corners.
    half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    coefficients = (np.linalg.inv(half) @ back @ half)[:2].ravel()
    turned = Image.fromarray(astronaut()).transform(
        (512, 512), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    landmarks = apply(turn, ASTRONAUT_PX[0])[None].astype(np.float32)
    upright = crop_astronaut(crop)
    assert difference(crop_astronaut(crop, np.asarray(turned), landmarks), upright).mean() < 3
    assert upright.std() > 40


def test_detector_finds_the_face_of_a_crop_where_the_template_says():
    crop = CropContract(template="face_evolve", side_px=224, colour="rgb")
    face = crop_astronaut(crop)[0].transpose(1, 2, 0)  # [C,S,S] -> [S,S,C]
    found = exact().detect(np.ascontiguousarray(face[None]))
    off = np.linalg.norm(found.landmarks_px[0] - crop.template_px(), axis=1)
    eyes_px = np.linalg.norm(crop.template_px()[1] - crop.template_px()[0])
    assert off.max() < 0.2 * eyes_px  # no face is the mean face


# what pixels become


def test_identity_changes_nothing():
    crop = CropContract(side_px=200, colour="rgb")
    face = astronaut_face().copy()
    out = warp_faces(face[None], np.zeros(1, np.int64), IDENTITY, crop)[0]
    assert difference(out, face.transpose(2, 0, 1)).max() == 0


def test_grey_is_the_luma_of_pillow():
    crop = CropContract(side_px=200)
    out = warp_faces(astronaut_face().copy()[None], np.zeros(1, np.int64), IDENTITY, crop)
    luma = np.asarray(Image.fromarray(astronaut_face()).convert("L")).copy()
    assert difference(out[0, 0], luma).max() <= 1


def test_grey_picture_serves_a_colour_contract_in_three_equal_channels():
    grey = np.asarray(Image.fromarray(astronaut_face()).convert("L")).copy()[None, ..., None]
    out = warp_faces(grey, np.zeros(1, np.int64), IDENTITY, CropContract(side_px=200, colour="rgb"))
    assert (out[0, 0] == grey[0, ..., 0]).all()
    assert (out[0, 0] == out[0, 2]).all()


@pytest.mark.parametrize("block", [4, 9, 25])
def test_large_face_is_averaged_and_not_sampled(block):
    crop = CropContract(side_px=32)
    ys, xs = np.mgrid[:900, :900]
    board = (((xs + ys) % 2) * 255).astype(np.uint8)[..., None]
    matrix = np.array([[[1 / block, 0, 0], [0, 1 / block, 0]]], np.float32)
    out = warp_faces(board[None], np.zeros(1, np.int64), matrix, crop)
    assert out.min() > 115
    assert out.max() < 140


def test_large_and_small_picture_of_one_face_look_alike():
    crop = CropContract(side_px=48)
    large = Image.fromarray(astronaut()).resize((2048, 2048), Image.Resampling.BICUBIC)
    landmarks = (ASTRONAUT_PX + 0.5) * 4 - 0.5
    assert difference(crop_astronaut(crop, np.asarray(large), landmarks), crop_astronaut(crop)).mean() < 4


def test_border_repeats_outside_the_picture():
    crop = CropContract(side_px=64, colour="rgb")
    face = astronaut_face()[:64, :64].copy()
    matrix = IDENTITY + np.array([[[0, 0, 20], [0, 0, 0]]], np.float32)  # 20 columns left of the picture are wanted
    for frames in (face[None], [face]):
        out = warp_faces(frames, np.zeros(1, np.int64), matrix, crop)[0]
        assert (out[:, :, :20] == out[:, :, 20:21]).all()
        assert (out[:, :, 20] == face[:, 0].T).all()


def test_face_wholly_outside_the_picture_is_its_border():
    matrix = IDENTITY + np.array([[[0, 0, 5000], [0, 0, 0]]], np.float32)
    out = warp_faces(astronaut().copy()[None], np.zeros(1, np.int64), matrix, CropContract())
    assert out[0, 0].std(1).max() == 0


def test_normalised_pixels_have_the_mean_and_deviation_of_the_contract():
    crop = CropContract(mean=0.4, std=0.2)
    pixels = np.array([[[[0, 102, 255]]]], np.uint8)
    for out in (normalise(pixels, crop), normalise(torch.from_numpy(pixels), crop).numpy()):
        np.testing.assert_allclose(out.ravel(), [-2, 0, 3], atol=1e-6)


# every road gives the same


def scattered(n, crop):
    """Frames from faces of many sizes and turns, and their frames' rows."""
    rng = np.random.default_rng(0)
    matrix = np.stack(
        [similarity(a, s, (0, 0)) for a, s in zip(rng.uniform(-40, 40, n), rng.uniform(0.1, 2, n), strict=True)]
    )
    middle = rng.uniform(100, 400, (n, 2))
    matrix[:, :, 2] = (crop.side_px - 1) / 2 - np.einsum("fij,fj->fi", matrix[:, :, :2], middle)
    return matrix.astype(np.float32), np.sort(rng.integers(0, 3, n))


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_batch_equals_its_singles(colour):
    crop = CropContract(side_px=40, colour=colour)
    frames = np.stack([astronaut(), 255 - astronaut(), astronaut()[::-1]])
    matrix, rows = scattered(12, crop)
    together = warp_faces(frames, rows, matrix, crop)
    singles = np.concatenate([warp_faces(frames, rows[i : i + 1], matrix[i : i + 1], crop) for i in range(12)])
    assert difference(together, singles).max() <= 1
    assert difference(together, singles).mean() < 0.01


def test_list_of_frames_equals_a_stack():
    crop = CropContract(side_px=40)
    frames = np.stack([astronaut(), 255 - astronaut(), astronaut()[::-1]])
    matrix, rows = scattered(12, crop)
    assert (warp_faces(list(frames), rows, matrix, crop) == warp_faces(frames, rows, matrix, crop)).all()


def test_frames_may_differ_in_size():
    crop = CropContract(side_px=40)
    frames = [a.copy() for a in (astronaut(), astronaut()[:300], astronaut()[:, 40:])]
    landmarks = np.concatenate([ASTRONAUT_PX, ASTRONAUT_PX, ASTRONAUT_PX - np.array([40, 0], np.float32)])
    out = warp_faces(frames, np.arange(3), align_matrix(landmarks, crop), crop)
    assert difference(out, out[:1]).max() <= 1


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_tensors_are_cut_as_arrays_are(colour):
    crop = CropContract(side_px=40, colour=colour)
    frames = np.stack([astronaut(), 255 - astronaut(), astronaut()[::-1]])[:, :409, :403]  # no whole number of blocks
    matrix, rows = scattered(12, crop)
    arrays = warp_faces(frames, rows, matrix, crop)
    tensors = warp_faces(torch.from_numpy(frames.copy()), rows, matrix, crop)
    assert arrays.dtype == np.uint8
    assert difference(arrays, tensors).max() <= 1
    assert difference(arrays, tensors).mean() < 0.001


def test_small_pictures_take_a_shorter_road_to_the_same_crops():
    crop = CropContract(side_px=40)
    rng = np.random.default_rng(0)
    face = np.asarray(Image.fromarray(astronaut_face()).convert("L").resize((48, 48)))
    frames = torch.from_numpy(np.stack([face, face[::-1], 255 - face]))[..., None].contiguous()
    matrix = np.stack([similarity(a, 0.85, rng.uniform(-6, 6, 2)) for a in rng.uniform(-15, 15, 9)]).astype(np.float32)
    rows = np.repeat(np.arange(3), 3)
    short, long = warp_faces(frames, rows, matrix, crop), warp_faces(list(frames), rows, matrix, crop)
    assert difference(short, long).max() <= 1
    assert difference(short, long).mean() < 0.01


def test_no_faces_are_no_crops():
    frames = np.zeros((2, 30, 30, 3), np.uint8)
    out = warp_faces(frames, np.zeros(0, np.int64), np.zeros((0, 2, 3), np.float32), CropContract(colour="rgb"))
    assert out.shape == (0, 3, 48, 48)


# the contract


def test_crop_id_differs_where_the_crop_would():
    crop = CropContract()
    changed = {"template": "face_evolve", "side_px": 56, "colour": "rgb", "mean": 0.4, "std": 0.3}
    others = {dataclasses.replace(crop, **{k: v}).crop_id for k, v in changed.items()}
    assert len(others | {crop.crop_id}) == 6
    assert CropContract.from_dict(crop.to_dict()).crop_id == crop.crop_id


@pytest.mark.parametrize(("setting", "value"), [("template", "wide"), ("colour", "bgr"), ("side_px", 8)])
def test_unknown_setting_is_refused_with_what_is_allowed(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} is {value!r}; allowed: "):
        CropContract(**{setting: value})
    with pytest.raises(ConfigError, match="does not know the crop settings"):
        CropContract.from_dict({"margin": 3})


#: Every third pixel of the photograph's face at 16 px, once cut and looked at.
GOLDEN = {
    "ferplus_tight": [
        [93, 101, 118, 149, 99, 65],
        [93, 175, 173, 135, 50, 51],
        [54, 148, 168, 143, 117, 26],
        [146, 216, 190, 143, 182, 88],
        [213, 197, 191, 143, 159, 215],
        [2, 157, 212, 178, 149, 215],
    ],
    "face_evolve": [
        [172, 74, 139, 134, 93, 119],
        [101, 119, 113, 136, 68, 65],
        [74, 178, 196, 187, 95, 52],
        [112, 204, 198, 170, 164, 95],
        [210, 185, 182, 136, 139, 212],
        [17, 107, 207, 178, 174, 213],
    ],
}


@pytest.mark.parametrize("template", ["ferplus_tight", "face_evolve"])
def test_stored_pixels_give_the_crop_that_they_always_gave(template):
    out = crop_astronaut(CropContract(template=template, side_px=16))[0, 0]
    assert difference(out[::3, ::3], GOLDEN[template]).max() <= 1
