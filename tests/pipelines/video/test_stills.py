from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import VideoError
from pipelines.video.decode import decode
from pipelines.video.scan import open_video
from pipelines.video.stills import read_still
from tests.clips import read_number, write_clip


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("h264.mp4", {"options": {"g": "48", "bf": "2"}}),
        ("hevc open gop.mkv", {"codec": "libx265", "options": {"x265-params": "keyint=12:open-gop=1:log-level=none"}}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("programme.ts", {"options": {"bf": "2"}}),
        ("turned.mp4", {"rotation_deg": 90}),
    ],
)
def test_still_is_the_frame_of_that_time_and_looks_as_it_does_in_the_analysis(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    video = open_video(write_clip(tmp_path / name, n_frames=120, **settings))
    frames = {int(i): rgb for batch in decode(video) for i, rgb in zip(batch.frame_index, batch.rgb, strict=True)}
    for index in (0, 1, 50, 73, 119):
        still = read_still(video.info.path, video.pts_s[index])
        assert read_number(still) == index
        assert np.abs(still.astype(int) - frames[index]).max() <= 8


def test_nearest_takes_the_frame_that_is_shown_and_exact_times_are_held(tmp_path: Path) -> None:
    video = open_video(write_clip(tmp_path / "a.mp4", n_frames=30))
    between_s = (video.pts_s[7] + video.pts_s[8]) / 2
    assert read_number(read_still(video.info.path, between_s, nearest=True)) == 7
    assert read_number(read_still(video.info.path, -5.0, nearest=True)) == 0
    assert read_number(read_still(video.info.path, 1e4, nearest=True)) == 29
    for time_s in (between_s, 1e4):
        with pytest.raises(VideoError, match="no frame could be read"):
            read_still(video.info.path, time_s)
