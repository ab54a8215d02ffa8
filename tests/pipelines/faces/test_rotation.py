"""People who lie on their side in the picture: their faces are no good readings, unless the frames are turned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mfer.errors import ConfigError
from pipelines.batches import Detections
from pipelines.faces.rotation import Turn
from pipelines.faces.track import box_iou
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings, DetectorSettings
from pipelines.video.encode import write_video
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.faces import astronaut, carphone_frames

DETECTOR = DetectorSettings(min_face_px=30)
N_FRAMES = 6
FULL_TURNS = [pytest.param(degrees, marks=pytest.mark.full) for degrees in (180, 270)]
BOX = ["box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px"]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """The package's own model: whether a face is misread is about real scores."""
    return Scorer(find_model("default"))


def woman() -> list[np.ndarray]:
    """The photograph at growing sizes, uint8 [240,320,3]: her face is 45 to 65 px."""
    frames = []
    for k in range(N_FRAMES):
        side = 256 + 18 * k
        picture = np.asarray(Image.fromarray(astronaut()).resize((side, side), Image.Resampling.LANCZOS))[:240]
        frame = np.full((240, 320, 3), 90, np.uint8)
        frame[: len(picture), : picture.shape[1]] = picture[:, :320]
        frames.append(frame)
    return frames


def man() -> list[np.ndarray]:
    return list(carphone_frames()[: 20 * N_FRAMES : 20])


def nobody() -> list[np.ndarray]:
    return [frame[:100, :100] // 8 for frame in woman()]


def clip(path: Path, frames: list[np.ndarray], turned_deg: int) -> Path:
    """Frames that are turned clockwise, without a word of it in the file."""
    return write_video(path, [np.rot90(f, -turned_deg // 90) for f in frames], 5, options={"crf": "12"})


def analyze(lake: Lake, path: Path, scorer: Scorer, **settings: Any) -> list[dict[str, Any]]:
    outcome = VideoAnalyzer(lake, AnalysisSettings(detector=DETECTOR, **settings), scorer)(VideoFile(path))
    assert outcome.status == "ok", outcome
    return run_sql(lake, f"SELECT * FROM scores WHERE video_id = '{outcome.video_id}' ORDER BY frame_index").to_pylist()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


@pytest.mark.parametrize("mode", ["tracked", pytest.param("exact", marks=pytest.mark.full)])
@pytest.mark.parametrize("frames", [woman, man])
def test_faces_on_their_side_or_upside_down_are_no_good_readings(
    tmp_path: Path, lake: Lake, scorer: Scorer, frames: Callable[[], list[np.ndarray]], mode: str
) -> None:
    good = {}
    for turned_deg in (0, 90, 180, 270):
        path = clip(tmp_path / f"{turned_deg}.mp4", frames(), turned_deg)
        settings = AnalysisSettings(detector=DetectorSettings(min_face_px=30, mode=mode))  # type: ignore[arg-type]
        outcome = VideoAnalyzer(lake, settings, scorer)(VideoFile(path))
        query = f"SELECT count(*) AS n FROM scores WHERE quality_ok AND video_id = '{outcome.video_id}'"
        good[turned_deg] = run_sql(lake, query).to_pylist()[0]["n"]
    assert good.pop(0) == N_FRAMES
    assert max(good.values()) <= 1, good


@pytest.mark.parametrize("turned_deg", [90, *FULL_TURNS])
def test_turned_back_they_are_read_as_if_they_stood_and_lie_where_a_player_shows_them(
    tmp_path: Path, lake: Lake, scorer: Scorer, turned_deg: int
) -> None:
    upright = analyze(lake, clip(tmp_path / "0.mp4", woman(), 0), scorer)
    path = clip(tmp_path / "turned.mp4", woman(), turned_deg)
    rows = analyze(lake, path, scorer, rotate=str(360 - turned_deg))
    assert [row["expression"] for row in rows] == [row["expression"] for row in upright]
    assert all(row["quality_ok"] and abs(row["roll_deg"]) < 10 for row in rows)
    stood = np.array([[row[name] for name in BOX] for row in upright])
    x1, y1, x2, y2 = stood.T
    lying = {
        90: [239 - y2, x1, 239 - y1, x2],
        180: [319 - x2, 239 - y2, 319 - x1, 239 - y1],
        270: [y1, 319 - x2, y2, 319 - x1],
    }[turned_deg]
    lies = np.array([[row[name] for name in BOX] for row in rows])
    assert np.diag(box_iou(np.stack(lying, 1), lies)).min() > 0.8
    (video,) = run_sql(lake, f"SELECT * FROM raw.videos WHERE path = '{path}'").to_pylist()
    shown = (320, 240) if turned_deg == 180 else (240, 320)
    assert (video["width_px"], video["height_px"]) == shown
    assert json.loads(video["settings"])["rotation_deg"] == 360 - turned_deg


@pytest.mark.parametrize("turned_deg", [90, *FULL_TURNS, pytest.param(0, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", ["woman", pytest.param("man", marks=pytest.mark.full), "nobody"])
def test_auto_finds_the_turn_of_each_file(
    tmp_path: Path, lake: Lake, scorer: Scorer, name: str, turned_deg: int
) -> None:
    frames = {"man": man, "woman": woman, "nobody": nobody}[name]()
    path = clip(tmp_path / f"{name}.mp4", frames, turned_deg)
    rows = analyze(lake, path, scorer, rotate="auto")
    (video,) = run_sql(lake, f"SELECT settings FROM raw.videos WHERE path = '{path}'").to_pylist()
    right = 0 if name == "nobody" else -turned_deg % 360
    assert json.loads(video["settings"])["rotation_deg"] == right, name
    assert len(rows) == (0 if name == "nobody" else N_FRAMES)
    assert all(row["quality_ok"] for row in rows)


def test_stored_faces_of_a_turned_file_are_scored_again_to_the_same_numbers(
    tmp_path: Path, lake: Lake, scorer: Scorer, model: Path
) -> None:
    path = clip(tmp_path / "turned.mp4", woman(), 90)
    settings = AnalysisSettings(detector=DETECTOR, rotate="270")
    VideoAnalyzer(lake, settings, Scorer(model))(VideoFile(path))
    other = Lake.open(tmp_path / "other", create=True)
    VideoAnalyzer(other, settings, scorer)(VideoFile(path))
    VideoAnalyzer(lake, settings, scorer)(VideoFile(path))  # the second model of this lake: no detection
    query = f"SELECT * FROM raw.observations WHERE model_id = '{scorer.model_id}' ORDER BY frame_index"
    assert run_sql(lake, query).equals(run_sql(other, query))


def test_turns_are_undone_exactly() -> None:
    rng = np.random.default_rng(0)  # the lake keeps eighths of a pixel
    low, side, points = (rng.integers(0, 800, size).astype(np.float32) / 8 for size in ((9, 2), (9, 2), (9, 5, 2)))
    faces = Detections(np.arange(9), np.concatenate([low, low + side], 1), points, np.ones(9, np.float32))
    for quarters in range(4):
        turn = Turn(quarters, 176, 144)
        back = turn.faces_back(turn.faces(faces))
        np.testing.assert_array_equal(back.box_xyxy_px, faces.box_xyxy_px)
        np.testing.assert_array_equal(back.landmarks_px, faces.landmarks_px)


def test_an_unknown_rotation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="rotate is '45'; allowed: 90, 180, 270, auto"):
        AnalysisSettings(rotate="45")  # type: ignore[arg-type]
