"""Labelled faces for tests: cuts of two real photographs, told apart by made classes that a small network can learn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mfer.classes import EXPRESSIONS
from mfer.faces import LabelledFaces
from mfer.prepared import PreparedFaces, mean_landmarks
from tests.faces import astronaut, carphone_frames

__all__ = ["MADE_CLASSES", "draw_face", "made_faces", "prepared_faces", "write_parquet"]

#: What each class shows: her face, his, hers darkened from below, his as a negative. Eyes stay above the mouth.
MADE_CLASSES = ("neutral", "happiness", "surprise", "sadness")
_SIDE_PX = 48


def draw_face(made_class: int, rng: np.random.Generator) -> np.ndarray:
    """One 48 px picture, framed by its face as FER2013 is, uint8 [48,48]; place, size and light vary."""
    if made_class % 2 == 0:
        picture, x, y, side = astronaut(), 224, 117, 112
    else:
        picture, x, y, side = carphone_frames()[rng.integers(0, 30)], 82, 57, 64
    side = side * rng.uniform(0.92, 1.08)
    left, top = (at - side / 2 + side * rng.uniform(-0.04, 0.04) for at in (x, y))
    box = (left, top, left + side, top + side)
    image = Image.fromarray(np.asarray(picture)).convert("L").resize((_SIDE_PX,) * 2, Image.Resampling.BOX, box)
    grey = np.asarray(image).astype(float)
    if made_class == 2:
        grey = grey * np.linspace(1, 0.2, _SIDE_PX)[:, None]
    if made_class == 3:
        grey = 255 - grey
    grey = grey * rng.uniform(0.85, 1.15) + rng.normal(0, 3, grey.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def made_faces(n: int, seed: int = 0, prefix: str = "face") -> LabelledFaces:
    """n faces, the classes in turn; labels are certain."""
    rng = np.random.default_rng(seed)
    majority = np.arange(n) % len(MADE_CLASSES)
    return LabelledFaces(
        [f"{prefix}{i:05d}.png" for i in range(n)],
        np.stack([draw_face(k, rng) for k in majority]),
        np.eye(len(MADE_CLASSES), dtype=np.float32)[majority],
        majority.astype(np.int64),
        MADE_CLASSES,
        "made faces",
        "public domain and a test clip",
        np.ones(n, bool),
    )


def prepared_faces(n: int, seed: int = 0) -> PreparedFaces:
    """The same with the mean landmarks: no detector runs."""
    faces = made_faces(n, seed)
    landmarks = np.broadcast_to(mean_landmarks(_SIDE_PX, _SIDE_PX), (n, 5, 2)).copy()
    return PreparedFaces.stack(faces, landmarks, np.zeros(n, bool), channels=1)


def write_parquet(path: Path, faces: LabelledFaces) -> Path:
    """The faces in the layout of FER+: name, image (PNG) and the votes of ten raters."""
    columns = (*EXPRESSIONS, "unknown", "NF")
    votes = np.zeros((len(faces), len(columns)), np.uint8)
    for row, k in enumerate(faces.majority):
        votes[row, columns.index(faces.class_names[k])] = 8
        votes[row, columns.index("unknown")] = 2
    table = pa.table(
        {
            "name": faces.names,
            "image": pa.array([_png(picture) for picture in faces.pictures], pa.binary()),
            "votes": pa.array(votes.tolist(), pa.list_(pa.uint8(), len(columns))),
        }
    )
    pq.write_table(table.replace_schema_metadata({"classes": ",".join(columns)}), path)
    return path


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()
