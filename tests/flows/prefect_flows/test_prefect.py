from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from prefect.exceptions import ParameterTypeError

from flows.analysis_options import AnalysisOptions, analysis_options
from flows.cli.analyze import analyze
from flows.prefect_flows.analyze_flow import analyze_folder_flow, final_state, outcome_rows, summary_markdown
from flows.prefect_flows.deployments import Schedules, serve
from flows.run import ProcessLimits, RunSummary
from mfer.errors import ConfigError
from pipelines.video.encode import write_video
from storage.lake import Lake
from storage.records import VideoOutcome
from storage.sql.views import run_sql
from tests.faces import carphone_frames
from tests.models import tiny_model
from tests.prefect_server import ROOT, Background, answers, ask, prefect, quiet_machine, until

_OK = VideoOutcome("0" * 16, "/in/a.mp4", "ok", n_frames=12, n_faces=12, n_frames_with_face=12, elapsed_s=1.0)
_SKIPPED = VideoOutcome("0" * 16, "/in/b.mp4", "skipped", message="already analysed")
_PARTIAL = replace(_OK, path="/in/c.mp4", status="partial", code="frames_undecodable", message="2 of 12 frames")
_FAILED = VideoOutcome(None, "/in/d.mp4", "failed", code="not_a_video", stage="open", message="no format is recognised")


def _summary(*outcomes: VideoOutcome) -> RunSummary:
    return RunSummary("run1", "lake", "mfer_atto.random_v1@0123456789ab", "f" * 16, outcomes, 3, 2.0)


# -- without a server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcomes", [(_OK,), (_OK, _SKIPPED), (_SKIPPED,), ()])
def test_a_run_without_trouble_is_completed(outcomes: tuple[VideoOutcome, ...]) -> None:
    state = final_state(_summary(*outcomes))
    assert (state.name, state.is_completed()) == ("Completed", True)


@pytest.mark.parametrize("outcomes", [(_OK, _FAILED), (_OK, _PARTIAL), (_PARTIAL,), (_SKIPPED, _FAILED)])
def test_some_trouble_is_completed_with_failures_and_names_the_videos(outcomes: tuple[VideoOutcome, ...]) -> None:
    state = final_state(_summary(*outcomes))
    assert (state.name, state.is_completed()) == ("CompletedWithFailures", True)
    trouble = outcomes[-1]
    assert f"{trouble.path} is {trouble.status}, {trouble.code}: {trouble.message}" in str(state.message)
    assert "/in/a.mp4 " not in str(state.message)


def test_a_run_in_which_every_video_failed_is_failed_and_a_long_list_is_cut() -> None:
    outcomes = [replace(_FAILED, path=f"/in/{number:03}.mp4") for number in range(50)]
    state = final_state(_summary(*outcomes))
    assert state.is_failed()
    assert str(state.message).startswith("50 videos: 0 ok, 0 partial, 50 failed, 0 skipped. /in/000.mp4 is failed")
    assert str(state.message).endswith("and 40 more")


def test_the_table_of_outcomes_begins_with_the_worst_and_holds_names_that_are_not_text() -> None:
    odd = replace(_FAILED, path=os.fsdecode(b"/in/caf\xe9.mp4"))
    rows = outcome_rows(_summary(_OK, _SKIPPED, _PARTIAL, odd))
    assert [row["status"] for row in rows] == ["failed", "partial", "ok", "skipped"]
    assert rows[0]["video"] == r"/in/caf\xe9.mp4"
    assert (rows[2]["frames"], rows[2]["faces"], rows[2]["code"]) == (12, 12, "")


def test_the_summary_says_what_to_ask_next() -> None:
    text = summary_markdown(_summary(_OK, _FAILED))
    assert "2 videos: 1 ok, 0 partial, 1 failed, 0 skipped; 3 other files ignored" in text
    assert 'mfer sql "SELECT file_name, expression' in text
    assert f"--lake {Path('lake').absolute()}" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"every": "often"},
        {"fps": -1},
        {"workers": 0},
        {"min_face": 0},
        {"min_face": "large"},
        {"networks": "some"},
        {"segment_s": 0},
        {"memory_mb": -1},
        {"folder": None},
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError, match=next(iter(wrong))):
        analyze_folder_flow.validate_parameters({"folder": "videos", **wrong})


def test_the_flow_and_the_command_have_the_same_options_with_the_same_defaults() -> None:
    flow = inspect.signature(analyze_folder_flow.fn).parameters
    command = {param.name: param for param in analyze.params}
    assert flow.keys() - {"folder", "report"} == command.keys() - {"paths", "profile", "as_json"}
    chosen = {option.name: flow[option.name].default for option in analysis_options()}
    with click.Context(analyze) as context:
        given = {name: command[name].get_default(context) or flow[name].default for name in chosen}
    assert given == chosen
    assert AnalysisOptions(**chosen).run(["videos"], "lake") == AnalysisOptions().run(["videos"], "lake")


