"""One clock: the time of a frame is what a player shows, which counts from the first picture or sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decode import decode, open_video
from tests.clips import read_number, write_clip


@pytest.mark.parametrize(
    ("name", "video_s", "sound_s", "first_s"),
    [
        ("plain.mp4", 0.0, 0.0, 0.0),
        ("late_picture.mp4", 1.5, 0.0, 1.5),
        ("late_picture.mkv", 1.5, 0.0, 1.5),
        ("late_picture.webm", 1.5, 0.0, 1.5),
        ("late_picture.ts", 11.5, 10.0, 1.5),
        ("late_picture.flv", 1.5, 0.0, 1.5),
        ("late_sound.mp4", 0.0, 0.85, 0.0),
        ("late_sound.mkv", 0.0, 0.85, 0.0),
        ("late_sound.ts", 10.0, 10.85, 0.0),
        ("ten_hours.ts", 36_000.0, 36_000.2, 0.0),
        ("ten_hours_and_late.ts", 36_000.8, 36_000.0, 0.8),
        ("both_late.mp4", 6.0, 5.0, 1.0),
        ("both_late.webm", 6.0, 5.0, 1.0),
        ("silent_and_late.mp4", 1.5, None, 0.0),
        ("silent_and_late.webm", 1.5, None, 0.0),
    ],
)
def test_times_count_from_the_first_picture_or_sound(
    tmp_path: Path, name: str, video_s: float, sound_s: float | None, first_s: float
) -> None:
    codec = "libvpx" if name.endswith(".webm") else "libx264"
    path = write_clip(
        tmp_path / name,
        n_frames=30,
        codec=codec,
        options={"bf": "0"},
        pts_ms=[round(1000 * video_s) + 40 * k for k in range(30)],
        with_audio=sound_s is not None,
        audio_start_s=sound_s or 0.0,
    )
    video = open_video(path)
    time_s = video.pts_s - video.info.start_s
    # sound begins with what its decoder needs first: a frame of AAC at most
    np.testing.assert_allclose(time_s, first_s + 0.04 * np.arange(30), atol=0.023)
    assert video.info.duration_s == pytest.approx(time_s[-1] + 0.04, abs=1e-3)
    (last,) = (batch for batch in decode(video) if 29 in batch.frame_index)
    assert read_number(last.rgb[-1]) == 29


def test_what_an_edit_list_cuts_off_is_before_the_beginning(tmp_path: Path) -> None:
    pts_ms = [40 * k - 400 for k in range(30)]
    path = write_clip(tmp_path / "cut.mp4", n_frames=30, options={"bf": "0"}, pts_ms=pts_ms, with_audio=True)
    video = open_video(path)
    assert video.info.start_s == 0.0
    first = next(iter(decode(video)))
    assert first.pts_s[0] == 0.0
    assert read_number(first.rgb[0]) == 10
