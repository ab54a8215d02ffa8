"""A video in segments: one person stays one track, and it does not matter who did which segment when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.lake import Lake
from storage.maintenance.check import check_lake
from storage.records import VideoOutcome, VideoPart
from storage.sql.views import run_sql

WHOLE = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
IN_SEGMENTS = replace(WHOLE, segment_s=0.4)
N_SEGMENTS = 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, write_talk: Callable[..., Path]) -> Path:
    """Forty frames at 25 a second, ten in each segment: a man who is away in the third."""
    shown = [None if k // 10 == 2 else k for k in range(40)]
    return write_talk(tmp_path_factory.mktemp("segments") / "talk.mp4", shown)


@pytest.fixture(scope="module")
def scorer(model: Path) -> Scorer:
    return Scorer(model)


def rows(lake: Lake, query: str) -> list[dict]:
    return run_sql(lake, query).to_pylist()


def analyzer_of(lake: Path, scorer: Scorer, settings: AnalysisSettings = IN_SEGMENTS) -> VideoAnalyzer:
    return VideoAnalyzer(Lake.open(lake, create=True), settings, scorer)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, clip: Path, scorer: Scorer) -> Lake:
    analyzer = analyzer_of(tmp_path_factory.mktemp("segments") / "lake", scorer)
    outcome = analyzer(VideoFile(clip))
    assert isinstance(outcome, VideoOutcome)
    assert outcome.status == "ok", outcome
    return analyzer.lake


EVERYTHING = "SELECT * FROM scores_all ORDER BY frame_index, face_index"


def test_one_person_is_one_track_across_seams(lake: Lake) -> None:
    assert rows(lake, "SELECT n_segments FROM raw.videos") == [{"n_segments": N_SEGMENTS}]
    seen = rows(lake, "SELECT track_id, min(frame_index) a, max(frame_index) b FROM scores GROUP BY 1 ORDER BY 1")
    assert [(row["a"], row["b"]) for row in seen] == [(0, 19), (30, 39)]
    assert check_lake(lake).is_sound


def test_faces_are_those_of_an_analysis_without_seams(lake: Lake, clip: Path, scorer: Scorer, tmp_path: Path) -> None:
    """Detections come elsewhere, so boxes may lie a pixel or two apart."""
    whole = analyzer_of(tmp_path / "whole", scorer, WHOLE)
    whole(VideoFile(clip))
    query = "SELECT frame_index, face_index, box_x1_px, box_y1_px, box_x2_px, box_y2_px FROM scores ORDER BY ALL"
    ours, theirs = (np.array([list(row.values()) for row in rows(of, query)]) for of in (lake, whole.lake))
    assert ours[:, :2].tolist() == theirs[:, :2].tolist()
    assert np.abs(ours - theirs).max() < 4


def test_parts_that_come_in_any_order_make_the_same_table(
    lake: Lake, clip: Path, scorer: Scorer, tmp_path: Path
) -> None:
    analyzer = analyzer_of(tmp_path / "parts", scorer)
    for part in ((3, 4), (0, 1), (1, 3)):
        found = analyzer(VideoFile(clip, segments=part))
        assert isinstance(found, VideoPart)
        assert found.n_segments == N_SEGMENTS
        assert rows(analyzer.lake, "SELECT * FROM scores_all") == []  # no half video shows
    assert analyzer(VideoFile(clip)).status == "ok"  # type: ignore[union-attr]
    assert rows(analyzer.lake, EVERYTHING) == rows(lake, EVERYTHING)


def test_who_stops_after_a_segment_goes_on_there(lake: Lake, clip: Path, scorer: Scorer, tmp_path: Path) -> None:
    analyzer = analyzer_of(tmp_path / "stopped", scorer)
    stopped = analyzer(VideoFile(clip), stopping=lambda: True)
    assert isinstance(stopped, VideoOutcome)
    assert (stopped.status, stopped.code) == ("skipped", "interrupted")
    assert stopped.message == f"stopped after segment 1 of {N_SEGMENTS}; run again to go on from there"
    calls: list[int] = []
    assert analyzer(VideoFile(clip), lambda done, n: calls.append(done)).status == "ok"  # type: ignore[union-attr]
    assert calls[0] > 10
    assert calls[-1] == 40
    assert rows(analyzer.lake, EVERYTHING) == rows(lake, EVERYTHING)


def test_another_model_takes_the_faces_of_all_segments(lake: Lake, clip: Path, tmp_path: Path) -> None:
    from tests.models import tiny_model

    other = VideoAnalyzer(lake, IN_SEGMENTS, Scorer(tiny_model(tmp_path / "other", seed=7)))
    assert other(VideoFile(clip)).status == "ok"  # type: ignore[union-attr]
    query = "SELECT frame_index, face_index, track_id, box_x1_px FROM scores_all WHERE {} ORDER BY ALL"
    mine = f"analysis_id = '{other.analysis_id}'"
    assert rows(lake, query.format(mine)) == rows(lake, query.format(f"NOT ({mine})"))
