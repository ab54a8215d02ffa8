"""The library: every path that a run has seen, found by name, folder, expression, quality and date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboards.web.data import Strip, library, mean_brightness, mean_expressions, remedies, strips, trusted_shares
from dashboards.web.shell import chip, css_colour, seconds_text, when_text
from dashboards.web.source import LakeSource
from storage.identity import composed
from storage.schema import EXPRESSIONS, STILL
from storage.wording import counted

__all__ = ["choose", "layout", "register"]

PER_PAGE = 40
_SORTS = {
    "name": "name",
    "newest": "analysed last",
    "longest": "longest",
    "faces": "most faces",
    "share": "most frames with a face",
    **{name: f"most {name}" for name in EXPRESSIONS},
}
#: Mean brightness of a video's faces below which the library calls them dark.
_DARK = 0.2
_QUALITIES = {
    "0.25": "face in at least 25 % of frames",
    "0.5": "face in at least 50 %",
    "0.9": "face in at least 90 %",
    "low": "face in less than 25 %",
    "undecodable": "frames that could not be read",
    "ok0.9": "at least 90 % of faces of good quality",
    "ok0.5": "at least 50 % of faces of good quality",
    "poor": "less than 50 % of faces of good quality",
    "dark": f"dark faces (brightness below {_DARK})",
}


def choose(
    rows: list[dict[str, Any]],
    *,
    text: str = "",
    folder: str = "",
    status: str = "",
    expression: str = "",
    quality: str = "",
    since: str = "",
    sort: str = "name",
    trusted: Mapping[str, float] = MappingProxyType({}),
    brightness: Mapping[str, float] = MappingProxyType({}),
    means: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The rows of ``data.library`` that match, in order; an empty setting matches everything.

    Args:
        rows: what to choose from.
        text: words that all occur in the path, whatever their case.
        folder: a folder; those below it count too.
        status: ok, partial, failed or skipped.
        expression: the one that leads over the whole video.
        quality: a smallest share of frames with a face, ``low`` or ``undecodable``; ``ok0.9`` and ``ok0.5``: a smallest
            share of faces of good quality, ``poor``: less than half of them; ``dark``: dark faces.
        since: the first day of analysis, YYYY-MM-DD.
        sort: one of the library's orders.
        trusted: share of faces of good quality by video_id; needed for the qualities that are about it.
        brightness: mean brightness of the faces by video_id; needed for ``dark``.
        means: mean probabilities by video_id; needed for ``expression`` and the orders by one.
    """
    words = composed(text).lower().split()

    def leading(row: dict[str, Any]) -> str | None:
        mean = means.get(row["video_id"])
        return max(mean, key=lambda name: mean[name]) if mean else None

    def matches(row: dict[str, Any]) -> bool:
        good = {
            "": lambda: True,
            "low": lambda: row["share"] is not None and row["share"] < 0.25,
            "undecodable": lambda: bool(row["n_frames_undecodable"]) or row["status"] in ("partial", "failed"),
            "ok0.9": lambda: trusted.get(row["video_id"], -1) >= 0.9,
            "ok0.5": lambda: trusted.get(row["video_id"], -1) >= 0.5,
            "poor": lambda: 0 <= trusted.get(row["video_id"], -1) < 0.5,
            "dark": lambda: brightness.get(row["video_id"], 1) < _DARK,
        }.get(quality, lambda: row["share"] is not None and row["share"] >= float(quality))
        return (
            all(word in composed(row["path"]).lower() for word in words)
            and (not folder or row["folder"] == folder or row["folder"].startswith(folder.rstrip("/") + "/"))
            and (not status or row["status"] == status)
            and (not expression or leading(row) == expression)
            and (not since or (row["analysed_utc"] is not None and f"{row['analysed_utc']:%Y-%m-%d}" >= since))
            and good()
        )

    keys = {
        "name": lambda row: (row["file_name"].lower(), row["path"]),
        "newest": lambda row: -(row["analysed_utc"].timestamp() if row["analysed_utc"] else 0),
        "longest": lambda row: -(row["duration_s"] or 0),
        "faces": lambda row: -(row["n_faces"] or 0),
        "share": lambda row: -(row["share"] or 0),
    }
    key = keys.get(sort, lambda row: -means.get(row["video_id"], {}).get(sort, 0.0))
    return sorted(filter(matches, rows), key=key)


