"""Groups of videos side by side, by folder or by a CSV of conditions."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, dcc, html

from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.web.data import folder_of
from dashboards.web.groups import VideoMeans, by_condition, read_conditions, read_means, videos_without_face
from dashboards.web.shell import DARK_PLOT, chip, plain_text, table
from dashboards.web.source import LakeSource
from storage.schema import EXPRESSIONS
from storage.sql.statistics import Estimate, bootstrap_difference, bootstrap_means

__all__ = ["layout", "register"]

_MAX_GROUPS = 8
#: Groups differ in line and pattern, as colours already stand for expressions: no two have the same.
_LINES = [(shade, dash) for shade in ("#ffffff", "#8b95a5") for dash in ("solid", "dash", "dot", "dashdot")]
_PATTERNS = ("", "/", "x", ".", "\\", "-", "|", "+")
#: Intervals are white: on bars that are less than opaque they have a contrast of three or more.
_BAR_OPACITY = "8c"
#: Without a group there is nothing to measure: no axes.
_NO_GROUP: dict[str, Any] = {
    "data": [],
    "layout": {
        **DARK_PLOT,
        "height": 160,
        "xaxis": {"visible": False},
        "yaxis": {"visible": False},
        "annotations": [{"text": "no video with a face in these groups", "showarrow": False, "font": {"size": 14}}],
    },
}
_MAX_NAMED = 200


def layout(source: LakeSource) -> list[Any]:
    videos = read_means(source)
    return [
        html.H1("Compare"),
        html.P(
            "Mean probability of each apparent expression, by group of videos. Bars and bands are means over videos"
            " with 95 % intervals from drawing videos again (bootstrap): frames of one video are not independent."
            " Excluded spans are left out.",
            className="faint",
        ),
        html.Div(
            [
                dcc.Upload(
                    html.Button("Groups from a CSV (path or file_name, condition)"),
                    id="compare-upload",
                    accept=".csv,.tsv,.txt",
                ),
                html.Button("Groups by folder", id="compare-folders"),
            ],
            className="buttons",
        ),
        html.P(id="compare-note", className="faint"),
        dcc.Checklist(
            [{"label": "reweighted: every class counts as if it were less rare (docs/analysis.md)", "value": "yes"}],
            [],
            id="compare-reweighted",
        ),
        html.Label(["Groups", dcc.Dropdown([], [], id="compare-groups", multi=True)]),
        html.Div(
            dcc.Graph(id="compare-bars", config={"displaylogo": False, "displayModeBar": False}), className="plot"
        ),
        html.Label(
            [
                "Over time",
                dcc.Dropdown(
                    [{"label": chip(name), "value": name, "search": name} for name in EXPRESSIONS],
                    "happiness",
                    id="compare-expression",
                    clearable=False,
                    searchable=False,
                ),
            ]
        ),
        html.Div(
            dcc.Graph(id="compare-curves", config={"displaylogo": False, "displayModeBar": False}), className="plot"
        ),
        html.Div(id="compare-table"),
        html.Div(id="compare-left-out"),
        dcc.Store(id="compare-conditions", data={path: folder_of(path) for path in videos.paths}),
    ]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of groups as charts show them: folders without what all of them are in."""
    paths = [name for name in names if os.path.isabs(name)]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return {name: os.path.relpath(name, common) if name in paths else name for name in names}


def bars(videos: VideoMeans, groups: dict[str, np.ndarray]) -> dict[str, Any]:
    """Figure of the mean probability of each expression in each group."""
    traces, shown = [], short_names(list(groups))
    for k, (name, rows) in enumerate(groups.items()):
        found, label = bootstrap_means(videos.mean[rows], name), plain_text(shown[name])
        traces.append(
            {
                "type": "bar",
                "name": f"{label} (n = {found.n})",
                "x": list(EXPRESSIONS),
                "y": _plain(found.mean),
                "marker": {
                    "color": [EXPRESSION_COLOURS[e] + _BAR_OPACITY for e in EXPRESSIONS],
                    "pattern": {
                        "shape": _PATTERNS[k],
                        "fillmode": "overlay",
                        "fgcolor": "#14181f",
                        "size": 8,
                        "solidity": 0.42,
                    },
                    "line": {"color": [EXPRESSION_COLOURS[e] for e in EXPRESSIONS], "width": 1.5},
                },
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": _plain(found.high - found.mean),
                    "arrayminus": _plain(found.mean - found.low),
                    "color": "#ffffff",
                    "thickness": 1.4,
                },
                "hovertemplate": "%{x} %{y:.1%}<extra>" + label + "</extra>",
            }
        )
    if not traces:
        return _NO_GROUP
    y = {**DARK_PLOT["yaxis"], "tickformat": ".0%", "rangemode": "tozero", "title": {"text": "mean probability"}}
    return {"data": traces, "layout": {**DARK_PLOT, "yaxis": y, "height": 380, "barmode": "group", "showlegend": True}}


