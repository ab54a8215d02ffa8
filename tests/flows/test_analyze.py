"""A folder into a lake: what is done once is never done again, whatever happens to the processes meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dashboards.outputs.render import render_video
from flows.analyze import analyze_folder
from flows.run import FolderRun, Progress, RunSummary
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.identity import video_id_of
from storage.lake import Lake
from storage.records import VideoOutcome
from storage.sql.views import run_sql
from tests.clips import write_clip
from tests.corpus import garble
from tests.flows.workers.processes import run_processes

DETECTOR = DetectorSettings(min_face_px=36)


def analyze(
    lake: Path, model: Path, *paths: Path, workers: int = 1, every: int = 1, progress: Progress | None = None
) -> RunSummary:
    settings = AnalysisSettings(every=every, detector=DETECTOR)
    return analyze_folder(FolderRun(tuple(map(str, paths)), str(lake), str(model), "cpu", workers, settings), progress)


def rows(lake: Path, query: str) -> list[dict]:
    return run_sql(Lake.open(lake), query).to_pylist()


@pytest.fixture
def folder(tmp_path: Path, talk: Path) -> Path:
    """Two videos, one with a face, and a file that is none."""
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(talk, folder / "talk.mp4")
    write_clip(folder / "deep" / "bars.mp4", n_frames=4)
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture
def lake(tmp_path: Path, model: Path, folder: Path) -> Path:
    """A lake in which that folder was analysed."""
    assert analyze(tmp_path / "lake", model, folder).count("ok") == 2
    return tmp_path / "lake"


def test_summary_says_what_happened_and_is_json(tmp_path: Path, model: Path, folder: Path) -> None:
    summary = analyze(tmp_path / "lake", model, folder)
    output = json.loads(json.dumps(summary.to_dict()))
    assert summary.exit_code == 0
    assert {name: output[name] for name in ("ok", "partial", "failed", "skipped", "ignored_files")} == {
        "ok": 2,
        "partial": 0,
        "failed": 0,
        "skipped": 0,
        "ignored_files": 1,
    }
    assert (output["frames"], output["frames_with_face"], output["faces"]) == (14, 7, 7)
    assert output["share_of_frames_with_face"] == 0.5
    assert output["elapsed_s"] > 0 < output["frames_per_s"]
    damaged = [
        replace(outcome, n_frames=outcome.n_frames + 10, n_frames_undecodable=10) for outcome in summary.outcomes
    ]
    assert replace(summary, outcomes=tuple(damaged)).to_dict()["share_of_frames_with_face"] == 0.5  # of what was read
    assert output["model_id"].startswith("mfer_atto.random_v1@")
    talk = next(video for video in output["videos"] if video["path"] == str(folder / "talk.mp4"))
    assert (talk["status"], talk["n_frames"], talk["n_faces"]) == ("ok", 10, 7)
    assert talk["video_id"] == video_id_of(folder / "talk.mp4")
    (run,) = rows(tmp_path / "lake", "SELECT DISTINCT run_id, model_id, device, manifest FROM runs")
    assert (run["run_id"], run["model_id"], run["device"]) == (summary.run_id, summary.model_id, "cpu")
    assert json.loads(run["manifest"])["config"]["settings"]["detector"]["min_face_px"] == 36


def test_second_run_skips_everything_and_reads_no_file_again(lake: Path, model: Path, folder: Path) -> None:
    before = {video["path"]: video["video_id"] for video in rows(lake, "SELECT path, video_id FROM videos")}
    for path in map(Path, before):  # other bytes under the same size and time: only who reads them would notice
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    summary = analyze(lake, model, folder)
    assert summary.exit_code == 0
    assert {(o.path, o.video_id, o.status) for o in summary.outcomes} == {
        (path, video_id, "skipped") for path, video_id in before.items()
    }
    assert rows(lake, "SELECT DISTINCT status, last_run_status FROM videos") == [
        {"status": "ok", "last_run_status": "skipped"}
    ]


def test_a_partial_video_still_says_why_after_the_next_run(tmp_path: Path, model: Path) -> None:
    (tmp_path / "videos").mkdir()
    damaged = write_clip(tmp_path / "videos" / "damaged.mp4", n_frames=100, options={"g": "20"})
    garble(0.3)(damaged)
    (outcome,) = analyze(tmp_path / "lake", model, damaged).outcomes
    assert (outcome.status, outcome.code) == ("partial", "frames_undecodable")
    assert outcome.message.endswith("of 100 frames could not be read")
    assert analyze(tmp_path / "lake", model, damaged).count("skipped") == 1
    (video,) = rows(tmp_path / "lake", "SELECT status, code, message, last_run_status FROM videos")
    assert video == {
        "status": "partial",
        "code": outcome.code,
        "message": outcome.message,
        "last_run_status": "skipped",
    }


def test_touched_file_is_read_again_and_found_done(lake: Path, model: Path, folder: Path) -> None:
    path = folder / "talk.mp4"
    os.utime(path, ns=(0, 1))
    outcome = next(o for o in analyze(lake, model, folder).outcomes if o.path == str(path))
    assert (outcome.status, outcome.mtime_ns, outcome.video_id) == ("skipped", 1, video_id_of(path))
    assert outcome.elapsed_s > 0  # by the analyzer, not by the list of known files
    known = Lake.open(lake).known_files([(path, path.stat().st_size, 1)])[path]
    assert known == outcome.video_id


def test_other_bytes_under_the_same_name_are_another_video(lake: Path, model: Path, folder: Path) -> None:
    write_clip(folder / "talk.mp4", n_frames=3)
    summary = analyze(lake, model, folder)
    assert (summary.count("ok"), summary.count("skipped")) == (1, 1)
    (video,) = rows(lake, "SELECT video_id, n_frames FROM videos WHERE file_name = 'talk.mp4'")
    assert video == {"video_id": video_id_of(folder / "talk.mp4"), "n_frames": 3}


def test_copy_is_skipped_and_has_its_own_row_in_videos(lake: Path, model: Path, folder: Path) -> None:
    shutil.copy(folder / "talk.mp4", folder / "copy.mp4")
    summary = analyze(lake, model, folder)
    assert summary.count("skipped") == 3
    assert {o.message for o in summary.outcomes} == {"already analysed"}
    talk, copy = rows(lake, "SELECT * FROM videos WHERE file_name IN ('copy.mp4', 'talk.mp4') ORDER BY file_name DESC")
    assert (copy["video_id"], copy["status"], copy["n_faces"]) == (talk["video_id"], "ok", 7)
    assert copy["path"] == str(folder / "copy.mp4")
    assert rows(lake, "SELECT count(*) AS n FROM scores") == [{"n": 7}]


def test_a_file_that_was_overwritten_counts_with_its_new_content_alone(
    lake: Path, model: Path, folder: Path, tmp_path: Path
) -> None:
    new = write_clip(tmp_path / "new.mp4", n_frames=3)
    shutil.copy(new, folder / "talk.mp4")
    assert analyze(lake, model, folder).count("ok") == 1
    for view in ("frames", "videos"):
        (video,) = rows(lake, f"SELECT DISTINCT video_id FROM {view} WHERE file_name = 'talk.mp4'")
        assert video["video_id"] == video_id_of(new)
    assert rows(lake, "SELECT count(*) AS n FROM frames WHERE file_name = 'talk.mp4'") == [{"n": 3}]
    assert rows(lake, "SELECT count(DISTINCT video_id) AS n FROM scores_all") == [{"n": 1}]  # the old one is kept


def test_files_that_were_swapped_keep_their_contents_apart(lake: Path, model: Path, folder: Path) -> None:
    names = ("talk.mp4", "bars.mp4")
    ids = {name: video_id_of(next(folder.rglob(name))) for name in names}
    paths = {name: next(folder.rglob(name)) for name in names}
    paths[names[0]].rename(folder / "x")
    paths[names[1]].rename(paths[names[0]])
    (folder / "x").rename(paths[names[1]])
    assert analyze(lake, model, folder).count("skipped") == 2
    for view in ("frames", "videos"):
        found = rows(lake, f"SELECT DISTINCT file_name, video_id FROM {view} WHERE file_name IN {names}")
        assert {row["file_name"]: row["video_id"] for row in found} == {
            names[0]: ids[names[1]],
            names[1]: ids[names[0]],
        }
    assert {row["file_name"] for row in rows(lake, "SELECT file_name FROM scores")} == {"bars.mp4"}


def test_a_renamed_video_is_found_by_its_new_name(lake: Path, model: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "talk.mp4").rename(folder / "renamed.mp4")
    assert analyze(lake, model, folder).count("skipped") == 2
    for i, name in enumerate(("renamed.mp4", video_id_of(folder / "renamed.mp4"))):
        render_video(Lake.open(lake), name, tmp_path / f"{i}.mp4")
        assert (tmp_path / f"{i}.mp4").stat().st_size


def test_the_same_video_twice_in_one_run_is_analysed_once(tmp_path: Path, model: Path, folder: Path) -> None:
    shutil.copy(folder / "talk.mp4", folder / "copy.mp4")
    summary = analyze(tmp_path / "lake", model, folder, folder / "talk.mp4")
    assert (summary.count("ok"), summary.count("skipped")) == (2, 1)
    assert rows(tmp_path / "lake", "SELECT count(*) AS n FROM scores") == [{"n": 7}]


def test_other_settings_make_another_analysis_beside_the_first(lake: Path, model: Path, folder: Path) -> None:
    summary = analyze(lake, model, folder, every=2)
    assert summary.count("ok") == 2
    analyses = rows(lake, "SELECT n_frames, n_videos, n_videos_chosen FROM analyses ORDER BY n_frames")
    assert analyses == [
        {"n_frames": 7, "n_videos": 2, "n_videos_chosen": 0},
        {"n_frames": 14, "n_videos": 2, "n_videos_chosen": 2},
    ]
    assert rows(lake, "SELECT count(*) AS n FROM frames") == [{"n": 14}]
    assert analyze(lake, model, folder).count("skipped") == 2


def test_lake_holds_numbers_and_names_but_no_pixels(lake: Path) -> None:
    kinds = {path.suffix for path in lake.rglob("*") if path.is_file()}
    assert kinds == {".json", ".parquet"}
    for path in lake.rglob("*.parquet"):
        for field in pq.read_schema(path):
            kind = field.type
            plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
            assert plain or pa.types.is_string(kind) or pa.types.is_timestamp(kind), f"{path.name}: {field}"
    crop_bytes = 40 * 40
    stored = sum(path.stat().st_size for path in (lake / "observations").rglob("*.parquet"))
    assert stored < 14 * crop_bytes + 20_000  # mostly the footers of two small files


VIEWS = ("scores", "frames", "tracks", "seconds", "episodes", "analyses", "videos")
#: Of videos: what tells runs apart, not what is known of a video.
OF_RUNS = ("run_id", "last_run_status", "message")


def assert_same(lake: Path, other: Path, except_videos: tuple[str, ...] = ()) -> None:
    """Compare all views; sums may differ in their last bits, by the order in which rows are read.

    ``except_videos`` are columns of ``videos`` that may differ.
    """
    for view in VIEWS:
        left_out = f"EXCLUDE ({', '.join([*OF_RUNS, *except_videos])})" if view == "videos" else ""
        query = f"SELECT * {left_out} FROM {view} ORDER BY ALL"
        expected = [
            {
                name: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
                for name, value in row.items()
            }
            for row in rows(other, query)
        ]
        assert rows(lake, query) == expected, view


def test_two_workers_give_the_same_rows_as_one(tmp_path: Path, lake: Path, model: Path, folder: Path) -> None:
    calls: set[str] = set()

    class Told(Progress):
        def video(self, outcome: VideoOutcome) -> None:
            calls.add(outcome.path)

    summary = analyze(tmp_path / "two", model, folder, workers=2, progress=Told())
    assert summary.count("ok") == 2, summary.outcomes
    assert calls == {outcome.path for outcome in summary.outcomes}
    assert_same(tmp_path / "two", lake)
    assert not run_processes()


def test_workers_share_the_segments_of_a_single_video_and_give_the_same_rows(
    tmp_path: Path, model: Path, write_talk: Callable[..., Path]
) -> None:
    video = write_talk(tmp_path / "long.mp4", [k % 120 for k in range(60)])
    settings = AnalysisSettings(detector=DETECTOR, segment_s=0.5)
    shown: list[int] = []
    at_once: list[int] = []

    class Shown(Progress):
        def frames(self, path: str, n_done: int, n_frames: int) -> None:
            assert path == str(video)
            assert n_frames in (0, 60)
            shown.append(n_done)
            at_once.append(len(run_processes()))

    outcomes = []
    for workers in (1, 2):
        shown.clear(), at_once.clear()
        run = FolderRun((str(video),), str(tmp_path / str(workers)), str(model), "cpu", workers, settings)
        (outcome,) = analyze_folder(run, Shown()).outcomes
        outcomes.append(replace(outcome, elapsed_s=0))
        assert max(at_once) == workers
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].n_frames == 60
    assert shown == sorted(shown)
    assert shown[-1] == 60
    assert_same(tmp_path / "2", tmp_path / "1")


def write_talks(folder: Path, write_talk: Callable[..., Path], n_videos: int, n_frames: int) -> Path:
    folder.mkdir()
    for k in range(n_videos):
        write_talk(folder / f"{k}.mp4", [(k + j) % 120 for j in range(n_frames)])
    return folder


#: A run that says what it is at: "frames PATH DONE ALL" and "video PATH".
_TELLING_RUN = """
import sys
from flows.analyze import analyze_folder
from flows.run import FolderRun, Progress
from pipelines.settings import AnalysisSettings, DetectorSettings

