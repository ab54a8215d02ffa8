"""Groups of videos side by side, by folder or by a CSV of conditions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.web.data import folder_of, library
from dashboards.web.groups import VideoMeans, by_condition, left_out, read_conditions, read_means
from dashboards.web.shell import DARK_PLOT, chip, plain_text, table
from dashboards.web.source import LakeSource
from dashboards.web.uploads import uploaded_file
from storage.schema import EXPRESSIONS
from storage.sql.own_tables import text_of_csv
from storage.sql.statistics import Estimate, bootstrap_difference, bootstrap_means
from storage.sql.table_functions import FUNCTIONS

__all__ = ["layout", "register"]

_MAX_GROUPS = 8
#: Names of files that a reason for leaving out lists.
_MAX_NAMED = 200
#: Groups also differ in dash and pattern, for those who do not tell these colours apart: no two have the same. Beside
#: bars, colours stand for expressions; these are paler than all of them.
_LINES = [
    ("#ffffff", "solid"),
    ("#9ecbff", "dash"),
    ("#ffc98a", "dot"),
    ("#a9e5bb", "dashdot"),
    ("#e0b8ff", "longdash"),
    ("#ff9fb2", "longdashdot"),
    ("#8fe3e0", "8px 2px"),
    ("#d8d38a", "2px 6px"),
]
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hexagon")
_PATTERNS = ("", "/", "x", ".", "\\", "-", "|", "+")
#: Opacity of bands: of eight that overlap, each still shows.
_BAND_OPACITY = "2e"
#: Intervals are white: on bars that are less than opaque they have a contrast of three or more.
_BAR_OPACITY = "8c"


def layout(source: LakeSource) -> list[Any]:
    power = FUNCTIONS["reweighted"].parameters["power"]
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
        html.Div(id="compare-note", className="faint"),
        html.Label([f"Groups (at most {_MAX_GROUPS})", dcc.Dropdown([], [], id="compare-groups", multi=True)]),
        dcc.Checklist(
            [
                {
                    "label": "reweighted: rare expressions are read more often (each probability over the share of its"
                    f" class in training, to the power {power})",
                    "value": "reweighted",
                },
                {
                    "label": "by person: those who were named, merged or found; n is the videos that they are in",
                    "value": "person",
                },
            ],
            [],
            id="compare-options",
        ),
        html.Div(id="compare-left-out", className="faint"),
        _plot("compare-bars"),
        html.Div(id="compare-table"),
        html.H2("Over time"),
        html.Label(
            [
                "Expression",
                dcc.Dropdown(
                    [{"label": chip(name), "value": name, "search": name} for name in EXPRESSIONS],
                    "happiness",
                    id="compare-expression",
                    clearable=False,
                    searchable=False,
                ),
            ]
        ),
        _plot("compare-curves"),
        html.H2("Differences"),
        html.P(
            "How far each group's mean is above that of another group, with the 95 % interval from drawing the videos"
            " of both again. Bold: the interval leaves out 0. One in twenty is bold by chance where nothing differs.",
            className="faint",
        ),
        html.Label(["Differences from", dcc.Dropdown([], None, id="compare-reference", clearable=False)]),
        _plot("compare-differences"),
        html.Div(id="compare-difference-table"),
        dcc.Store(id="compare-conditions", data={row["path"]: folder_of(row["path"]) for row in library(source)}),
    ]


def _plot(name: str) -> html.Div:
    return html.Div(dcc.Graph(id=name, config={"displaylogo": False, "displayModeBar": False}), className="plot")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of groups as charts show them: folders without what all of them are in."""
    paths = [name for name in names if os.path.isabs(name)]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return {name: os.path.relpath(name, common) if name in paths else name for name in names}


def bars(means: VideoMeans, groups: dict[str, np.ndarray]) -> dict[str, Any]:
    """Figure of the mean probability of each expression in each group."""
    traces, shown = [], short_names(list(groups))
    for k, (name, rows) in enumerate(groups.items()):
        found, label = bootstrap_means(means.mean[rows], name), plain_text(shown[name])
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
                "error_y": _whiskers(found, "#ffffff"),
                "hovertemplate": "%{x} %{y:.1%}<extra>" + label + "</extra>",
            }
        )
    y = {**DARK_PLOT["yaxis"], "tickformat": ".0%", "rangemode": "tozero", "title": {"text": "mean probability"}}
    return _figure(traces, {"yaxis": y, "height": 380, "barmode": "group"})


