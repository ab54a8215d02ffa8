"""Which files a run is about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.sources import VIDEO_EXTENSIONS, find_videos


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folder_is_searched_for_known_extensions_in_any_case_and_the_rest_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "b.MP4", "a.mkv", "deep/er/c.Mov", "notes.txt", "deep/d.jpg", "noextension", "._b.mp4")
    found = find_videos([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found.videos] == ["a.mkv", "b.MP4", "deep/er/c.Mov"]
    assert found.ignored_count == 4
    assert found.problems == ()


def test_every_listed_extension_is_found(tmp_path: Path) -> None:
    make(tmp_path, *(f"x{extension}" for extension in VIDEO_EXTENSIONS))
    assert len(find_videos([str(tmp_path)]).videos) == len(VIDEO_EXTENSIONS) > 20


def test_what_is_named_is_tried_whatever_its_extension(tmp_path: Path) -> None:
    make(tmp_path, "clip.bin")
    assert find_videos([tmp_path / "clip.bin"]).videos == (tmp_path / "clip.bin",)


def test_missing_path_is_a_problem_and_costs_no_other(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4")
    found = find_videos([tmp_path / "no.mp4", tmp_path, tmp_path / "a.mp4" / "under"])
    assert [path.name for path in found.videos] == ["a.mp4"]
    assert [problem.code for problem in found.problems] == ["missing", "missing"]


def test_order_is_that_of_the_arguments_then_of_the_names_and_each_file_comes_once(tmp_path: Path) -> None:
    make(tmp_path, "x/2.mp4", "x/10.mp4", "y/1.mp4")
    found = find_videos([tmp_path / "y", tmp_path / "x" / "2.mp4", tmp_path / "x", tmp_path])
    assert [path.name for path in found.videos] == ["1.mp4", "2.mp4", "10.mp4"]


def test_pattern_names_files_and_folders_unless_something_has_that_very_name(tmp_path: Path) -> None:
    make(
        tmp_path, "day 1/a.mp4", "day 1/deep/b.mkv", "day 2/c.mp4", "day 2/notes.txt", "other/d.mp4", "[x].mp4", "x.mp4"
    )

    def names(pattern: str) -> tuple[list[str], int]:
        found = find_videos([tmp_path / pattern])
        assert found.problems == ()
        return [path.relative_to(tmp_path).as_posix() for path in found.videos], found.ignored_count

    assert names("day */*.mp4") == (["day 1/a.mp4", "day 2/c.mp4"], 0)
    assert names("day ?") == (["day 1/a.mp4", "day 1/deep/b.mkv", "day 2/c.mp4"], 1)
    assert names("day 2/*") == (["day 2/c.mp4"], 1)
    assert names("**/*.mkv") == (["day 1/deep/b.mkv"], 0)
    assert names("[x].mp4") == (["[x].mp4"], 0)
    (problem,) = find_videos([tmp_path / "night *"]).problems
    assert (problem.code, problem.path) == ("missing", str(tmp_path / "night *"))


def test_circles_of_links_do_no_harm_and_linked_folders_are_searched(tmp_path: Path) -> None:
    make(tmp_path, "in/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "broken").symlink_to(tmp_path / "nowhere")
    found = find_videos([tmp_path / "in"])
    assert [path.name for path in found.videos] == ["a.mp4", "b.mp4"]
    assert found.ignored_count == 1


def test_odd_names_survive(tmp_path: Path) -> None:
    names = [b"with space.mp4", "Zoë 视频.mp4".encode(), b"-dash.mp4", b"bad\xff.mp4", b"new\nline.mp4"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    assert [os.fsencode(path.name) for path in find_videos([tmp_path]).videos] == sorted(names)


def test_folder_named_like_a_video_is_passed_by_and_a_pipe_is_handed_on_to_fail_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, "folder.mp4/inner.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.ts")
    found = find_videos([tmp_path])
    assert [path.name for path in found.videos] == ["pipe.mp4", "pipe.ts"]
    assert found.ignored_count == 1
    assert [path.name for path in find_videos([tmp_path / "folder.mp4"]).videos] == ["inner.mp4"]


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/x.mp4/SYNOPHOTO_FILM_M.mp4",
        ".Trash-1000/files/x.mp4",
        "$RECYCLE.BIN/S-1-5/x.mp4",
        ".stversions/x.mp4",
        "#recycle/x.mp4",
        "__MACOSX/._x.mp4",
        "System Volume Information/x.mp4",
        ".hidden.mp4",
        "._x.mp4",
    ],
)
def test_what_systems_keep_for_themselves_is_passed_by_and_counted(tmp_path: Path, name: str) -> None:
    make(tmp_path, "a.mp4", f"deep/{name}")
    found = find_videos([tmp_path])
    assert [path.name for path in found.videos] == ["a.mp4"]
    assert found.ignored_count == 1
    assert found.problems == ()
    assert find_videos([tmp_path / "deep" / name]).videos == (tmp_path / "deep" / name,)


def test_program_text_is_told_from_transport_streams_by_its_bytes(tmp_path: Path) -> None:
    texts = {
        "code.ts": b"export const answer: number = 42; // \xe2\x82\xac\n" * 200,
        "umlaut.ts": b"//" + "\u00e4".encode() * 5000,
        "module.mts": b"import x from 'x'\n",
        "wide.ts": "const a = 1".encode("utf-16"),
        "linguist.ts": b"\xef\xbb\xbf<?xml version='1.0'?><TS></TS>",
    }
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    packet = bytes([0x47, 0x40, 0x00, 0x10]) + bytes(184)
    streams = {"video.ts": packet * 40, "camera.MTS": (bytes(4) + packet) * 40, "broken.ts": bytes(900)}
    for name, content in streams.items():
        (tmp_path / name).write_bytes(content)
    found = find_videos([tmp_path])
    assert [path.name for path in found.videos] == ["broken.ts", "camera.MTS", "video.ts"]
    assert found.ignored_count == len(texts)


def test_patterns_leave_files_and_folders_out(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "a_proxy.mp4", "drafts/b.mp4", "2024/x/raw/c.mp4", "2024/x/cut/d.mp4")

    def names(*exclude: str) -> tuple[list[str], int]:
        found = find_videos([tmp_path], exclude)
        return [path.name for path in found.videos], found.ignored_count

    assert names() == (["d.mp4", "c.mp4", "a.mp4", "a_proxy.mp4", "b.mp4"], 0)
    assert names("*_proxy.mp4", "drafts/") == (["d.mp4", "c.mp4", "a.mp4"], 2)
    assert names("2024/*/raw") == (["d.mp4", "a.mp4", "a_proxy.mp4", "b.mp4"], 1)
    assert find_videos([tmp_path / "a.mp4", tmp_path / "a_proxy.mp4"], ["*_proxy*"]).videos == (tmp_path / "a.mp4",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_folder_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    make(tmp_path, "shut/a.mp4", "b.mp4")
    (tmp_path / "shut").chmod(0)
    found = find_videos([tmp_path])
    (tmp_path / "shut").chmod(0o700)
    assert [path.name for path in found.videos] == ["b.mp4"]
    assert [problem.code for problem in found.problems] == ["unreadable"]


def test_empty_folder_gives_nothing(tmp_path: Path) -> None:
    found = find_videos([tmp_path])
    assert (found.videos, found.ignored_count, found.problems) == ((), 0, ())
