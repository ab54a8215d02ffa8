"""Labelled faces read from every layout, through files made here."""

import csv
import hashlib
import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mfer.classes import AFFECTNET_CLASSES, EXPRESSIONS, RAFDB_CLASSES
from mfer.data import (
    LabelledFaces,
    halves,
    read_affectnet,
    read_faces,
    read_ferplus,
    read_folder,
    read_rafdb,
    read_unlabelled,
)
from mfer.errors import ConfigError

COLUMNS = (*EXPRESSIONS, "unknown", "NF")


def encoded(shade, form="PNG", size=(48, 48), mode="L"):
    out = io.BytesIO()
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(
        out, form, **({"lossless": True} if form == "WEBP" else {})
    )
    return out.getvalue()


def write_votes(path, votes, columns=COLUMNS, form="PNG", images=None, metadata=True):
    images = images or [encoded(i, form) for i in range(len(votes))]
    faces = {
        "name": [f"fer{i:07d}.png" for i in range(len(votes))],
        "image": pa.array(images, pa.binary()),
        "votes": pa.array(votes, pa.list_(pa.uint8(), len(columns))),
    }
    table = pa.table(faces)
    if metadata:
        table = table.replace_schema_metadata({"classes": ",".join(columns)})
    pq.write_table(table, path)
    return path


def write_affectnet_csv(root, *rows):
    fields = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression", "valence"]
    with (root / "training.csv").open("w", newline="") as out:
        csv.writer(out).writerows([fields, *rows])
    return root


def save_picture(path, shade=0, mode="RGB", size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(shade, "PNG", size, mode))


def votes(**given):
    return [given.get(name, 0) for name in COLUMNS]


# FERPlus


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_ferplus_faces_come_as_one_grey_array_with_vote_shares(tmp_path, form):
    path = write_votes(
        tmp_path / "valid.parquet", [votes(neutral=6, sadness=3, fear=1), votes(happiness=10)], form=form
    )
    faces = read_ferplus(path)
    assert faces.class_names == EXPRESSIONS
    assert faces.pictures.shape == (2, 48, 48)
    assert faces.pictures.dtype == np.uint8
    assert np.unique(faces.pictures[1]) == [1]
    assert faces.names == ["fer0000000.png", "fer0000001.png"]
    expected = np.zeros((2, 8), np.float32)
    expected[0, 0], expected[0, 3], expected[1, 1] = 6 / 9, 3 / 9, 1  # the single vote for fear is gone
    np.testing.assert_allclose(faces.target, expected, rtol=1e-6)
    assert faces.majority.tolist() == [0, 1]


def test_ferplus_drops_and_counts_unknown_not_a_face_and_scattered_votes(tmp_path):
    rows = [
        votes(unknown=5, neutral=4),
        votes(NF=9),
        votes(neutral=1, happiness=1, anger=1, unknown=1),
        votes(anger=4, unknown=3, NF=2),
    ]
    faces = read_ferplus(write_votes(tmp_path / "f.parquet", rows))
    assert faces.names == ["fer0000003.png"]
    assert faces.target[0, EXPRESSIONS.index("anger")] == 1
    assert faces.dropped == {"no expression with two votes": 1, "mostly unknown or not a face": 2}


def test_ferplus_tie_goes_to_the_first_column_and_is_marked_as_not_agreed(tmp_path):
    rows = [
        votes(surprise=5, fear=5),
        votes(sadness=5, unknown=5),
        votes(neutral=4, sadness=3, anger=2),
        votes(fear=6, anger=4),
    ]
    faces = read_ferplus(write_votes(tmp_path / "f.parquet", rows))
    assert [EXPRESSIONS[i] for i in faces.majority] == ["surprise", "sadness", "neutral", "fear"]
    assert faces.agreed.tolist() == [False, False, False, True]


