"""Files for other programs: their own columns, a row for every frame, and nothing half-written."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import storage.exports.formats
from storage.annotations.edits import add_edit
from storage.errors import LakeError
from storage.exports.formats import export_videos
from storage.lake import Lake
from storage.sql.selection import choose_videos
from storage.sql.views import connect, run_sql
from tests.storage import lake_rows as rows

FACE_COLUMNS = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
CLASSES = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
FEX_COLUMNS = [*FACE_COLUMNS, "Pitch", "Roll", "Yaw", *CLASSES, "frame", "approx_time", "input", "Identity"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Three videos: two faces and gaps; nobody at all, from a folder with a nasty name; one face, sampled."""
    lake = Lake.open(tmp_path_factory.mktemp("exports") / "lake", create=True)
    rows.add_video(
        lake, 1, rows.face_rows(200, n_faces=2, without_face=(3, 4), undecodable=(7,)), path="/films/a/duo.mp4"
    )
    rows.add_video(lake, 2, rows.face_rows(5, n_faces=0), path="/films/b/<b>&\x01 nobody.mp4")
    rows.add_video(lake, 3, rows.face_rows(100, every=3), path="/films/b/duo.mp4")
    return lake


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_and_parquet_hold_the_scores_in_order(lake: Lake, tmp_path: Path) -> None:
    named = "SELECT *, CAST(NULL AS VARCHAR) AS name FROM scores"
    wanted = run_sql(lake, f"{named} ORDER BY path, frame_index, face_index")
    export_videos(lake, "parquet", tmp_path / "new" / "s.parquet")
    assert pq.read_table(tmp_path / "new" / "s.parquet").equals(wanted)
    export_videos(lake, "csv", tmp_path / "s.csv")
    found = read(tmp_path / "s.csv")
    assert list(found[0]) == wanted.column_names
    assert [(r["frame_index"], r["face_index"], float(r["p_fear"])) for r in found] == [
        (str(r["frame_index"]), str(r["face_index"]), pytest.approx(r["p_fear"], abs=1e-6)) for r in wanted.to_pylist()
    ]


def test_many_small_groups_give_the_same_file(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_videos(lake, "fex", tmp_path / "whole.csv")
    monkeypatch.setattr(storage.exports.formats, "_ROWS_AT_A_TIME", 1)
    export_videos(lake, "fex", tmp_path / "parts.csv")
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "parts.csv").read_bytes()


def test_fex_has_py_feats_columns_and_an_empty_row_for_a_frame_without_face(lake: Lake, tmp_path: Path) -> None:
    export_videos(lake, "fex", tmp_path / "f.csv", ["duo.mp4"])
    found = read(tmp_path / "f.csv")
    assert list(found[0]) == FEX_COLUMNS
    first = [r for r in found if r["input"] == "/films/a/duo.mp4"]
    assert len(first) == 197 * 2 + 3
    assert [int(r["frame"]) for r in first if not r["FaceScore"]] == [3, 4, 7]
    nobody = next(r for r in first if r["frame"] == "3")
    assert {name for name, value in nobody.items() if value} == {"frame", "approx_time", "input"}
    (score,) = run_sql(
        lake, "SELECT * FROM scores WHERE path = '/films/a/duo.mp4' AND frame_index = 150 AND face_index = 1"
    ).to_pylist()
    row = next(r for r in first if (r["frame"], r["Identity"]) == ("150", f"Person_{score['track_id']}"))
    assert row["approx_time"] == "00:06"
    assert float(row["FaceRectWidth"]) == score["box_x2_px"] - score["box_x1_px"]
    assert float(row["sadness"]) == pytest.approx(score["p_sadness"], abs=1e-6)


