"""Which labelled faces of a lake are learned, and under which expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mfer.classes import EXPRESSIONS, RAFDB_CLASSES
from mfer.faces import LabelledFaces
from pipelines.learning.collect import collect_faces, face_mark, known_faces
from storage.annotations.labels import LabelledFace, LakeLabels
from tests.faces import astronaut


class PictureLabels(LakeLabels):
    """Labels of one photograph."""

    def file_of(self, video_id: str) -> Path:
        return Path(self.files[video_id][0]["path"])


def labelled(folder: Path, *votes: dict[str, int]) -> LakeLabels:
    path = folder / "woman.png"
    Image.fromarray(astronaut()).save(path)
    points = (204.0, 105.0, 242.0, 105.0, 223.0, 128.0, 208.0, 146.0, 240.0, 146.0)
    faces = [
        LabelledFace("0" * 16, "f", 0, k, k, 0.0, given, (180.0, 70.0, 270.0, 165.0), points)
        for k, given in enumerate(votes)
    ]
    return PictureLabels(tuple(faces), {}, {"0" * 16: [{"path": str(path)}]}, {})


def collected(labels: LakeLabels, class_names: tuple[str, ...]) -> tuple[LabelledFaces, dict[str, int]]:
    found = collect_faces(labels, class_names, 1)
    side = found.train or found.test
    assert side is not None
    return side.faces, found.dropped


def test_a_face_is_left_out_where_the_model_lacks_what_most_raters_see(tmp_path: Path) -> None:
    labels = labelled(tmp_path, {"contempt": 3, "happiness": 1}, {"happiness": 3, "contempt": 1, "neutral": 2})
    faces, dropped = collected(labels, RAFDB_CLASSES)
    assert dropped == {"not a class of the model": 1}
    assert [RAFDB_CLASSES[k] for k in faces.majority] == ["happiness"]
    np.testing.assert_allclose(faces.target[0, [RAFDB_CLASSES.index(n) for n in ("happiness", "neutral")]], [0.6, 0.4])
    assert faces.agreed.tolist() == [False]  # three of six raters, as ``LabelledFaces.with_classes`` keeps it
    assert len(collected(labels, EXPRESSIONS)[0]) == 2


def test_only_faces_that_would_be_learned_are_new(tmp_path: Path) -> None:
    labels = labelled(tmp_path, {"contempt": 3, "happiness": 1}, {"happiness": 3, "contempt": 1})
    found = collect_faces(labels, RAFDB_CLASSES, 1)
    assert found.train is not None
    assert known_faces(labels, RAFDB_CLASSES) == set(found.marks) == {face_mark(labels.faces[1])}
