"""The spine on real clips: what a row says, and what makes no difference to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mfer.classes import EXPRESSIONS
from pipelines.batches import AlignedFaces, Detections, FrameBatch
from pipelines.faces.finder import FoundFaces
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings, DetectorSettings
from pipelines.video.decode import decode, open_video
from storage.lake import Lake
from storage.records import VideoOutcome
from storage.schema import LANDMARKS
from storage.sql.views import run_sql
from tests.clips import write_clip
from tests.faces import as_batch, astronaut_face, exact
from tests.models import tiny_model

#: Faces below 36 px are not looked for: four times as fast on a face of 53 px.
DETECTOR = DetectorSettings(min_face_px=36)
SETTINGS = AnalysisSettings(detector=DETECTOR)
P = [f"p_{name}" for name in EXPRESSIONS]
#: Of the model of seed 0 and the photograph's face: mean grey level of the crop, and probabilities.
GOLDEN_MEAN = 146.0737
GOLDEN = [0.174837, 0.110948, 0.084621, 0.19112, 0.104927, 0.06462, 0.179539, 0.089389]
POINTS = [f"{point}_{axis}_px" for point in LANDMARKS for axis in "xy"]
BOX = ["box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px"]


@pytest.fixture(scope="module")
def scorer(model: Path) -> Scorer:
    return Scorer(model)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, talk: Path, scorer: Scorer) -> Lake:
    """A lake with the talking man in it."""
    lake = Lake.open(tmp_path_factory.mktemp("score") / "lake", create=True)
    assert analyze(lake, talk, scorer).status == "ok"
    return lake


def analyze(lake: Lake, path: Path, scorer: Scorer, settings: AnalysisSettings = SETTINGS) -> VideoOutcome:
    return VideoAnalyzer(lake, settings, scorer)(VideoFile(path))


def new_lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def columns(rows: pa.Table, names: list[str]) -> np.ndarray:
    """float64 [rows, names]"""
    return np.stack([rows[name].to_numpy().astype(np.float64) for name in names], 1)


def frames_of(lake: Lake) -> pa.Table:
    return run_sql(lake, "SELECT * FROM frames ORDER BY frame_index")


def scores_of(lake: Lake) -> pa.Table:
    return run_sql(lake, "SELECT * FROM scores ORDER BY frame_index, face_index")


def test_every_frame_has_its_rows_and_its_times(lake: Lake) -> None:
    frames = frames_of(lake)
    assert frames["frame_index"].to_pylist() == list(range(10))
    assert frames["frame_status"].to_pylist() == ["ok"] * 4 + ["no_face"] * 3 + ["ok"] * 3
    assert frames["n_faces"].to_pylist() == [1] * 4 + [0] * 3 + [1] * 3
    for name in ("pts_s", "time_s"):
        np.testing.assert_allclose(frames[name].to_numpy(), np.arange(10) / 25, atol=1e-6)
    np.testing.assert_allclose(frames["duration_s"].to_numpy(), 1 / 25, atol=1e-6)
    blank = run_sql(lake, f"SELECT face_index, expression, {', '.join(P)} FROM raw.observations WHERE n_faces = 0")
    assert len(blank) == 3
    assert all(column.null_count == 3 for column in blank.columns)


def test_times_start_at_zero_whatever_the_file_starts_with(tmp_path: Path, scorer: Scorer) -> None:
    lake = new_lake(tmp_path)
    clip = write_clip(tmp_path / "late.mkv", n_frames=4, pts_ms=[2000, 2040, 2140, 2180])
    assert analyze(lake, clip, scorer).status == "ok"
    frames = frames_of(lake)
    np.testing.assert_allclose(frames["pts_s"].to_numpy(), [2.0, 2.04, 2.14, 2.18], atol=1e-6)
    np.testing.assert_allclose(frames["time_s"].to_numpy(), [0.0, 0.04, 0.14, 0.18], atol=1e-6)
    np.testing.assert_allclose(frames["duration_s"].to_numpy()[:3], [0.04, 0.1, 0.04], atol=1e-6)


def test_scores_of_exact_detection_are_those_of_the_same_steps_by_hand(
    tmp_path: Path, talk: Path, scorer: Scorer
) -> None:
    lake = new_lake(tmp_path)
    assert analyze(lake, talk, scorer, AnalysisSettings(detector=replace(DETECTOR, mode="exact"))).status == "ok"
    rows = scores_of(lake)
    (frames,) = decode(open_video(talk), batch_frames=16)
    found = exact(36).detect(frames.rgb)
    assert rows["frame_index"].to_pylist() == found.frame_row.tolist() == [0, 1, 2, 3, 7, 8, 9]
    np.testing.assert_allclose(columns(rows, BOX), found.box_xyxy_px, atol=1 / 16)
    np.testing.assert_allclose(columns(rows, POINTS).reshape(-1, 5, 2), found.landmarks_px, atol=1 / 16)
    rounded = Detections(found.frame_row, found.box_xyxy_px, np.round(found.landmarks_px * 8) / 8, found.prob)
    scores = scorer(scorer.align(frames, rounded))
    np.testing.assert_allclose(columns(rows, P), scores.prob, atol=2**-12)
    assert set(rows["model_id"].to_pylist()) == {scorer.model_id}


def test_probabilities_sum_to_one_and_the_summary_columns_follow_from_them(lake: Lake) -> None:
    rows = scores_of(lake)
    prob = columns(rows, P)
    np.testing.assert_allclose(prob.sum(1), 1, atol=8 * 2**-13)
    assert rows["expression"].to_pylist() == [EXPRESSIONS[k] for k in prob.argmax(1)]
    np.testing.assert_allclose(rows["confidence"].to_numpy(), prob.max(1), atol=2**-12)
    entropy = -(prob * np.log(np.clip(prob, 1e-12, None))).sum(1)
    np.testing.assert_allclose(rows["entropy"].to_numpy(), entropy, atol=0.01)


def test_one_face_is_one_track_until_the_cut(lake: Lake) -> None:
    tracks = run_sql(lake, "SELECT track_id, first_frame, last_frame, n_faces FROM tracks ORDER BY track_id")
    assert tracks.to_pylist() == [
        {"track_id": 0, "first_frame": 0, "last_frame": 3, "n_faces": 4},
        {"track_id": 1, "first_frame": 7, "last_frame": 9, "n_faces": 3},
    ]


def test_probabilities_of_stored_pixels_stay_as_they_are(scorer: Scorer) -> None:
    """From pixels of a photograph and landmarks read off it by eye, through crop and network, to probabilities."""
    landmarks = np.array([[[81, 85], [122, 86], [101, 108], [78, 123], [121, 125]]], np.float32)
    box = np.array([[55, 40, 145, 150]], np.float32)
    faces = Detections(np.zeros(1, np.int64), box, landmarks, np.ones(1, np.float32))
    crops = scorer.align(as_batch(astronaut_face()[None]), faces)
    assert isinstance(crops, AlignedFaces)
    assert crops.pixels.mean() == pytest.approx(GOLDEN_MEAN, abs=0.01)
    np.testing.assert_allclose(scorer(crops).prob[0], GOLDEN, atol=1e-4)


@pytest.mark.parametrize(
    ("sampling", "frames", "durations_s"),
    [
        ({"every": 4}, [0, 4, 8], [0.16, 0.16, 0.08]),
        ({"fps": 10.0}, [0, 2, 5, 7], [0.08, 0.12, 0.08, 0.12]),
        ({"fps": 100.0}, list(range(10)), [0.04] * 10),
    ],
    ids=["every 4th", "10 a second", "more than there are"],
)
def test_a_sampled_frame_stands_until_the_next_one(
    tmp_path: Path, talk: Path, scorer: Scorer, sampling: dict, frames: list[int], durations_s: list[float]
) -> None:
    lake = new_lake(tmp_path)
    outcome = analyze(lake, talk, scorer, AnalysisSettings(detector=DETECTOR, **sampling))
    assert (outcome.status, outcome.n_frames) == ("ok", len(frames))
    rows = frames_of(lake)
    assert rows["frame_index"].to_pylist() == frames
    np.testing.assert_allclose(rows["duration_s"].to_numpy(), durations_s, atol=1e-6)
    np.testing.assert_allclose(rows["time_s"].to_numpy(), np.array(frames) / 25, atol=1e-6)


def damage(path: Path) -> Path:
    """Overwrite 400 bytes in the middle."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(1).bytes(400)
    path.write_bytes(data)
    return path


