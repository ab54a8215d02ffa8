"""Videos from a bucket into a lake in a bucket, by the commands that people type."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli.main import main
from mfer.classes import EXPRESSIONS
from pipelines.learning.collect import LakeFaces, collect_faces
from pipelines.remote import local_copy, objects_below
from storage.annotations.labels import read_labels
from storage.delta.object_store import ObjectPath
from storage.identity import video_id_of
from storage.lake import Lake
from tests.models import tiny_model
from tests.object_store import (
    AZURE_KEY,
    BUCKET,
    SECRET,
    Fault,
    Proxy,
    Request,
    missing_azurite,
    new_prefix,
    running_azurite,
)
from tests.pictures import numbered


def mfer(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def upload(uri: str, content: bytes) -> ObjectPath:
    place = ObjectPath(uri)
    place.write_bytes(content)
    return place


@pytest.fixture
def inbox(proxy: Proxy, talk: Path) -> str:
    """A prefix with one video below a folder of an odd name, what is no video, and something that is not meant."""
    prefix = new_prefix().replace("/a-lake", "/inbox")
    upload(f"{prefix}/week 1 é/talk#1%20?.mp4", talk.read_bytes())
    upload(f"{prefix}/notes.txt", b"x")
    upload(f"{prefix}-old/other.mp4", talk.read_bytes())
    return prefix


def analyze(inbox: str, lake: str, model: Path) -> dict[str, object]:
    done = mfer("analyze", inbox, "--lake", lake, "--model", model, "--workers", 1, "--json")
    assert done.exit_code in (0, 1), done.output
    summary: dict[str, object] = json.loads(done.stdout)
    return summary


def fetched(proxy: Proxy) -> list[Request]:
    return [request for request in proxy.take_requests() if request.method == "GET" and ".mp4" in request.target]


def copies() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("mfer-copy-*"))


@pytest.mark.full
def test_a_bucket_is_analysed_once_and_again_where_an_object_changed(
    inbox: str, proxy: Proxy, model: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lake = new_prefix()
    first = analyze(inbox, lake, model)
    assert (first["ok"], first["skipped"], first["ignored_files"], first["frames"]) == (1, 0, 1, 10)
    [video] = first["videos"]  # type: ignore[misc]
    assert video["path"] == f"{inbox}/week 1 é/talk#1%20?.mp4"
    assert video["size_bytes"] == talk.stat().st_size
    assert fetched(proxy)

    second = analyze(inbox, lake, model)
    assert (second["ok"], second["skipped"]) == (0, 1)
    assert not fetched(proxy)

    upload(f"{inbox}/week 1 é/talk#1%20?.mp4", talk.read_bytes() + b"\0")
    third = analyze(inbox, lake, model)
    assert (third["ok"], third["skipped"]) == (1, 0)
    assert not copies()


@pytest.mark.full
def test_numbered_pictures_in_a_bucket_are_one_video(
    proxy: Proxy, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk, prefix, lake = tmp_path / "walk", new_prefix().replace("/a-lake", "/walk"), new_prefix()
    numbered(disk, [8, 9, 10, 12])
    for file in disk.iterdir():
        upload(f"{prefix}/{file.name}", file.read_bytes())
    upload(f"{prefix}/cover.png", b"no picture")

    def run(*names: str) -> list[dict[str, object]]:
        done = mfer("analyze", *names, "--sequence", "--fps", 25, "--lake", lake, "--model", model, "--json")
        assert done.exit_code in (0, 1), done.output
        videos: list[dict[str, object]] = json.loads(done.stdout)["videos"]
        return videos

    name = f"{prefix}/left_#.png@25fps"
    [video] = run(prefix)
    assert (video["path"], video["status"], video["code"]) == (name, "partial", "pictures_missing")
    assert (video["n_frames"], video["n_frames_undecodable"]) == (5, 1)
    assert video["video_id"] == video_id_of(disk / "left_#.png@25fps")  # as on a disk
    proxy.take_requests()
    for again in (prefix, name, f"{prefix}/left_9.png"):
        assert [(video["path"], video["status"]) for video in run(again)] == [(name, "skipped")]
    assert not [
        request
        for request in proxy.take_requests()
        if ".png" in request.target and request.method == "GET" and "list-type" not in request.target
    ]
    assert "5 frames" in mfer("inspect", name, "--lake", lake).output
    assert "4 frames" in mfer("render", name, "-o", tmp_path / "out.mp4", "--lake", lake).output

    upload(f"{prefix}/left_11.png", (disk / "left_10.png").read_bytes())
    [video] = run(prefix)
    assert (video["status"], video["n_frames"]) == ("ok", 5)
    assert not copies()
    [video] = run(f"{prefix}/right_#.png@25fps")
    assert video["code"] == "missing"


@pytest.mark.full
def test_what_is_wrong_with_an_object_is_an_outcome(inbox: str, proxy: Proxy, model: Path) -> None:
    upload(f"{inbox}/empty.mp4", b"")
    upload(f"{inbox}/noise.mp4", b"no video at all")
    lake = new_prefix()
    done = mfer(
        "analyze", inbox, f"s3://{BUCKET}/nothing/here", "--lake", lake, "--model", model, "--workers", 1, "--json"
    )
    assert done.exit_code == 1
    codes = {video["path"].rpartition("/")[2]: video["code"] for video in json.loads(done.stdout)["videos"]}
    assert codes == {
        "empty.mp4": "empty_file",
        "noise.mp4": "not_a_video",
        "talk#1%20?.mp4": None,
        "here": "missing",
    }
    proxy.set_fault(Fault("forbid", r"inbox"))
    refused = mfer("analyze", inbox, "--lake", lake, "--model", model, "--json")
    assert "AccessDenied" in refused.output
    assert SECRET not in refused.output + done.output


@pytest.mark.full
def test_every_command_answers_from_a_bucket(inbox: str, model: Path, tmp_path: Path) -> None:
    lake = new_prefix()
    video = f"{inbox}/week 1 é/talk#1%20?.mp4"
    analyze(inbox, lake, model)

    def ask(*words: object) -> str:
        done = mfer(*words, "--lake", lake)
        assert done.exit_code == 0, done.output
        assert SECRET not in done.output
        return done.output

    assert "7" in ask("sql", "SELECT count(*) AS n FROM scores", "--format", "csv")
    assert "10 frames, 7 with a face" in ask("inspect", video, "--at", "0.1")
    assert "10 frames" in ask("render", video, "-o", tmp_path / "out.mp4")
    ask("report", inbox, "-o", tmp_path / "report.html")
    assert video in (tmp_path / "report.html").read_text()
    ask("export", video, "--format", "csv", "-o", tmp_path / "out.csv")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 8
    assert "sound" in ask("lake", "check")
    assert "observations" in ask("lake", "compact")
    assert "package" in ask("models", "list")
    assert "nothing found" in ask("lake", "forget", video, "--yes")
    assert mfer("inspect", video, "--lake", lake).output.rstrip().endswith(f"not analysed yet in {lake}")


def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed(proxy: Proxy) -> None:
    prefix = new_prefix()
    upload(f"{prefix}/a.mp4", b"a" * 20_000_000)
    [found] = objects_below(ObjectPath(prefix))
    upload(f"{prefix}/a.mp4", b"b" * 20_000_000)
    with pytest.raises(Exception, match="cannot be read") as error, local_copy(found):
        pass
    assert error.value.code == "unreadable"  # type: ignore[attr-defined]


def test_a_copy_that_a_killed_process_left_is_deleted_and_one_in_use_is_not(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("pipelines.remote._YOUNG_S", 0)
    (tmp_path / "mfer-copy-left.mp4").write_bytes(b"left")
    one, other = (upload(f"{new_prefix()}/{name}.mp4", name.encode()) for name in ("one", "other"))
    with local_copy(one) as first, local_copy(other) as second:
        assert (first.read_bytes(), second.read_bytes()) == (b"one", b"other")
        assert sorted(copies()) == sorted([first, second])
    assert not copies()


@pytest.mark.full
def test_labelled_faces_are_cut_from_videos_in_a_bucket_until_these_change(
    inbox: str, proxy: Proxy, model: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lake = new_prefix()
    analyze(inbox, lake, model)
    video = f"{inbox}/week 1 é/talk#1%20?.mp4"
    (tmp_path / "judged.csv").write_text(f"video,time_s,expression\n{video},0.04,happiness\n", encoding="utf-8")
    done = mfer("labels", "import", tmp_path / "judged.csv", "--rater", "ann", "--lake", lake)
    assert "1 labels written" in done.output

    def collect() -> LakeFaces:
        return collect_faces(read_labels(Lake.open(lake)), EXPRESSIONS, 1)

    found = collect()
    assert (found.record()["n_train"], len(found.groups), found.missing) in [(1, 0, ()), (0, 1, ())]
    assert not copies()
    upload(video, b"something else")
    found = collect()
    assert (found.train, found.test, found.missing) == (None, None, (video,))


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    missing = missing_azurite()
    if missing and os.environ.get("MFER_NEEDS_AZURITE"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with running_azurite() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.full
def test_videos_and_lake_live_in_azure(azure: None, model: Path, talk: Path, tmp_path: Path) -> None:
    lake, prefix = new_prefix("az"), new_prefix("az").replace("/a-lake", "/inbox")
    video = f"{prefix}/week 1 é/talk#1%20?.mp4"
    upload(video, talk.read_bytes())
    upload(f"{prefix}/other.mp4", talk.read_bytes() + b"\0")
    upload(f"{prefix}/empty.mp4", b"")

    def ask(*words: object, exit_code: int = 0) -> str:
        done = mfer(*words, "--lake", lake)
        assert done.exit_code == exit_code, done.output
        assert AZURE_KEY not in done.output
        return done.output

    counts = "SELECT model_id LIKE '%other%' AS other, count(*) AS n FROM scores_all GROUP BY ALL ORDER BY ALL"
    first = analyze(prefix, lake, model)
    assert (first["ok"], first["failed"], first["frames"]) == (2, 1, 20)
    assert analyze(prefix, lake, model)["skipped"] == 2
    assert "False,14" in ask("sql", counts, "--format", "csv")
    assert "10 frames, 7 with a face" in ask("inspect", video, "--at", "0.1")

    ask("models", "promote", tiny_model(tmp_path / "other", name="mfer_atto.other_v1", seed=5))
    assert "2 ok" in ask("models", "reanalyze", first["model_id"])
    assert "True,14" in ask("sql", counts, "--format", "csv")
    assert "sound" in ask("lake", "check")
    assert "observations" in ask("lake", "compact")
    assert "nothing found" in ask("lake", "forget", video, "--yes")
    assert "True,7" in ask("sql", counts, "--format", "csv")
    assert "sound" in ask("lake", "check")
