"""What people hand to the command line by mistake: a clear line, the right exit code, and no harm to other videos."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli.main import main
from storage.identity import path_text
from tests.clips import write_audio, write_clip
from tests.models import tiny_model

OPTIONS = ("--min-face", "36", "--device", "cpu", "--workers", "1")
#: File name to status and code.
BAD = {
    "text.mp4": ("failed", "not_a_video"),
    "empty.mp4": ("failed", "empty_file"),
    "sound.mp4": ("failed", "no_video_stream"),
    "cut.mp4": ("failed", "truncated"),
    "short.mp4": ("partial", "truncated"),
    "damaged.mp4": ("partial", "frames_undecodable"),
    "pipe.mp4": ("failed", "not_a_file"),
    "circle.mp4": ("failed", "unreadable"),
    "dangling.mp4": ("failed", "missing"),
}
#: Names that are as good as any other.
GOOD = ("good.mp4", "two words.mp4", "-dash.mp4", "Gesicht é 顔.MP4", "a [bold] 'x' \"y\" :smile:.mp4", "a\nb.mkv")
NOT_UTF8 = os.fsdecode(b"\xff\xfe.mp4")


def mfer(*words: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def analyze(*words: str | Path) -> Result:
    return mfer("analyze", *OPTIONS, *words)


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    return path


def damage(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"?" * 400
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_talk: Callable[..., Path]) -> Path:
    """Everything in one folder."""
    folder = tmp_path_factory.mktemp("bad") / "videos"
    folder.mkdir()
    (folder / "text.mp4").write_text("hello, this is not a video\n" * 50)
    (folder / "empty.mp4").touch()
    write_audio(folder / "sound.mp4")
    cut(write_clip(folder / "cut.mp4", n_frames=50))
    cut(write_clip(folder / "short.mp4", n_frames=50, container_options={"movflags": "faststart"}, options={"g": "5"}))
    damage(write_clip(folder / "damaged.mp4", n_frames=50, options={"bf": "2", "g": "10"}))
    (folder / "folder.mp4").mkdir()  # what servers of media files make beside a video: not looked into
    write_clip(folder / "folder.mp4" / "inside.mp4", n_frames=2)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    (folder / "dangling.mp4").symlink_to(folder / "gone.mp4")
    write_clip(folder / "bars.mp4", n_frames=3)
    for k, name in enumerate((*GOOD, NOT_UTF8)):
        plain = write_talk(folder.parent / "plain.mp4", [k, k + 1])
        plain.rename(folder / name)
    (folder / "notes.txt").write_text("ignored")
    return folder


@pytest.fixture(scope="module")
def lake(folder: Path) -> Path:
    return folder.parent / "lake"


@pytest.fixture(scope="module")
def finished(folder: Path, lake: Path, model: Path) -> Result:
    return analyze(folder, "--lake", lake, "--model", model, "--json")


@pytest.fixture(scope="module")
def outcomes(finished: Result, folder: Path) -> dict[str, dict]:
    videos = {video["path"]: video for video in json.loads(finished.stdout)["videos"]}
    return {path.removeprefix(f"{folder}/"): video for path, video in videos.items()}


@pytest.fixture(scope="module")
def text(outcomes: dict[str, dict], folder: Path, lake: Path, model: Path) -> Result:
    """The same command again, for people: what failed is tried again."""
    return analyze(folder, "--lake", lake, "--model", model)


@pytest.mark.parametrize("name", BAD)
def test_bad_file_has_an_outcome_with_its_code(outcomes: dict[str, dict], name: str) -> None:
    outcome = outcomes[name]
    assert (outcome["status"], outcome["code"]) == BAD[name]
    assert outcome["stage"] == ("decode" if outcome["status"] == "partial" else "open")
    assert len(outcome["message"]) > 20
    assert "\n" not in outcome["message"]


@pytest.mark.parametrize("name", [name for name, (status, _) in BAD.items() if status == "failed"])
def test_bad_file_has_one_line_for_people(text: Result, outcomes: dict[str, dict], folder: Path, name: str) -> None:
    (line,) = (line for line in text.stdout.splitlines() if f"{folder / name}:" in line)
    assert line.split()[:2] == ["failed", BAD[name][1]]
    assert line.endswith(outcomes[name]["message"])


@pytest.mark.parametrize("name", [*GOOD, path_text(NOT_UTF8)])
def test_good_video_beside_bad_ones_ends_ok_whatever_its_name(outcomes: dict[str, dict], name: str) -> None:
    assert (outcomes[name]["status"], outcomes[name]["n_frames"], outcomes[name]["n_faces"]) == ("ok", 2, 2)


def test_video_without_a_face_is_ok(outcomes: dict[str, dict]) -> None:
    bars = outcomes["bars.mp4"]
    assert (bars["status"], bars["code"], bars["n_frames"], bars["n_faces"]) == ("ok", None, 3, 0)


def test_folder_with_bad_files_ends_with_exit_code_1_and_full_counts(finished: Result, text: Result) -> None:
    facts = json.loads(finished.stdout)
    assert finished.exit_code == text.exit_code == 1
    assert finished.stderr == text.stderr == ""
    n_failed = sum(status == "failed" for status, _ in BAD.values())
    counts = {name: facts[name] for name in ("ok", "partial", "failed", "skipped", "ignored_files")}
    assert counts == {"ok": len(GOOD) + 2, "partial": 2, "failed": n_failed, "skipped": 0, "ignored_files": 2}
    assert f"{len(GOOD) + 4} skipped; 2 other files ignored" in text.stdout


def test_every_path_is_in_videos_with_its_status(text: Result, lake: Path, folder: Path) -> None:
    answer = mfer("sql", "SELECT path, status, code FROM videos", "--lake", lake, "--format", "json")
    videos = {video["path"].removeprefix(f"{folder}/"): video for video in json.loads(answer.stdout)}
    assert videos.keys() == {*BAD, *GOOD, "bars.mp4", path_text(NOT_UTF8)}
    assert {name: (videos[name]["status"], videos[name]["code"]) for name in BAD} == BAD


def test_names_are_shown_as_they_are(text: Result, lake: Path) -> None:
    shown = mfer("sql", "SELECT DISTINCT file_name FROM scores", "--lake", lake).stdout
    for name in GOOD[:-1]:
        assert name in shown
    assert path_text(NOT_UTF8) in shown


# -- one at a time ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path, write_talk: Callable[..., Path]) -> Path:
    return write_talk(tmp_path / "good.mp4", [3, 4])


def ends_well(clip: Path, lake: Path, model: Path) -> None:
    done = analyze(clip, "--lake", lake, "--model", model)
    assert done.exit_code == 0, done.output
    assert "1 video: 1 ok" in done.stdout


def one_line(result: Result) -> str:
    """What a stopped run says, after checks that hold for each."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mfer: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.full
