"""A run that somebody cancels on the server: its processes end, what it committed stays, the next run does the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines.video.encode import write_video
from storage.errors import LakeError
from storage.lake import Lake
from storage.maintenance.check import check_lake
from storage.sql.views import run_sql
from tests.faces import astronaut
from tests.prefect_server import ROOT, Background, answers, ask, prefect, quiet_machine, until

#: "Within seconds", on a machine that is busy with other things; Prefect itself kills after 30 s what does not listen.
_GONE_S = 25
N_SHORT, N_LONG = 4, 80


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return quiet_machine(tmp_path) | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def machine(tmp_path: Path, env: dict[str, str]) -> Iterator[Callable[[str], Background]]:
    """Start what runs flows: ``serve``, or a ``worker`` of a pool with a server beside it."""
    started: list[Background] = []

    def background(*command: str) -> Background:
        started.append(Background(list(command), env, tmp_path))
        return started[-1]

    def start(kind: str) -> Background:
        if kind == "serve":
            served = background("mfer", "serve", "--lake", str(tmp_path / "lake"))
            served.wait_for("Your deployments are being served")
            return served
        address = httpx.URL(env["PREFECT_API_URL"])
        background("prefect", "server", "start", "--host", str(address.host), "--port", str(address.port))
        until(lambda: answers(env))
        shutil.copy(ROOT / "prefect.yaml", tmp_path)
        for command in (
            ("work-pool", "create", "local", "--type", "process"),
            ("deploy", "-n", "flows.prefect_flows.analyze_flow.analyze_folder_flow/default"),
        ):
            done = prefect(env, *command, cwd=tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
        worker = background("prefect", "worker", "start", "--pool", "local", "--limit", "1")
        worker.wait_for("started!")
        return worker

    try:
        yield start
    finally:
        for process in reversed(started):
            process.stop()


@pytest.mark.full
@pytest.mark.parametrize(("kind", "engine"), [("serve", "local"), ("worker", "local"), ("serve", "ray")])
def test_cancelled_run_leaves_no_process_and_no_slot_and_the_next_one_does_the_rest(
    tmp_path: Path,
    env: dict[str, str],
    machine: Callable[[str], Background],
    model: Path,
    write_talk: Callable[..., Path],
    kind: str,
    engine: str,
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    folder, lake = tmp_path / "videos", tmp_path / "lake"
    folder.mkdir()
    write_talk(folder / "a.mp4", list(range(N_SHORT)))
    write_video(folder / "b.mp4", [astronaut()] * N_LONG, 25)
    parameters = {"folder": folder, "lake": lake, "model": model, "min_face": 12, "detect": "exact", "engine": engine}
    parameters |= {"segment_s": 0.4}  # so that the second video is committed as it goes
    order = ["deployment", "run", "analyze-folder/default"]
    order += [text for name, value in parameters.items() for text in ("-p", f"{name}={value}")]

    runs_flows = psutil.Process(machine(kind).pid)
    others = set(runs_flows.children(recursive=True))
    ordered = prefect(env, *order)
    assert ordered.returncode == 0, ordered.stdout + ordered.stderr
    until(lambda: any((lake / "observations").rglob("*.parquet")))
    processes = set(runs_flows.children(recursive=True)) - others
    assert any("flows.workers.worker" in " ".join(each.cmdline()) for each in processes)
    (run,) = _runs(env, "RUNNING")

    result = prefect(env, "flow-run", "cancel", run["id"])
    assert result.returncode == 0, result.stdout + result.stderr
    _, alive = psutil.wait_procs(processes, timeout=_GONE_S)
    assert alive == []
    (cancelled,) = until(lambda: _runs(env, "CANCELLED"))
    assert (cancelled["id"], cancelled["state"]["name"]) == (run["id"], "Cancelled")
    until(lambda: not ask(env, "task_runs", task_runs={"state": {"type": {"any_": ["RUNNING"]}}}))  # recorded later
    assert [each["active_slots"] for each in ask(env, "v2/concurrency_limits") if each["active_slots"]] == []

    assert _n_frames(lake) == {"a.mp4": N_SHORT}
    assert check_lake(Lake.open(lake)).is_sound
    noted = run_sql(Lake.open(lake), "SELECT path, status, code FROM runs ORDER BY path").to_pylist()
    assert [(os.path.basename(row["path"]), row["status"], row["code"]) for row in noted] == [
        ("a.mp4", "ok", None),
        ("b.mp4", "skipped", "interrupted"),
    ]

    rest = prefect(env, *order, "--watch")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    (completed,) = _runs(env, "COMPLETED")
    assert completed["state"]["message"] == "2 videos: 1 ok, 0 partial, 0 failed, 1 skipped"
    assert _n_frames(lake) == {"a.mp4": N_SHORT, "b.mp4": N_LONG}


def _runs(env: dict[str, str], state: str) -> list[dict[str, Any]]:
    return ask(env, "flow_runs", flow_runs={"state": {"type": {"any_": [state]}}})


def _n_frames(lake: Path) -> dict[str, int]:
    """Frames of each finished video; nothing as long as there is no lake, or a commit is under way."""
    try:
        rows = run_sql(Lake.open(lake), "SELECT file_name, count(*) AS n FROM frames GROUP BY ALL").to_pylist()
    except LakeError:
        return {}
    return {row["file_name"]: row["n"] for row in rows}