def test_py_feat_itself_reads_the_fex_file(lake: Lake, tmp_path: Path) -> None:
    """In an interpreter of its own: py-feat changes settings of the process when it is imported."""
    python = os.environ.get("MFER_TEST_PYFEAT", sys.executable)
    if subprocess.run([python, "-c", "import feat"], capture_output=True, check=False).returncode:
        pytest.skip("py-feat is not installed; name an interpreter that has it in MFER_TEST_PYFEAT")
    export_videos(lake, "fex", tmp_path / "f.csv")
    code = (
        "import sys; from feat.utils.io import read_feat\n"
        "fex = read_feat(sys.argv[1])\n"
        "n_empty = fex.emotions.isna().all(axis=1).sum()\n"
        "print(type(fex).__name__, *fex.emotions.shape, n_empty, *fex.faceboxes.columns)\n"
        "print(fex.emotions.mean()['happiness'])"
    )
    done = subprocess.run([python, "-c", code, tmp_path / "f.csv"], capture_output=True, text=True, check=True)
    shape, mean = done.stdout.splitlines()
    assert shape.split() == ["Fex", "502", "7", "8", *FACE_COLUMNS]
    assert float(mean) == pytest.approx(run_sql(lake, "SELECT avg(p_happiness) FROM scores")[0][0].as_py(), abs=1e-6)


def test_what_people_said_is_in_every_format_unless_it_is_left_out(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    rows.add_video(lake, 1, rows.face_rows(100, n_faces=2), path="/films/a.mp4")

    def say(kind: str, track_id: int, **parts: object) -> None:
        add_edit(lake, rows.video_id(1), kind, faces_id=rows.FACES, track_id=track_id, **parts)

    say("split", 0, start_s=2.0)  # the part from there on is face 2
    say("merge", 2, value="1")
    say("name", 1, value="Ann <1>")
    say("exclude", 1, start_s=0.0, end_s=1.0)

    def export(form: str, suffix: str, **how: bool) -> Path:
        return export_videos(lake, form, tmp_path / f"{form}{len(how)}{suffix}", **how)[0]

    scores = read(export("csv", ".csv"))
    who = {(r["track_id"], r["person"], r["name"]) for r in scores}
    assert who == {("0", "0", ""), ("1", "1", "Ann <1>"), ("2", "1", "Ann <1>")}
    assert min(float(r["time_s"]) for r in scores if r["track_id"] == "1") == 1.0
    fex = read(export("fex", ".csv"))
    assert {r["Identity"] for r in fex if r["frame"] == "60"} == {"Ann <1>"}
    assert {r["Identity"] for r in fex if r["frame"] == "10"} == {"Person_0"}
    assert {r["face_id"] for r in read(export("openface", ".csv"))} == {"0", "1"}
    assert [bool(r["box1"]) for r in read(export("fer", ".csv"))] == [False] * 25 + [True] * 75
    tiers = [tier.get("TIER_ID") for tier in ET.parse(export("elan", ".eaf")).getroot().iter("TIER")]
    assert tiers == ["face 0", "Ann <1>", "Ann <1> (2)"]  # two faces of hers are in the picture at once
    assert "Ann <1>: " in export("srt", ".srt").read_text()
    plain = read(export("csv", ".csv", as_found=True))
    assert {(r["track_id"], r["person"], r["name"]) for r in plain} == {("0", "0", ""), ("1", "1", "")}
    assert len(plain) == 200


def test_openface_counts_from_one_and_marks_frames_without_success(lake: Lake, tmp_path: Path) -> None:
    export_videos(lake, "openface", tmp_path / "o.csv", [rows.video_id(1)])
    found = read(tmp_path / "o.csv")
    first = ["frame", "face_id", "timestamp", "confidence", "success", "pose_Rx", "pose_Ry", "pose_Rz", "p_neutral"]
    assert list(found[0])[: len(first)] == first
    assert [int(r["frame"]) for r in found if r["success"] == "0"] == [4, 5, 8]
    assert found[0]["frame"] == "1"
    assert {r["face_id"] for r in found if r["success"] == "1"} == {"0", "1"}
    assert next(r for r in found if r["frame"] == "101")["timestamp"] == "4"


def about(axis: int, radians: float) -> np.ndarray:
    """Rotation about the axis right, down or away of the picture; positive takes the next axis to the one after it."""
    matrix, (i, j) = np.eye(3), [(axis + 1) % 3, (axis + 2) % 3]
    matrix[[i, i, j, j], [i, j, i, j]] = np.cos(radians), -np.sin(radians), np.sin(radians), np.cos(radians)
    return matrix


def test_the_head_is_turned_as_openface_and_py_feat_say_it(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    poses = [(20.0, 0.0, 0.0), (0.0, 15.0, 0.0), (0.0, 0.0, 30.0), (-40.0, 25.0, -20.0), (35.0, -30.0, 10.0), None]
    table = rows.face_rows(len(poses))
    for k, name in enumerate(("yaw_deg", "pitch_deg", "roll_deg")):
        values = [10.0 if pose is None and k == 2 else pose and pose[k] for pose in poses]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float32()))
    rows.add_video(lake, 1, table)
    openface = read(export_videos(lake, "openface", tmp_path / "o.csv")[0])
    fex = read(export_videos(lake, "fex", tmp_path / "f.csv")[0])
    for pose, ours, feat in zip(poses, openface, fex, strict=True):
        if pose is None:
            assert {ours["pose_Rx"], ours["pose_Ry"], ours["pose_Rz"], feat["Pitch"], feat["Yaw"]} == {""}
            continue
        yaw, pitch, roll = np.radians(pose)
        rx, ry, rz = (float(ours[f"pose_R{axis}"]) for axis in "xyz")
        wanted = about(2, roll) @ about(1, -yaw) @ about(0, -pitch)
        assert about(0, rx) @ about(1, ry) @ about(2, rz) == pytest.approx(wanted, abs=1e-5)
        assert [float(feat[name]) for name in ("Pitch", "Yaw", "Roll")] == pytest.approx(np.degrees([-rx, ry, rz]))
    assert float(openface[0]["pose_Ry"]) == pytest.approx(-np.radians(20))  # to the right of the picture
    assert float(openface[1]["pose_Rx"]) == pytest.approx(-np.radians(15))  # upwards
    assert float(openface[2]["pose_Rz"]) == pytest.approx(np.radians(30))  # clockwise