def test_missing_path_costs_the_other_nothing(tmp_path: Path, clip: Path, model: Path) -> None:
    result = analyze(tmp_path / "no.mp4", clip, "--lake", tmp_path / "lake", "--model", model)
    assert result.exit_code == 1
    assert f"failed   missing {tmp_path / 'no.mp4'}: there is no such file or folder" in result.stdout
    assert "2 videos: 1 ok, 0 partial, 1 failed, 0 skipped" in result.stdout


@pytest.mark.full
def test_missing_path_is_remembered_by_its_whole_name_and_forgiven_when_it_appears(
    tmp_path: Path, clip: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    query = ("sql", "SELECT path, status FROM videos", "--format", "csv", "--lake", "lake")
    assert analyze("late.mp4", "--lake", "lake", "--model", model).exit_code == 1
    assert mfer(*query).stdout == f"path,status\n{tmp_path / 'late.mp4'},failed\n"
    clip.rename("late.mp4")
    assert analyze("late.mp4", "--lake", "lake", "--model", model).exit_code == 0
    assert mfer(*query).stdout == f"path,status\n{tmp_path / 'late.mp4'},ok\n"


def test_empty_folder_says_that_nothing_was_found(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = analyze(tmp_path / "empty", "--lake", tmp_path / "lake", "--model", model)
    assert result.exit_code == 0
    assert "No video was found. Name a video file, or a folder with videos in it." in result.stdout


@pytest.mark.full
def test_file_named_with_a_dash_is_given_after_two(
    tmp_path: Path, clip: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip.rename("-x.mp4")
    result = analyze("--lake", "lake", "--model", model, "--", "-x.mp4")
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_unreadable(tmp_path: Path, clip: Path, model: Path) -> None:
    locked = Path(shutil.copy(clip, tmp_path / "locked.mp4"))
    locked.chmod(0)
    result = analyze(locked, clip, "--lake", tmp_path / "lake", "--model", model)
    assert result.exit_code == 1
    assert "failed   unreadable" in result.stdout
    assert "1 ok" in result.stdout


def test_unknown_model_stops_the_run_and_names_the_others(tmp_path: Path, clip: Path, model: Path) -> None:
    line = one_line(analyze(clip, "--lake", tmp_path / "lake", "--model", "nope"))
    assert "no model 'nope'; there are default" in line
    ends_well(clip, tmp_path / "lake", model)


def flip_a_byte(model: Path) -> None:
    data = bytearray((model / "weights.safetensors").read_bytes())
    data[-100] ^= 1
    (model / "weights.safetensors").write_bytes(data)


def change_card(model: Path, **changes: object) -> None:
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps(card | changes))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip_a_byte, marks=pytest.mark.full),
        pytest.param(lambda model: (model / "weights.safetensors").unlink(), marks=pytest.mark.full),
        pytest.param(lambda model: (model / "weights.safetensors").write_bytes(b""), marks=pytest.mark.full),
        lambda model: (model / "card.json").write_text("{"),
        lambda model: (model / "card.json").write_text("[]"),
        lambda model: (model / "card.json").write_text("{}"),
        lambda model: (model / "card.json").write_text('{"card_version": 1}'),
        lambda model: change_card(model, class_names=["happiness"]),
        lambda model: change_card(model, class_names=None),
        lambda model: change_card(model, temperature="warm"),
        pytest.param(lambda model: change_card(model, weights_sha256=None), marks=pytest.mark.full),
    ],
    ids=[
        "one byte changed",
        "no weights",
        "empty weights",
        "half a card",
        "a list for a card",
        "empty card",
        "card without fields",
        "wrong classes",
        "no classes",
        "temperature is text",
        "no hash",
    ],
)
def test_corrupted_model_stops_the_run(tmp_path: Path, clip: Path, model: Path, damage: Callable[[Path], None]) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    damage(broken)
    assert str(broken) in one_line(analyze(clip, "--lake", tmp_path / "lake", "--model", broken))