def test_frames_that_cannot_be_read_are_rows_and_the_video_is_partial(tmp_path: Path, scorer: Scorer) -> None:
    lake = new_lake(tmp_path)
    clip = damage(write_clip(tmp_path / "x.mp4", n_frames=50, options={"bf": "2", "g": "10"}))
    outcome = analyze(lake, clip, scorer)
    assert (outcome.status, outcome.code, outcome.stage) == ("partial", "frames_undecodable", "decode")
    assert 0 < outcome.n_frames_undecodable < 50 == outcome.n_frames
    assert f"{outcome.n_frames_undecodable} of 50 frames" in outcome.message
    frames = frames_of(lake)
    assert frames["frame_index"].to_pylist() == list(range(50))
    assert set(frames["frame_status"].to_pylist()) == {"no_face", "decode_error"}
    assert frames["frame_status"].to_pylist().count("decode_error") == outcome.n_frames_undecodable
    np.testing.assert_allclose(frames["time_s"].to_numpy(), np.arange(50) / 25, atol=1e-6)


def test_a_file_cut_short_is_partial_and_says_so(tmp_path: Path, scorer: Scorer) -> None:
    clip = write_clip(tmp_path / "x.mp4", n_frames=50, container_options={"movflags": "faststart"}, options={"g": "10"})
    clip.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.6)])
    outcome = analyze(new_lake(tmp_path), clip, scorer)
    assert (outcome.status, outcome.code) == ("partial", "truncated")
    assert "frames before its header says" in outcome.message


