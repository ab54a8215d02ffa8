"""The dashboard: one process on this machine that shows a lake in the browser. Nothing comes from another host."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any
from urllib.parse import parse_qs, unquote

import flask
from dash import Dash, Input, Output, dcc, html
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from dashboards.web.api import Explain, add_explain, make_api
from dashboards.web.pages import compare, health, label, library, query, settings, video
from dashboards.web.security import guard, is_loopback
from dashboards.web.shell import PAGES, head
from dashboards.web.source import LakeSource
from storage.errors import LakeError
from storage.lake import Lake

__all__ = ["create_app", "create_server", "is_loopback"]

_MODEL_COOKIE = "mfer_model"


def create_app(lake: Lake, *, token: str | None = None, explain: Explain | None = None) -> Dash:
    """Assemble the dashboard of a lake.

    Args:
        lake: what it shows; judgements and edits are written into it.
        token: what every request must show; None: only requests to a loopback address are answered.
        explain: draws where in the faces of a moment a model looked (video_id, its file, seconds, PNG to write); None:
            no button.

    Returns:
        The app; ``app.server`` is its Flask server.
    """
    source = LakeSource(lake, _wanted_model)
    server = flask.Flask(__name__, static_folder=None)
    app = Dash(
        __name__,
        server=server,
        title="mfer",
        update_title="",
        serve_locally=True,
        suppress_callback_exceptions=True,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.layout = html.Div(
        [
            dcc.Location(id="url"),
            html.Div(id="head"),
            dcc.Loading(html.Main(id="page"), delay_show=500, show_initially=False),
        ]
    )
    author = _author()
    api = make_api(source, author)
    if explain is not None:
        add_explain(api, source, explain)
    server.register_blueprint(api)
    _pages(app, source, author, has_token=token is not None, can_explain=explain is not None)
    guard(server, token, list(app.csp_hashes()))

    @server.errorhandler(LakeError)
    def broken(error: LakeError) -> tuple[str, int]:
        return flask.render_template_string("{{ text }}\n", text=str(error)), 500

    @server.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[str, int]:
        text = flask.render_template_string("{{ text }}\n", text=str(error.description))
        return text, error.code or 500

    return app


def create_server(app: Dash, host: str, port: int) -> BaseWSGIServer:
    """A server that is bound and not yet serving: ``serve_forever`` and ``shutdown``. Port 0 takes a free one.

    Raises OSError where the port is taken or the address is not this machine's.
    """

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """A terminal is for errors."""

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as bound:  # the library itself would print and exit
        port = bound.getsockname()[1]
        return make_server(host, port, app.server, threaded=True, request_handler=Handler, fd=bound.fileno())


def _wanted_model() -> str | None:
    """The model that this viewer chose at the head of a page; kept in a cookie."""
    return unquote(flask.request.cookies.get(_MODEL_COOKIE, "")) or None if flask.has_request_context() else None


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, in a container
        return f"user {os.getuid()}"


def _pages(app: Dash, source: LakeSource, author: str, *, has_token: bool, can_explain: bool) -> None:
    def content(path: str, parameters: dict[str, str]) -> list[Any]:
        if path == "/video":
            return video.layout(source, parameters.get("id", ""), can_explain=can_explain)
        pages = {
            "/": lambda: library.layout(source),
            "/compare": lambda: compare.layout(source),
            "/query": query.layout,
            "/label": lambda: label.layout(source, author),
            "/models": lambda: health.layout(source),
            "/settings": lambda: settings.layout(source, author, has_token=has_token, can_explain=can_explain),
        }
        if path not in pages:
            return [html.H1("No such page"), dcc.Link("To the library", href="/")]
        return pages[path]()

    @app.callback(
        Output("head", "children"), Output("page", "children"), Input("url", "pathname"), Input("url", "search")
    )
    def show(path: str | None, search: str | None) -> tuple[Any, Any]:
        path = path or "/"
        parameters = {name: values[-1] for name, values in parse_qs((search or "").lstrip("?")).items()}
        active, lake = "/" if path == "/video" else path if path in PAGES else "", str(source.lake.location)
        try:
            note = source.mixture_note()
            notes = [html.P(note, className="faint")] if note else []
            return head(active, lake, source.models(), source.model), [*notes, *content(path, parameters)]
        except LakeError as error:
            return head(active, lake), [html.H1("The lake cannot be read"), html.P(str(error), className="error")]

    library.register(app, source)
    video.register(app)
    compare.register(app, source)
    query.register(app, source)
    label.register(app)
    settings.register(app)
