"""Judging faces by hand: those that the model is least sure of, one key each."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.web.data import rater_agreement
from dashboards.web.shell import chip, table
from dashboards.web.source import LakeSource
from storage.schema import EXPRESSIONS

__all__ = ["layout", "register"]

_ORDERS = {
    "entropy": "least certain first (entropy)",
    "margin": "two expressions close together (margin)",
    "random": "at random",
}


def layout(source: LakeSource, author: str) -> list[Any]:
    """The page; its script fetches the queue and posts each judgement."""
    keys = [
        html.Button([html.Kbd(str(k + 1)), chip(name)], **{"data-label": name}) for k, name in enumerate(EXPRESSIONS)
    ]
    keys += [
        html.Button([html.Kbd("9"), "not a face"], **{"data-label": "not_a_face"}),
        html.Button([html.Kbd("0"), "undecided"], **{"data-label": "undecided"}),
    ]
    others = [
        html.Button([html.Kbd("u"), "undo"], **{"data-label": "undo"}),
        html.Button([html.Kbd("s"), "skip for now"], **{"data-label": "skip"}),
    ]
    return [
        html.H1("Label"),
        html.P(
            "How does this face look to you? Judge the picture, not what the person may feel. Each judgement is written"
            " into the lake's labels at once; the picture is cut from the video for you and not stored.",
            className="faint",
        ),
        html.Div(
            [
                html.Label(
                    ["Your name", dcc.Input(author, id="label-rater", type="text", debounce=True, persistence=True)],
                    className="inline",
                ),
                html.Label(
                    [
                        "Order",
                        dcc.Dropdown(
                            [{"label": text, "value": key} for key, text in _ORDERS.items()],
                            "entropy",
                            id="label-order",
                            clearable=False,
                            searchable=False,
                            style={"minWidth": "20rem"},
                        ),
                    ],
                    className="inline",
                ),
                dcc.Checklist([{"label": "show the model's opinion", "value": "opinion"}], [], id="label-options"),
            ],
            className="buttons",
        ),
        html.Div(
            [
                html.Div(
                    [
                        html.Div("loading", id="label-picture"),
                        html.P(id="label-where", className="faint"),
                        html.Div(id="label-opinion"),
                    ]
                ),
                html.Div(
                    [
                        html.Div(keys, className="keys"),
                        html.Div(others, className="buttons"),
                        html.Progress(id="label-progress", value="0", max="1"),
                        html.P(id="label-count"),
                        html.P(id="label-message", role="status"),
                    ]
                ),
            ],
            className="label-page",
        ),
        *_agreement(source),
        dcc.Store(id="label-facts", data={"classes": list(EXPRESSIONS), "colours": EXPRESSION_COLOURS}),
        html.Div(id="label-sink", hidden=True),
    ]


def _agreement(source: LakeSource) -> list[Any]:
    rows = [
        [
            ", ".join(pair.raters),
            str(pair.n),
            f"{pair.share:.0%}",
            "" if pair.kappa is None else f"{pair.kappa:.2f}",
        ]
        for pair in rater_agreement(source)
    ]
    if not rows:
        return []
    return [
        html.H2("Agreement between raters"),
        table(["raters", "faces that both judged", "same verdict", "Cohen's kappa"], rows, numbers=(1, 2, 3)),
        html.P("Kappa is the agreement beyond what chance would give: 0 none, 1 all.", className="faint"),
    ]


def register(app: Dash) -> None:
    app.clientside_callback(
        ClientsideFunction("label", "show"),
        Output("label-sink", "children"),
        Input("label-facts", "data"),
        Input("label-rater", "value"),
        Input("label-order", "value"),
        Input("label-options", "value"),
        State("label-sink", "children"),
    )
