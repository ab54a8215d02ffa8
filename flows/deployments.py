"""The shortest road to ``prefect deployment run``: one process that brings its own server if there is none.

Prefect reads its settings when it is imported, so it is imported inside the functions, after they are set.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import click

from mfer.errors import ConfigError
from storage.objects import place_of

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

__all__ = ["serve"]

_LOCAL_API = "http://127.0.0.1:4200/api"
_SERVER_START_S = 300
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_PROMPT": "false",
}


def serve(lake: str, inbox: str | None = None, cron: str = "0 * * * *") -> None:
    """Serve the deployment ``analyze-folder/default``, and ``analyze-folder/inbox`` on a schedule, until stopped.

    The server is the one that Prefect's settings name (PREFECT_API_URL, prefect.toml or a profile), else the one on
    this machine, which is started if it does not answer and stopped at the end. Runs take their turn, one at a time.

    Args:
        lake: default of the flow's parameter ``lake``.
        inbox: a folder to analyse on a schedule; what was analysed before is skipped.
        cron: when, in the server's time zone.

    Raises:
        ConfigError: no folder of the name ``inbox``, a wrong ``cron``, or a server that does not answer.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import prefect
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    deployments = _make_deployments(str(place_of(lake)), inbox, cron)
    url = get_current_settings().api.url or _LOCAL_API
    with temporary_settings({PREFECT_API_URL: url}), _running_server(url):
        command = "prefect deployment run 'analyze-folder/default' -p folder=VIDEOS --watch"
        click.echo(
            f"Prefect at {url.removesuffix('/api')}; in another terminal:\n\n  PREFECT_API_URL={url} {command}\n"
        )
        prefect.serve(*deployments, limit=1)


def _make_deployments(lake: str, inbox: str | None, cron: str) -> list[RunnerDeployment]:
    from pydantic import ValidationError

    deployments = [_deployment("default", {"lake": lake})]
    if inbox is not None:
        folder = place_of(inbox)
        if isinstance(folder, Path) and not folder.is_dir():
            raise ConfigError(f"the inbox {inbox} is not a folder; make it, or name another one")
        try:
            deployments.append(_deployment("inbox", {"folder": str(folder), "lake": lake}, cron))
        except ValidationError as error:
            raise ConfigError(f"cron is {cron!r}; allowed are five fields such as '0 * * * *', every hour") from error
    return deployments


def _deployment(name: str, parameters: dict[str, str], cron: str | None = None) -> RunnerDeployment:
    from prefect.types.entrypoint import EntrypointType

    from flows.analyze_flow import analyze_folder_flow

    made = analyze_folder_flow.to_deployment(
        name,
        parameters=parameters,
        cron=cron,
        entrypoint_type=EntrypointType.MODULE_PATH,  # a run finds the installed package from any folder
    )
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
    command = [sys.executable, "-m", "prefect", "server", "start"]
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