def test_ferplus_columns_are_read_by_name_not_by_place(tmp_path):
    columns = ("fear", "happiness", "neutral", "anger", "contempt", "disgust", "sadness", "surprise", "unknown", "NF")
    path = write_votes(tmp_path / "f.parquet", [[7, 0, 3, 0, 0, 0, 0, 0, 0, 0]], columns)
    faces = read_ferplus(path)
    assert faces.class_names == EXPRESSIONS
    assert faces.class_names[faces.majority[0]] == "fear"
    np.testing.assert_allclose(faces.target[0, [6, 0]], [0.7, 0.3])


def test_ferplus_refuses_other_files(tmp_path):
    with pytest.raises(ConfigError, match="classes"):
        read_ferplus(write_votes(tmp_path / "a.parquet", [votes(fear=9)], metadata=False))
    text = tmp_path / "b.parquet"
    text.write_text("no parquet")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        read_ferplus(text)
    mixed = [encoded(0), encoded(0, size=(30, 30))]
    with pytest.raises(ConfigError, match="one size"):
        read_ferplus(write_votes(tmp_path / "c.parquet", [votes(fear=9)] * 2, images=mixed))
    with pytest.raises(ConfigError, match="cannot be decoded"):
        read_ferplus(write_votes(tmp_path / "d.parquet", [votes(fear=9)], images=[b"xx"]))
    latin = pq.read_table(write_votes(tmp_path / "e.parquet", [votes(fear=9)]))
    pq.write_table(latin.replace_schema_metadata({"classes": b"d\xe9go\xfbt,unknown,NF"}), tmp_path / "e.parquet")
    with pytest.raises(ConfigError, match="every face needs 3 votes"):
        read_ferplus(tmp_path / "e.parquet")
    (tmp_path / "part").mkdir()
    write_votes(tmp_path / "part" / "train.parquet", [votes(fear=9)])
    with pytest.raises(ConfigError, match=r"valid.parquet is missing; a folder of this layout holds train.parquet"):
        read_faces(tmp_path / "part", "report")


def test_hidden_files_are_no_unlabelled_pictures(tmp_path):
    """macOS leaves ._a.png beside a.png on other disks, and programs keep thumbnails in hidden folders."""
    (tmp_path / ".thumbs").mkdir()
    for name, content in (("a.png", encoded(7)), ("._a.png", b"no picture"), (".thumbs/a.png", encoded(9))):
        (tmp_path / name).write_bytes(content)
    assert read_unlabelled(tmp_path, EXPRESSIONS).names == ["a.png"]


@pytest.mark.parametrize("other", ["columns", "names"])
def test_only_ferplus_is_called_ferplus(tmp_path, other):
    rows = [votes(neutral=6, sadness=4), votes(happiness=10)]
    faces = read_ferplus(write_votes(tmp_path / "valid.parquet", rows))
    assert (faces.source, "FER+" in faces.licence) == ("FERPlus valid", True)
    if other == "columns":
        path = write_votes(tmp_path / "mine.parquet", [[6, 4, 0, 0]], ("neutral", "sadness", "unknown", "NF"))
    else:
        path = write_votes(tmp_path / "mine.parquet", rows)
        table = pq.read_table(path)
        pq.write_table(table.set_column(0, "name", pa.array(["fer0000000.png", "0004b1ac"])), path)
    mine = read_ferplus(path)
    assert mine.source == "mine"
    assert mine.licence.startswith("not stated")


def test_parquet_of_hugging_face_holds_bytes_and_paths(tmp_path):
    path = write_votes(tmp_path / "f.parquet", [votes(fear=9), votes(anger=9)])
    table = pq.read_table(path)
    images = pa.array([{"bytes": encoded(shade), "path": "x.png"} for shade in (7, 9)])
    pq.write_table(table.set_column(1, "image", images), path)
    assert [int(picture[0, 0]) for picture in read_ferplus(path).pictures] == [7, 9]
    assert [int(picture[0, 0]) for picture in read_unlabelled(path, EXPRESSIONS).pictures] == [7, 9]


