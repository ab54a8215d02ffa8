"""``mfer dashboard``: a lake in the browser, until Ctrl+C. Heavy imports wait inside: help is quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import lake_option, plain_errors

if TYPE_CHECKING:
    from storage.lake import Lake

__all__ = ["dashboard"]

_LEAST_TOKEN = 16


@click.command()
@lake_option
@click.option("--port", type=click.IntRange(0, 65535), default=8050, show_default=True, help="0 takes any free port.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; other than this machine needs --token.",
)
@click.option("--token", envvar="MFER_TOKEN", help="Token that every request must carry; at least 16 characters.")
@plain_errors
def dashboard(lake: str, port: int, host: str, token: str | None) -> None:
    """Show the lake in the browser: videos with their curves, groups, queries, labels and models.

    Only this machine can open it, unless --host and --token say otherwise. The pages load nothing
    from other hosts. docs/dashboard.md has the keys and what is written into the lake.
    """
    _serve(lake, host, port, token)


def _serve(lake_location: str, host: str, port: int, token: str | None) -> None:
    from dashboards.web.app import create_app, create_server, is_loopback
    from mfer.errors import ConfigError
    from storage.lake import Lake

    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached by others: give a --token that they have to show, or leave --host out"
        )
    if token is not None and len(token) < _LEAST_TOKEN:
        raise ConfigError(f"--token got {len(token)} characters; use {_LEAST_TOKEN} or more, at random")
    lake = Lake.open(lake_location)
    app = create_app(lake, token=token, explain=_explain(lake))
    try:
        server = create_server(app, host, port)
    except OSError as error:
        message = f"cannot serve on {host}, port {port}: it is taken or not allowed; choose another --port or --host"
        raise ConfigError(message) from error
    place = f"http://{f'[{host}]' if ':' in host else host}:{server.port}/"
    click.echo(f"{lake.location} is shown at {place}{'?token=' + token if token else ''}  (Ctrl+C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def _explain(lake: Lake) -> Callable[[str, Path, float, Path], str]:
    def explain(video_id: str, file: Path, at_s: float, png: Path) -> str:
        from flows.explain import explain_moment
        from pipelines.scoring.lookup import find_model

        return explain_moment(video_id, at_s, find_model("default", lake), png, lake, file=file)

    return explain
