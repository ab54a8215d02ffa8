"""``deploy/``: the commands of the units, with the settings of its file, on a real PostgreSQL."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from storage.lake import Lake
from storage.sql.views import run_sql
from tests.postgres import Postgres, missing_postgres, running_postgres
from tests.prefect_server import PATIENCE_S, ROOT, Background, answers, ask, prefect, quiet_machine, until

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
#: Where the units expect the project's programs, and where they are here.
_INSTALLED, _HERE = "/opt/mfer/.venv/bin/", f"{Path(sys.executable).parent}/"
_PASSWORD = "mfer:a password"
_RARELY = "0 0 1 1 *"


def _lines(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


def _settings() -> dict[str, str]:
    text = (DEPLOY / "mfer.env").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


def _words(line: str, env: dict[str, str]) -> list[str]:
    """The command of a unit as systemd makes it: a word that is $NAME becomes the words of that setting."""
    parts = [shlex.split(env[word[1:]]) if word.startswith("$") else [word] for word in shlex.split(line)]
    program, *arguments = [word for part in parts for word in part]
    assert program.startswith(_INSTALLED)
    return [_HERE + program.removeprefix(_INSTALLED), *arguments]


# -- the files --------------------------------------------------------------------------------------------------------


def _need_systemd(program: str) -> None:
    if not shutil.which(program):
        message = f"no {program} is installed"
        pytest.fail(message) if os.environ.get("MFER_NEEDS_SYSTEMD") else pytest.skip(message)


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    _need_systemd("systemd-analyze")
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace(_INSTALLED, _HERE)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *sorted(tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "mfer-" in line]
    assert (done.returncode, lines) == (0, [])


@pytest.mark.full
def test_the_commands_of_the_units_exist_with_their_options() -> None:
    settings = _settings()
    assert [unit.stem for unit in UNITS] == ["mfer-dashboard", "mfer-flows", "mfer-server", "mfer-worker"]
    for unit in UNITS:
        for line in (*_lines(unit, "ExecStartPre"), *_lines(unit, "ExecStart")):
            words = _words(line, settings)
            name = [words[0]]
            for word in words[1:]:
                if word.startswith("-"):
                    break
                name.append(word)
            env = os.environ | {"COLUMNS": "200", "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}
            result = subprocess.run([*name, "--help"], env=env, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{unit.name}: {line}\n{result.stdout}{result.stderr}"
            known = set(re.findall(r"--[a-z][a-z-]+", result.stdout))
            assert {word for word in words if word.startswith("--")} <= known, f"{unit.name}: {line}"


# -- a server to keep -------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    missing = missing_postgres()
    if missing and os.environ.get("MFER_NEEDS_POSTGRES"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with running_postgres() as cluster:
        yield cluster


@pytest.fixture
def env(tmp_path: Path, postgres: Postgres) -> dict[str, str]:
    """The settings of deploy/mfer.env, all of them, with what is this machine's put in place of what is another's."""
    machine = quiet_machine(tmp_path)
    address = urlsplit(machine["PREFECT_API_URL"])
    known = (DEPLOY / "mfer.env").read_text(encoding="utf-8")
    url = _settings()["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert url.endswith("host=/var/run/postgresql")
    here = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url.replace("/var/run/postgresql", str(postgres.folder)),
        "PREFECT_SERVER_API_PORT": str(address.port),
        "PREFECT_API_URL": machine["PREFECT_API_URL"],
        "PREFECT_HOME": machine["PREFECT_HOME"],
        "PREFECT_SERVER_API_AUTH_STRING": _PASSWORD,
        "PREFECT_API_AUTH_STRING": _PASSWORD,
        "MFER_LAKE": str(tmp_path / "lake"),
        "MFER_SERVE_OPTIONS": f"--drift-cron '{_RARELY}'",
        "MFER_DASHBOARD_OPTIONS": "--port 0",
    }
    assert all(f"{name}=" in known for name in here)
    return machine | _settings() | here | {"LOGNAME": "mfer"}  # the user that systemd would run them as


@pytest.fixture
def start(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Background]]:
    """Start a unit's command, after what has to end well before it; at the end it gets the unit's signal."""
    started: list[tuple[Background, signal.Signals]] = []

    def start(name: str) -> Background:
        unit = DEPLOY / f"mfer-{name}.service"
        for line in _lines(unit, "ExecStartPre"):
            subprocess.run(_words(line, env), env=env, cwd=tmp_path, check=True, timeout=600)
        (line,) = _lines(unit, "ExecStart")
        process = Background(_words(line, env), env, tmp_path)
        (ends_by,) = _lines(unit, "KillSignal") or ["SIGTERM"]
        started.insert(len(started) if name == "server" else 0, (process, signal.Signals[ends_by]))
        return process

    try:
        yield start
    finally:
        for process, ends_by in started:  # servers last, as systemd does it: what stops tells them so
            process.stop(ends_by)


@pytest.mark.full
def test_runs_are_kept_in_postgresql_over_a_restart_of_the_server(
    tmp_path: Path,
    env: dict[str, str],
    postgres: Postgres,
    start: Callable[[str], Background],
    model: Path,
    write_talk: Callable[..., Path],
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for k, name in enumerate(("one", "two")):
        write_talk(videos / f"{name}.mp4", list(range(40 * k, 40 * k + 6)))
    report = tmp_path / "reports" / "talk.html"
    parameters = [f"folder={videos}", f"model={model}", "min_face=36", f"report={report}"]
    order = ["deployment", "run", "analyze-folder/default", *(word for each in parameters for word in ("-p", each))]

    server = start("server")
    start("flows").wait_for("Your deployments are being served")
    crons = [schedule["schedule"]["cron"] for each in ask(env, "deployments") for schedule in each["schedules"]]
    assert crons == [_RARELY]
    done = prefect(env, *order, "--watch", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = _completed(env)
    assert run["state"]["message"] == "2 videos: 2 ok, 0 partial, 0 failed, 0 skipped"
    (row,) = run_sql(Lake.open(tmp_path / "lake"), "SELECT count(*) AS n FROM scores").to_pylist()
    assert row["n"] == 12
    _check_report(env, report)
    assert httpx.post(f"{env['PREFECT_API_URL']}/flow_runs/filter", json={}, timeout=120).status_code == 401
    assert postgres.ask("SELECT id FROM flow_run WHERE state_name = 'Completed'") == run["id"]
    assert not list(tmp_path.rglob("*.db"))  # nothing went to SQLite
    assert "telemetry" not in server.output

    server.stop(signal.SIGTERM)
    assert not answers(env)
    start("server")
    until(lambda: answers(env))
    assert [each["id"] for each in _completed(env)] == [run["id"]]
    done = prefect(env, *order, "--watch", cwd=tmp_path)  # the flows have outlived the restart
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = (each for each in _completed(env) if each["id"] != run["id"])
    assert again["state"]["message"] == "2 videos: 0 ok, 0 partial, 0 failed, 2 skipped"

    _check_backup(postgres, {run["id"], again["id"]})
    _check_dashboard(start("dashboard"))


def _completed(env: dict[str, str]) -> list[dict[str, object]]:
    return ask(env, "flow_runs", flow_runs={"state": {"name": {"any_": ["Completed"]}}})


def _check_report(env: dict[str, str], report: Path) -> None:
    (link,) = (each for each in ask(env, "artifacts") if each["key"] == "report")
    assert report.as_uri() in link["data"]
    page = report.read_text(encoding="utf-8")
    assert all(f"{name}.mp4" in page for name in ("one", "two"))


def _check_backup(postgres: Postgres, runs: set[str]) -> None:
    """A dump of the documentation's form, taken while the server runs, has the runs when it is restored."""
    postgres.run("pg_dump", "--format=custom", "--file", postgres.folder / "mfer.dump", "mfer")
    postgres.run("createdb", "--owner", "mfer", "restored")
    postgres.run("pg_restore", "--no-owner", "--role", "mfer", "--dbname", "restored", postgres.folder / "mfer.dump")
    kept = postgres.ask("SELECT id FROM flow_run WHERE state_name = 'Completed'", "restored")
    assert set(kept.split()) == runs