@pytest.mark.parametrize(
    "images",
    [[encoded(1), None], [{"bytes": encoded(1)}, {"bytes": None}], ["a.png", "b.png"]],
    ids=["null", "struct of null", "text"],
)
def test_parquet_without_a_picture_names_the_face(tmp_path, images):
    path = write_votes(tmp_path / "f.parquet", [votes(fear=9)] * 2)
    pq.write_table(pq.read_table(path).set_column(1, "image", pa.array(images)), path)
    for read in (read_ferplus, lambda file: read_unlabelled(file, EXPRESSIONS)):
        with pytest.raises(ConfigError, match=r"the image of fer000000\d\.png is not an encoded picture"):
            read(path)


def test_parquet_with_a_missing_vote_is_refused(tmp_path):
    path = write_votes(tmp_path / "f.parquet", [votes(fear=9), votes(fear=9)])
    given = pa.array([votes(fear=9), [None, *votes(fear=9)[1:]]], pa.list_(pa.uint8(), len(COLUMNS)))
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "votes", given).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(ConfigError, match="every face needs 10 votes"):
        read_ferplus(path)


# halves


def test_halves_never_change():
    names = ["fer0028638.png", "fer0028639.png", "fer0028640.png", "test_0001.jpg", "happiness/ü.png"]
    assert halves(names).tolist() == [True, False, False, False, True]


def test_a_file_whose_name_is_no_utf8_has_its_half(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    save_picture(tmp_path / "fear" / name)
    faces = [read_faces(tmp_path, half) for half in ("selection", "report")]
    assert [each.names for each in faces if len(each)] == [[f"fear/{name}"]]
    assert halves(["café.png"]).tolist() == [hashlib.sha256("café.png".encode()).digest()[0] & 1 == 1]


def test_halves_are_about_equal_and_do_not_depend_on_the_rest():
    names = [f"fer{i:07d}.png" for i in range(4000)]
    report = halves(names)
    assert 0.46 < report.mean() < 0.54
    assert halves(names[::-7]).tolist() == report[::-7].tolist()


def test_selection_and_report_split_the_valid_part(tmp_path):
    write_votes(tmp_path / "train.parquet", [votes(fear=9)] * 3)
    write_votes(tmp_path / "valid.parquet", [votes(happiness=9)] * 40)
    parts = {split: read_faces(tmp_path, split) for split in ("train", "all", "selection", "report")}
    assert len(parts["train"]) == 3
    assert set(parts["selection"].names) | set(parts["report"].names) == set(parts["all"].names)
    assert not set(parts["selection"].names) & set(parts["report"].names)
    assert halves(parts["report"].names).all()


# RAF-DB


RAFDB_LINES = [f"train_0000{i}.jpg {i}" for i in range(1, 8)] + ["test_0001.jpg 4", "test_0002.jpg 7"]


def make_rafdb(root, official):
    lists = root / "EmoLabel" if official else root
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "list_patition_label.txt").write_text("\n".join(RAFDB_LINES) + "\n")
    for line in RAFDB_LINES:
        stem = line.split(".")[0]
        part = "Image/aligned" if official else ("train" if stem.startswith("train") else "valid")
        save_picture(root / part / f"{stem}_aligned.jpg", shade=int(line[-1]))
    return root


@pytest.mark.parametrize("official", [True, False])
def test_rafdb_numbers_become_their_names(tmp_path, official):
    root = make_rafdb(tmp_path, official)
    train = read_faces(root, "train")
    assert train.class_names == EXPRESSIONS[:7]
    assert [train.class_names[i] for i in train.majority] == list(RAFDB_CLASSES)
    assert train.pictures[2].shape == (20, 20, 3)
    assert train.pictures[2][0, 0].tolist() == [3, 0, 0]
    valid = read_rafdb(root, "valid")
    assert valid.names == ["test_0001.jpg", "test_0002.jpg"]
    assert [valid.class_names[i] for i in valid.majority] == ["happiness", "neutral"]
    np.testing.assert_array_equal(valid.target.sum(1), 1)