def curves(means: VideoMeans, groups: dict[str, np.ndarray], expression: str) -> dict[str, Any]:
    """Figure of one expression over the share of the video that has passed: each group's line with its own band."""
    across = ((np.arange(means.parts.shape[1]) + 0.5) / means.parts.shape[1]).tolist()
    traces: list[dict[str, Any]] = []
    shown = short_names(list(groups))
    for k, (name, rows) in enumerate(groups.items()):
        found = bootstrap_means(means.parts[rows, :, EXPRESSIONS.index(expression)], name)
        label, (colour, dash) = plain_text(shown[name]), _LINES[k]
        line = {"type": "scatter", "mode": "lines", "legendgroup": name, "x": across}
        edge = {**line, "line": {"width": 0.8, "color": colour, "dash": dash}, "hoverinfo": "skip", "showlegend": False}
        traces += [
            {**edge, "y": _plain(found.high)},
            {**edge, "y": _plain(found.low), "fill": "tonexty", "fillcolor": colour + _BAND_OPACITY},
            {
                **line,
                "name": f"{label} (n = {found.n})",
                "y": _plain(found.mean),
                "line": {"width": 2.4, "color": colour, "dash": dash},
                "customdata": [_interval_text(low, high) for low, high in zip(found.low, found.high, strict=True)],
                "hovertemplate": "%{y:.1%}%{customdata} at %{x:.0%} of the video<extra>" + label + "</extra>",
            },
        ]
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
    return _figure(traces, {**axes, "height": 340})


def differences(means: VideoMeans, groups: dict[str, np.ndarray], reference: str) -> dict[str, Estimate]:
    """Mean probabilities of every other group minus those of one of them, by the other group's name."""
    return {
        name: bootstrap_difference(means.mean[rows], means.mean[groups[reference]], (name, reference))
        for name, rows in groups.items()
        if name != reference
    }


def difference_chart(found: Mapping[str, Estimate], groups: Sequence[str]) -> dict[str, Any]:
    """Figure of the differences, a point with its interval for each expression and group; ``groups`` are all."""
    shown = short_names(groups)
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": plain_text(shown[name]),
            "x": list(EXPRESSIONS),
            "y": _plain(one.mean),
            "marker": {"color": _LINES[k][0], "symbol": _SYMBOLS[k], "size": 9},
            "error_y": _whiskers(one, _LINES[k][0]),
            "hovertemplate": "%{x} %{y:+.1%}<extra>" + plain_text(shown[name]) + "</extra>",
        }
        for k, name in enumerate(groups)
        if (one := found.get(name)) is not None
    ]
    y = {
        **DARK_PLOT["yaxis"],
        "tickformat": "+.0%",
        "zeroline": True,
        "zerolinecolor": "#e6e9ee",
        "title": {"text": "difference of means"},
    }
    return _figure(traces, {"yaxis": y, "height": 340, "scattermode": "group"})


def _figure(traces: list[dict[str, Any]], layout: dict[str, Any]) -> dict[str, Any]:
    """A figure, or a sentence without axes where there is nothing to draw."""
    if traces:
        return {"data": traces, "layout": {**DARK_PLOT, **layout, "showlegend": True}}
    none = {"visible": False}
    words = {"text": "nothing to show", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    return {"data": [], "layout": {**DARK_PLOT, "xaxis": none, "yaxis": none, "height": 120, "annotations": [words]}}


def _whiskers(found: Estimate, colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": _plain(found.high - found.mean),
        "arrayminus": _plain(found.mean - found.low),
        "color": colour,
        "thickness": 1.4,
    }


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if value != value else round(value, 5) for value in values.tolist()]


def _interval_text(low: float, high: float) -> str:
    return "" if low != low else f" ({low:.1%} to {high:.1%})"


def _rows(means: VideoMeans, groups: dict[str, np.ndarray]) -> list[list[Any]]:
    rows, shown = [], short_names(list(groups))
    for name, chosen in groups.items():
        found = bootstrap_means(means.mean[chosen], name)
        rows.append([html.Span(shown[name], title=name), str(found.n), *_cells(found, ".1%")])
    return rows


def _difference_rows(found: Mapping[str, Estimate], groups: Sequence[str]) -> list[list[Any]]:
    shown = short_names(groups)
    return [[html.Span(shown[name], title=name), *_cells(one, "+.1%")] for name, one in found.items()]


def _cells(found: Estimate, form: str) -> list[Any]:
    """A cell for each expression: the value over its interval, bold where this leaves out 0."""
    cells: list[Any] = []
    for mean, low, high in zip(found.mean, found.low, found.high, strict=True):
        value = f"{mean:{form}}" if mean == mean else ""
        sure = form.startswith("+") and (low > 0 or high < 0)
        interval = [html.Br(), html.Small(f"{low:{form}} to {high:{form}}")] if low == low else []
        cells.append([html.Strong(value) if sure else value, *interval])
    return cells


