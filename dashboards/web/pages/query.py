"""Asking the lake in SQL: an editor with the schema beside it, examples, saved queries, a table and a chart."""

from __future__ import annotations

import csv
import io
import re
import tempfile
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.web.shell import DARK_PLOT, plain_text, table
from dashboards.web.source import LakeSource
from dashboards.web.uploads import uploaded_file
from storage.errors import LakeError
from storage.schema import EXPRESSIONS
from storage.sql.column_docs import column_meaning
from storage.sql.own_tables import READERS, read_own_table
from storage.sql.views import VIEWS, QueryStop, note_of, run_sql

__all__ = ["EXAMPLES", "MAX_ROWS_SHOWN", "TIMEOUT_S", "draw", "layout", "register"]

MAX_ROWS_SHOWN, _MAX_SAVED_ROWS, TIMEOUT_S = 500, 200_000, 60.0
_MAX_COLOURS = 12
#: Bytes of a table that somebody adds: the browser sends it with every query.
_MAX_TABLE_BYTES = 5_000_000

EXAMPLES = {
    "Time per expression and video": """SELECT file_name, expression, round(sum(duration_s), 2) AS seconds
FROM scores
GROUP BY file_name, expression
ORDER BY file_name, seconds DESC""",
    "Happiest seconds": """SELECT file_name, track_id, second, round(max_p_happiness, 2) AS happiness
FROM seconds
ORDER BY max_p_happiness DESC, file_name, second
LIMIT 20""",
    "Longest episodes": """SELECT file_name, track_id, expression, round(start_s, 2) AS start_s,
       round(end_s - start_s, 2) AS seconds, round(mean_confidence, 2) AS confidence
FROM episodes
ORDER BY seconds DESC
LIMIT 50""",
    "One curve per expression, by tenths of a second": f"""SELECT floor(time_s * 10) / 10 AS at_s,
       {", ".join(f"avg(p_{name}) AS {name}" for name in EXPRESSIONS[:4])}
FROM scores
WHERE quality_ok AND file_name = (SELECT min(file_name) FROM scores)
GROUP BY at_s
ORDER BY at_s""",
    "Frames with and without a face": """SELECT file_name, frame_status, count(*) AS frames
FROM frames
GROUP BY file_name, frame_status
ORDER BY file_name, frame_status""",
    "Time per named person": """SELECT p.name, s.expression, round(sum(s.duration_s), 2) AS seconds
FROM scores s JOIN people p USING (video_id, track_id)
GROUP BY p.name, s.expression
ORDER BY p.name, seconds DESC""",
    "Where model and people differ": """SELECT l.file_name, l.time_s, l.rater, l.expression AS judged,
       s.expression AS scored,
       round(s.confidence, 2) AS confidence
FROM labels l JOIN scores s USING (video_id, frame_index, face_index)
WHERE l.verdict = 'expression' AND l.expression <> s.expression
ORDER BY confidence DESC""",
    "What went wrong": """SELECT status, code, count(*) AS files, min(path) AS example
FROM videos
WHERE status <> 'ok'
GROUP BY status, code
ORDER BY files DESC""",
}


@cache
def _schema() -> list[Any]:
    """Each view with its columns and what they mean; made once, from the same text as docs/tables.md."""
    from storage.lake import Lake
    from storage.sql.views import connect

    parts = []
    with tempfile.TemporaryDirectory() as folder, connect(Lake.open(f"{folder}/lake", create=True)) as con:
        for view in VIEWS.values():
            columns = []
            for name, kind, *_ in con.execute(f"DESCRIBE {view.name}").fetchall():
                unit, meaning = column_meaning(view, name)
                columns += [html.Dt(name), html.Dd(f"{kind}{', ' + unit if unit else ''}: {meaning}")]
            parts.append(
                html.Details([html.Summary(view.name), html.P(view.meaning, className="faint"), html.Dl(columns)])
            )
    return parts