def _select(name: str, label: str, options: dict[str, str], value: str = "") -> html.Label:
    chosen = [{"value": key, "label": text} for key, text in options.items()]
    choice = dcc.Dropdown(chosen, value or None, id=name, clearable=not value, placeholder="any", searchable=False)
    return html.Label([label, choice])


def layout(source: LakeSource) -> list[Any]:
    """Filters and the first page of results."""
    rows = library(source)
    folders = sorted({row["folder"] for row in rows})
    statuses = sorted({row["status"] for row in rows})
    filters = html.Form(
        [
            html.Label(
                ["Search", dcc.Input(id="library-text", type="search", debounce=0.25, placeholder="name or path")]
            ),
            _select("library-folder", "Folder", {folder: folder for folder in folders}),
            _select("library-status", "Status", {status: status for status in statuses}),
            _select("library-expression", "Leading expression", {name: name for name in EXPRESSIONS}),
            _select("library-quality", "Quality", _QUALITIES),
            html.Label(
                [
                    "Analysed since",
                    dcc.Input(
                        id="library-since",
                        type="text",
                        placeholder="YYYY-MM-DD",
                        debounce=0.25,
                        pattern=r"\d{4}-\d{2}-\d{2}",
                    ),
                ]
            ),
            _select("library-sort", "Order", _SORTS, "name"),
        ],
        className="filters",
    )
    return [
        html.H1("Library"),
        filters,
        html.Div(chip_row(), className="legend"),
        html.Div(found(source, {}, 0), id="library-found"),
        dcc.Store(id="library-page", data=0),
    ]


def chip_row() -> list[Any]:
    return [
        *(chip(name) for name in EXPRESSIONS),
        html.Span([html.I(className="swatch empty"), "no face, or excluded"], className="chip"),
    ]