def refuse(batches: Iterable[FrameBatch]) -> Iterator[FoundFaces]:
    raise AssertionError("the detector was asked")


@pytest.fixture(scope="module")
def rescored(lake: Lake, talk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, VideoOutcome]]:
    """Further analyses of the talking man, with a detector that must not run: {name: (analysis_id, outcome)}."""
    done = {}
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("other", 1), ("same", 0)):
        again = Scorer(tiny_model(folder / name, name=f"mfer_atto.{name}_v1", seed=seed))
        analyzer = VideoAnalyzer(lake, SETTINGS, again)
        analyzer.finder = refuse  # type: ignore[assignment]
        done[name] = analyzer.analysis_id, analyzer(VideoFile(talk))
    return done


def observations(lake: Lake, analysis_id: str) -> pa.Table:
    return run_sql(
        lake, f"SELECT * FROM raw.observations WHERE analysis_id = '{analysis_id}' ORDER BY frame_index, face_index"
    )


def test_a_second_model_scores_the_stored_faces_without_the_detector(
    lake: Lake, scorer: Scorer, rescored: dict[str, tuple[str, VideoOutcome]]
) -> None:
    first = observations(lake, VideoAnalyzer(lake, SETTINGS, scorer).analysis_id)
    analysis_id, outcome = rescored["other"]
    assert outcome.status == "ok", outcome.message
    second = observations(lake, analysis_id)
    scores = [*P, "expression", "confidence", "entropy", "model_id", "analysis_id"]
    assert first.drop_columns(scores).equals(second.drop_columns(scores))
    seen = pa.compute.is_valid(first["face_index"])
    assert np.abs(columns(first.filter(seen), P) - columns(second.filter(seen), P)).max() > 0.01