def layout() -> list[Any]:
    examples = [{"label": title, "value": title} for title in EXAMPLES]
    editor = [
        html.H1("Query"),
        html.Div(
            [
                html.Label(
                    ["Examples", dcc.Dropdown(examples, id="query-example", placeholder="choose one", searchable=False)]
                ),
                html.Label(
                    [
                        "Saved on this computer",
                        dcc.Dropdown([], id="query-saved", placeholder="none yet", searchable=False),
                    ]
                ),
            ],
            className="pick",
        ),
        html.Label(
            [
                "One SELECT over the views; it reads and cannot change anything. Ctrl + Enter runs it.",
                dcc.Textarea(id="query-text", value=next(iter(EXAMPLES.values())), spellCheck=False),
            ]
        ),
        html.Div(
            [
                html.Button("Run", id="query-run", className="main"),
                html.Button("Cancel", id="query-cancel", disabled=True),
                dcc.Input(id="query-name", type="text", placeholder="name to save it under"),
                html.Button("Save", id="query-save"),
                html.Button("Forget the saved one", id="query-forget"),
                html.Button("Download CSV", id="query-csv"),
            ],
            className="buttons",
        ),
        html.Div(
            [
                dcc.Upload(
                    html.Button("Add a table of your own"),
                    id="query-upload",
                    accept=",".join(READERS),
                    max_size=_MAX_TABLE_BYTES,
                ),
                html.Button("Remove them", id="query-remove"),
                html.Span(id="query-own", className="faint"),
            ],
            className="buttons",
        ),
        html.Div([html.P("Running, 60 s at most:"), html.Pre(id="query-asked")], id="query-running", hidden=True),
        html.Div(id="query-result"),
        html.Div(
            [
                html.Div(
                    [
                        html.Label(
                            [
                                "Chart",
                                dcc.Dropdown(
                                    ["bars", "lines", "points"],
                                    "bars",
                                    id="query-kind",
                                    clearable=False,
                                    searchable=False,
                                ),
                            ]
                        ),
                        html.Label(["Across", dcc.Dropdown([], id="query-x", clearable=False)]),
                        html.Label(["Up", dcc.Dropdown([], id="query-y", clearable=False, multi=True)]),
                        html.Label(["Colour", dcc.Dropdown([], id="query-colour", placeholder="none")]),
                    ],
                    className="pick",
                ),
                html.Div(
                    dcc.Graph(id="query-chart", config={"displaylogo": False, "displayModeBar": False}),
                    className="plot",
                ),
            ],
            id="query-chart-part",
            hidden=True,
        ),
        dcc.Store(id="query-kept", storage_type="local", data={}),
        dcc.Store(id="query-rows"),
        dcc.Store(id="query-tables", data={}),
        dcc.Store(id="query-client", data=uuid.uuid4().hex),
        html.Div(id="query-sink", hidden=True),
        dcc.Download(id="query-download"),
    ]
    return [
        html.Div(
            [html.Div(editor), html.Aside([html.H2("Views"), *_schema()], className="schema")], className="query-page"
        )
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def draw(rows: dict[str, list[Any]], kind: str, x: str, ys: list[str], colour: str | None) -> dict[str, Any]:
    """A figure over columns of an answer.

    Args:
        rows: column to values.
        kind: bars, lines or points.
        x: column across.
        ys: columns upwards; each is a series.
        colour: a column each of whose values is a series of its own, or None.
    """
    series: list[tuple[str, str, list[Any], list[Any]]] = []
    groups = sorted({str(value) for value in rows[colour]})[:_MAX_COLOURS] if colour in rows else [""]
    for group in groups:
        chosen = [k for k in range(len(rows[x])) if not group or str(rows[colour or x][k]) == group]
        for y in ys:
            name = " ".join(part for part in (group, y if len(ys) > 1 or not group else "") if part)
            series.append((name, group or y, [rows[x][k] for k in chosen], [rows[y][k] for k in chosen]))
    shape = {"bars": {"type": "bar"}, "lines": {"type": "scatter", "mode": "lines"}}
    traces = []
    for name, key, across, up in series:
        known = next(
            (expression for expression in EXPRESSIONS if expression in key.split("_") or expression == key), None
        )
        paint = {"color": EXPRESSION_COLOURS[known]} if known else {}
        part = shape.get(kind, {"type": "scatter", "mode": "markers"})
        across = [plain_text(value) if isinstance(value, str) else value for value in across]
        traces.append({**part, "x": across, "y": up, "name": plain_text(name), "marker": paint, "line": paint})
    titles = {"xaxis": plain_text(x), "yaxis": plain_text(ys[0]) if len(ys) == 1 else ""}
    axes = {axis: {**DARK_PLOT[axis], "title": {"text": title}, "automargin": True} for axis, title in titles.items()}
    return {"data": traces, "layout": {**DARK_PLOT, **axes, "height": 380, "showlegend": len(traces) > 1}}


def _answer(
    source: LakeSource, query: str, tables: Mapping[str, pa.Table], stop: QueryStop
) -> tuple[list[Any], dict[str, Any] | None]:
    """What is shown of the answer, under the query that it answers, and its rows for the chart."""
    query_shown = html.Pre(query, className="query-text")
    try:
        answer = run_sql(
            source.lake,
            query,
            model=source.model,
            tables=tables,
            max_rows=MAX_ROWS_SHOWN + 1,
            timeout_s=TIMEOUT_S,
            first_rows=True,
            stop=stop,
        )
    except LakeError as error:
        return [query_shown, html.P(str(error), className="error")], None
    shown = answer.slice(0, MAX_ROWS_SHOWN)
    columns = [column.to_pylist() for column in shown.columns]
    cells = [[_cell(value) for value in row] for row in zip(*columns, strict=True)]
    numbers = tuple(k for k, field in enumerate(shown.schema) if _is_number(field.type))
    more = len(answer) > MAX_ROWS_SHOWN
    note = (
        f"the first {MAX_ROWS_SHOWN} rows; Download CSV gives up to {_MAX_SAVED_ROWS:,}"
        if more
        else f"{len(answer)} row{'s' * (len(answer) != 1)}"
    )
    rows = {
        name: [float(v) if k in numbers and v is not None else None if v is None else str(v) for v in values]
        for k, (name, values) in enumerate(zip(shown.column_names, columns, strict=True))
    }
    payload = {"rows": rows, "numbers": [shown.column_names[k] for k in numbers]}
    notes = [html.P(text, className="faint") for text in (note, note_of(answer)) if text]
    return [query_shown, *notes, table(list(shown.column_names), cells, numbers=numbers, empty="no rows")], payload


def _csv_text(source: LakeSource, query: str, tables: Mapping[str, pa.Table]) -> str:
    answer = run_sql(
        source.lake, query, model=source.model, tables=tables, max_rows=_MAX_SAVED_ROWS, timeout_s=TIMEOUT_S
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in answer.columns), strict=True))
    return text.getvalue()