@pytest.mark.full
def test_corrupted_model_stops_a_run_of_several_processes_too(tmp_path: Path, clip: Path) -> None:
    broken = tiny_model(tmp_path / "broken")
    flip_a_byte(broken)
    words = [str(clip), str(tmp_path / "no.mp4"), "--lake", str(tmp_path / "lake"), "--model", str(broken)]
    line = one_line(mfer("analyze", *words, "--device", "cpu", "--workers", "2"))
    assert "is damaged or not the model of its card" in line
    ends_well(clip, tmp_path / "lake", tiny_model(tmp_path / "sound"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fps", "nan"], "--fps is nan; allowed: numbers above 0"),
        (["--fps", "inf"], "--fps is inf; allowed: numbers above 0"),
        (["--segment", "inf"], "--segment is inf; allowed: numbers above 0"),
        (["--stall", "inf"], "--stall is inf; allowed: numbers above 0"),
        (["--detect-every", "inf"], "--detect-every is inf; allowed: numbers from 0 on"),
        (["--detect-every", "nan"], "--detect-every is nan; allowed: numbers from 0 on"),
        (["--fps", "5", "--every", "2"], "give one of the two"),
        (["--min-face", "3"], "mtcnn sees none below 12 px"),
        (["--device", "cuda:99"], "--device auto or cpu"),
        (["--device", "toaster"], "--device auto or cpu"),
    ],
    ids=" ".join,
)
def test_impossible_setting_stops_the_run(
    tmp_path: Path, clip: Path, model: Path, words: list[str], message: str
) -> None:
    assert message in one_line(analyze(clip, "--lake", tmp_path / "lake", "--model", model, *words))