def _check_dashboard(dashboard: Background) -> None:
    dashboard.wait_for("is shown at http://")
    (address,) = re.findall(r"is shown at (http://\S+)", dashboard.output)
    assert httpx.get(address, timeout=120).status_code == 200


# -- the units themselves ---------------------------------------------------------------------------------------------


@pytest.mark.full
def test_systemd_runs_the_units_on_a_machine_of_its_own(tmp_path: Path, write_talk: Callable[..., Path]) -> None:
    """Installed and started as docs/deployments.md says; a folder is analysed, the server restarted, all stopped."""
    _need_systemd("systemd-nspawn")
    if missing := missing_postgres():
        pytest.skip(missing)
    if os.geteuid():
        pytest.skip("only root may start a machine")
    for name in ("work", "videos"):
        (tmp_path / name).mkdir()
    for k, name in enumerate(("one", "two")):
        write_talk(tmp_path / "videos" / f"{name}.mp4", list(range(40 * k, 40 * k + 6)))
    machine = ROOT / "tests" / "systemd_machine.sh"
    command = ["unshare", "--mount", "bash", machine, ROOT, sys.prefix, tmp_path / "work", tmp_path / "videos"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    if done.returncode == 77:
        pytest.skip(f"no machine can be started inside this one: {done.stderr[-300:]}")
    reply = done.stdout
    assert done.returncode == 0, reply + done.stderr
    if reply.strip() == "unreachable":
        pytest.skip("the units have a /tmp of their own, and this checkout lies where they cannot see it")
    assert "'Completed'" in reply, reply + done.stderr
    assert re.search(r"analyze-folder.*COMPLETED", reply), reply
    assert reply.splitlines()[-6:] == [
        "faces",
        "12",
        "mfer",
        "mfer-server success",
        "mfer-flows success",
        "mfer-dashboard success",
    ], reply + done.stderr