def test_fer_has_a_row_a_frame_and_columns_for_the_fullest_one(lake: Lake, tmp_path: Path) -> None:
    export_videos(lake, "fer", tmp_path / "fer", ["/films"])
    assert sorted(p.name for p in (tmp_path / "fer").iterdir()) == sorted(
        [f"duo.{rows.video_id(1)}.csv", "<b>&_ nobody.csv", f"duo.{rows.video_id(3)}.csv"]
    )
    duo = read(tmp_path / "fer" / f"duo.{rows.video_id(1)}.csv")
    face = ["box{}", "angry{}", "disgust{}", "fear{}", "happy{}", "sad{}", "surprise{}", "neutral{}"]
    assert list(duo[0]) == [name.format(k) for k in (0, 1) for name in face]
    assert len(duo) == 200
    assert not any(duo[3].values())
    assert len(read(tmp_path / "fer" / f"duo.{rows.video_id(3)}.csv")) == 100
    nobody = read(tmp_path / "fer" / "<b>&_ nobody.csv")
    assert list(nobody[0]) == [name.format(0) for name in face]
    assert [set(row.values()) for row in nobody] == [{""}] * 5


def test_elan_has_a_tier_per_face_with_its_episodes(lake: Lake, tmp_path: Path) -> None:
    export_videos(lake, "elan", tmp_path, ["/films/a"])
    root = ET.parse(tmp_path / "duo.eaf").getroot()
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    assert media is not None
    assert media.get("MEDIA_URL") == "file:///films/a/duo.mp4"
    found = [
        (tier.get("TIER_ID"), slots[a.get("TIME_SLOT_REF1")], slots[a.get("TIME_SLOT_REF2")], a.findtext("*"))
        for tier in root.iter("TIER")
        for a in tier.iter("ALIGNABLE_ANNOTATION")
    ]
    query = "SELECT * FROM episodes WHERE path = '/films/a/duo.mp4' ORDER BY track_id, start_s"
    assert found == [
        (f"face {r['track_id']}", round(r["start_s"] * 1000), round(r["end_s"] * 1000), r["expression"])
        for r in run_sql(lake, query).to_pylist()
    ]
    assert len(found) > 4


