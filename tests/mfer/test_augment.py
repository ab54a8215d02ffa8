"""Perturbations of maps and pixels: within their ranges, the same for the same seed, and none when switched off."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mfer.augment import Augmentation, Perturbation, give_mouths, mix
from mfer.card import CropContract
from mfer.crop import align_matrix, warp_faces
from tests.labelled import prepared_faces

torch.set_num_threads(1)

OFF = Augmentation(**dict.fromkeys((f for f in Augmentation.__dataclass_fields__ if f != "erase_side"), 0.0))
CROP = CropContract(side_px=40)


def only(**settings):
    return Augmentation(**{**vars(OFF), **settings})


def rng():
    return np.random.default_rng(0)


def perturb_matrix(matrix, crop, settings, rng):
    return Perturbation.draw(settings, len(matrix), rng).of_matrix(matrix, crop)


def perturb_pixels(pixels, settings, rng):
    return Perturbation.draw(settings, len(pixels), rng).of_pixels(pixels, rng)


@pytest.fixture(scope="module")
def faces():
    return prepared_faces(64)


@pytest.fixture(scope="module")
def matrix(faces):
    return align_matrix(faces.landmarks_px, CROP)


@pytest.fixture(scope="module")
def pixels(faces):
    return faces.crops(CROP).float() / 255


def centre_moves(before, after):
    """How far the point that was in the crop's centre has gone, in crop pixels [F,2]."""
    middle = (CROP.side_px - 1) / 2
    source = np.linalg.solve(before[:, :, :2].astype(float), (middle - before[:, :, 2]).astype(float)[..., None])
    return (after[:, :, :2] @ source)[..., 0] + after[:, :, 2] - middle


def test_everything_off_changes_nothing(matrix, pixels):
    np.testing.assert_allclose(perturb_matrix(matrix, CROP, OFF, rng()), matrix, atol=1e-5)
    assert torch.equal(perturb_pixels(pixels, OFF, rng()), pixels)


def test_flip_gives_the_mirror_image(faces, matrix):
    flipped = perturb_matrix(matrix, CROP, only(flip=1.0), rng())
    rows = np.arange(len(faces))
    mirrored = warp_faces(faces.pictures, rows, flipped, CROP)
    off = (mirrored.int() - faces.crops(CROP).flip(3).int()).abs()
    assert off.max() <= 1


def test_rotation_and_scale_stay_in_their_ranges_about_the_centre(matrix):
    after = perturb_matrix(matrix, CROP, only(rotate_deg=20.0, scale=0.2), rng())
    change = after[:, :, :2].astype(float) @ np.linalg.inv(matrix[:, :, :2].astype(float))
    angle = np.rad2deg(np.arctan2(change[:, 1, 0], change[:, 0, 0]))
    zoom = np.log(np.sqrt(np.linalg.det(change)))
    assert np.abs(angle).max() <= 20
    assert np.abs(angle).max() > 15
    assert np.abs(zoom).max() <= 0.2
    assert np.abs(zoom).max() > 0.15
    assert np.abs(centre_moves(matrix, after)).max() < 1e-3


def test_shift_moves_the_centre_by_a_share_of_the_side(matrix):
    moves = centre_moves(matrix, perturb_matrix(matrix, CROP, only(shift=0.1), rng()))
    assert np.abs(moves).max() <= 4 + 1e-4
    assert np.abs(moves).max() > 3


@pytest.mark.parametrize(
    "settings",
    [
        {"brightness": 0.3},
        {"contrast": 0.4},
        {"gamma": 0.4},
        {"blur": 1.0},
        {"low_resolution": 1.0},
        {"noise": 0.1},
        {"erase": 1.0},
    ],
    ids=lambda s: next(iter(s)),
)
def test_pixels_change_and_the_given_ones_do_not(pixels, settings):
    before = pixels.clone()
    out = perturb_pixels(pixels, only(**settings), rng())
    assert torch.equal(pixels, before)
    assert out.shape == pixels.shape
    assert out.isfinite().all()
    assert ((out - pixels).abs().amax((1, 2, 3)) > 0).float().mean() > 0.9


@pytest.mark.parametrize("settings", [{"blur": 1.0}, {"low_resolution": 1.0}], ids=["blur", "low resolution"])
def test_blur_and_lost_resolution_take_detail_and_keep_light(pixels, settings):
    out = perturb_pixels(pixels, only(**settings), rng())
    assert (out.diff(dim=3).abs().mean((1, 2, 3)) < pixels.diff(dim=3).abs().mean((1, 2, 3))).all()
    assert (out.mean((1, 2, 3)) - pixels.mean((1, 2, 3))).abs().max() < 0.02


