"""Of every awkward file: the right frames at the right times, upright, or a status that says what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import VideoError
from pipelines.video.decode import Video, decode, open_video
from tests.clips import read_number, write_clip
from tests.corpus import CORPUS, Kind
from tests.pipelines.video.test_decode import skip_unless_allowed


def read(video: Video, decoder: str, grey: bool) -> tuple[dict[int, int], list[int]]:
    """The number on each delivered frame by its index, and the undecodable indexes."""
    numbers: dict[int, int] = {}
    undecodable: list[int] = []
    for frames in decode(video, decoder=decoder):
        for index, time_s, rgb in zip(frames.frame_index, frames.pts_s, frames.rgb, strict=True):
            assert time_s == video.pts_s[index]
            numbers[int(index)] = read_number(rgb, grey=grey)
        undecodable += frames.undecodable_index.tolist()
    return numbers, undecodable


def check(kind: Kind, path: Path, decoder: str) -> None:
    video = open_video(path)
    numbers, undecodable = read(video, decoder, kind.grey)
    n_frames = video.info.n_frames
    assert sorted([*numbers, *undecodable]) == list(range(n_frames)), (
        "a frame is neither delivered nor named as undecodable"
    )
    assert (np.diff(video.pts_s) > 0).all()
    shown = dict(kind.shown) if len(dict(kind.shown)) == len(kind.shown) else None
    # a file that lost its beginning has lost its zero: the first frame that was read says where it is
    first = min(numbers)
    zero_s = video.pts_s[0]
    if kind.silent and shown:
        zero_s = video.pts_s[first] - shown[numbers[first]]
    times_s = np.array([time_s for _, time_s in kind.shown])
    for index, number in numbers.items():
        nearest = int(np.abs(times_s - (video.pts_s[index] - zero_s)).argmin())
        assert abs(times_s[nearest] - (video.pts_s[index] - zero_s)) < 0.0015, f"frame {index} is at no frame's time"
        assert number == kind.shown[nearest][0], f"frame {index} at {video.pts_s[index] - zero_s:.3f} s"
    least, most = kind.lost
    n_silent = len(kind.shown) - n_frames
    assert least <= len(undecodable) <= most, f"{len(undecodable)} undecodable"
    assert 0 <= n_silent <= kind.silent or (kind.silent and n_silent < 0), f"{n_silent} gone without a word"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.full if kind.heavy else ()) for kind in CORPUS], ids=lambda k: k.name
)
def test_awkward_file_is_read_rightly_or_says_what_is_missing(kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path / kind.name)
    if not kind.code:
        check(kind, path, "auto")
        return
    with pytest.raises(VideoError) as caught:
        list(decode(open_video(path)))
    assert caught.value.code == kind.code, caught.value.message
    assert caught.value.message


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.full if kind.heavy else ()) for kind in CORPUS if not kind.code],
    ids=lambda k: k.name,
)
@pytest.mark.parametrize("every", [1, 3])
def test_segment_read_by_itself_is_that_of_the_whole_file(kind: Kind, tmp_path: Path, every: int) -> None:
    """Also in damaged files, although the whole has seen the decoder stumble before."""
    whole = decode(open_video(kind.make(tmp_path / kind.name)), every=every, batch_frames=4, segment_s=0.3)
    batches = list(whole)
    settled = np.sort(np.concatenate([[*batch.frame_index, *batch.undecodable_index] for batch in batches]))
    assert settled.tolist() == whole.frame_index.tolist()
    for first in range(whole.n_segments):
        frames = whole.frame_index[slice(*whole.segment_bounds[first : first + 2])]
        expected = [batch for batch in batches if {*batch.frame_index, *batch.undecodable_index} & set(frames.tolist())]
        found = list(whole.between(first, first + 1))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.frame_index.tolist() == theirs.frame_index.tolist()
            assert ours.undecodable_index.tolist() == theirs.undecodable_index.tolist()
            assert (ours.rgb == theirs.rgb).all()


WHOLE = [kind for kind in CORPUS if not kind.code and not kind.silent and kind.lost == (0, 0)]


@pytest.mark.full
@pytest.mark.parametrize("kind", WHOLE, ids=lambda k: k.name)
@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_other_decoder_reads_rightly_what_it_may_read_or_refuses(kind: Kind, tmp_path: Path, decoder: str) -> None:
    path = kind.make(tmp_path / kind.name)
    skip_unless_allowed(open_video(path), decoder)
    try:
        check(kind, path, decoder)
    except VideoError as error:  # a file that it cannot open, such as a recording without a length
        if error.code != "decoder_refused":
            raise


def test_the_corpus_has_what_was_promised() -> None:
    assert len({kind.name for kind in CORPUS}) == len(CORPUS) >= 60


SHORT_GOPS = {
    "h264.mp4": {"options": {"bf": "3", "g": "4"}},
    "h264.ts": {"options": {"bf": "2", "g": "4"}, "container": "mpegts"},
    "h264_fragments.mp4": {
        "options": {"bf": "3", "g": "4"},
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "h264_open.mkv": {"options": {"x264-params": "open-gop=1:keyint=5:bframes=3"}},
    "h264_intra_refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=5:bframes=0"}},
    "h264_joined_by_key_frames.avi": {"options": {"bf": "0", "g": "4"}},
    "hevc_open.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:keyint=5:bframes=3:open-gop=1:pools=none"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime", "b": "1000000", "g": "4"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "12", "g": "4"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "4", "b": "2000000"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "4", "b": "2000000"}, "container": "mpegts"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "4", "b": "2000000"}},
    "mpeg4.ts": {"codec": "mpeg4", "options": {"bf": "0", "g": "4", "b": "2000000"}, "container": "mpegts"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.mark.parametrize("name", SHORT_GOPS)
def test_segment_begins_at_a_key_frame_and_has_the_frames_of_the_whole(name: str, tmp_path: Path) -> None:
    video = open_video(write_clip(tmp_path / name, n_frames=30, **SHORT_GOPS[name]))
    whole = decode(video, batch_frames=3, segment_s=0.25)
    expected = {int(i): rgb for batch in whole for i, rgb in zip(batch.frame_index, batch.rgb, strict=True)}
    assert len(expected) == 30
    for first in range(whole.n_segments):
        for batch in whole.between(first, first + 1):
            for index, rgb in zip(batch.frame_index, batch.rgb, strict=True):
                assert np.array_equal(rgb, expected[int(index)]), f"frame {index} of the segment {first}"