def test_rafdb_missing_pictures_and_bad_lines_are_named(tmp_path):
    root = make_rafdb(tmp_path, official=False)
    (root / "train" / "train_00003_aligned.jpg").unlink()
    with pytest.raises(ConfigError, match=r"1 faces .* train_00003_aligned\.jpg"):
        read_rafdb(root, "train")
    (root / "list_patition_label.txt").write_text("train_00001.jpg 1\ntrain_00002.jpg 8\n")
    with pytest.raises(ConfigError, match=r"txt:2 is 'train_00002\.jpg 8'"):
        read_rafdb(root, "train")


# AffectNet


def make_affectnet(root, numbers):
    for i, number in enumerate(numbers):
        save_picture(root / "val_set" / "images" / f"{i}.jpg", shade=i)
        (root / "val_set" / "annotations").mkdir(exist_ok=True)
        np.save(root / "val_set" / "annotations" / f"{i}_exp.npy", str(number))
    return root


def test_affectnet_numbers_become_their_names(tmp_path):
    faces = read_faces(make_affectnet(tmp_path, range(8)), "all")
    assert [faces.class_names[i] for i in faces.majority] == list(AFFECTNET_CLASSES)
    assert faces.class_names == EXPRESSIONS


def test_affectnet_of_seven_classes_has_no_contempt(tmp_path):
    faces = read_faces(make_affectnet(tmp_path, [7, 6, 0, 7]), "all", kind="affectnet7")
    assert faces.class_names == EXPRESSIONS[:7]
    assert faces.names == ["1.jpg", "2.jpg"]
    assert [int(p[0, 0, 0]) for p in faces.pictures] == [1, 2]
    assert faces.dropped == {"contempt": 2}


def test_affectnet_csv_cuts_out_the_face_box(tmp_path):
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[10:30, 40:65] = 200
    place = tmp_path / "Manually_Annotated_Images" / "12"
    place.mkdir(parents=True)
    Image.fromarray(picture).save(place / "a.png")
    write_affectnet_csv(
        tmp_path,
        ["12/a.png", 40, 10, 25, 20, 3, 0.1],
        ["12/gone.png", "NULL", "NULL", "NULL", "NULL", 10, -2],  # nobody needs it
    )
    faces = read_affectnet(tmp_path, classes=8, split="train")
    assert [faces.class_names[i] for i in faces.majority] == ["surprise"]
    assert faces.pictures[0].shape == (20, 25, 3)
    assert (faces.pictures[0] == 200).all()
    assert faces.dropped == {"not a face": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["12/gone.png", 40, 10, 25, 20, 3], r"names 1 pictures .* \(the first: 12/gone\.png\)"),
        (["12/a.png", "NULL", "NULL", "NULL", "NULL", 3], r"face box of 12/a\.png is NULL, NULL, NULL, NULL; expected"),
        (["12/a.png", "left", 10, 25, 20, 3], r"face box of 12/a\.png is left, 10, 25, 20; expected four numbers"),
        (["12/a.png", 40, 10, 0, 20, 3], r"face box of 12/a\.png is 40, 10, 0, 20"),
        (["12/a.png", 40, 10], r"every expression must be a number from 0 to 10"),
    ],
    ids=["no picture", "NULL", "text", "empty", "short"],
)
def test_affectnet_csv_rows_that_cannot_be_are_named(tmp_path, row, message):
    save_picture(tmp_path / "Manually_Annotated_Images" / "12" / "a.png")
    root = write_affectnet_csv(tmp_path, ["12/a.png", 0, 0, 9, 9, 1], row)
    with pytest.raises(ConfigError, match=message):
        read_affectnet(root)


def test_affectnet_numbers_below_0_are_no_expression(tmp_path):
    faces = read_faces(make_affectnet(tmp_path, [-1, 3, 7]), "all")
    assert [faces.class_names[i] for i in faces.majority] == ["surprise", "contempt"]
    assert faces.names == ["1.jpg", "2.jpg"]
    assert faces.dropped == {"number -1": 1}


def test_affectnet_missing_annotation_is_named(tmp_path):
    root = make_affectnet(tmp_path, [1, 2])
    (root / "val_set" / "annotations" / "1_exp.npy").unlink()
    with pytest.raises(ConfigError, match=r"1_exp\.npy"):
        read_faces(root)


