"""What is not a whole video says so: an error with a code, or the frames that could not be read."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mfer.errors import ConfigError
from pipelines.errors import VideoError
from pipelines.video.decode import decode, open_video
from pipelines.video.decoders import refusal
from tests.clips import read_number, write_audio, write_clip

GOP = {"bf": "3", "g": "25"}


def code_of(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        list(decode(open_video(path)))
    assert caught.value.path == str(path)
    assert caught.value.message
    return caught.value.code


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def read(path: Path, decoder: str) -> tuple[dict[int, int], list[int]]:
    """The number of each delivered frame by its index, and the undecodable indexes."""
    numbers: dict[int, int] = {}
    undecodable: list[int] = []
    for frames in decode(open_video(path), decoder=decoder):
        numbers |= {int(k): read_number(rgb) for k, rgb in zip(frames.frame_index, frames.rgb, strict=True)}
        undecodable += frames.undecodable_index.tolist()
    return numbers, undecodable


def test_missing_path_is_missing(tmp_path: Path) -> None:
    assert code_of(tmp_path / "no.mp4") == "missing"


def test_zero_bytes_are_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").touch()
    assert code_of(tmp_path / "x.mp4") == "empty_file"


def test_folder_named_like_a_video_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").mkdir()
    assert code_of(tmp_path / "x.mp4") == "not_a_file"


def test_named_pipe_is_not_a_file_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    assert code_of(tmp_path / "x.mp4") == "not_a_file"


def test_socket_and_device_are_not_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.mp4")
        assert code_of(Path("x.mp4")) == "not_a_file"
    assert code_of(Path("/dev/null")) == "not_a_file"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"some bytes")
    path.chmod(0)
    yield path
    path.chmod(0o600)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_unreadable(locked: Path) -> None:
    assert code_of(locked) == "unreadable"


def test_link_in_a_circle_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").symlink_to(tmp_path / "x.mp4")
    assert code_of(tmp_path / "x.mp4") == "unreadable"


@pytest.mark.parametrize(
    "text",
    [
        "hello, this is not a video\n" * 50,
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nreal.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile real.mp4\n",
    ],
    ids=["prose", "hls", "concat"],
)
def test_text_named_mp4_is_not_a_video_even_if_it_names_one(tmp_path: Path, text: str) -> None:
    write_clip(tmp_path / "real.mp4", n_frames=2)
    (tmp_path / "x.mp4").write_text(text)
    assert code_of(tmp_path / "x.mp4") == "not_a_video"


def test_random_bytes_are_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    assert code_of(tmp_path / "x.mp4") == "not_a_video"


def test_sound_alone_has_no_video_stream(tmp_path: Path) -> None:
    assert code_of(write_audio(tmp_path / "x.mp4")) == "no_video_stream"


def test_header_without_frames_has_no_frames(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = write_clip(tmp_path / "x.mp4", container_options=options)
    path.write_bytes(path.read_bytes().split(b"moof")[0][:-4])
    assert code_of(path) == "no_frames"


def test_mp4_cut_before_its_index_is_truncated(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "x.mp4", n_frames=100, options=GOP), 0.6)
    assert code_of(path) == "truncated"
    with pytest.raises(VideoError, match="moov"):
        open_video(path)


def test_video_error_survives_a_process_border(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path / "no.mp4")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.code, again.stage, again.path, again.message) == (
        caught.value.code,
        "open",
        str(tmp_path / "no.mp4"),
        caught.value.message,
    )


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.flv"])
def test_video_cut_short_gives_its_good_frames_and_names_the_others(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name == "x.mp4" else {}
    path = cut(write_clip(tmp_path / name, container_options=options, n_frames=100, options=GOP), 0.6)
    video = open_video(path)
    numbers, undecodable = read(path, "auto")
    assert 20 < len(numbers) < 80
    assert all(index == number for index, number in numbers.items())
    assert abs(video.info.n_frames - 100) <= 2  # flv states its duration from 0, not from its first frame
    assert sorted([*numbers, *undecodable]) == list(range(video.info.n_frames))
    assert 0 < video.n_missing <= len(undecodable)
    np.testing.assert_allclose(np.diff(video.pts_s), 0.04, atol=1e-6)


def damage(path: Path, seed: int, share: float = 0.5) -> Path:
    data = bytearray(path.read_bytes())
    middle = int(len(data) * share)
    data[middle : middle + 400] = np.random.default_rng(seed).bytes(400)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [("x.mp4", "libx264"), ("x.mkv", "libx264"), ("x.ts", "libx264"), ("x.avi", "mpeg4"), ("x.mov", "mjpeg")],
)
def test_damage_in_the_middle_costs_only_frames_near_it_and_shows_no_wrong_one(
    tmp_path: Path, name: str, codec: str
) -> None:
    options = {"bf": "2", "g": "25"} if codec != "mjpeg" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    container = "mpegts" if name == "x.ts" else None
    path = tmp_path / name
    damage(write_clip(path, codec=codec, n_frames=100, options=options, pix_fmt=pix_fmt, container=container), seed=1)
    video = open_video(path)
    numbers, undecodable = read(path, "auto")
    assert all(number == round((video.pts_s[index] - video.pts_s[0]) * 25) for index, number in numbers.items())
    assert 0 < 100 - len(numbers) < 60
    assert sorted([*numbers, *undecodable]) == list(range(video.info.n_frames))


def test_damage_where_frames_can_only_be_counted_ends_the_trust(tmp_path: Path) -> None:
    path = damage(
        write_clip(tmp_path / "x.avi", n_frames=100, options=GOP), seed=1, share=0.8
    )  # H.264 in AVI: no presentation times
    assert not open_video(path).exact_pts
    numbers, undecodable = read(path, "auto")
    assert all(index == number for index, number in numbers.items())
    assert undecodable == list(range(len(numbers), 100))


def test_missing_torchcodec_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    video = open_video(write_clip(tmp_path / "x.mp4", n_frames=3))
    with pytest.raises(ConfigError, match=r"torchcodec cannot be loaded .* pip install 'mfer\[torchcodec\]'"):
        decode(video, decoder="torchcodec")


def test_decord_that_fails_inside_the_gate_delivers_nothing_of_its_own(tmp_path: Path) -> None:
    path = damage(write_clip(tmp_path / "x.mp4", n_frames=100, options=GOP), seed=1)
    video = open_video(path)
    assert refusal("decord", video) is None
    assert sum(len(frames.undecodable_index) for frames in decode(video)) > 0
    with pytest.raises(VideoError) as caught:
        list(decode(video, decoder="decord"))
    assert caught.value.code == "decoder_refused"


def test_undecodable_frames_come_with_the_batch_they_belong_to_and_only_if_sampled(tmp_path: Path) -> None:
    path = damage(write_clip(tmp_path / "x.mp4", n_frames=100, options=GOP), seed=1)
    _, undecodable = read(path, "pyav")
    last = -1
    sampled: list[int] = []
    for frames in decode(open_video(path), every=3, batch_frames=4):
        both = [*frames.frame_index, *frames.undecodable_index]
        assert min(both) > last
        last = max(both)
        sampled += frames.undecodable_index.tolist()
    assert sampled == [index for index in undecodable if index % 3 == 0]


def test_video_of_which_no_frame_can_be_read_fails(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "x.mp4", n_frames=10, options={"g": "100"}, container_options={"movflags": "faststart"}
    )
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    assert code_of(path) == "decode_failed"


def test_damaged_files_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "x.mp4", n_frames=100, options=GOP)
    capfd.readouterr()  # the encoder's own lines
    damage(path, seed=1)
    list(decode(open_video(path)))
    (tmp_path / "y.mp4").write_bytes(path.read_bytes()[:1000])
    code_of(tmp_path / "y.mp4")
    assert capfd.readouterr() == ("", "")
