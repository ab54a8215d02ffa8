"""Another detector than the package's own, registered from outside, is a name like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mfer.classes import EXPRESSIONS
from mfer.errors import ConfigError
from pipelines.faces.detectors import DETECTORS, DetectorKind, DetectorSettings, detector_networks, load_detector
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.faces import as_batch, astronaut

TOY = DetectorKind("tests.pipelines.faces.toy_detector:ToyDetector", min_face_px=8)
SETTINGS = AnalysisSettings(detector=DetectorSettings(mode="exact"))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> DetectorSettings:
    monkeypatch.setitem(DETECTORS, "toy", TOY)
    return DetectorSettings(name="toy", mode="exact", min_face_px=40)


def test_a_detector_that_was_registered_from_outside_finds_the_faces_of_a_video(
    tmp_path: Path, talk: Path, model: Path, toy: DetectorSettings
) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    settings = AnalysisSettings(detector=toy)
    outcome = VideoAnalyzer(lake, settings, Scorer(model))(VideoFile(talk))
    assert (outcome.status, outcome.n_faces) == ("ok", 7)  # three of the ten frames are black
    rows = run_sql(lake, "SELECT * FROM scores ORDER BY frame_index").to_pylist()
    assert [row["frame_index"] for row in rows] == [0, 1, 2, 3, 7, 8, 9]
    assert {row["box_x2_px"] - row["box_x1_px"] for row in rows} == {40.0}
    assert all(row["expression"] in EXPRESSIONS for row in rows)
    (video,) = run_sql(lake, "SELECT settings FROM raw.videos").to_pylist()
    assert json.loads(video["settings"])["detector"]["name"] == "toy"


def test_the_detector_s_name_is_part_of_the_ids(toy: DetectorSettings) -> None:
    assert AnalysisSettings(detector=toy).hashed() != SETTINGS.hashed()
    assert SETTINGS.hashed()["detector"]["name"] == "mtcnn"


def test_a_detector_works_with_networks_that_run_elsewhere(toy: DetectorSettings) -> None:
    class Elsewhere:
        """As the process with the networks answers."""

        def __init__(self) -> None:
            self.networks = detector_networks(toy, "cpu")
            self.names: list[str] = []

        def __getitem__(self, name: str) -> object:
            self.names.append(name)
            return self.networks[name].run

    elsewhere = Elsewhere()
    frames = as_batch(astronaut()[None]).rgb
    there = load_detector(toy, networks=elsewhere).detect(frames)  # type: ignore[arg-type]
    np.testing.assert_array_equal(there.box_xyxy_px, load_detector(toy).detect(frames).box_xyxy_px)
    assert elsewhere.names == ["brightest"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "nobody"}, "the detector is 'nobody'; allowed: mtcnn, toy"),
        ({"name": "toy"}, "the detector toy cannot follow faces; use --detect exact"),
        ({"name": "toy", "mode": "exact", "min_face_px": 7}, "toy sees none below 8 px"),
        ({"min_face_px": 11}, "mtcnn sees none below 12 px"),
        ({"min_prob": 0.0}, "a found face is kept from a probability of 0.0"),
    ],
)
def test_what_a_detector_cannot_do_is_refused_before_it_is_loaded(
    toy: DetectorSettings, settings: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorSettings(**settings)


@pytest.mark.parametrize("kind", DETECTORS.values(), ids=list(DETECTORS))
def test_every_registered_detector_can_be_loaded_and_finds_a_face(kind: DetectorKind) -> None:
    name = next(name for name, each in DETECTORS.items() if each is kind)
    faces = load_detector(DetectorSettings(name=name, min_face_px=60, mode="exact")).detect(
        as_batch(astronaut()[None]).rgb
    )
    assert len(faces) == 1