def test_what_the_flow_is_given_is_what_is_run() -> None:
    given = {
        "min_face": "5%",
        "fps": 5,
        "segment_s": 60,
        "stall_s": 30,
        "memory_mb": 900,
        "networks": "own",
        "workers": 3,
    }
    checked = analyze_folder_flow.validate_parameters({"folder": "videos", **given})
    options = {option.name: checked[option.name] for option in analysis_options()}
    run = AnalysisOptions(**options).run([checked["folder"]], checked["lake"])
    assert (run.settings.detector.min_face_share, run.settings.fps, run.settings.segment_s) == (0.05, 5.0, 60.0)
    assert run.limits == ProcessLimits(progress_s=30, open_s=30, memory_mb=900)
    assert (run.networks, run.workers) == ("own", 3)


def test_a_report_into_an_object_store_is_refused_before_the_first_video() -> None:
    with pytest.raises(ConfigError, match=r"report is s3://bucket/report\.html; allowed is a file"):
        analyze_folder_flow.fn("videos", report="s3://bucket/report.html")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inbox": "nowhere"}, "the inbox nowhere is not a folder"),
        ({"inbox": ".", "cron": "hourly"}, "cron is 'hourly'; allowed are five fields"),
        ({"inbox": ".", "every_s": 5.0}, "every 5.0 s; allowed: 60 s or more"),
        ({"data": "nowhere"}, "nowhere: no such file or folder of labelled faces"),
        ({"data": ".", "refresh_cron": "weekly"}, "cron is 'weekly'; allowed are five fields"),
        ({"drift_cron": "never"}, "cron is 'never'; allowed are five fields"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_before_a_server_starts(
    wrong: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        serve("lake", Schedules(**wrong))


def test_a_server_elsewhere_that_does_not_answer_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.2:9/api"}),
        pytest.raises(ConfigError, match=r"no Prefect server answers at http://127\.0\.0\.2:9/api"),
    ):
        serve("lake")


# -- with a real server, and processes as a user starts them ----------------------------------------------------------


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return quiet_machine(tmp_path)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two short clips of a talking man and a text that is called a video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    frames, rate = carphone_frames(), Fraction(30000, 1001)
    write_video(folder / "one.mp4", frames[:12], rate)
    write_video(folder / "two.mp4", frames[60:72], rate)
    (folder / "broken.mp4").write_text("not a video")
    return folder


def _run_deployment(env: dict[str, str], cwd: Path = ROOT, **parameters: object) -> subprocess.CompletedProcess[str]:
    options = [text for name, value in parameters.items() for text in ("-p", f"{name}={value}")]
    return prefect(env, "deployment", "run", "analyze-folder/default", *options, "--watch", cwd=cwd)


@pytest.fixture
def background(env: dict[str, str]) -> Iterator[Callable[..., Background]]:
    started: list[Background] = []

    def start(command: list[str], cwd: Path = ROOT) -> Background:
        started.append(Background(command, env, cwd))
        return started[-1]

    try:
        yield start
    finally:
        for process in reversed(started):
            process.stop()


@pytest.mark.full
def test_one_command_serves_the_flow_on_a_machine_with_nothing_running(
    tmp_path: Path, env: dict[str, str], videos: Path, background: Callable[..., Background]
) -> None:
    lake, inbox = tmp_path / "lake", tmp_path / "inbox"
    inbox.mkdir()
    model = tiny_model(tmp_path / "model")
    elsewhere = tmp_path / "elsewhere"  # where no prefect.toml helps
    elsewhere.mkdir()
    command = ["mfer", "serve", "--lake", str(lake), "--inbox", str(inbox), "--cron", "0 4 * * *"]
    served = background(command, elsewhere)
    served.wait_for("Your deployments are being served")

    done = _run_deployment(env, elsewhere, folder=videos, model=model, min_face=36, workers=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'CompletedWithFailures'" in done.stdout
    rows = run_sql(Lake.open(lake), "SELECT file_name, count(*) AS n FROM scores GROUP BY ALL ORDER BY ALL").to_pylist()
    assert rows == [{"file_name": "one.mp4", "n": 12}, {"file_name": "two.mp4", "n": 12}]
    failed = run_sql(Lake.open(lake), "SELECT path, code FROM videos WHERE status = 'failed'").to_pylist()
    assert failed == [{"path": str(videos / "broken.mp4"), "code": "not_a_video"}]
    _check_what_the_server_shows(env, videos)

    missing = _run_deployment(env, elsewhere, folder=tmp_path / "nowhere", model=model, report=tmp_path / "none.html")
    assert missing.returncode == 1, missing.stdout + missing.stderr
    assert not (tmp_path / "none.html").exists()  # there is nothing to report
    (run,) = ask(env, "flow_runs", flow_runs={"state": {"type": {"any_": ["FAILED"]}}})
    assert f"{tmp_path / 'nowhere'} is failed, missing: there is no such file or folder" in run["state"]["message"]

    scheduled = _scheduled(env, {"inbox", "default"})
    assert {run["parameters"].get("folder") for run in scheduled} == {str(inbox), None}  # None: check-drift
    assert {run["parameters"]["lake"] for run in scheduled} == {str(lake)}

    served.stop(signal.SIGTERM)
    assert not answers(env)  # its server went with it
    assert "telemetry" not in served.output


def _scheduled(env: dict[str, str], names: set[str]) -> list[dict[str, Any]]:
    """The runs that wait for their time, as soon as there are some of deployments of all these names."""

    def look() -> list[dict[str, Any]]:
        runs = ask(env, "flow_runs", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}})
        known = {each["id"]: each["name"] for each in ask(env, "deployments")}
        return runs if {known[run["deployment_id"]] for run in runs} >= names else []

    runs: list[dict[str, Any]] = until(look)
    assert all(run["auto_scheduled"] for run in runs)
    return runs


