"""From a person's judgement to a face that can be learned from: the command line on a real clip."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from click.testing import CliRunner

from flows.analyze import analyze_folder
from flows.cli.main import main
from flows.run import FolderRun
from mfer.card import CropContract
from mfer.classes import EXPRESSIONS
from mfer.crop import align_matrix, warp_faces
from pipelines.learning.collect import collect_faces
from pipelines.settings import AnalysisSettings, DetectorSettings
from pipelines.video.stills import read_still
from storage.annotations.edits import add_edit
from storage.annotations.labels import read_labels
from storage.lake import Lake
from storage.sql.views import run_sql

CROP = CropContract(side_px=40)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, model: Path, write_talk: Callable[..., Path]) -> Path:
    """A folder with a lake of two clips; do not change it."""
    folder = tmp_path_factory.mktemp("studied")
    for name, shown in (("one", [0, 1, 2, 3]), ("two", [60, 61, 62, 63])):
        write_talk(folder / f"{name}.mp4", shown)
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
    analyze_folder(FolderRun((str(folder),), str(folder / "lake"), str(model), settings=settings))
    return folder


@pytest.fixture
def lake(studied: Path, tmp_path: Path) -> Lake:
    """A copy of that lake, whose videos lie where they were."""
    import shutil

    return Lake.open(shutil.copytree(studied / "lake", tmp_path / "lake"))


def mfer(lake: Lake, *words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*map(str, words), "--lake", str(lake.location)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def write_csv(path: Path, *rows: dict[str, object]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.full
def test_suggested_faces_are_filled_in_and_imported(lake: Lake, tmp_path: Path) -> None:
    todo = tmp_path / "todo.csv"
    assert mfer(lake, "labels", "suggest", "-n", 3, "-o", todo) == (0, f"{todo}: 2 faces of 2 videos\n")
    with todo.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["expression"] = "Happy"
    code, reply = mfer(lake, "labels", "import", write_csv(todo, *rows), "--rater", "ann")
    assert (code, reply) == (0, "1 labels written, 0 known already, 0 refused, 1 rows without one\n")
    code, reply = mfer(lake, "labels", "list")
    assert "ann                  happiness         1" in reply
    assert "1 faces of 1 videos have an expression" in reply
    left = mfer(lake, "labels", "suggest")[1].splitlines()
    assert len(left) == 1  # the judged face's neighbours of the same second look like it


@pytest.mark.full
def test_exported_labels_come_back_into_another_lake(lake: Lake, studied: Path, tmp_path: Path) -> None:
    rows = [
        {"video": "one.mp4", "time_s": 0.05, "expression": "surprise", "rater": "bob", "note": "a, b"},
        {"video": studied / "two.mp4", "frame_index": 2, "expression": "not_a_face", "rater": "bob", "note": ""},
        {"video": "three.mp4", "time_s": 0.05, "expression": "fear", "rater": "bob", "note": ""},
        {"video": "one.mp4", "time_s": 0.05, "expression": "bored", "rater": "bob", "note": ""},
    ]
    code, reply = mfer(lake, "labels", "import", write_csv(tmp_path / "x.csv", *rows))
    assert code == 1
    assert "x.csv:4: three.mp4 is no finished video" in reply
    assert "x.csv:5: 'bored' is not an expression" in reply
    assert "2 labels written, 0 known already, 2 refused" in reply
    assert mfer(lake, "labels", "export", "-o", tmp_path / "all.csv")[0] == 0
    query = (
        "SELECT video_id, faces_id, frame_index, face_index, expression, verdict, rater, note FROM labels ORDER BY ALL"
    )
    before = run_sql(lake, query).to_pylist()
    import shutil

    other = Lake.open(shutil.copytree(studied / "lake", tmp_path / "other"))
    assert mfer(other, "labels", "import", tmp_path / "all.csv")[0] == 0
    assert run_sql(other, query).to_pylist() == before
    assert len(before) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "needed are expression and video"), ("\xff\xfe", "has no columns"), (None, "no file of labels")],
)
def test_a_file_that_holds_no_labels_is_one_line_and_exit_code_2(
    lake: Lake, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "x.csv").write_bytes(text.encode("latin-1"))
    code, reply = mfer(lake, "labels", "import", tmp_path / "x.csv")
    assert (code, reply.count("\n")) == (2, 1)
    assert message in reply


def test_a_labelled_face_is_cut_from_its_video_as_an_analysis_cuts_it(
    lake: Lake, studied: Path, tmp_path: Path
) -> None:
    rows = [{"video": "one.mp4", "frame_index": k, "expression": "fear", "rater": "ann"} for k in (0, 3)]
    assert mfer(lake, "labels", "import", write_csv(tmp_path / "x.csv", *rows))[0] == 0
    labels = read_labels(lake)
    found = collect_faces(labels, EXPRESSIONS, 1, tested=(), learned=())
    side = found.train or found.test
    assert side is not None
    crops = side.crops(CROP)
    for crop, face in zip(crops, labels.faces, strict=True):
        frame = read_still(studied / "one.mp4", face.pts_s).copy()[None]
        points = np.asarray(face.landmarks_px, np.float32).reshape(1, 5, 2)
        served = warp_faces(frame, np.zeros(1, np.int64), align_matrix(points, CROP), CROP)[0]
        assert np.abs(crop.int().numpy() - served).max() <= 1
        assert crop.float().std() > 10
    assert side.faces.majority.tolist() == [EXPRESSIONS.index("fear")] * 2


def test_people_decide_the_side_and_a_file_that_is_gone_is_counted(lake: Lake, studied: Path, tmp_path: Path) -> None:
    rows = [{"video": f"{v}.mp4", "frame_index": 1, "expression": "fear", "rater": "ann"} for v in ("one", "two")]
    assert mfer(lake, "labels", "import", write_csv(tmp_path / "x.csv", *rows))[0] == 0
    faces = {face.video_id: face for face in read_labels(lake).faces}
    names = {row["file_name"]: row["video_id"] for row in run_sql(lake, "SELECT * FROM videos").to_pylist()}
    for file, person in (("one.mp4", "Tess"), ("two.mp4", "Ann")):  # the hash of the second name says test
        face = faces[names[file]]
        add_edit(lake, face.video_id, "name", faces_id=face.faces_id, track_id=face.track_id, value=person)
    labels = read_labels(lake)
    found = collect_faces(labels, EXPRESSIONS, 1)
    assert found.train is not None
    assert found.test is not None
    assert found.groups == (names["two.mp4"],)
    assert found.record()["n_train"] == found.record()["n_test"] == 1
    gone = {names["one.mp4"]: [{**row, "path": "/gone.mp4"} for row in labels.files[names["one.mp4"]]]}
    found = collect_faces(replace(labels, files={**labels.files, **gone}), EXPRESSIONS, 1)
    assert found.train is None
    assert found.missing == ("/gone.mp4",)
    assert found.dropped == {"video gone or changed": 1}
    assert not any(names[file] in str(found.record()) for file in names)  # a card names no video


def _as_json(rows: list[dict[str, str]]) -> bytes:
    return json.dumps(rows).encode()


def _as_excel(rows: list[dict[str, str]]) -> bytes:
    book = openpyxl.Workbook()
    for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
        book.active.append(cells)
    book.save(held := io.BytesIO())
    return held.getvalue()


def _lines(rows: list[dict[str, str]], joint: str) -> str:
    return "\n".join(joint.join(cells) for cells in (list(rows[0]), *(list(row.values()) for row in rows)))


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("a.csv", lambda rows: _lines(rows, ";").replace("0.05", "0,05").encode()),
        ("sep.csv", lambda rows: b"sep=|\r\n" + _lines(rows, "|").encode()),
        ("tabs.csv", lambda rows: _lines(rows, "\t").encode("utf-16")),
        ("windows.csv", lambda rows: _lines(rows, ",").encode("cp1252")),
        ("bom.csv", lambda rows: b"\xef\xbb\xbf" + _lines(rows, ",").replace("time_s", " Time S ").encode()),
        ("clock.csv", lambda rows: _lines(rows, ",").replace("0.05", "00:00:00.05").encode()),
        ("a.tsv", lambda rows: _lines(rows, "\t").encode()),
        ("a.json", _as_json),
        ("a.jsonl", lambda rows: b"\n".join(json.dumps(row).encode() for row in rows)),
        ("a.xlsx", _as_excel),
    ],
)
def test_labels_are_read_as_programs_save_them_also_where_the_id_became_a_number(
    lake: Lake, tmp_path: Path, name: str, saved: Callable[[list[dict[str, str]]], bytes]
) -> None:
    row = {"video_id": "1.23E+15", "video": "one.mp4", "time_s": "0.05", "expression": "fear", "note": "schön"}
    (tmp_path / name).write_bytes(saved([row]))
    code, reply = mfer(lake, "labels", "import", tmp_path / name)
    assert (code, reply) == (0, "1 labels written, 0 known already, 0 refused, 0 rows without one\n")
    (found,) = run_sql(lake, "SELECT file_name, expression, note FROM labels").to_pylist()
    assert found == {"file_name": "one.mp4", "expression": "fear", "note": "schön"}


def test_a_broken_line_of_json_is_refused_and_the_others_are_written(lake: Lake, tmp_path: Path) -> None:
    rows = [{"video": "one.mp4", "frame_index": k, "expression": "fear"} for k in (1, 2)]
    lines = ["{broken", json.dumps(rows[0]), "[1, 2]", '{"video": "one', json.dumps(rows[1])]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    code, reply = mfer(lake, "labels", "import", tmp_path / "x.jsonl")
    assert code == 1
    assert [line.split()[1] for line in reply.splitlines()[:-1]] == [f"x.jsonl:{k}:" for k in (1, 3, 4)]
    assert reply.splitlines()[-1].startswith("2 labels written, 0 known already, 3 refused")
    (tmp_path / "y.json").write_text(json.dumps([*rows, 3]))
    code, reply = mfer(lake, "labels", "import", tmp_path / "y.json")
    assert "y.json:3: the row has no named columns" in reply
    (tmp_path / "z.jsonl").write_text("{broken")
    code, reply = mfer(lake, "labels", "import", tmp_path / "z.jsonl")
    assert (code, "no columns" in reply) == (2, True)


def test_a_bad_cell_refuses_its_row_by_its_line_and_the_others_are_written(lake: Lake, tmp_path: Path) -> None:
    bad = ["inf,,", "1e30,,", "-1,,", "1.5,,", "x,,", ",40000,", ",0,99999999999", "nan,,"]
    cells = [f"{cell.split(',')[0]},{cell.split(',')[1]},{cell.split(',')[2]},one.mp4,fear" for cell in bad]
    good = "1,,,one.mp4,fear"
    (tmp_path / "x.csv").write_text("\n".join(["frame_index,face_index,track_id,video,expression", *cells, "", good]))
    code, reply = mfer(lake, "labels", "import", tmp_path / "x.csv")
    assert code == 1
    assert [line.split()[1] for line in reply.splitlines()[:-1]] == [f"x.csv:{k}:" for k in range(2, 10)]
    assert reply.splitlines()[-1].startswith("1 labels written, 0 known already, 8 refused")
