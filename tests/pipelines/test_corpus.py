"""Of every awkward file: the right frames at the right times, upright, or a status that says what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.decode import Video, decode, open_video
from pipelines.errors import VideoError
from pipelines.settings import Decoder
from tests.clips import read_number
from tests.corpus import CORPUS, Kind


def read(video: Video, decoder: Decoder, grey: bool) -> tuple[dict[int, int], list[int]]:
    """The number on each delivered frame by its index, and the unread indexes."""
    numbers: dict[int, int] = {}
    unread: list[int] = []
    for frames in decode(video, decoder=decoder):
        for index, time_s, rgb in zip(frames.frame_index, frames.pts_s, frames.rgb, strict=True):
            assert time_s == video.pts_s[index]
            numbers[int(index)] = read_number(rgb.numpy(), grey=grey)
        unread += frames.unread_index.tolist()
    return numbers, unread


def check(kind: Kind, path: Path, decoder: Decoder) -> None:
    video = open_video(path)
    numbers, unread = read(video, decoder, kind.grey)
    n_frames = video.info.n_frames
    assert sorted([*numbers, *unread]) == list(range(n_frames)), "a frame is neither delivered nor named as unread"
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
    assert least <= len(unread) <= most, f"{len(unread)} unread"
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


WHOLE = [kind for kind in CORPUS if not kind.code and not kind.silent and kind.lost == (0, 0)]


@pytest.mark.full
@pytest.mark.parametrize("kind", WHOLE, ids=lambda k: k.name)
def test_decord_reads_rightly_what_it_may_read_or_refuses(kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path / kind.name)
    if (refusal := open_video(path).decord_refusal) is not None:
        pytest.skip(refusal)
    try:
        check(kind, path, "decord")
    except VideoError as error:  # a file that decord itself cannot open, such as a recording without a length
        if error.code != "decoder_refused":
            raise


def test_the_corpus_has_what_was_promised() -> None:
    assert len({kind.name for kind in CORPUS}) == len(CORPUS) >= 60