# a folder per class


def test_folder_names_map_to_expressions_and_pictures_decode_on_demand(tmp_path):
    save_picture(tmp_path / "Happy" / "a.png", mode="L", shade=9)
    save_picture(tmp_path / "03_sad" / "b.png", size=(30, 10))
    (tmp_path / "Happy" / "notes.txt").write_text("x")
    faces = read_faces(tmp_path)
    assert faces.class_names == ("happiness", "sadness")
    by_name = dict(zip(faces.names, faces.majority, strict=True))
    assert by_name == {"Happy/a.png": 0, "03_sad/b.png": 1}
    assert sorted(p.shape for p in faces.pictures) == [(10, 30, 3), (20, 20)]
    assert faces.dropped == {"not a picture": 1}


def test_folder_with_parts_is_read_by_part(tmp_path):
    save_picture(tmp_path / "train" / "fear" / "a.png")
    save_picture(tmp_path / "test" / "anger" / "b.png")
    assert read_faces(tmp_path, "train").names == ["fear/a.png"]
    assert read_faces(tmp_path, "all").names == ["anger/b.png"]


@pytest.mark.parametrize("name", ["3", "smile"])
def test_folder_with_another_name_is_refused(tmp_path, name):
    save_picture(tmp_path / name / "a.png")
    with pytest.raises(ConfigError, match="not an expression"):
        read_folder(tmp_path)


# whatever the layout


def test_unknown_layout_says_what_was_found_and_what_was_expected(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"found readme\.txt; expected one of:\n  ferplus") as caught:
        read_faces(tmp_path)
    assert "list_patition_label.txt" in str(caught.value)
    assert "train_set/images" in str(caught.value)


def test_unknown_path_split_and_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_faces(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="allowed: train, all, selection, report"):
        read_faces(tmp_path, split="test")
    with pytest.raises(ConfigError, match="allowed: auto, ferplus"):
        read_faces(tmp_path, kind="ckplus")


def test_taking_faces_takes_every_column(tmp_path):
    for name in ("fear/a.png", "fear/b.png", "anger/c.png"):
        save_picture(tmp_path / name, shade=ord(name[-5]))
    faces = read_faces(tmp_path)
    taken = faces.take(np.array([2, 0]))
    assert taken.names == [faces.names[2], faces.names[0]]
    assert [int(p[0, 0, 0]) for p in taken.pictures] == [ord("b"), ord("c")]
    np.testing.assert_array_equal(taken.target, faces.target[[2, 0]])


def test_faces_are_rearranged_to_the_classes_of_a_model(tmp_path):
    rows = [votes(contempt=6, neutral=4), votes(neutral=6, contempt=2, fear=2), votes(fear=8)]
    faces = read_ferplus(write_votes(tmp_path / "f.parquet", rows)).with_classes(RAFDB_CLASSES)
    assert faces.class_names == RAFDB_CLASSES
    assert [RAFDB_CLASSES[i] for i in faces.majority] == ["neutral", "fear"]
    np.testing.assert_allclose(faces.target[0, [6, 1]], [0.75, 0.25])
    assert faces.dropped["contempt, not a class of the model"] == 1


def test_more_classes_than_the_faces_have_stay_empty(tmp_path):
    save_picture(tmp_path / "fear" / "a.png")
    faces = read_faces(tmp_path).with_classes(EXPRESSIONS)
    assert faces.target.tolist() == [[0, 0, 0, 0, 0, 0, 1, 0]]
    assert faces.majority.tolist() == [6]


def test_labelled_faces_that_do_not_fit_together_are_an_error():
    with pytest.raises(ValueError, match="2 names for 1 pictures"):
        LabelledFaces(
            ["a", "b"],
            np.zeros((1, 8, 8), np.uint8),
            np.ones((2, 1), np.float32),
            np.zeros(2, np.int64),
            ("fear",),
            "made",
            "none",
            np.ones(2, bool),
        )
