"""Faces of two sets as one: the base set's small pictures, and those that were cut out of videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mfer.card import CropContract
from mfer.faces import EncodedPictures
from mfer.prepared import PreparedFaces, mean_landmarks
from tests.labelled import made_faces, prepared_faces

CROP = CropContract(side_px=24)


def larger_faces(n: int) -> PreparedFaces:
    """The same kind of faces, in pictures twice as large."""
    faces = made_faces(n, seed=3, prefix="large")
    points = np.broadcast_to(mean_landmarks(96, 96), (n, 5, 2)).copy()
    pictures = torch.from_numpy(faces.pictures.repeat(2, 1).repeat(2, 2))[..., None]
    return PreparedFaces(pictures, points, np.ones(n, bool), faces)


def test_joined_sets_give_the_crops_and_labels_of_each() -> None:
    small, large = prepared_faces(6), larger_faces(5)
    both = small.joined(large)
    assert len(both) == 11
    assert (both.crops(CROP).int() - torch.cat([small.crops(CROP), large.crops(CROP)]).int()).abs().max() <= 1
    assert both.faces.majority.tolist() == [*small.faces.majority, *large.faces.majority]
    assert both.faces.names == [*small.faces.names, *large.faces.names]
    assert both.found.tolist() == [False] * 6 + [True] * 5
    assert "made faces and made faces" in repr(both.faces)


def test_faces_can_be_taken_from_joined_sets_again_and_more_than_once() -> None:
    both = prepared_faces(6).joined(larger_faces(5)).to(torch.device("cpu"))
    rows = np.array([7, 2, 7])
    some = both.take(rows)
    assert torch.equal(some.crops(CROP), both.crops(CROP)[rows])
    assert some.faces.names == [both.faces.names[k] for k in rows]
    kept = both.with_classes(("neutral", "happiness"))
    assert len(kept) == int((both.faces.majority < 2).sum())
    assert kept.faces.pictures[0].shape == (48, 48)


def test_sets_of_other_classes_are_not_joined() -> None:
    small = prepared_faces(8)
    with pytest.raises(ValueError, match="cannot be joined"):
        small.joined(larger_faces(8).with_classes(("neutral", "happiness")))


def test_encoded_pictures_join_with_stacked_ones() -> None:
    import io

    from PIL import Image

    small = made_faces(4)
    files = []
    for picture in small.pictures:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "PNG")
        files.append(out.getvalue())
    from dataclasses import replace

    both = small.joined(replace(small, pictures=EncodedPictures(files)))
    assert all(np.array_equal(both.pictures[k], both.pictures[k + 4]) for k in range(4))