def _named(reasons: Mapping[str, Sequence[str]], n_files: int) -> Any:
    """Which files are left out and why, to open; nothing where none is."""
    n = sum(map(len, reasons.values()))
    if not n:
        return ""
    parts: list[Any] = [html.Summary(f"{n} of {n_files} files left out")]
    for reason, paths in reasons.items():
        more = [html.Li(f"and {len(paths) - _MAX_NAMED} more")] if len(paths) > _MAX_NAMED else []
        parts += [html.P(f"{reason}: {len(paths)}"), html.Ul([*(html.Li(path) for path in paths[:_MAX_NAMED]), *more])]
    return html.Details(parts)


def _read_upload(source: LakeSource, contents: str, name: str | None) -> tuple[Any, Any]:
    """Conditions from an uploaded CSV, and what became of its rows."""
    paths = [row["path"] for row in library(source)]
    with uploaded_file(name or "", contents) as file:
        text, separator = text_of_csv(file)
    try:
        found, unknown = read_conditions(text, paths, separator)
    except ValueError as error:
        return no_update, html.Span(f"{name}: {error}", className="error")
    note: list[Any] = [f"{name}: {len(found)} of {len(paths)} files have a condition"]
    if unknown:
        names = html.Ul([html.Li(path) for path in unknown[:_MAX_NAMED]])
        note.append(html.Details([html.Summary(f"{len(unknown)} names of the CSV are not in the lake"), names]))
    return found, note


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
        if ctx.triggered_id == "compare-folders" or not contents:
            return {row["path"]: folder_of(row["path"]) for row in library(source)}, "groups by folder"
        return _read_upload(source, contents, name)

    @app.callback(
        Output("compare-groups", "options"),
        Output("compare-groups", "value"),
        Input("compare-conditions", "data"),
        Input("compare-options", "value"),
        State("compare-groups", "value"),
    )
    def offer(conditions: dict[str, str], options: list[str] | None, chosen: list[str] | None) -> Any:
        names = list(by_condition(read_means(source, **_choices(options)), conditions))
        kept = [name for name in chosen or [] if name in names] if ctx.triggered_id == "compare-options" else []
        return _options(names), kept or names[:_MAX_GROUPS]

    @app.callback(
        Output("compare-reference", "options"),
        Output("compare-reference", "value"),
        Input("compare-groups", "value"),
        State("compare-reference", "value"),
    )
    def refer(chosen: list[str] | None, reference: str | None) -> Any:
        names = (chosen or [])[:_MAX_GROUPS]
        return _options(names), reference if reference in names else next(iter(names), None)

    def chosen_groups(
        chosen: list[str] | None, conditions: dict[str, str], options: list[str] | None
    ) -> tuple[VideoMeans, dict[str, np.ndarray]]:
        means = read_means(source, **_choices(options))
        groups = by_condition(means, conditions)
        return means, {name: groups[name] for name in (chosen or [])[:_MAX_GROUPS] if name in groups}

    inputs = (Input("compare-groups", "value"), State("compare-conditions", "data"), Input("compare-options", "value"))

    @app.callback(
        Output("compare-bars", "figure"),
        Output("compare-table", "children"),
        Output("compare-left-out", "children"),
        *inputs,
    )
    def show(chosen: list[str] | None, conditions: dict[str, str], options: list[str] | None) -> Any:
        means, groups = chosen_groups(chosen, conditions, options)
        listed = table(
            ["group", "videos", *EXPRESSIONS],
            _rows(means, groups),
            numbers=tuple(range(1, 2 + len(EXPRESSIONS))),
            empty="No video with a face in these groups.",
        )
        missing = left_out(source, conditions, list(groups), **_choices(options))
        return bars(means, groups), listed, _named(missing, len(library(source)))

    @app.callback(Output("compare-curves", "figure"), *inputs, Input("compare-expression", "value"))
    def draw(chosen: list[str] | None, conditions: dict[str, str], options: list[str] | None, expression: str) -> Any:
        return curves(*chosen_groups(chosen, conditions, options), expression)

    @app.callback(
        Output("compare-differences", "figure"),
        Output("compare-difference-table", "children"),
        *inputs,
        Input("compare-reference", "value"),
    )
    def subtract(
        chosen: list[str] | None, conditions: dict[str, str], options: list[str] | None, reference: str | None
    ) -> Any:
        means, groups = chosen_groups(chosen, conditions, options)
        found = differences(means, groups, reference) if reference in groups else {}
        names = list(groups)
        listed = table(
            ["group", *EXPRESSIONS],
            _difference_rows(found, names),
            numbers=tuple(range(1, 1 + len(EXPRESSIONS))),
            empty="A difference needs two groups.",
        )
        return difference_chart(found, names), listed


def _choices(options: Sequence[str] | None) -> dict[str, bool]:
    """What is ticked, as arguments of ``read_means`` and ``left_out``."""
    return {"reweighted": "reweighted" in (options or ()), "by_person": "person" in (options or ())}


def _options(names: Sequence[str]) -> list[dict[str, Any]]:
    shown = short_names(names)
    return [{"label": html.Span(shown[name], title=name), "value": name, "search": name} for name in names]