def test_the_same_weights_give_the_same_numbers_from_stored_faces(
    lake: Lake, scorer: Scorer, rescored: dict[str, tuple[str, VideoOutcome]]
) -> None:
    analysis_id, outcome = rescored["same"]
    assert outcome.status == "ok", outcome.message
    first = observations(lake, VideoAnalyzer(lake, SETTINGS, scorer).analysis_id)
    names = ["model_id", "analysis_id"]
    assert first.drop_columns(names).equals(observations(lake, analysis_id).drop_columns(names))


def test_a_video_without_faces_is_scored_again_without_the_detector(tmp_path: Path, scorer: Scorer) -> None:
    lake = new_lake(tmp_path)
    clip = write_clip(tmp_path / "bars.mp4", n_frames=3)
    assert analyze(lake, clip, scorer).status == "ok"
    analyzer = VideoAnalyzer(lake, SETTINGS, Scorer(tiny_model(tmp_path / "other", seed=1)))
    analyzer.finder = refuse  # type: ignore[assignment]
    outcome = analyzer(VideoFile(clip))
    assert (outcome.status, outcome.n_frames, outcome.n_faces) == ("ok", 3, 0), outcome.message


def test_batch_size_makes_no_difference(
    tmp_path: Path, talk: Path, scorer: Scorer, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.settings._MAX_BATCH_FRAMES", 3)
    other = new_lake(tmp_path)
    analyze(other, talk, scorer)
    one, two = scores_of(lake), scores_of(other)
    same = ["frame_index", "face_index", "track_id", "n_faces", "time_s", "duration_s"]
    assert one.select(same).equals(two.select(same))
    # the detector itself differs by up to a pixel: equal scores are tied in its last suppression
    np.testing.assert_allclose(columns(one, BOX + POINTS), columns(two, BOX + POINTS), atol=1.0)
    np.testing.assert_allclose(columns(one, P), columns(two, P), atol=0.02)


def test_progress_counts_every_sampled_frame(tmp_path: Path, talk: Path, scorer: Scorer) -> None:
    calls: list[tuple[int, int]] = []
    settings = AnalysisSettings(every=2, detector=DETECTOR)
    VideoAnalyzer(new_lake(tmp_path), settings, scorer)(VideoFile(talk), lambda *n: calls.append(n))
    assert calls == sorted(calls)
    assert calls[-1] == (5, 5)


def test_a_fault_of_our_own_costs_only_the_video_and_can_be_reported(
    tmp_path: Path, talk: Path, scorer: Scorer
) -> None:
    analyzer = VideoAnalyzer(new_lake(tmp_path), SETTINGS, scorer)
    analyzer.finder = refuse  # type: ignore[assignment]
    outcome = analyzer(VideoFile(talk))
    assert (outcome.status, outcome.code) == ("failed", "internal")
    assert "AssertionError: the detector was asked (test_score.py, line" in outcome.message
    assert outcome.video_id is not None


_PEAK = """
import resource, sys
from pathlib import Path
from pipelines.settings import DetectorSettings
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings
from storage.lake import Lake
lake, model, clip = (Path(arg) for arg in sys.argv[1:])
settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36), decoder="pyav")
outcome = VideoAnalyzer(Lake.open(lake, create=True), settings, Scorer(model))(VideoFile(clip))
print(outcome.n_frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
"""


@pytest.mark.full
def test_memory_does_not_grow_with_the_length_of_a_video(
    tmp_path: Path, model: Path, write_talk: Callable[..., Path]
) -> None:
    peak_mb = []
    for n_frames in (40, 400):
        clip = write_talk(tmp_path / f"{n_frames}.mp4", [k % 120 for k in range(n_frames)])
        command = [sys.executable, "-c", _PEAK, str(tmp_path / "lake"), str(model), str(clip)]
        done, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(done) == n_frames
        peak_mb.append(float(peak))
    assert peak_mb[1] - peak_mb[0] < 20, peak_mb
