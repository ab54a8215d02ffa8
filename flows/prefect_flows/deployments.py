"""The shortest road to ``prefect deployment run``: one process that brings its own server if there is none.

Prefect reads its settings when it is imported, so it is imported inside the functions, after they are set.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import click

from flows.prefect_flows.working_folder import runs_start_elsewhere
from mfer.errors import ConfigError
from storage.delta.object_store import place_of
from storage.interpreter import python_command, python_environment

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

__all__ = ["Schedules", "serve"]

_LOCAL_API = "http://127.0.0.1:4200/api"
_SERVER_START_S = 300
#: A look into an inbox without news takes up to half a minute on a busy machine; what is scheduled more often piles up.
_SHORTEST_S = 60
#: The first look into an inbox that is looked into every so many seconds; by then the deployments are served.
_FIRST_LOOK_S = 5
_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


@dataclass(frozen=True)
class Schedules:
    """What runs by itself, and when; a ``cron`` is in UTC.

    ``inbox`` is a folder to analyse, every ``every_s`` seconds where that is given, else by ``cron``. ``data`` is the
    base set that the production model is refreshed with by ``refresh_cron``; without it the model is refreshed only
    when somebody says so. Drift is looked for by ``drift_cron``.
    """

    inbox: str | None = None
    cron: str = "0 * * * *"
    every_s: float | None = None
    data: str | None = None
    refresh_cron: str = "0 3 * * 0"
    drift_cron: str = "0 6 * * 1"

    def __post_init__(self) -> None:
        if self.every_s is not None and not _SHORTEST_S <= self.every_s < math.inf:
            raise ConfigError(f"the inbox is looked into every {self.every_s} s; allowed: {_SHORTEST_S} s or more")
        if self.inbox is not None and not Path(self.inbox).is_dir():
            raise ConfigError(f"the inbox {self.inbox} is not a folder; make it, or name another one")
        if self.data is not None and not Path(self.data).exists():
            raise ConfigError(f"{self.data}: no such file or folder of labelled faces")


def serve(lake: str, schedules: Schedules | None = None) -> None:
    """Serve the deployments ``analyze-folder``, ``refresh-model`` and ``check-drift`` until stopped.

    The server is the one that Prefect's settings name (PREFECT_API_URL, prefect.toml or a profile), else the one on
    this machine, which is started if it does not answer and stopped at the end. Runs take their turn, one at a time.

    Args:
        lake: default of the flows' parameter ``lake``.
        schedules: what runs by itself; None: check-drift alone, weekly.

    Raises:
        ConfigError: a wrong cron, or a server that does not answer.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.update(python_environment())  # for the processes that Prefect starts for its runs
    # Prefect's own way of stopping at SIGTERM forgets to wait for a coroutine
    warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited", RuntimeWarning)
    import prefect
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    wanted = str(place_of(lake)), schedules or Schedules()
    _make_deployments(*wanted)  # what is wrong with them is said before a server is started
    url = get_current_settings().api.url or _LOCAL_API
    with temporary_settings({PREFECT_API_URL: url}), _running_server(url), runs_start_elsewhere():
        from flows.prefect_flows.heartbeats import watch_heartbeats

        watch_heartbeats()
        command = "prefect deployment run 'analyze-folder/default' -p folder=VIDEOS --watch"
        click.echo(
            f"Prefect at {url.removesuffix('/api')}; in another terminal:\n\n  PREFECT_API_URL={url} {command}\n"
        )
        prefect.serve(*_make_deployments(*wanted), limit=1)


def _make_deployments(lake: str, schedules: Schedules) -> list[RunnerDeployment]:
    from prefect.schedules import Interval

    from flows.prefect_flows.analyze_flow import analyze_folder_flow
    from flows.prefect_flows.drift_flow import check_drift_flow
    from flows.prefect_flows.refresh_flow import refresh_model_flow

    given = {"lake": lake}
    made = [
        _deployment(analyze_folder_flow, "default", given),
        _deployment(check_drift_flow, "default", given, cron=schedules.drift_cron),
    ]
    if schedules.inbox is not None:
        times: dict[str, Any] = {"cron": schedules.cron}
        if schedules.every_s is not None:
            soon = datetime.now(UTC) + timedelta(seconds=_FIRST_LOOK_S)
            times = {"schedule": Interval(schedules.every_s, anchor_date=soon)}
        made.append(_deployment(analyze_folder_flow, "inbox", {**given, "folder": _absolute(schedules.inbox)}, **times))
    if schedules.data is None:
        made.append(_deployment(refresh_model_flow, "default", given))
    else:
        given = {**given, "data": _absolute(schedules.data)}
        made.append(_deployment(refresh_model_flow, "default", given, cron=schedules.refresh_cron))
    return made


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _deployment(flow: Flow[..., Any], name: str, parameters: dict[str, str], **times: Any) -> RunnerDeployment:
    from prefect.types.entrypoint import EntrypointType
    from pydantic import ValidationError

    try:
        made = flow.to_deployment(
            name,
            parameters=parameters,
            entrypoint_type=EntrypointType.MODULE_PATH,  # a run finds the installed package from any folder
            **times,
        )
    except ValidationError as error:
        message = f"cron is {times.get('cron')!r}; allowed are five fields such as '0 * * * *', every hour"
        raise ConfigError(message) from error
    return cast("RunnerDeployment", made)  # a coroutine only for callers that are async


@contextmanager
def _running_server(url: str) -> Iterator[None]:
    """A server that answers at this address: the one that is there, or one of our own for as long as it is needed."""
    if (problem := _unreachable()) is None:
        yield
        return
    address = urlsplit(url)
    if address.hostname not in ("127.0.0.1", "localhost"):
        raise ConfigError(
            f"no Prefect server answers at {url} ({problem}); start it, or unset PREFECT_API_URL to have one"
            " on this machine"
        )
    command = python_command("-m", "prefect", "server", "start")
    command += ["--host", address.hostname, "--port", str(address.port or 80)]
    click.echo(f"starting a Prefect server at {url.removesuffix('/api')} ...")
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, _exit)  # so that the server is stopped, too
    # in a group of its own: Ctrl-C must not stop it before the deployments are paused
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0)
    try:
        _wait_for(process, shlex.join(command))
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unreachable() -> Exception | None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.api_healthcheck()


def _wait_for(process: subprocess.Popen[bytes], command: str) -> None:
    deadline_s = time.monotonic() + _SERVER_START_S
    while _unreachable() is not None:
        if process.poll() is not None:
            raise ConfigError(f"the Prefect server ended with exit code {process.returncode}; to see why: {command}")
        if time.monotonic() > deadline_s:
            raise ConfigError(f"the Prefect server did not answer within {_SERVER_START_S} s; to see why: {command}")
        time.sleep(0.3)


def _exit(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)
