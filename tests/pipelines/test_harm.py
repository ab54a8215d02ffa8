"""What a harmed picture of a face still says, on the whole road from frame to score, with the shipped model."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.quality import HARMS, Reading, read_frames
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import Scorer
from tests.faces import astronaut_face, carphone_frames, exact

FALLEN = ("turned +90 deg", "turned 180 deg")


@lru_cache
def scorer() -> Scorer:
    return Scorer(find_model("default"))


def read(frames: list[np.ndarray]) -> Reading:
    return read_frames(frames, scorer(), exact())


def harmed(frames: np.ndarray, harm: str) -> list[np.ndarray]:
    return [np.asarray(HARMS[harm](Image.fromarray(frame))) for frame in frames]


@pytest.mark.parametrize("harm", [harm for harm in HARMS if harm not in FALLEN])
def test_a_smile_stays_a_smile(harm: str) -> None:
    reading = read(harmed(astronaut_face()[None], harm))
    assert reading.found.all()
    assert scorer().card.class_names[reading.top[0]] == "happiness"
    assert reading.quality_ok.all() or harm.startswith(("blur", "turned +45"))


@pytest.mark.parametrize("harm", FALLEN)
def test_a_face_on_its_side_or_its_head_is_not_trusted(harm: str) -> None:
    assert not read(harmed(astronaut_face()[None], harm)).quality_ok.any()
    assert not read(harmed(carphone_frames()[::24], harm)).quality_ok.any()


def test_colour_hardly_matters_and_a_blurred_face_is_not_trusted() -> None:
    frames = carphone_frames()[::8]
    plain, grey = read(list(frames)), read(harmed(frames, "grey"))
    assert plain.found.all()
    assert plain.agreement(grey) >= 0.8
    blurred = read([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(4))) for f in frames])
    assert blurred.quality_ok[blurred.found].mean() < 0.5 < plain.quality_ok.mean()


def test_a_man_who_talks_reads_as_neither_sad_nor_angry() -> None:
    names = [scorer().card.class_names[k] for k in read(list(carphone_frames()[::8])).top]
    assert sum(name in ("sadness", "anger") for name in names) <= 1
