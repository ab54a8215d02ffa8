"""Another decoder than the package's own, registered from outside, is a name like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mfer.errors import ConfigError
from pipelines.errors import VideoError
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings
from pipelines.video.decode import decode, open_video
from pipelines.video.decoders import DECODERS
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.clips import write_clip


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(DECODERS, "toy", "tests.pipelines.video.toy_decoder:ToyDecoder")
    return "toy"


def test_a_decoder_that_was_registered_from_outside_reads_a_video(
    tmp_path: Path, talk: Path, model: Path, toy: str
) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    outcome = VideoAnalyzer(lake, AnalysisSettings(decoder=toy), Scorer(model))(VideoFile(talk))
    assert outcome.status == "ok"
    (video,) = run_sql(lake, "SELECT decoder, n_frames FROM videos").to_pylist()
    assert video == {"decoder": "toy", "n_frames": outcome.n_frames}
    for theirs, ours in zip(decode(open_video(talk), decoder=toy), decode(open_video(talk)), strict=True):
        assert (theirs.rgb == ours.rgb).all()
        np.testing.assert_array_equal(theirs.pts_s, ours.pts_s)


def test_it_may_read_only_what_the_scan_verified_and_itself_takes(tmp_path: Path, toy: str) -> None:
    turned = write_clip(tmp_path / "mirrored.mp4", n_frames=4, mirrored=True)
    with pytest.raises(VideoError, match="toy may not read this video: it is shown mirrored"):
        decode(open_video(turned), decoder=toy)
    long = write_clip(tmp_path / "long.mp4", n_frames=101)
    with pytest.raises(VideoError, match="toy may not read this video: it is a toy"):
        decode(open_video(long), decoder=toy)


def test_a_name_that_nobody_registered_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match="auto, pyav, decord, torchcodec"):
        AnalysisSettings(decoder="toy")