def test_a_name_typed_with_whole_letters_is_found_where_the_accents_are_stored_apart(
    tmp_path: Path, clip: Path, model: Path
) -> None:
    stored, typed = (tmp_path / unicodedata.normalize(form, "Zoë/Zoë é.mp4") for form in ("NFD", "NFC"))
    stored.parent.mkdir()
    shutil.copyfile(clip, stored)
    left_out = analyze(stored.parent, "--lake", tmp_path / "other", "--model", model, "--exclude", typed.name)
    assert "0 videos" in left_out.stdout
    result = analyze(typed, "--lake", tmp_path / "lake", "--model", model)
    assert result.exit_code == 0, result.output
    assert mfer("inspect", typed, "--lake", tmp_path / "lake").exit_code == 0
    query = "SELECT path FROM videos"
    assert str(stored) in mfer("sql", query, "--lake", tmp_path / "lake", "--format", "csv").stdout
    assert mfer("lake", "forget", typed, "--lake", tmp_path / "lake", "--yes").exit_code == 0
    assert str(stored) not in mfer("sql", query, "--lake", tmp_path / "lake", "--format", "csv").stdout


@pytest.mark.parametrize("words", ["--every 0", "--fps 0", "--workers 0", "--segment 0", "--stall -1", "--memory-mb 0"])
def test_a_number_out_of_its_range_is_refused_by_its_option(clip: Path, words: str) -> None:
    result = analyze(clip, *words.split())
    assert result.exit_code == 2
    option, number = words.split()
    assert re.search(rf"Error: Invalid value for '{option}': {number}(\.0)? is not in the range x>", result.stderr)


@pytest.mark.full
def test_lake_of_another_version_is_refused_by_every_command(tmp_path: Path, clip: Path, model: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "lake.json").write_text('{"schema_version": 99}')
    for words in (["sql", "SELECT 1"], ["inspect", clip], ["models", "list"], ["analyze", clip, "--model", model]):
        assert "schema version 99, this program reads" in one_line(mfer(*words, "--lake", lake))
    ends_well(clip, tmp_path / "other", model)


@pytest.mark.parametrize("what", ["file", "folder of something else", "damaged"])
def test_what_is_no_lake_is_left_alone(tmp_path: Path, clip: Path, model: Path, what: str) -> None:
    lake = tmp_path / "lake"
    if what == "file":
        lake.write_text("mine")
    else:
        lake.mkdir()
        (lake / ("lake.json" if what == "damaged" else "photo.jpg")).write_text("mine")
    one_line(analyze(clip, "--lake", lake, "--model", model))
    assert [p.read_text() for p in (tmp_path / "lake", *tmp_path.glob("lake/*")) if p.is_file()] == ["mine"]


# -- full disks: in a process of its own ------------------------------------------------------------------------------


def run_mfer(*words: str | Path, max_file_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "analyze", *OPTIONS, *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, preexec_fn=limit)


@pytest.mark.full
@pytest.mark.parametrize("max_file_bytes", [1000, 5_000, 12_000], ids=["rows", "rows or tables", "tables"])
def test_full_disk_stops_the_run_and_keeps_what_was_done(
    tmp_path: Path, model: Path, write_talk: Callable[..., Path], max_file_bytes: int
) -> None:
    lake = tmp_path / "lake"
    ends_well(write_talk(tmp_path / "a.mp4", [0, 1]), lake, model)
    second = write_talk(tmp_path / "b.mp4", list(range(12)))
    stopped = run_mfer(second, "--lake", lake, "--model", model, max_file_bytes=max_file_bytes)
    assert stopped.returncode == 2, stopped
    assert "the disk is full" in stopped.stderr
    assert stopped.stderr.count("\n") == 1
    n_frames = "SELECT file_name, count(*) AS n FROM frames GROUP BY ALL ORDER BY ALL"
    assert mfer("sql", n_frames, "--lake", lake, "--format", "csv").stdout == "file_name,n\na.mp4,2\n"
    ends_well(second, lake, model)
    assert mfer("sql", n_frames, "--lake", lake, "--format", "csv").stdout == "file_name,n\na.mp4,2\nb.mp4,12\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs root and the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.full
def test_disk_that_fills_up_stops_the_run_and_a_larger_one_completes_it(
    tmp_path: Path, model: Path, small_disk: Path, write_talk: Callable[..., Path]
) -> None:
    lake = small_disk / "lake"
    ends_well(write_talk(tmp_path / "a.mp4", [0, 1]), lake, model)
    second = write_talk(tmp_path / "b.mp4", [2, 3, 4])
    fill(small_disk / "filler")
    stopped = run_mfer(second, "--lake", lake, "--model", model)
    assert stopped.returncode == 2, stopped
    assert "the disk is full" in stopped.stderr
    (small_disk / "filler").unlink()
    ends_well(second, lake, model)