def curves(videos: VideoMeans, groups: dict[str, np.ndarray], expression: str) -> dict[str, Any]:
    """Figure of one expression over the share of the video that has passed, with bands."""
    across = ((np.arange(videos.parts.shape[1]) + 0.5) / videos.parts.shape[1]).tolist()
    traces: list[dict[str, Any]] = []
    shown = short_names(list(groups))
    for k, (name, rows) in enumerate(groups.items()):
        found = bootstrap_means(videos.parts[rows, :, EXPRESSIONS.index(expression)], name)
        label = plain_text(shown[name])
        line: dict[str, Any] = {"color": _LINES[k][0], "width": 2.2, "dash": _LINES[k][1]}
        if not k:
            line["color"] = EXPRESSION_COLOURS[expression]
        edge = {
            "type": "scatter",
            "mode": "lines",
            "line": {**line, "width": 0.7},
            "opacity": 0.7,
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": name,
        }
        red, green, blue = (int(line["color"][at : at + 2], 16) for at in (1, 3, 5))
        fill = f"rgba({red},{green},{blue},0.14)"
        traces += [
            {**edge, "x": across, "y": _plain(found.high)},
            {**edge, "x": across, "y": _plain(found.low), "fill": "tonexty", "fillcolor": fill},
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{label} (n = {found.n})",
                "legendgroup": name,  # its band comes and goes with the line
                "x": across,
                "y": _plain(found.mean),
                "line": line,
                "hovertemplate": "%{y:.1%} at %{x:.0%} of the video<extra>" + label + "</extra>",
            },
        ]
    if not traces:
        return _NO_GROUP
    axes = {
        "xaxis": {
            **DARK_PLOT["xaxis"],
            "tickformat": ".0%",
            "range": [0, 1],
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "ticklabeloverflow": "allow",
            "title": {"text": "share of the video"},
        },
        "yaxis": {
            **DARK_PLOT["yaxis"],
            "tickformat": ".0%",
            "rangemode": "tozero",
            "title": {"text": f"probability of {expression}"},
        },
    }
    return {"data": traces, "layout": {**DARK_PLOT, **axes, "height": 340, "showlegend": True}}


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if value != value else round(value, 5) for value in values.tolist()]


def _rows(videos: VideoMeans, groups: dict[str, np.ndarray]) -> list[list[Any]]:
    """A row per group, and one for the difference of each other group from the first."""
    shown = short_names(list(groups))
    rows = [
        [html.Span(shown[name], title=name), str(len(chosen)), *_cells(bootstrap_means(videos.mean[chosen], name))]
        for name, chosen in groups.items()
    ]
    first, *others = groups or [""]
    for name in others:
        found = bootstrap_difference(videos.mean[groups[name]], videos.mean[groups[first]], (name, first))
        rows.append([f"{shown[name]} minus {shown[first]}", str(found.n), *_cells(found, "+.1%")])
    return rows


def _cells(found: Estimate, form: str = ".1%") -> list[Any]:
    return [
        "" if m != m else [f"{m:{form}}", *([html.Br(), html.Small(f"{lo:{form}} to {hi:{form}}")] if lo == lo else [])]
        for m, lo, hi in zip(found.mean, found.low, found.high, strict=True)
    ]


def left_out(source: LakeSource, videos: VideoMeans, groups: dict[str, np.ndarray]) -> dict[str, str]:
    """Paths of the videos of the lake that are in no group that is shown, and why."""
    used = {videos.paths[k] for rows in groups.values() for k in rows}
    return videos_without_face(source) | {
        path: "in no group that is shown" for path in videos.paths if path not in used
    }


def _left_out(found: dict[str, str]) -> Any:
    if not found:
        return None
    named = [html.Li([path, html.Small(f" ({why})", className="faint")]) for path, why in found.items()]
    more = [html.Li(f"and {len(found) - _MAX_NAMED} more")] if len(found) > _MAX_NAMED else []
    title = f"{len(found)} video{'s' * (len(found) != 1)} left out"
    return html.Details([html.Summary(title), html.Ul([*named[:_MAX_NAMED], *more])])


def register(app: Dash, source: LakeSource) -> None:
    @app.callback(
        Output("compare-conditions", "data"),
        Output("compare-note", "children"),
        Input("compare-upload", "contents"),
        Input("compare-folders", "n_clicks"),
        State("compare-upload", "filename"),
        prevent_initial_call=True,
    )
    def group(contents: str | None, _: int | None, name: str | None) -> Any:
        from dash import ctx, no_update

        paths = read_means(source).paths
        if ctx.triggered_id == "compare-folders" or not contents:
            return {path: folder_of(path) for path in paths}, "groups by folder"
        try:
            text = base64.b64decode(contents.partition(",")[2]).decode("utf-8")
            found, unknown = read_conditions(text, paths)
        except (ValueError, UnicodeDecodeError) as error:
            return no_update, f"{name}: {error}"
        missing = f"; not in the lake: {', '.join(unknown[:5])}{' and more' * (len(unknown) > 5)}" if unknown else ""
        return found, f"{name}: {len(found)} of {len(paths)} videos have a condition{missing}"

    @app.callback(
        Output("compare-groups", "options"), Output("compare-groups", "value"), Input("compare-conditions", "data")
    )
    def offer(conditions: dict[str, str]) -> Any:
        names = sorted(set(conditions.values()))
        shown = short_names(names)
        options = [{"label": html.Span(shown[name], title=name), "value": name, "search": name} for name in names]
        return options, names[:_MAX_GROUPS]

    @app.callback(
        Output("compare-bars", "figure"),
        Output("compare-curves", "figure"),
        Output("compare-table", "children"),
        Output("compare-left-out", "children"),
        Input("compare-groups", "value"),
        Input("compare-expression", "value"),
        Input("compare-reweighted", "value"),
        State("compare-conditions", "data"),
    )
    def show(
        chosen: list[str] | None, expression: str, reweighted: list[str] | None, conditions: dict[str, str]
    ) -> Any:
        videos = read_means(source, reweighted=bool(reweighted))
        groups = by_condition(videos, conditions)
        groups = {name: groups[name] for name in (chosen or [])[:_MAX_GROUPS] if name in groups}
        listed = table(
            ["group", "videos", *EXPRESSIONS],
            _rows(videos, groups),
            numbers=tuple(range(1, 2 + len(EXPRESSIONS))),
            empty="No video with a face in these groups.",
        )
        left = _left_out(left_out(source, videos, groups))
        return bars(videos, groups), curves(videos, groups, expression), listed, left