class Told(Progress):
    def frames(self, path, n_done, n_frames):
        print("frames", path, n_done, n_frames, flush=True)
    def video(self, outcome):
        print("video", outcome.path, flush=True)

folder, lake, model, workers = sys.argv[1:]
settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
analyze_folder(FolderRun((folder,), lake, model, "cpu", int(workers), settings), Told())
"""


def start(tmp_path: Path, folder: Path, lake: Path, model: Path, workers: int) -> subprocess.Popen[str]:
    script = tmp_path / "run.py"
    script.write_text(_TELLING_RUN)
    command = [sys.executable, str(script), str(folder), str(lake), str(model), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(run: subprocess.Popen[str], reached: Callable[[list[str]], bool]) -> None:
    assert run.stdout is not None
    for line in run.stdout:
        if reached(line.split()):
            return
    raise AssertionError(f"the run ended before: {run.communicate()[1]}")


def in_the_middle(words: list[str]) -> bool:
    return words[0] == "frames" and 0 < int(words[2]) < int(words[3])


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_run_shows_no_half_video_and_the_next_one_completes_it(
    tmp_path: Path, model: Path, write_talk: Callable[..., Path], workers: int
) -> None:
    folder = write_talks(tmp_path / "videos", write_talk, n_videos=3, n_frames=300)
    lake = tmp_path / "lake"
    seen: set[str] = set()

    def in_a_second_video(words: list[str]) -> bool:  # what is finished of the first one waits for a commit
        seen.add(words[1])
        return len(seen) > workers and in_the_middle(words)

    for point in (in_the_middle, in_a_second_video, lambda words: words[0] == "video"):
        run = start(tmp_path, folder, lake, model, workers)
        wait_for(run, point)
        run.kill()
        run.communicate(timeout=120)  # ends when the last of its processes has: they do not outlive their run
        shown = rows(lake, "SELECT n_frames, (SELECT count(*) FROM frames f WHERE f.path = v.path) n FROM videos v")
        assert all(video["n_frames"] == video["n"] == 300 for video in shown)
    assert shown
    assert analyze(lake, model, folder).exit_code == 0
    analyze(tmp_path / "undisturbed", model, folder)
    assert_same(lake, tmp_path / "undisturbed")