def found(source: LakeSource, settings: dict[str, str], page: int) -> list[Any]:
    """One page of the rows that match, with how many there are."""
    asks_for_faces = settings.get("quality") in ("ok0.9", "ok0.5", "poor")
    asks_for_means = settings.get("expression") or settings.get("sort") in EXPRESSIONS
    rows = choose(
        library(source),
        **settings,
        trusted=trusted_shares(source) if asks_for_faces else {},
        brightness=mean_brightness(source) if settings.get("quality") == "dark" else {},
        means=mean_expressions(source) if asks_for_means else {},
    )
    n_pages = max(1, -(-len(rows) // PER_PAGE))
    page = min(max(page, 0), n_pages - 1)
    shown = rows[page * PER_PAGE : (page + 1) * PER_PAGE]
    pictures = strips(source, shown)
    count = f"{len(rows)} of {len(library(source))} files"
    turn = html.Div(
        [
            html.Button("previous", id="library-back", disabled=page == 0, type="button"),
            html.Span(f"page {page + 1} of {n_pages}"),
            html.Button("next", id="library-on", disabled=page == n_pages - 1, type="button"),
        ],
        className="turn",
        style={} if n_pages > 1 else {"visibility": "hidden"},
    )
    cards: list[Any] = [_card(row, pictures.get(row["video_id"])) for row in shown]
    if not cards:
        message = (
            "No file matches." if library(source) else "This lake is empty: mfer analyze VIDEOS --lake LAKE fills it."
        )
        cards = [html.P(message, className="faint")]
    return [html.Div([html.Span(count), turn], className="count"), html.Div(cards, className="cards")]


def _card(row: dict[str, Any], strip: Strip | None) -> html.Article:
    opens = row["analysis_id"] is not None
    name = dcc.Link(row["title"], href=f"/video?id={row['video_id']}") if opens else html.Span(row["title"])
    share = ""
    if row["share"] is not None:
        n_undecodable = row["n_frames_undecodable"] or 0
        kind = "readable frames" if n_undecodable else "frames"
        share = f"face in {row['share']:.0%} of {row['n_frames'] - n_undecodable:,} {kind}"
    faces = "" if not row["n_tracks"] else counted(row["n_tracks"], "face")
    is_still = row["container"] == STILL
    lasts = ["picture", faces] if is_still else [seconds_text(row["duration_s"]), faces, share]
    facts = [*lasts, when_text(row["analysed_utc"])]
    picture: Any = html.Div(className="no-picture", **{"aria-hidden": "true"})
    if opens:
        thumbnail = html.Img(src=f"/picture/thumbnail/{row['video_id']}.jpg", alt="")
        picture = dcc.Link(thumbnail, href=f"/video?id={row['video_id']}", title=row["title"])
    parts = [
        html.H2([name, html.Span(row["status"], className=f"status {row['status']}")]),
        html.P(row["folder"], className="folder", title=row["path"]),
        html.P(" · ".join(fact for fact in facts if fact)),
    ]
    if strip:
        highest = sorted(strip.means.items(), key=lambda mean: -mean[1])[:3]
        means = ", ".join(f"{name} {share:.0%}" for name, share in highest)
        parts.append(
            html.Div(
                className="strip",
                style={"background": gradient(strip.parts)},
                title=f"mean: {means}",
                role="img",
                **{"aria-label": f"leading expressions over time; mean {means}"},
            )
        )
    if row["unscored"]:
        parts.append(html.P("no scores of the model that is chosen above", className="faint"))
    if row["status"] in ("failed", "partial"):
        parts.append(_failure(row))
    return html.Article([html.Div(picture, className="picture"), html.Div(parts)], className="card")


def _failure(row: dict[str, Any]) -> html.Div:
    cause, remedy = remedies().get((row["code"], row["status"]), ("", ""))
    lines: list[Any] = [html.P([html.Code(row["code"] or "unknown"), " ", row["message"] or cause])]
    if remedy:
        lines.append(html.P([html.Strong("Remedy: "), remedy.replace("`", "")]))
    return html.Div(lines, className="failure")


def gradient(strip: Sequence[str | None]) -> str:
    """CSS for a strip of colours side by side; neighbours of one colour are joined."""
    n, stops, first = len(strip), [], 0
    for part in range(1, n + 1):
        if part == n or strip[part] != strip[first]:
            name = strip[first]
            colour = css_colour(name) if name else "#ffffff"
            stops.append(f"{colour} {100 * first / n:.2f}% {100 * part / n:.2f}%")
            first = part
    return f"linear-gradient(to right, {', '.join(stops)})"


def register(app: Dash, source: LakeSource) -> None:
    names = ("text", "folder", "status", "expression", "quality", "since", "sort")

    @app.callback(
        Output("library-found", "children"),
        Output("library-page", "data"),
        *(Input(f"library-{name}", "value") for name in names),
        Input("library-back", "n_clicks"),
        Input("library-on", "n_clicks"),
        State("library-page", "data"),
        prevent_initial_call=True,
    )
    def show(*values: Any) -> Any:
        *chosen, back, on, page = values
        settings = {name: value or "" for name, value in zip(names, chosen, strict=True)}
        settings["sort"] = settings["sort"] or "name"
        if ctx.triggered_id in ("library-back", "library-on"):
            if not (back or on):  # the buttons were only drawn anew
                return no_update, no_update
            page += 1 if ctx.triggered_id == "library-on" else -1
        else:
            page = 0
        return found(source, settings, page), page
