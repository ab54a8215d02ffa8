"""Files with several video streams: each is a video of its own, and whatever opens the file again reads that stream."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import mfer
from dashboards.outputs.render import render_video
from dashboards.outputs.report import write_report
from dashboards.web.api import Explain
from dashboards.web.app import create_app
from dashboards.web.pages.video import layout
from dashboards.web.source import LakeSource
from flows.analyze import analyze_folder
from flows.cli.main import main
from flows.explain import explain_moment
from flows.reanalyze import reanalyze
from flows.run import FolderRun, RunSummary
from mfer.card import read_card
from pipelines.learning.collect import collect_faces
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.annotations.edits import add_label
from storage.annotations.labels import read_labels
from storage.identity import video_id_of
from storage.lake import Lake
from storage.maintenance.forget import forget_video
from storage.sql.views import run_sql
from tests.faces import carphone_frames
from tests.models import tiny_model

N_FRAMES = (8, 6)


def write_two(path: Path) -> Path:
    """The talking man, and in a second stream the same man twice as large in red light, with fewer frames."""
    talk = carphone_frames()
    red = (talk[: N_FRAMES[1]] * np.array([1.0, 0.55, 0.45])).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    with av.open(str(path), "w") as out:
        streams = [(out.add_stream("libx264", rate=25), frames) for frames in (talk[: N_FRAMES[0]], red)]
        for number, (stream, frames) in enumerate(streams):
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.options = "yuv420p", {"crf": "12", "bf": "0"}
            stream.disposition = 1 - number  # the first is the one to show
        for stream, frames in streams:
            for rgb in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
            out.mux(stream.encode(None))
    return path


def analyze(lake: Path, model: Path, path: Path, stream: object) -> RunSummary:
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
    return analyze_folder(FolderRun((str(path),), str(lake), str(model), "cpu", settings=settings, stream=stream))  # type: ignore[arg-type]


def is_red(picture: np.ndarray) -> bool:
    """Whether a picture is of the second stream."""
    red, _, blue = np.asarray(picture).reshape(-1, 3).mean(0)
    return bool(red > 1.4 * blue)


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two(tmp_path_factory.mktemp("two") / "two.mp4")


@pytest.fixture(scope="module")
def lake(two: Path, model: Path) -> Lake:
    """A lake in which both streams were analysed."""
    summary = analyze(two.parent / "lake", model, two, "all")
    assert [(each.status, each.stream, each.n_frames) for each in summary.outcomes] == [("ok", None, 8), ("ok", 1, 6)]
    return Lake.open(two.parent / "lake")


def ids(two: Path) -> list[str]:
    return [video_id_of(two), f"{video_id_of(two)}-v1"]


def test_each_stream_is_a_video_in_every_view(lake: Lake, two: Path) -> None:
    for view in ("scores", "frames", "tracks", "seconds", "videos"):
        found = run_sql(
            lake, f"SELECT video_id, stream, file_name, count(*) AS n FROM {view} GROUP BY ALL ORDER BY ALL"
        )
        found = found.to_pylist()
        assert [(row["video_id"], row["stream"]) for row in found] == list(zip(ids(two), (0, 1), strict=True)), view
        assert {row["file_name"] for row in found} == {"two.mp4"}
        if view == "frames":
            assert [row["n"] for row in found] == list(N_FRAMES)
    videos = run_sql(lake, "SELECT width_px, n_streams, message FROM videos ORDER BY stream").to_pylist()
    assert [(row["width_px"], row["n_streams"]) for row in videos] == [(176, 2), (352, 2)]
    assert "stream 1 of 2 video streams" in videos[1]["message"]
    sides = run_sql(lake, "SELECT avg(face_px) AS px FROM scores GROUP BY stream ORDER BY stream").to_pylist()
    assert sides[1]["px"] == pytest.approx(2 * sides[0]["px"], rel=0.1)


def test_whatever_opens_the_file_again_reads_the_stream(lake: Lake, two: Path, model: Path, tmp_path: Path) -> None:
    faces = run_sql(lake, "SELECT s.*, t.faces_id FROM scores s JOIN tracks t USING (video_id, track_id)").to_pylist()
    other = Lake.open(tmp_path / "lake", create=True)
    assert analyze(tmp_path / "lake", model, two, "all").count("ok") == 2
    keys = ("video_id", "faces_id", "frame_index", "time_s", "face_index", "track_id")
    for stream in (0, 1):
        chosen = [face for face in faces if face["stream"] == stream][:2]
        for face, expression in zip(chosen, ("happiness", "anger"), strict=True):
            add_label(other, {key: face[key] for key in keys}, "expression", expression, "ann")
    learned = collect_faces(read_labels(other), ("happiness", "anger"), 3)
    parts = [part for part in (learned.train, learned.test) if part is not None]
    assert len(parts) == 1  # one recording is on one side of the split
    reds = [is_red(picture.numpy()) for picture in parts[0].pictures]
    assert sorted(reds) == [False, False, True, True]

    explained: list[tuple[str, str]] = []

    def explain(video_id: str, file: Path, at_s: float, png: Path) -> str:
        explained.append((video_id, explain_moment(video_id, at_s, model, png, lake, file=file)))
        return ""

    hook: Explain = explain
    browser = create_app(lake, explain=hook).server.test_client()
    for stream, video_id in enumerate(ids(two)):
        for url in (f"thumbnail/{video_id}.jpg", f"still/{video_id}.jpg?t=0.1", f"face/{video_id}/2/0.jpg"):
            assert is_red(pixels(browser.get(f"/picture/{url}").data)) == bool(stream), url
        assert browser.get(f"/picture/explain/{video_id}.png?t=0.04").status_code == 200
        assert explained[-1][0] == video_id
        assert "frame 1 at 0.040 s, face 0" in explained[-1][1]
        clip = browser.get(f"/api/video/{video_id}/clip.mp4?from=0&to=0.2").data
        with av.open(io.BytesIO(clip)) as made:
            top = next(made.decode(video=0)).to_ndarray(format="rgb24")[:100]
        assert is_red(top) == bool(stream)
        render_video(lake, video_id, tmp_path / "made.mp4", blur=True, plot=False)
        with av.open(str(tmp_path / "made.mp4")) as made:
            frames = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
        assert len(frames) == N_FRAMES[stream]
        assert is_red(frames[2]) == bool(stream)
    source = LakeSource(lake)
    for video_id, may_play in zip(ids(two), (True, False), strict=True):  # a browser plays the first stream
        (facts,) = (part.data for part in layout(source, video_id) if getattr(part, "id", "") == "video-facts")
        assert facts["may_play"] == may_play
    page = write_report(lake, tmp_path / "report.html", ids(two)[1:]).read_text(encoding="utf-8")
    assert "two.mp4, stream 1" in page
    titles = [video["title"] for video in browser.get("/api/videos").json["videos"]]  # type: ignore[index]
    assert titles == ["two.mp4", "two.mp4, stream 1"]


def test_what_is_done_is_known_by_its_stream(lake: Lake, two: Path, model: Path, tmp_path: Path) -> None:
    again = [analyze(lake.location, model, two, stream).outcomes for stream in ("all", None, 0, 1)]  # type: ignore[arg-type]
    assert [[each.status for each in outcomes] for outcomes in again] == [["skipped"] * 2, *[["skipped"]] * 3]
    mkv = write_two(tmp_path / "two.mkv")
    first = analyze(tmp_path / "lake", model, mkv, 1)
    assert [(each.status, each.n_frames) for each in first.outcomes] == [("ok", 6)]
    rest = analyze(tmp_path / "lake", model, mkv, "all")
    assert sorted((each.status, each.n_frames) for each in rest.outcomes) == [("ok", 8), ("skipped", 0)]
    second = tiny_model(tmp_path / "second", name="mfer_atto.random_v2", seed=1)
    done = reanalyze(Lake.open(tmp_path / "lake"), read_card(model).model_id, str(second), "cpu")
    assert sorted(each.n_frames for run in done.runs for each in run.outcomes) == [6, 8]
    forgotten = forget_video(Lake.open(tmp_path / "lake"), f"{video_id_of(mkv)}-v1")
    assert forgotten.left == ()
    assert set(forgotten.video_ids) == {video_id_of(mkv), f"{video_id_of(mkv)}-v1"}


def test_a_stream_that_there_is_not_is_refused_with_those_that_there_are(lake: Lake, two: Path, tmp_path: Path) -> None:
    run = CliRunner()
    place = str(tmp_path / "lake")
    answer = run.invoke(main, ["analyze", str(two), "--lake", place, "--stream", "2", "--json"])
    assert answer.exit_code == 1
    (outcome,) = json.loads(answer.stdout)["videos"]
    assert outcome["code"] == "no_such_stream"
    assert outcome["message"].startswith(
        "there is no video stream 2; the file has 0: h264 176x144, which players show; 1:"
    )
    for wrong in ("-1", "first", "1.5", ""):
        answer = run.invoke(main, ["analyze", str(two), "--lake", place, "--stream", wrong])
        assert answer.exit_code == 2
        assert "allowed: the number of a video stream, from 0, or all" in answer.stderr
    assert mfer.analyze(two, place, stream=0, fps=5.0, device="cpu", progress=False).count("ok") == 1
    result = run.invoke(main, ["sql", "SELECT status, stream FROM videos", "--lake", place, "--format", "json"])
    assert json.loads(result.stdout) == [{"status": "ok", "stream": 0}]

    shown = run.invoke(main, ["inspect", str(two), "--lake", str(lake.location), "--at", "0.1"])
    assert shown.exit_code == 0
    assert "stream    1: h264 352x288\n" in shown.stdout
    assert shown.stdout.count("at 0.100 s: frame 2") == 2
    one = run.invoke(main, ["inspect", ids(two)[1], "--lake", str(lake.location)])
    assert "h264, 352x288 px as shown, stream 1" in one.stdout
    several = run.invoke(main, ["render", str(two), "-o", str(tmp_path / "x.mp4"), "--lake", str(lake.location)])
    assert several.exit_code == 2
    assert f"name one by its video_id: {ids(two)[0]} ({two}), {ids(two)[1]} (stream 1 of" in several.stderr
