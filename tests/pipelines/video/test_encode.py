from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mfer.errors import ConfigError
from pipelines.video.encode import write_video
from tests.faces import carphone_frames


def decode(path: Path) -> tuple[list[Fraction], np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [frame.pts * frame.time_base for frame in frames if frame.pts is not None and frame.time_base is not None]
    return times, np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.mark.parametrize(
    ("fps", "rate"), [(25, Fraction(25)), (30000 / 1001, Fraction(30000, 1001)), (Fraction(1, 2), Fraction(1, 2))]
)
def test_frames_come_back_in_order_at_their_exact_times(tmp_path: Path, fps: float, rate: Fraction) -> None:
    frames = carphone_frames()[::4]
    times, decoded = decode(write_video(tmp_path / "clip.mp4", frames, fps, options={"crf": "12"}))
    assert times == [index / rate for index in range(len(frames))]
    difference = np.abs(decoded.astype(int) - frames).mean((1, 2, 3))
    assert difference.max() < 6


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "mpeg4")])
def test_other_containers_and_codecs_work(tmp_path: Path, name: str, codec: str) -> None:
    times, decoded = decode(write_video(tmp_path / name, carphone_frames()[:5], 25, codec=codec))
    assert len(times) == 5
    assert decoded.shape == (5, 144, 176, 3)


def test_an_odd_last_row_and_column_are_dropped(tmp_path: Path) -> None:
    _, decoded = decode(write_video(tmp_path / "odd.mp4", carphone_frames()[:3, :101, :99], 25))
    assert decoded.shape == (3, 100, 98, 3)
    assert np.abs(decoded.astype(int) - carphone_frames()[:3, :100, :98]).mean() < 10


def test_a_writer_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield carphone_frames()[0]
        raise RuntimeError("the camera fell")

    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="fell"):
        write_video(path, broken(), 25)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("name", "codec", "fps", "n_frames", "message"),
    [
        ("a.mp4", "no_such", 25, 3, "no_such"),
        ("a.mp4", "aac", 25, 3, "does not encode pictures"),
        ("a.weird", "libx264", 25, 3, "names no video container"),
        ("missing/a.mp4", "libx264", 25, 3, "cannot write"),
        ("a.mp4", "libx264", 0, 3, "0 frames per second"),
        ("a.mp4", "libx264", 25, 0, "at least one frame"),
    ],
)
def test_what_cannot_be_written_is_a_config_error(
    tmp_path: Path, name: str, codec: str, fps: float, n_frames: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_video(tmp_path / name, carphone_frames()[:n_frames], fps, codec=codec)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_differing_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frame 1 is uint8 \[50, 176, 3\]"):
        write_video(tmp_path / "a.mp4", [carphone_frames()[0], carphone_frames()[0][:50]], 25)
