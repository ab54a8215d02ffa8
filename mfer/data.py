"""Labelled faces: pictures with names of expressions, read from the layouts that the public sets come in.

Whatever the set numbers or orders its classes by, faces leave here with the names of this project, in its order.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mfer.classes import AFFECTNET_CLASSES, EXPRESSIONS, FERPLUS_CLASSES, RAFDB_CLASSES, class_name
from mfer.errors import ConfigError
from mfer.faces import EncodedPictures, LabelledFaces, halves
from mfer.pictures import decode_picture

__all__ = [
    "KINDS",
    "SPLITS",
    "EncodedPictures",
    "LabelledFaces",
    "halves",
    "read_affectnet",
    "read_faces",
    "read_ferplus",
    "read_folder",
    "read_rafdb",
    "read_unlabelled",
]

#: ``train`` is the set's training part; the others are its validation part: all of it, or one half of it.
SPLITS = ("train", "all", "selection", "report")
KINDS = ("auto", "ferplus", "rafdb", "affectnet7", "affectnet8", "folder")

_PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_VALID_FOLDERS = ("valid", "val", "validation", "test")
#: The misspelt name is the one that RAF-DB ships.
_RAFDB_LISTS = (
    "list_patition_label.txt",
    "list_partition_label.txt",
    "EmoLabel/list_patition_label.txt",
    "EmoLabel/list_partition_label.txt",
)
_AFFECTNET_PARTS = {"train": ("train_set", "training.csv"), "valid": ("val_set", "validation.csv")}
_AFFECTNET_BOX = ("face_x", "face_y", "face_width", "face_height")
_AFFECTNET_PICTURES = (".", "Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
#: What AffectNet's numbers above its eight expressions mean.
_AFFECTNET_OTHERS = {8: "none", 9: "uncertain", 10: "not a face"}

#: What FER2013's pictures are called, and what holds of them alone.
_FERPLUS_NAME = re.compile(r"fer\d{7}\.png")
_FERPLUS_LICENCE = "labels MIT (FER+); FER2013 pictures were found by web search and are for research"
_UNSTATED_LICENCE = "not stated; it is the owner's of these pictures to say"

_EXPECTED = """expected one of:
  ferplus    a Parquet file with columns name, image, votes, or a folder with train.parquet and valid.parquet
  rafdb      a folder with EmoLabel/list_patition_label.txt and Image/aligned/train_00001_aligned.jpg,
             or list_patition_label.txt beside train/train_00001_aligned.jpg and valid/test_0001_aligned.jpg
  affectnet  a folder with train_set/images/N.jpg and train_set/annotations/N_exp.npy (and val_set),
             or training.csv and validation.csv with the Manually_Annotated_Images
  folder     one subfolder per expression (happiness, sad, ...), or such folders under train and valid"""


def read_faces(path: str | Path, split: str = "all", kind: str = "auto") -> LabelledFaces:
    """Read labelled faces of any known layout.

    Args:
        path: a Parquet file or a folder.
        split: one of SPLITS. Where the set has a training and a validation part, ``train`` is the first, ``all`` the
            second, ``selection`` and ``report`` its halves; where it has one part only, all four are of that.
        kind: one of KINDS; ``auto`` recognises the layout (and takes all eight classes of AffectNet).

    Raises:
        ConfigError: an unknown split or kind, or a layout that is none of the known ones.
    """
    path = Path(path)
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    if kind not in KINDS:
        raise ConfigError(f"kind of faces is {kind!r}; allowed: {', '.join(KINDS)}")
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder of labelled faces")
    kind = _recognise(path) if kind == "auto" else kind
    part = "train" if split == "train" else "valid"
    if kind == "ferplus":
        faces = read_ferplus(path / f"{part}.parquet" if path.is_dir() else path)
    elif kind == "rafdb":
        faces = read_rafdb(path, part)
    elif kind == "folder":
        faces = read_folder(_part_folder(path, part))
    else:
        faces = read_affectnet(path, classes=int(kind.removeprefix("affectnet")), split=part)
    if split in ("train", "all"):
        return faces
    in_report = halves(faces.names)
    return faces.take(in_report if split == "report" else ~in_report)


def read_ferplus(parquet: str | Path) -> LabelledFaces:
    """Read FER+ votes on FER2013 faces (Barsoum et al. 2016, arXiv:1608.01041), or a set of one's own in its layout.

    A class with a single vote loses it (the authors' outlier rule); faces that then have no votes, or most of them
    for unknown or not-a-face, are dropped. The target is the share of the votes for the eight expressions that
    remain. The majority is the expression with most votes; of equal ones the first in the file's column order, as
    the argmax of the usual protocol has it. The authors' own evaluation drops faces without an absolute majority
    too: those are kept here with ``agreed`` false, so that one reading gives both metrics. Source and licence are those
    of FER+ where classes and names (fer0000000.png) are; else the file's name, and a licence that is not stated.

    Args:
        parquet: columns name (string), image (encoded bytes) and votes (a list of uint8 per face); the schema's
            metadata ``classes`` names the columns of votes and ends with unknown and not-a-face.

    Returns:
        Faces in grey with the eight classes; one array where all pictures have one size.

    Raises:
        ConfigError: not such a file.
    """
    path = Path(parquet)
    if not path.is_file():
        raise ConfigError(f"{path} is missing; a folder of this layout holds train.parquet and valid.parquet")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} is not a readable Parquet file of faces: {error}") from error
    classes = [c for c in (table.schema.metadata or {}).get(b"classes", b"").decode(errors="replace").split(",") if c]
    missing = {"name", "image", "votes"} - set(table.column_names)
    if missing or len(classes) < 3:
        raise ConfigError(
            f"{path} has columns {', '.join(table.column_names)} and classes {classes}; expected columns name, image,"
            " votes and the schema metadata 'classes' that ends with unknown and not-a-face"
        )
    try:
        given = np.array(table["votes"].to_pylist(), dtype=np.int64).reshape(len(table), len(classes))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: every face needs {len(classes)} votes, one number for each class") from error

    columns = [class_name(c) for c in classes[:-2]]
    class_names = tuple(name for name in EXPRESSIONS if name in columns)
    votes = np.where(given <= 1, 0, given)
    total, most = votes.sum(1), votes.argmax(1)
    no_votes, no_expression = total == 0, (total > 0) & (most >= len(columns))
    kept = ~no_votes & ~no_expression
    order = [columns.index(name) for name in class_names]
    shares = votes[kept][:, order].astype(np.float32)
    names = [str(name) for name in table["name"].filter(pa.array(kept)).to_pylist()]
    is_ferplus = set(columns) == set(FERPLUS_CLASSES) and all(map(_FERPLUS_NAME.fullmatch, names))
    return LabelledFaces(
        names=names,
        pictures=_stack_grey(path, table.filter(pa.array(kept))),
        target=shares / shares.sum(1, keepdims=True),
        majority=np.array([class_names.index(columns[i]) for i in most[kept]], dtype=np.int64),
        class_names=class_names,
        source=f"FERPlus {path.stem}" if is_ferplus else path.stem,
        licence=_FERPLUS_LICENCE if is_ferplus else _UNSTATED_LICENCE,
        agreed=(2 * votes.max(1) > total)[kept],
        dropped={
            "no expression with two votes": int(no_votes.sum()),
            "mostly unknown or not a face": int(no_expression.sum()),
        },
    )


def read_rafdb(folder: str | Path, split: str) -> LabelledFaces:
    """Read RAF-DB's basic expressions (Li et al. 2017, doi 10.1109/CVPR.2017.277) from its own list file.

    Args:
        folder: the official layout (EmoLabel and Image/aligned) or aligned faces in train and valid beside the list.
        split: ``train`` or ``valid`` (the list calls it test).

    Raises:
        ConfigError: no list, a line that is not a name and a number from 1 to 7, or pictures that are missing.
    """
    root = Path(folder)
    list_file = next((root / name for name in _RAFDB_LISTS if (root / name).is_file()), None)
    if list_file is None:
        raise _wrong_layout(root)
    prefix = "train_" if split == "train" else "test_"
    places = ("Image/aligned", *(("train",) if split == "train" else _VALID_FOLDERS))
    present = {p.name: p for place in places if (root / place).is_dir() for p in (root / place).iterdir()}
    names, paths, labels, missing = [], [], [], []
    text = list_file.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\S+)\s+([1-7])\s*", line)
        if match is None:
            raise ConfigError(f"{list_file}:{number} is {line!r}; expected a name and a number: train_00001.jpg 5")
        name, label = match.groups()
        if not name.startswith(prefix):
            continue
        aligned = f"{Path(name).stem}_aligned.jpg"
        if aligned not in present:
            missing.append(aligned)
            continue
        names.append(name)
        paths.append(present[aligned])
        labels.append(RAFDB_CLASSES[int(label) - 1])
    if missing:
        raise ConfigError(
            f"{list_file} lists {len(missing)} faces that are in none of {', '.join(places)} (the first: {missing[0]});"
            " unpack the aligned faces there"
        )
    licence = "non-commercial research only, by agreement with the authors"
    return _one_hot_faces(names, EncodedPictures(paths), labels, RAFDB_CLASSES, f"RAF-DB {split}", licence, root)


def read_affectnet(folder: str | Path, classes: int = 8, split: str = "train") -> LabelledFaces:
    """Read AffectNet (Mollahosseini et al. 2017, doi 10.1109/TAFFC.2017.2740923).

    Args:
        folder: the layout of cropped faces (train_set, val_set) or of whole pictures with csv files, whose face boxes
            are then cut out.
        classes: 8, or 7 without contempt.
        split: ``train`` or ``valid``.

    Raises:
        ConfigError: another layout, labels that are no numbers, or annotations that are missing.
    """
    root = Path(folder)
    if classes not in (7, 8):
        raise ConfigError(f"AffectNet has 7 or 8 classes, not {classes}")
    part, csv_name = _AFFECTNET_PARTS["train" if split == "train" else "valid"]
    lists = (root / csv_name, root / "Manually_Annotated_file_lists" / csv_name)
    csv_file = next((f for f in lists if f.is_file()), None)
    if (root / part / "images").is_dir() and (root / part / "annotations").is_dir():
        names, pictures, numbers = _read_affectnet_arrays(root / part)
    elif csv_file is not None:
        names, pictures, numbers = _read_affectnet_csv(root, csv_file, classes)
    else:
        raise _wrong_layout(root)
    allowed = AFFECTNET_CLASSES[:classes]
    meaning = {**dict(enumerate(AFFECTNET_CLASSES)), **_AFFECTNET_OTHERS}
    kept = np.array([0 <= n < classes for n in numbers], dtype=bool)
    dropped = Counter(meaning.get(n, f"number {n}") for n in numbers if not 0 <= n < classes)
    return _one_hot_faces(
        [names[i] for i in np.flatnonzero(kept)],
        pictures[kept],
        [AFFECTNET_CLASSES[n] for n in numbers if 0 <= n < classes],
        allowed,
        f"AffectNet-{classes} {split}",
        "non-commercial research only, by agreement with the authors",
        root,
        dropped,
    )


def read_folder(folder: str | Path) -> LabelledFaces:
    """Read pictures from one subfolder per expression; a face's name is its path within the folder.

    Raises:
        ConfigError: a subfolder whose name is no expression, or no pictures at all.
    """
    root = Path(folder)
    subfolders = _subfolders(root)
    if not subfolders:
        raise _wrong_layout(root)
    labels, paths, others = [], [], 0
    for subfolder in subfolders:
        try:
            label = class_name(subfolder.name)
        except ConfigError as error:
            raise ConfigError(f"{subfolder}: {error}") from error
        files = sorted(f for f in subfolder.rglob("*") if f.is_file() and not f.name.startswith("."))
        pictures = [f for f in files if f.suffix.lower() in _PICTURE_SUFFIXES]
        others += len(files) - len(pictures)
        paths += pictures
        labels += [label] * len(pictures)
    names = [p.relative_to(root).as_posix() for p in paths]
    dropped = {"not a picture": others} if others else {}
    return _one_hot_faces(
        names, EncodedPictures(paths), labels, sorted(set(labels)), root.name, _UNSTATED_LICENCE, root, dropped
    )


def read_unlabelled(path: str | Path, class_names: tuple[str, ...]) -> LabelledFaces:
    """Faces without labels, for teachers to speak about: every share of votes is equal, and no majority means anything.

    Args:
        path: a Parquet file with columns name and image (all of one size), or a folder of pictures of faces.
        class_names: of the faces that they are learned with.

    Raises:
        ConfigError: neither of the two, or no picture in it.
    """
    path = Path(path)
    pictures: np.ndarray | EncodedPictures
    if path.is_dir():
        files = _pictures_in(path, path.rglob("*"))
        names, pictures = [f.relative_to(path).as_posix() for f in files], EncodedPictures(files)
    else:
        try:
            table = pq.read_table(path, columns=["name", "image"])
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{path} is not a Parquet file of faces with columns name and image: {error}") from error
        names, pictures = [str(name) for name in table["name"].to_pylist()], _stack_grey(path, table)
    if not names:
        raise ConfigError(f"{path} holds no picture ({', '.join(sorted(_PICTURE_SUFFIXES))})")
    n, k = len(names), len(class_names)
    return LabelledFaces(
        names,
        pictures,
        np.full((n, k), 1 / k, np.float32),
        np.zeros(n, np.int64),
        class_names,
        f"{path.stem} without labels",
        _UNSTATED_LICENCE,
        np.zeros(n, bool),
    )


def _one_hot_faces(
    names: list[str],
    pictures: EncodedPictures,
    labels: Sequence[str],
    allowed: Sequence[str],
    source: str,
    licence: str,
    root: Path,
    dropped: Mapping[str, int] | None = None,
) -> LabelledFaces:
    if not names:
        raise ConfigError(f"{root}: no labelled pictures for {source}; {_EXPECTED}")
    class_names = tuple(name for name in EXPRESSIONS if name in allowed)
    majority = np.array([class_names.index(label) for label in labels], dtype=np.int64)
    target = np.eye(len(class_names), dtype=np.float32)[majority]
    agreed = np.ones(len(names), dtype=bool)
    return LabelledFaces(names, pictures, target, majority, class_names, source, licence, agreed, dict(dropped or {}))


def _pictures_in(root: Path, files: Iterable[Path]) -> list[Path]:
    """The pictures by name, without hidden files and folders, such as those that macOS leaves beside each file."""
    return sorted(
        f
        for f in files
        if f.suffix.lower() in _PICTURE_SUFFIXES
        and not any(part.startswith(".") for part in f.relative_to(root).parts)
        and f.is_file()
    )


def _read_affectnet_arrays(part: Path) -> tuple[list[str], EncodedPictures, list[int]]:
    paths = _pictures_in(part, (part / "images").iterdir())
    numbers = []
    for path in paths:
        annotation = part / "annotations" / f"{path.stem}_exp.npy"
        try:
            # The official files hold the number as text.
            numbers.append(int(np.load(annotation, allow_pickle=False).item()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} needs its expression as a number in {annotation}: {error}") from error
    return [p.name for p in paths], EncodedPictures(paths), numbers


def _read_affectnet_csv(root: Path, csv_file: Path, classes: int) -> tuple[list[str], EncodedPictures, list[int]]:
    try:
        with csv_file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, csv.Error) as error:
        raise ConfigError(f"{csv_file} cannot be read: {error}") from error
    wanted = {"subDirectory_filePath", "expression", *_AFFECTNET_BOX}
    if not rows or wanted - set(rows[0]):
        found = ", ".join(rows[0]) if rows else "no rows"
        raise ConfigError(f"{csv_file} has {found}; expected the columns {', '.join(sorted(wanted))}")
    try:
        numbers = [int(row["expression"]) for row in rows]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{csv_file}: every expression must be a number from 0 to 10: {error}") from error
    # What is dropped by its number has no box ("NULL"), and its picture is not needed.
    used = [0 <= number < classes for number in numbers]
    boxes = [_affectnet_box(row, csv_file) if use else [0, 0, 0, 0] for row, use in zip(rows, used, strict=True)]
    first = rows[0]["subDirectory_filePath"]
    pictures = next((root / place for place in _AFFECTNET_PICTURES if (root / place / first).is_file()), None)
    if pictures is None:
        raise ConfigError(f"{csv_file} names {first}, which is in none of {', '.join(_AFFECTNET_PICTURES)} of {root}")
    names = [row["subDirectory_filePath"] for row in rows]
    paths = [pictures / name for name in names]
    if missing := [name for name, path, use in zip(names, paths, used, strict=True) if use and not path.is_file()]:
        raise ConfigError(
            f"{csv_file} names {len(missing)} pictures that are not in {pictures} (the first: {missing[0]});"
            " unpack them there"
        )
    return names, EncodedPictures(paths, np.array(boxes, dtype=np.int64)), numbers


def _affectnet_box(row: Mapping[str, str | None], csv_file: Path) -> list[int]:
    """The face's box as x, y, width and height, in pixels."""
    given = [row[side] for side in _AFFECTNET_BOX]
    try:
        box = [int(float(value or "")) for value in given]
        if min(box[2:]) < 1:
            raise ValueError
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{csv_file}: the face box of {row['subDirectory_filePath']} is {', '.join(map(str, given))}; expected four"
            f" numbers of pixels ({', '.join(_AFFECTNET_BOX)})"
        ) from None
    return box


