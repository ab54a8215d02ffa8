"""Labelled pictures of any framing: whole photographs, close-ups, pictures without a face."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.training import evaluate_model
from mfer.card import CropContract
from mfer.data import read_faces
from pipelines.learning.prepare import prepare_faces
from pipelines.scoring.lookup import find_model
from tests.faces import astronaut

CROP = CropContract(side_px=40)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One smiling woman four times, framed differently, and a picture of nobody."""
    root = tmp_path_factory.mktemp("photographs")
    whole = Image.fromarray(astronaut())
    wide = Image.new("RGB", (1600, 900), (90, 120, 90))
    wide.paste(whole, (1000, 300))
    face = whole.crop((160, 50, 290, 180))  # framed as labelled sets frame faces
    pictures = {
        "happiness/1_whole.png": whole,
        "happiness/2_wide.jpg": wide,
        "happiness/3_huge.png": whole.resize((2048, 2048), Image.Resampling.BICUBIC),
        "happiness/4_face.png": face,
        "neutral/5_nobody.png": Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)),
    }
    for name, picture in pictures.items():
        (root / name).parent.mkdir(exist_ok=True)
        picture.save(root / name)
    return root


def test_the_face_is_found_wherever_it_is_in_the_picture(photographs: Path, tmp_path: Path) -> None:
    faces = prepare_faces(read_faces(photographs), channels=1, cache=tmp_path)
    assert [Path(name).stem for name in faces.faces.names] == ["1_whole", "2_wide", "3_huge", "4_face"]
    assert faces.faces.dropped == {"no face found in the picture": 1}
    assert faces.found.all()
    crops = faces.crops(CROP).float()
    for other in crops[1:]:
        assert (other - crops[0]).abs().mean() < 16, "the same face fills every crop"
    again = prepare_faces(read_faces(photographs), channels=1, cache=tmp_path)
    assert np.array_equal(again.landmarks_px, faces.landmarks_px), "from the cache, too"


def test_a_picture_whose_name_is_no_utf8_is_prepared(tmp_path: Path) -> None:
    path = tmp_path / "set" / "happiness" / os.fsdecode(b"caf\xe9.png")
    path.parent.mkdir(parents=True)
    Image.fromarray(astronaut()[50:180, 160:290]).save(path)
    faces = prepare_faces(read_faces(tmp_path / "set"), channels=1, cache=tmp_path / "cache")
    assert faces.faces.names == [f"happiness/{path.name}"]


def test_a_folder_of_photographs_can_be_evaluated(photographs: Path) -> None:
    found = evaluate_model(find_model("default"), photographs, "all")
    assert len(found) == 4
    assert found.metrics.accuracy.value == 1.0
    assert "dropped: 1 no face found in the picture" in found.table()
