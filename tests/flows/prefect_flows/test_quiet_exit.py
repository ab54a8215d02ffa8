"""A process that ran a flow ends without a word beside the run's own log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.prefect_server import PATIENCE_S, ROOT, Background, answers, quiet_machine, until

SCRIPT = """
import sys
from prefect import flow  # before ours, as most scripts have it
from flows.prefect_flows.analyze_flow import analyze_folder_flow
folder, lake, model = sys.argv[1:]
print(analyze_folder_flow(folder, lake, model=model, device="cpu", return_state=True).message)
"""


@pytest.mark.full
def test_a_script_that_runs_the_flow_ends_without_complaints_of_libraries(
    tmp_path: Path, talk: Path, model: Path
) -> None:
    env = quiet_machine(tmp_path) | {"PYTHONPATH": str(ROOT)}
    address = httpx.URL(env["PREFECT_API_URL"])
    server = Background(["prefect", "server", "start", "--host", address.host, "--port", str(address.port)], env, ROOT)
    try:
        until(lambda: answers(env))
        words = [sys.executable, "-c", SCRIPT, str(talk), str(tmp_path / "lake"), str(model)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    finally:
        server.stop()
    assert "1 video: 1 ok" in done.stdout
    assert "nanobind" not in done.stderr
    logged = [line for line in done.stderr.splitlines() if " | " in line]
    assert done.stderr.splitlines() == logged, done.stderr  # nothing but lines of the run's log
