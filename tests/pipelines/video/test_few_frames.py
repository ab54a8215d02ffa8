"""Some frames of a video, sampled or read from the key frame before each: the same pictures as from all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decode import open_video
from pipelines.video.decoders import ReadOptions
from pipelines.video.pyav import PyavDecoder, key_distance, read_few
from tests.clips import write_clip

CODECS = {
    "b_frames.mp4": ("libx264", {"bf": "3", "g": "12", "x264-params": "scenecut=0"}),
    "open_gop.mkv": ("libx264", {"bf": "3", "g": "12", "x264-params": "scenecut=0:open-gop=1"}),
    "pyramid.mp4": ("libx264", {"bf": "7", "g": "20", "x264-params": "b-pyramid=normal:b-adapt=0"}),
    "interlaced.ts": ("libx264", {"bf": "2", "g": "12", "x264-params": "interlaced=1"}),
    "no_b_frames.mkv": ("libx264", {"bf": "0", "g": "12", "x264-params": "ref=4"}),
    "hevc.mp4": ("libx265", {"x265-params": "bframes=4:keyint=20:b-pyramid=1:log-level=none"}),
    "hevc_open_gop.ts": ("libx265", {"x265-params": "bframes=4:keyint=20:open-gop=1:log-level=none"}),
    "mpeg.ts": ("mpeg2video", {"bf": "2", "g": "9"}),
    "old.avi": ("mpeg4", {"g": "8"}),
}


@pytest.mark.parametrize("name", CODECS)
def test_few_frames_are_those_of_the_whole(tmp_path: Path, name: str) -> None:
    codec, options = CODECS[name]
    video = open_video(write_clip(tmp_path / name, n_frames=60, codec=codec, options=options))
    whole = dict(PyavDecoder().read(video, np.arange(video.info.n_frames)))
    for wanted in ([0], [59], [5, 6, 30], [11, 12, 13, 47], sorted(whole)):
        few = dict(read_few(video, np.array(wanted)))
        assert list(few) == wanted
        for index, picture in few.items():
            np.testing.assert_array_equal(picture, whole[index])
    assert not list(read_few(video, np.array([], np.int64)))
    if video.exact_pts:
        assert key_distance(video, np.arange(60)).max() <= 24


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("every", [2, 3, 5, 24])
def test_sampled_frames_are_those_of_the_whole(tmp_path: Path, name: str, every: int) -> None:
    """Frames that nothing refers to are not decoded where they are not wanted."""
    codec, options = CODECS[name]
    video = open_video(write_clip(tmp_path / name, n_frames=60, codec=codec, options=options))
    whole = dict(PyavDecoder().read(video, np.arange(video.info.n_frames)))
    for wanted in (np.arange(0, 60, every), np.arange(every - 1, 60, every)):
        sampled = dict(PyavDecoder().read(video, wanted, ReadOptions(sampled=wanted)))
        assert list(sampled) == wanted.tolist()
        for index, picture in sampled.items():
            np.testing.assert_array_equal(picture, whole[index])