def _stack_grey(path: Path, table: pa.Table) -> np.ndarray:
    """The pictures of a table's column image: bytes, or the {bytes, path} that Hugging Face writes."""
    pictures = []
    for name, value in zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ConfigError(f"{path}: the image of {name} is not an encoded picture (bytes); take the row out")
        picture = decode_picture(content)
        # Grey pictures in a codec without a grey mode (WebP) come back as RGB.
        pictures.append(np.asarray(Image.fromarray(picture).convert("L")) if picture.ndim == 3 else picture)
    sizes = Counter(p.shape for p in pictures)
    if len(sizes) > 1:
        raise ConfigError(f"faces of one size are expected, found (height, width) {dict(sizes.most_common(3))}")
    return np.stack(pictures) if pictures else np.zeros((0, 1, 1), dtype=np.uint8)


def _subfolders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if root.is_dir() else []


def _part_folder(root: Path, part: str) -> Path:
    names = ("train",) if part == "train" else _VALID_FOLDERS
    if not any((root / name).is_dir() for name in ("train", *_VALID_FOLDERS)):
        return root
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise ConfigError(f"{root} has {_found(root)} and none of {', '.join(names)} for the {part} part")
    return found


def _recognise(path: Path) -> str:
    if path.is_file() or any((path / f"{part}.parquet").is_file() for part in ("train", "valid")):
        return "ferplus"
    if any((path / name).is_file() for name in _RAFDB_LISTS):
        return "rafdb"
    marks = (*(m for part in _AFFECTNET_PARTS.values() for m in part), "Manually_Annotated_file_lists")
    if any((path / mark).exists() for mark in marks):
        return "affectnet8"
    if _subfolders(path):
        return "folder"
    raise _wrong_layout(path)


def _found(root: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir()) if root.is_dir() else []
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def _wrong_layout(root: Path) -> ConfigError:
    return ConfigError(f"{root}: found {_found(root)}; {_EXPECTED}")