def _check_what_the_server_shows(env: dict[str, str], videos: Path) -> None:
    (run,) = ask(env, "flow_runs", flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}})
    assert run["state"]["name"] == "CompletedWithFailures"
    assert "3 videos: 2 ok, 0 partial, 1 failed, 0 skipped" in run["state"]["message"]
    assert f"{videos / 'broken.mp4'} is failed, not_a_video" in run["state"]["message"]
    artifacts = {artifact["key"]: artifact for artifact in ask(env, "artifacts")}
    assert artifacts["progress"]["data"] == 100.0
    assert '"not_a_video"' in artifacts["outcomes"]["data"]
    assert "mfer sql" in artifacts["summary"]["data"]
    logged = [line["message"] for line in ask(env, "logs", logs={"flow_run_id": {"any_": [run["id"]]}}, limit=200)]
    assert sum("one.mp4" in line and "12 frames, 12 faces" in line for line in logged) == 1


@pytest.mark.full
def test_a_work_pool_and_a_worker_run_the_deployment_of_prefect_yaml(
    tmp_path: Path, env: dict[str, str], videos: Path, background: Callable[..., Background]
) -> None:
    (videos / "broken.mp4").unlink()
    (videos / "two.mp4").unlink()
    project = tmp_path / "project"
    project.mkdir()
    for name in ("prefect.yaml", "prefect.toml"):
        shutil.copy(ROOT / name, project)
    model = tiny_model(tmp_path / "model")
    address = httpx.URL(env["PREFECT_API_URL"])
    server = background(["prefect", "server", "start", "--host", address.host, "--port", str(address.port)], project)
    until(lambda: answers(env))
    for command in (("work-pool", "create", "local", "--type", "process"), ("deploy", "--all")):
        done = prefect(env, *command, cwd=project)
        assert done.returncode == 0, done.stdout + done.stderr
    for reply in ("will end as Crashed", "knew that already"):
        command = [sys.executable, "-m", "flows.prefect_flows.heartbeats"]
        result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
        assert reply in result.stdout
    _check_schedules(env)
    worker = background(["prefect", "worker", "start", "--pool", "local"], project)
    worker.wait_for("started!")

    done = _run_deployment(env, project, folder="../videos", model=model, min_face=36)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'Completed'" in done.stdout
    rows = run_sql(Lake.open(project / "lake"), "SELECT file_name, count(*) AS n FROM scores GROUP BY ALL").to_pylist()
    assert rows == [{"file_name": "one.mp4", "n": 12}]

    refused = _run_deployment(env, project, folder="../videos", every=0)
    assert refused.returncode != 0
    assert "telemetry" not in server.output  # prefect.toml: nobody is called


def _check_schedules(env: dict[str, str]) -> None:
    """Every deployment of prefect.yaml that has a schedule gets runs of it, at its times."""
    _scheduled(env, {"inbox", "default"})
    flows = {each["id"]: each["name"] for each in ask(env, "flows")}
    times: dict[tuple[str, str], list[datetime]] = {}

    def look() -> bool:
        known = {each["id"]: (flows[each["flow_id"]], each["name"]) for each in ask(env, "deployments")}
        times.clear()
        for run in ask(env, "flow_runs", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}}):
            at = datetime.fromisoformat(run["expected_start_time"].replace("Z", "+00:00"))
            times.setdefault(known[run["deployment_id"]], []).append(at)
        return len(times) == 3

    until(look)
    refresh, drift, inbox = (
        sorted(times[key])
        for key in (("refresh-model", "default"), ("check-drift", "default"), ("analyze-folder", "inbox"))
    )
    assert all((at.weekday(), at.hour) == (6, 3) for at in refresh)
    assert all((at.weekday(), at.hour) == (0, 6) for at in drift)
    assert {later - at for at, later in pairwise(inbox)} == {timedelta(minutes=10)}