def test_blur_is_the_same_share_of_a_face_at_every_size_of_the_crop():
    face = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    small, large = (F.interpolate(face, size=side, mode="bicubic").clamp(0, 1) for side in (48, 96))
    blurred = [perturb_pixels(x, only(blur=1.0), rng()) for x in (small, large)]
    assert (blurred[0] - small).abs().mean() > 0.01
    torch.testing.assert_close(F.avg_pool2d(blurred[1], 2), blurred[0], atol=0.03, rtol=0)


def test_erased_rectangle_has_the_face_s_mean_and_the_rest_is_untouched(pixels):
    out = perturb_pixels(pixels, only(erase=1.0, erase_side=0.5), rng())
    changed = out != pixels
    assert (changed.float().mean((1, 2, 3)) <= 0.3).all()
    filled = torch.where(changed, out, pixels.mean((1, 2, 3), keepdim=True))
    torch.testing.assert_close(filled, pixels.mean((1, 2, 3), keepdim=True).expand_as(filled))


def test_same_seed_gives_the_same_and_another_seed_does_not(matrix, pixels):
    settings = Augmentation(mixup=0.4)
    for function, given in ((perturb_pixels, (pixels, settings)), (perturb_matrix, (matrix, CROP, settings))):
        first, again, other = (np.asarray(function(*given, np.random.default_rng(seed))) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 0


def test_mixed_faces_and_targets_are_mixed_by_the_same_share(pixels):
    target = torch.eye(len(pixels))
    x, mixed = mix(rng(), 0.4, pixels, target)
    torch.testing.assert_close(mixed.sum(1), torch.ones(len(pixels)))
    torch.testing.assert_close(x, torch.einsum("ij,jchw->ichw", mixed, pixels), rtol=1e-4, atol=1e-5)
    assert 0 < mixed.diagonal().min() < 1


def test_a_view_is_the_same_at_another_size_of_the_crop(faces):
    settings = Augmentation(noise=0.0, blur=0.0, low_resolution=0.0)
    drawn = Perturbation.draw(settings, len(faces), rng())
    seen = []
    for side in (40, 80):
        crop = CropContract(side_px=side)
        matrix = drawn.of_matrix(align_matrix(faces.landmarks_px, crop), crop)
        pixels = warp_faces(faces.pictures, np.arange(len(faces)), matrix, crop).float() / 255
        seen.append(torch.nn.functional.interpolate(drawn.of_pixels(pixels, rng()), size=(20, 20), mode="area"))
    assert (seen[0] - seen[1]).abs().mean() < 0.01
    rows = np.array([5, 2])
    np.testing.assert_array_equal(drawn.take(rows).turn, drawn.turn[rows])


def mouths(n: int, *corners: tuple[float, float]) -> np.ndarray:
    return np.broadcast_to(np.array(corners), (n, 2, 2))


def test_a_given_mouth_changes_nothing_but_the_face_between_nose_and_chin():
    face = torch.rand(4, 1, 80, 80, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    own = mouths(4, (25.0, 58.0), (55.0, 58.0))
    torch.testing.assert_close(give_mouths(face, own, face, own), face)
    other = face.flip(0)
    given = give_mouths(face, own, other, own)
    changed = (given - face).abs().amax((0, 1)) > 1e-4
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert 58 - 1.3 * 15 <= rows[0] < 58 - 0.5 * 15
    assert rows[-1] >= 58 + 1.5 * 15 - 4
    assert 40 - 2.1 * 15 <= columns[0] < columns[-1] <= 40 + 2.1 * 15
    seam_free = given[:, :, 52:66, 32:48] / other[:, :, 52:66, 32:48]  # the other's pixels, at one brightness
    assert (seam_free.amax((1, 2, 3)) / seam_free.amin((1, 2, 3)) < 1.001).all()
    torch.testing.assert_close(give_mouths(face, own[:, ::-1], other, own), given)  # of mirrored faces
    with_three = [value.expand(-1, 3, -1, -1) for value in (face, other)]
    torch.testing.assert_close(give_mouths(with_three[0], own, with_three[1], own), given.expand(-1, 3, -1, -1))


def test_a_given_mouth_lies_on_the_line_of_the_face_that_gets_it_and_is_as_bright():
    face, giver = torch.full((2, 1, 80, 80), 0.8), torch.full((2, 1, 80, 80), 0.4)
    giver[:, :, 49:52, 45:48] = 0  # 10 px right of the middle of its mouth
    given = give_mouths(
        face, mouths(2, (40.0, 40.0), (40.0 + 18, 40.0 + 24)), giver, mouths(2, (21.0, 50.0), (51.0, 50.0))
    )
    dark = (given[0, 0] < 0.4).nonzero().double().mean(0)  # row, column
    middle = np.array([52.0, 49.0])
    np.testing.assert_allclose(dark.numpy() - middle, 10 * np.array([0.8, 0.6]), atol=0.7)
    assert given.max() == pytest.approx(0.8, abs=1e-3)
