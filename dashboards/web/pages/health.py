"""Models with their figures, and how past runs went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dash import html

from dashboards.web.data import health, remedies
from dashboards.web.shell import table, when_text
from dashboards.web.source import LakeSource
from storage.records import STATUSES

__all__ = ["layout"]

#: Figures of a card that are shown, in this order, if it has them.
_TITLES = {"mean_recall": "mean recall", "ece": "calibration error", "nll": "log loss"}
_FIGURES = ("accuracy", "mean_recall", "ece", "nll")


def layout(source: LakeSource) -> list[Any]:
    found = health(source)
    return [
        html.H1("Models and health"),
        html.H2("Models"),
        _models(source),
        html.H2("Analyses in this lake"),
        table(
            ["analysis", "model", "videos", "shown", "frames", "faces"],
            [
                [
                    a["analysis_id"],
                    a["model_id"],
                    f"{a['n_videos']:,}",
                    f"{a['n_videos_chosen']:,}",
                    f"{a['n_frames']:,}",
                    f"{a['n_faces']:,}",
                ]
                for a in found["analyses"]
            ],
            numbers=(2, 3, 4, 5),
            empty="Nothing was analysed yet.",
        ),
        html.H2("Promotions and other events"),
        table(
            ["number", "event", "model", "when"],
            [
                [str(e["sequence"]), e["event"], e["model_id"] or "the package's own", when_text(e["created_utc"])]
                for e in found["events"]
            ],
            numbers=(0,),
            empty="The lake has no models of its own: the package's default gives the scores.",
        ),
        html.H2("Runs"),
        _runs(found["runs"]),
        html.H2("What went wrong"),
        _failures(found["failures"]),
        html.H2("Drift"),
        table(
            ["model", "measure", "column", "value", "limit", "rows", "against", "when"],
            [
                [
                    d["model_id"],
                    d["measure"],
                    d["column_name"],
                    f"{d['value']:.4g}",
                    f"{d['threshold']:.4g}",
                    f"{d['n_rows']:,}",
                    d["reference"],
                    when_text(d["created_utc"]),
                ]
                for d in found["drift"]
                if d["value"] is not None and d["threshold"] is not None
            ],
            numbers=(3, 4, 5),
            empty="No drift was measured in this lake.",
        ),
    ]


def _value(metric: Any) -> float | None:
    value = metric.get("value") if isinstance(metric, Mapping) else metric
    return float(value) if isinstance(value, int | float) else None


def _models(source: LakeSource) -> Any:
    from pipelines.scoring.lookup import known_models  # loads PyTorch: only for this page

    cards = [(origin, card) for origin, card in known_models(source.lake)]
    present = [name for name in _FIGURES if any(_value(card.metrics.get(name)) is not None for _, card in cards)]
    rows = []
    for origin, card in cards:
        figures = [_value(card.metrics.get(name)) for name in present]
        details = html.Details([html.Summary("card"), html.Pre(json.dumps(card.to_dict(), indent=2))])
        rows.append(
            [
                card.model_id,
                origin,
                str(len(card.class_names)),
                *("" if f is None else f"{f:.4f}" for f in figures),
                card.licence,
                details,
            ]
        )
    headings = ["model", "from", "classes", *(_TITLES.get(name, name) for name in present), "licence", ""]
    return table(headings, rows, numbers=tuple(range(2, 3 + len(present))))


def _runs(runs: list[dict[str, Any]]) -> Any:
    rows = []
    for run in runs:
        rate = run["n_new_frames"] / run["wall_s"] if run["wall_s"] and run["n_new_frames"] else None
        counts = [str(run[name] or "") for name in ("n_paths", *STATUSES)]
        rows.append(
            [
                when_text(run["started_utc"]),
                *counts,
                f"{run['n_new_frames'] or 0:,}",
                f"{run['wall_s'] or 0:.1f}",
                "" if rate is None else f"{rate:.1f}",
                run["device"],
                run["model_id"],
            ]
        )
    return table(
        [
            "started",
            "files",
            "ok",
            "partial",
            "failed",
            "skipped",
            "new frames",
            "seconds",
            "frames/s",
            "device",
            "model",
        ],
        rows,
        numbers=tuple(range(1, 9)),
        empty="No run has ended yet.",
    )


def _failures(failures: list[dict[str, Any]]) -> Any:
    rows = []
    for row in failures:
        cause, remedy = remedies().get((row["code"], row["status"]), (row["message"] or "", ""))
        rows.append(
            [html.Code(row["code"]), row["status"], str(row["n_paths"]), cause, remedy.replace("`", ""), row["example"]]
        )
    return table(
        ["code", "status", "files", "cause", "remedy", "for example"],
        rows,
        numbers=(2,),
        empty="Nothing: every file was read completely.",
    )
