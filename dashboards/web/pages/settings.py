"""What this server runs with, and what the viewer chose; the choices are kept by the browser and never sent."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.web.clips import MAX_CLIP_S
from dashboards.web.pages.query import MAX_ROWS_SHOWN, TIMEOUT_S
from dashboards.web.pages.video import OVER_PICTURE, VALUES, WINDOWS
from dashboards.web.shell import table
from dashboards.web.source import LakeSource
from storage.schema import EXPRESSIONS, SCHEMA_VERSION

__all__ = ["layout", "register"]


def layout(source: LakeSource, author: str, *, has_token: bool, can_explain: bool) -> list[Any]:
    """The server's settings as a table, and the viewer's as a form that the page's script fills."""
    counted = source.dicts("SELECT count(*) AS n, CAST(sum(n_faces) AS BIGINT) AS faces FROM videos")[0]
    running = [
        ["lake", str(source.lake.location)],
        ["layout of the lake", f"version {SCHEMA_VERSION}"],
        ["files, faces", f"{counted['n']:,}, {counted['faces'] or 0:,}"],
        ["who can open it", "whoever has the token" if has_token else "browsers on this machine"],
        ["edits are signed", author],
        ["why? (Grad-CAM)", "on" if can_explain else "off"],
        ["a query", f"stops after {TIMEOUT_S:g} s, shows {MAX_ROWS_SHOWN:,} rows"],
        ["a clip", f"at most {MAX_CLIP_S:g} s"],
        ["program", f"mfer {metadata.version('mfer')}, Python {platform.python_version()}, {os.cpu_count()} cores"],
    ]
    payload = {
        "classes": list(EXPRESSIONS),
        "colours": EXPRESSION_COLOURS,
        "windows": [[value, text] for value, text in WINDOWS.items()],
        "show": VALUES,
        "overlay": OVER_PICTURE,
    }
    return [
        html.H1("Settings"),
        html.H2("What you see"),
        html.P("Kept in this browser alone; the video page opens with it.", className="faint"),
        html.Form(id="settings-form", className="settings"),
        html.P(id="settings-message", role="status", className="faint"),
        html.H2("What this server runs with"),
        table(["setting", "value"], running),
        html.P("It was started with mfer dashboard, whose options change it.", className="faint"),
        dcc.Store(id="settings-facts", data=payload),
        html.Div(id="settings-sink", hidden=True),
    ]


def register(app: Dash) -> None:
    app.clientside_callback(
        ClientsideFunction("settings", "show"),
        Output("settings-sink", "children"),
        Input("settings-facts", "data"),
    )