def _own_table(file_name: str, content: str) -> pa.Table:
    """A table that the browser sent as a data URL. Raises LakeError where it cannot be read."""
    with uploaded_file(file_name, content) as file:
        try:
            return read_own_table(file)
        except LakeError as error:
            raise LakeError(str(error).replace(str(file), file_name), error.code) from error


def _table_name(file_name: str) -> str:
    """What a file's table is called in a query: its name as one word."""
    word = re.sub(r"\W+", "_", Path(file_name).stem, flags=re.ASCII).strip("_")
    return word if word and not word[0].isdigit() else f"t_{word}"


def _own_tables(kept: Mapping[str, list[str]] | None) -> dict[str, pa.Table]:
    return {name: _own_table(file_name, content) for name, (file_name, content) in (kept or {}).items()}


def register(app: Dash, source: LakeSource) -> None:
    running: dict[str, QueryStop] = {}

    app.clientside_callback(
        "(n, query) => query || ''",
        Output("query-asked", "children"),
        Input("query-run", "n_clicks"),
        State("query-text", "value"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("query-result", "children"),
        Output("query-rows", "data"),
        Input("query-run", "n_clicks"),
        State("query-text", "value"),
        State("query-tables", "data"),
        State("query-client", "data"),
        running=[
            (Output("query-run", "disabled"), True, False),
            (Output("query-cancel", "disabled"), False, True),
            (Output("query-running", "hidden"), False, True),
            (Output("query-result", "hidden"), True, False),
        ],
        prevent_initial_call=True,
    )
    def run(_: int | None, query: str | None, kept: dict[str, list[str]] | None, client: str) -> Any:
        stop = running[client] = QueryStop()
        try:
            return _answer(source, query or "", _own_tables(kept), stop)
        finally:
            running.pop(client, None)

    @app.callback(
        Output("query-sink", "children"),
        Input("query-cancel", "n_clicks"),
        State("query-client", "data"),
        prevent_initial_call=True,
    )
    def cancel(_: int | None, client: str) -> Any:
        if client in running:
            running[client].set()
        return no_update

    @app.callback(
        Output("query-tables", "data"),
        Output("query-own", "children"),
        Input("query-upload", "contents"),
        Input("query-remove", "n_clicks"),
        State("query-upload", "filename"),
        State("query-tables", "data"),
        prevent_initial_call=True,
    )
    def add(content: str | None, _: int | None, file_name: str | None, kept: dict[str, list[str]] | None) -> Any:
        if ctx.triggered_id == "query-remove" or content is None:
            return {}, ""
        try:
            read = _own_table(file_name or "", content)
        except LakeError as error:
            return no_update, str(error)
        kept = {**(kept or {}), _table_name(file_name or ""): [file_name or "", content]}
        columns = ", ".join(read.column_names)
        return kept, f"{', '.join(kept)}; the last one has {len(read)} rows of {columns}"

    @app.callback(
        Output("query-x", "options"),
        Output("query-x", "value"),
        Output("query-y", "options"),
        Output("query-y", "value"),
        Output("query-colour", "options"),
        Output("query-colour", "value"),
        Output("query-chart-part", "hidden"),
        Input("query-rows", "data"),
    )
    def offer(payload: dict[str, Any] | None) -> Any:
        if not payload or not payload["numbers"] or not next(iter(payload["rows"].values())):
            return [], None, [], [], [], None, True
        names, numbers = list(payload["rows"]), payload["numbers"]
        x = names[0]
        ys = [name for name in numbers if name != x][-4:] if x in numbers else numbers[-1:]
        texts = [name for name in names if name not in numbers and name != x]
        return names, x, numbers, ys or numbers[:1], [n for n in names if n not in numbers], (texts or [None])[0], False

    @app.callback(
        Output("query-chart", "figure"),
        Input("query-kind", "value"),
        Input("query-x", "value"),
        Input("query-y", "value"),
        Input("query-colour", "value"),
        State("query-rows", "data"),
    )
    def chart(
        kind: str, x: str | None, ys: list[str] | None, colour: str | None, payload: dict[str, Any] | None
    ) -> Any:
        rows = payload["rows"] if payload else {}
        ys = [y for y in ys or [] if y in rows]
        if x not in rows or not ys:
            return {"data": [], "layout": {**DARK_PLOT, "height": 380}}
        return draw(rows, kind, str(x), ys, colour)

    @app.callback(
        Output("query-download", "data"),
        Output("query-result", "children", allow_duplicate=True),
        Input("query-csv", "n_clicks"),
        State("query-text", "value"),
        State("query-tables", "data"),
        prevent_initial_call=True,
    )
    def download(_: int | None, query: str | None, kept: dict[str, list[str]] | None) -> Any:
        try:
            text = _csv_text(source, query or "", _own_tables(kept))
            return {"content": text, "filename": "answer.csv", "type": "text/csv"}, no_update
        except LakeError as error:
            return no_update, [html.P(str(error), className="error")]

    @app.callback(
        Output("query-text", "value"),
        Input("query-example", "value"),
        Input("query-saved", "value"),
        State("query-kept", "data"),
        prevent_initial_call=True,
    )
    def take(example: str | None, saved: str | None, kept: dict[str, str] | None) -> Any:
        text = EXAMPLES.get(example or "") if ctx.triggered_id == "query-example" else (kept or {}).get(saved or "")
        return text or no_update

    @app.callback(
        Output("query-kept", "data"),
        Input("query-save", "n_clicks"),
        Input("query-forget", "n_clicks"),
        State("query-name", "value"),
        State("query-saved", "value"),
        State("query-text", "value"),
        State("query-kept", "data"),
        prevent_initial_call=True,
    )
    def save(_: Any, __: Any, name: str | None, chosen: str | None, text: str, kept: dict[str, str] | None) -> Any:
        if ctx.triggered_id == "query-forget":
            return {key: value for key, value in (kept or {}).items() if key != chosen}
        return {**(kept or {}), name.strip(): text} if name and name.strip() else no_update

    @app.callback(Output("query-saved", "options"), Input("query-kept", "data"))
    def list_saved(kept: dict[str, str] | None) -> list[str]:
        return sorted(kept or {})
