"""What every page is made of: the head with the navigation, and the small parts that pages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from dashboards.outputs.palette import EXPRESSION_COLOURS

__all__ = ["DARK_PLOT", "PAGES", "chip", "css_colour", "head", "plain_text", "seconds_text", "table", "when_text"]

#: Path and title of each page in the navigation; the video page is reached from the library.
PAGES = {
    "/": "Library",
    "/compare": "Compare",
    "/query": "Query",
    "/label": "Label",
    "/models": "Models and health",
    "/settings": "Settings",
}
_INK, _GRID, _GROUND = "#e6e9ee", "#2a313c", "#14181f"
#: Charts stand on a dark ground, on which all eight colours of the palette have a contrast of three or more.
DARK_PLOT: dict[str, Any] = {
    "paper_bgcolor": _GROUND,
    "plot_bgcolor": _GROUND,
    "font": {"color": _INK, "family": "system-ui, sans-serif", "size": 12},
    "margin": {"l": 52, "r": 16, "t": 40, "b": 44},
    "xaxis": {"gridcolor": _GRID, "zeroline": False, "automargin": True},
    "yaxis": {"gridcolor": _GRID, "zeroline": False},
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},  # grows upwards
}


def head(active: str, lake: str, models: Sequence[str] = (), chosen: str | None = None) -> html.Header:
    """The navigation, with the lake that is shown and, where it has scores of several models, the choice of one."""
    texts = {"": "in production, else what there is", **{model: model for model in models}}
    choice = html.Label(
        [
            "Model",
            html.Select(
                [html.Option(text, value=value, selected=value == (chosen or "")) for value, text in texts.items()],
                id="model-choice",
            ),
        ],
        className="inline",
    )
    links = [dcc.Link(title, href=path, className="active" if path == active else "") for path, title in PAGES.items()]
    menu = html.Button("Menu", id="menu", **{"aria-expanded": "false", "aria-controls": "pages"})  # on narrow screens
    return html.Header(
        [
            html.Strong("mfer"),
            menu,
            html.Nav(links, id="pages", **{"aria-label": "pages"}),
            *([choice] if len(models) > 1 else []),
            html.Span(lake, className="lake", title=lake),
        ]
    )


def css_colour(name: str) -> str:
    """An expression's colour in CSS: the viewer's, else the palette's."""
    return f"var(--colour-{name}, {EXPRESSION_COLOURS[name]})"


def chip(name: str, text: str | None = None) -> html.Span:
    """An expression's name with its colour."""
    swatch = html.I(className="swatch", style={"background": css_colour(name)})
    return html.Span([swatch, text or name], className="chip")


def table(headings: list[Any], rows: list[list[Any]], *, numbers: tuple[int, ...] = (), empty: str = "nothing") -> Any:
    """A plain table; ``numbers`` are the columns set to the right."""
    if not rows:
        return html.P(empty, className="faint")
    kind = ["number" if k in numbers else "" for k in range(len(headings))]
    heads = [html.Th(text, className=cls, scope="col") for text, cls in zip(headings, kind, strict=True)]
    body = [html.Tr([html.Td(cell, className=cls) for cell, cls in zip(row, kind, strict=True)]) for row in rows]
    return html.Div(html.Table([html.Thead(html.Tr(heads)), html.Tbody(body)]), className="table")


def seconds_text(seconds: float | None) -> str:
    """A length as people write it: 0:03, 1:02:03."""
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def when_text(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else ""


def plain_text(text: Any) -> str:
    """Text for Plotly, which reads a few tags in titles and labels: names of files must stay text."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
