"""Opening, creating and refusing; what happens when the disk or the files let a lake down."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from storage.delta.tables import data_files
from storage.errors import LakeError
from storage.lake import Lake
from storage.schema import SCHEMA_VERSION
from storage.sql.views import connect, run_sql
from tests.storage import lake_rows as rows


def refusal(location: Path, create: bool = False) -> LakeError:
    with pytest.raises(LakeError) as error:
        Lake.open(location, create=create)
    return error.value


def test_a_lake_is_opened_again_with_what_was_written(tmp_path: Path) -> None:
    rows.add_video(Lake.open(tmp_path / "deep" / "lake", create=True), 1)
    again = Lake.open(tmp_path / "deep" / "lake", create=True)
    assert again.done_videos(rows.ANALYSIS_A) == {rows.video_id(1)}


def test_what_is_not_a_lake_is_refused_and_left_alone(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing").code == "not_a_lake"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    for create in (False, True):
        error = refusal(tmp_path / "photos", create)
        assert error.code == "not_a_lake"
        assert "photos" in str(error)
        assert os.listdir(tmp_path / "photos") == ["cat.jpg"]
    assert refusal(tmp_path / "photos" / "cat.jpg", create=True).code == "not_a_lake"


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    marker = lake.location / "lake.json"
    for version, remedy in ((SCHEMA_VERSION - 1, "analyse the videos again into a new lake"), (99, "a newer program")):
        marker.write_text(json.dumps({"schema_version": version}))
        error = refusal(lake.location, create=True)
        assert error.code == "schema_version"
        assert f"schema version {version}, this program reads {SCHEMA_VERSION}; " in str(error)
        assert remedy in str(error)
    marker.write_text("{")
    assert refusal(lake.location).code == "damaged"


def test_a_creation_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    (lake.location / "lake.json").unlink()  # it is written last
    assert refusal(lake.location).code == "not_a_lake"
    rows.add_video(Lake.open(lake.location, create=True), 1)


@pytest.mark.parametrize("name", ["50%", "what?", "a*b", "a[1]", "a|b"])
def test_a_location_that_delta_lake_cannot_handle_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path / name, create=True).code == "bad_location"
    assert not (tmp_path / name).exists()


def test_a_lake_that_was_renamed_to_such_a_location_is_refused(tmp_path: Path) -> None:
    Lake.open(tmp_path / "a b", create=True).location.rename(tmp_path / "a%20b")
    assert refusal(tmp_path / "a%20b").code == "bad_location"


@pytest.mark.parametrize("address", ["http://host/lake", "file:///tmp/lake", "minio://bucket/lake"])
def test_an_address_that_is_of_no_store_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LakeError, match="s3://, gs:// or az://") as error:
        Lake.open(address, create=True)
    assert error.value.code == "bad_location"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("create", [False, True])
def test_a_home_that_nobody_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LakeError, match="nobody here has the home folder ~nosuch") as error:
        Lake.open("~nosuch/lake", create=create)
    assert error.value.code == "bad_location"
    assert os.listdir(tmp_path) == []
    assert Lake.open("./~nosuch/lake", create=True).location == tmp_path / "~nosuch" / "lake"


@pytest.mark.parametrize("name", ["with space", "ünï", "日本", "it's", "a#b", "a{b}`<c>", "a&b=c+d,e;f@g~h!i$j(k)"])
def test_other_names_work(tmp_path: Path, name: str) -> None:
    lake = Lake.open(tmp_path / name, create=True)
    rows.add_video(lake, 1)
    assert run_sql(lake, "SELECT count(*) AS n FROM scores").to_pylist() == [{"n": 50}]


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    rows.add_video(lake, 1)
    rows.add_video(lake, 2)
    file = Path(data_files(lake.location, "observations")[0])
    content = file.read_bytes()
    middle = content[:100] + bytes(byte ^ 0x5A for byte in content[100:-100]) + content[-100:]
    for damage in (b"", content[: len(content) // 2], middle, None):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(LakeError, match=file.name) as error:
            run_sql(lake, "SELECT sum(confidence) FROM scores")
        assert error.value.code == "damaged"
    number = 1 if file in map(Path, data_files(lake.location, "observations", video_ids=[rows.video_id(1)])) else 2
    with pytest.raises(LakeError, match=file.name):
        lake.stored_faces(rows.FACES, rows.video_id(number))


def test_a_lost_log_is_a_damaged_lake(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    for entry in (lake.location / "runs" / "_delta_log").iterdir():
        entry.unlink()
    with pytest.raises(LakeError, match="runs") as error:
        connect(lake)
    assert error.value.code == "damaged"


def test_a_full_disk_is_named_and_costs_nothing_that_was_committed(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    rows.add_video(lake, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # a write beyond fails as on a full disk
    try:
        with pytest.raises(LakeError, match="disk is full") as error:
            rows.commit_segment(lake, rows.face_rows(500), analysis_id=rows.ANALYSIS_A, video_id=rows.video_id(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.code == "disk_full"
    assert lake.done_videos(rows.ANALYSIS_A) == {rows.video_id(1)}
    rows.add_video(lake, 2)
    assert lake.done_videos(rows.ANALYSIS_A) == {rows.video_id(1), rows.video_id(2)}


def add_many_videos(lake: Lake) -> None:
    for number in range(100):
        rows.add_video(lake, number, rows.face_rows(2000, seed=number))


@pytest.mark.full
@pytest.mark.parametrize(("options", "code"), [("size=600k", "disk_full"), ("ro", "read_only")])
def test_a_real_full_or_read_only_file_system(tmp_path: Path, options: str, code: str) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "lake", place], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        lake = Lake.open(place / "lake", create=True)
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)
        with pytest.raises(LakeError) as error:
            add_many_videos(lake)
        assert error.value.code == code, error.value
        with connect(lake) as con:  # what was finished is still there, whole
            partial = con.execute(
                "SELECT v.n_faces, count(*) FROM scores s JOIN videos v USING (video_id) GROUP BY ALL"
            )
            assert all(row[1] % row[0] == 0 for row in partial.fetchall())
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_place_where_no_lake_can_be_is_not_called_a_damaged_lake(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere" / "else")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    impossible = ["/proc/x", "/proc/x/y/lake", "/dev/null", "/dev/null/lake", tmp_path / "notes.txt"]
    impossible += [tmp_path / "notes.txt" / "lake", tmp_path / "gone", tmp_path / "loop", tmp_path / ("long" * 100)]
    for place in map(Path, impossible):
        error = refusal(place, create=True)
        assert error.code in ("bad_location", "not_a_lake"), (place, error)
        assert "copy" not in str(error), error
        assert str(place) in str(error)
        assert "name" in str(error)
    assert refusal(Path("/proc/x")).code == "not_a_lake"
    assert refusal(tmp_path / "notes.txt" / "lake").code == "not_a_lake"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_may_not_be_made_is_no_damaged_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(place: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(place))

    monkeypatch.setattr(Path, "mkdir", refuse)
    error = refusal(tmp_path / "lake", create=True)
    assert error.code == "read_only"
    assert "no permission to write" in str(error)
    assert "name a folder that can be written" in str(error)