def test_elan_and_srt_survive_a_nasty_name_and_nobody(lake: Lake, tmp_path: Path) -> None:
    for form in ("elan", "srt"):
        (written,) = export_videos(lake, form, tmp_path, [rows.video_id(2)])
        assert written.parent == tmp_path
    ET.parse(tmp_path / "<b>&_ nobody.eaf")
    assert (tmp_path / "<b>&_ nobody.srt").read_text() == ""


def test_subtitles_do_not_overlap_and_name_every_face(lake: Lake, tmp_path: Path) -> None:
    export_videos(lake, "srt", tmp_path / "duo.srt", ["/films/a/duo.mp4"])
    blocks = (tmp_path / "duo.srt").read_text().strip().split("\n\n")
    cues = [block.split("\n") for block in blocks]
    assert [cue[0] for cue in cues] == [str(k + 1) for k in range(len(cues))]
    times = [cue[1].split(" --> ") for cue in cues]
    assert all(a[1] <= b[0] for a, b in pairwise(times))
    assert times[0][0] == "00:00:00,000"
    together = [cue for cue in cues if len(cue) == 4]
    assert together
    assert together[0][2].startswith("face 0: ")
    assert together[0][3].startswith("face 1: ")


def test_a_video_is_found_by_its_bytes_wherever_it_lies(lake: Lake, tmp_path: Path) -> None:
    import hashlib

    copy = tmp_path / "copy.mp4"
    copy.write_bytes(b"some film")
    video_id = hashlib.sha256(b"some film").hexdigest()[:16]
    own = Lake.open(tmp_path / "lake", create=True)
    rows.add_video(own, 4, rows.face_rows(5), video_id=video_id, path="/gone/original.mp4")
    with connect(own) as con:
        assert [video.path for video in choose_videos(con, [copy])] == ["/gone/original.mp4"]


@pytest.mark.parametrize(
    ("form", "output", "names", "code"),
    [
        ("srt", "all.srt", [], "bad_output"),  # three videos in one file
        ("csv", "", [], "bad_output"),  # a folder
        ("csv", "file/s.csv", [], "bad_output"),  # below a file
        ("csv", "s.csv", ["/films/c"], "unknown_video"),
    ],
)
def test_what_cannot_be_exported_says_why_and_leaves_nothing(
    lake: Lake, tmp_path: Path, form: str, output: str, names: list[str], code: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LakeError) as error:
        export_videos(lake, form, tmp_path / output, names)
    assert error.value.code == code
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_empty_lake_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="mfer analyze"):
        export_videos(Lake.open(tmp_path / "lake", create=True), "csv", tmp_path / "s.csv")


def test_a_table_without_a_face_still_has_its_columns(lake: Lake, tmp_path: Path) -> None:
    export_videos(lake, "parquet", tmp_path / "s.parquet", [rows.video_id(2)])
    empty = pq.read_table(tmp_path / "s.parquet")
    assert len(empty) == 0
    assert empty.schema.field("p_fear").type == pa.float32()


def test_long_names_are_cut_by_bytes_and_names_that_look_the_same_are_found(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    long, apart = "é" * 125, unicodedata.normalize("NFD", "Zoë")
    for number, stem in enumerate((long + "a", long + "b", apart), start=1):
        rows.add_video(lake, number, path=f"/films/{apart}/{stem}.mp4")
    files = export_videos(lake, "srt", tmp_path / "out")
    assert len({file.name for file in files}) == 3
    assert all(file.is_file() and len(file.name.encode()) <= 255 for file in files)
    with connect(lake) as con:
        assert [video.video_id for video in choose_videos(con, ["Zoë.mp4"])] == [rows.video_id(3)]
        assert len(choose_videos(con, ["/films/Zoë"])) == 3
