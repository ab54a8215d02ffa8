"""Sequences of pictures: their order, their times, and what is wrong with some of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipelines.errors import VideoError
from pipelines.sources import find_videos
from pipelines.video.decode import decode, open_video
from storage.identity import video_id_of
from tests.clips import draw_frame, read_number
from tests.pictures import numbered


def read(name: Path) -> dict[int, int]:
    """The number on each frame that can be read, by its index."""
    return {
        int(index): read_number(rgb)
        for batch in decode(open_video(name), batch_frames=3)
        for index, rgb in zip(batch.frame_index, batch.rgb, strict=True)
    }


def test_numbers_are_ordered_as_people_count(tmp_path: Path) -> None:
    numbered(tmp_path, [9, 10, 11, 100, 99, *range(12, 99)])
    video = open_video(tmp_path / "left_#.png@25fps")
    assert (video.info.n_frames, video.info.duration_s) == (92, pytest.approx(3.68))
    assert video.pts_s[50] == 2.0
    assert read(video.info.path) == {k: k + 9 for k in range(92)}


@pytest.mark.parametrize(
    ("numbers", "frames", "note"),
    [
        ([4, 5, 8, 9], {0: 4, 1: 5, 4: 8, 5: 9}, ""),
        ([10, 20, 30], {0: 10, 1: 20, 2: 30}, ""),
        ([0, 10, 20, 40], {0: 0, 1: 10, 2: 20, 4: 40}, ""),
        ([3, 700, 811], {0: 3, 1: 700, 2: 811}, "most numbers"),
    ],
)
def test_gap_in_the_numbers_is_a_gap_in_time(
    tmp_path: Path, numbers: list[int], frames: dict[int, int], note: str
) -> None:
    numbered(tmp_path, numbers)
    video = open_video(tmp_path / "left_#.png@25fps")
    assert read(video.info.path) == frames
    assert video.note.startswith(note)
    assert (video.defect is None) == (len(frames) == max(frames) + 1)


def test_pictures_of_other_sizes_are_drawn_into_the_largest_and_damaged_ones_are_undecodable(tmp_path: Path) -> None:
    numbered(tmp_path, [1, 2, 3, 4])
    Image.fromarray(draw_frame(2, 416, 240)).save(tmp_path / "left_2.png")
    whole = (tmp_path / "left_3.png").read_bytes()
    (tmp_path / "left_3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "left_4.png").write_text("no picture")
    video = open_video(tmp_path / "left_#.png@25fps")
    assert (video.info.width_px, video.info.height_px) == (416, 240)
    assert read(video.info.path) == {0: 1, 1: 2}
    assert "several sizes (208x120, 416x240)" in video.note
    assert "1 of 4 pictures cannot be read" in video.note
    for number in (1, 2):
        (tmp_path / f"left_{number}.png").write_text("no picture")
    (tmp_path / "left_3.png").write_text("no picture")
    with pytest.raises(VideoError, match="none of 4 pictures can be read"):
        open_video(tmp_path / "left_#.png@25fps")


def test_each_series_of_a_folder_is_a_sequence_and_its_content_names_it(tmp_path: Path) -> None:
    shots = numbered(tmp_path / "shots", [1, 2, 3])
    numbered(shots, [7, 8], "right_{}.png")
    numbered(shots, [1], "alone_{}.png")
    found = find_videos([shots], sequence_fps=25)
    assert [path.name for path in found.videos] == ["left_#.png@25fps", "right_#.png@25fps"]
    assert (found.n_pictures, found.ignored_count) == (1, 1)
    both = find_videos([shots], ["right*"], pictures=True, sequence_fps=25)
    assert [path.name for path in both.videos] == ["alone_1.png", "left_#.png@25fps"]
    assert [path.name for path in find_videos([shots / "left_2.png"], sequence_fps=30).videos] == ["left_#.png@30fps"]
    assert [path.name for path in find_videos([shots / "*_1.png"]).videos] == ["alone_1.png", "left_1.png"]
    assert find_videos([shots / "*"]).n_pictures == 6
    for named in (shots, shots / "left_2.png"):  # a sequence is read as a whole
        cut = find_videos([named], ["left_3.png", "right*"], sequence_fps=25)
        assert (cut.videos, [problem.code for problem in cut.problems]) == ((), ["pictures_missing"])
    moved = numbered(tmp_path / "moved", [1, 2, 3], "walk_{}.png")
    name = video_id_of(shots / "left_#.png@25fps")
    assert name == video_id_of(moved / "walk_#.png@25fps")
    assert name != video_id_of(shots / "left_#.png@30fps")
    (moved / "walk_2.png").rename(moved / "walk_4.png")
    assert name != video_id_of(moved / "walk_#.png@25fps")
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path / "none_#.png@25fps")
    assert caught.value.code == "missing"
