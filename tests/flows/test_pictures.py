"""Photographs and sequences of pictures into a lake, and back out of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mfer
from dashboards.outputs.render import render_video
from dashboards.outputs.report import write_report
from dashboards.web.app import create_app
from flows.explain import explain_moment
from mfer.errors import ConfigError
from pipelines.people.find import find_people
from pipelines.scoring.lookup import card_of
from pipelines.settings import DetectorSettings
from pipelines.video.decode import open_video
from pipelines.video.stills import read_still
from storage.identity import video_id_of
from storage.lake import Lake
from tests.faces import astronaut, carphone_frames
from tests.pictures import stored_as

DETECTOR = DetectorSettings(min_face_px=36)


def save(rgb: np.ndarray, path: Path, orientation: int = 1, **settings: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored_as(Image.fromarray(rgb), orientation).save(path, exif=exif, **settings)  # type: ignore[arg-type]
    return path


def test_pictures_of_a_folder_are_videos_of_one_frame(tmp_path: Path, model: Path) -> None:
    folder, lake = tmp_path / "photos", tmp_path / "lake"
    folder.mkdir()
    save(astronaut(), folder / "upright.png")
    save(astronaut(), folder / "turned.png", orientation=6)
    shutil.copy(folder / "upright.png", folder / "copy.png")
    two = np.hstack([astronaut(), astronaut()])
    save(two, folder / "two.webp", lossless=True)
    (folder / "cut.jpg").write_bytes(save(astronaut(), tmp_path / "whole.jpg").read_bytes()[:20_000])
    settings = {"model": str(model), "device": "cpu", "progress": False, "detector": DETECTOR}

    one = mfer.analyze([folder / "upright.png", folder], lake, **settings)
    assert [(os.path.basename(o.path), o.status) for o in one.outcomes] == [("upright.png", "ok")]
    assert one.pictures_text == "4 pictures were not analysed; --pictures includes them"
    summary = mfer.analyze(folder, lake, pictures=True, **settings)
    assert {os.path.basename(o.path): o.status for o in summary.outcomes} == {
        "copy.png": "skipped",
        "cut.jpg": "failed",
        "turned.png": "ok",
        "two.webp": "ok",
        "upright.png": "skipped",
    }
    assert [o.code for o in summary.outcomes if o.status == "failed"] == ["decode_failed"]
    assert summary.exit_code == 1

    with mfer.connect(lake) as con:
        faces = con.sql(
            "SELECT file_name, time_s, duration_s, round(box_x1_px) AS x, track_id FROM scores ORDER BY file_name, x"
        ).fetchall()
        assert [row[:3] for row in faces if row[0] != "two.webp"] == [("turned.png", 0, 1), ("upright.png", 0, 1)]
        assert len({row[3] for row in faces if row[0] != "two.webp"}) == 1  # upright, both of them
        assert len({row[4] for row in faces if row[0] == "two.webp"}) == 2
        kinds = con.sql("SELECT DISTINCT container, decoder, duration_s, n_frames FROM videos WHERE status = 'ok'")
        assert kinds.fetchall() == [("picture", "pillow", 1, 1)]
        assert con.sql("SELECT sum(duration_s) = count(*) FROM scores").fetchall() == [(True,)]
        assert con.sql("SELECT sum(share_of_time) FROM expression_shares()").fetchall() == [(pytest.approx(1),)]

    opened = Lake.open(lake)
    drawn = render_video(opened, folder / "turned.png", tmp_path / "drawn.png", blur=True)
    with Image.open(drawn.output) as shown:
        assert shown.size == (512 * drawn.scale, 512 * drawn.scale)
    assert "face 0" in explain_moment(str(folder / "turned.png"), 0.0, model, tmp_path / "why.png", opened)
    page = write_report(opened, tmp_path / "report.html", card_of=lambda model_id: card_of(model_id, opened))
    assert "turned.png" in page.read_text()
    client = create_app(opened).server.test_client()
    video_id = next(o.video_id for o in summary.outcomes if o.path.endswith("turned.png"))
    assert client.get(f"/picture/still/{video_id}.jpg?t=0").status_code == 200
    assert client.get(f"/picture/face/{video_id}/0/0.jpg").status_code == 200
    same = find_people(opened, [str(folder / "upright.png"), str(folder / "turned.png")], across=True)
    assert (same.n_people, same.n_tracks) == (1, 2)
    twice = find_people(opened, [str(folder / "two.webp")])
    assert (twice.n_people, twice.n_tracks) == (2, 2)  # nobody is seen twice in a picture


def test_numbered_pictures_are_one_video(tmp_path: Path, model: Path) -> None:
    folder, lake = tmp_path / "walk", tmp_path / "lake"
    folder.mkdir()
    for k in (8, 9, 10, 12):
        save(carphone_frames()[k], folder / f"left_{k}.png")
    save(astronaut(), folder / "cover.jpg")
    settings = {"model": str(model), "device": "cpu", "progress": False, "detector": DETECTOR}
    with pytest.raises(ConfigError, match="--sequence --fps 25"):
        mfer.analyze(folder, lake, sequence=True, **settings)
    summary = mfer.analyze(folder, lake, sequence=True, fps=12.5, **settings)
    assert summary.pictures_text == "1 picture was not analysed; --pictures includes it"
    (outcome,) = summary.outcomes
    assert outcome.path == str(folder / "left_#.png@12.5fps")
    assert (outcome.status, outcome.code, outcome.n_frames, outcome.n_faces) == ("partial", "pictures_missing", 5, 4)
    assert "1 of 5 pictures are missing by their numbers (frames 3)" in outcome.message

    with mfer.connect(lake) as con:
        frames = con.sql("SELECT frame_index, time_s, frame_status FROM frames ORDER BY 1").fetchall()
    assert frames == [(0, 0, "ok"), (1, 0.08, "ok"), (2, 0.16, "ok"), (3, 0.24, "decode_error"), (4, 0.32, "ok")]
    (again,) = mfer.analyze(folder / "left_9.png", lake, sequence=True, fps=12.5, **settings).outcomes
    assert (again.status, again.video_id) == ("skipped", outcome.video_id)

    name = Path(outcome.path)
    np.testing.assert_array_equal(read_still(name, 0.16), carphone_frames()[10])
    opened = Lake.open(lake)
    made = render_video(opened, folder, tmp_path / "made.mp4")
    assert (made.n_frames, open_video(made.output).info.duration_s) == (4, pytest.approx(0.4, abs=0.001))
    client = create_app(opened).server.test_client()
    assert client.get(f"/media/{outcome.video_id}").status_code == 404
    for path in (*folder.iterdir(), folder):
        os.utime(path)  # its time has changed, its bytes have not
    assert client.get(f"/picture/face/{outcome.video_id}/2/0.jpg").status_code == 200
    save(carphone_frames()[11], folder / "left_11.png")
    assert client.get(f"/picture/face/{outcome.video_id}/2/0.jpg").status_code == 404
    assert video_id_of(name) != outcome.video_id
