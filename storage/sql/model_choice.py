"""Which model's scores the views show, and a note where they show more than one model's."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import duckdb

from storage.delta.relations import relation_sql, rows_of
from storage.errors import LakeError
from storage.lake import Lake
from storage.models import CARD
from storage.wording import counted

__all__ = ["find_model_id", "mixture_note", "models_shown"]

#: What a person writes for the model in production.
PRODUCTION = "default"


def find_model_id(con: duckdb.DuckDBPyConnection, lake: Lake, model: str) -> str:
    """The model_id that a name stands for among the models that have scored a video of the lake.

    Args:
        con: a connection with ``raw.production``.
        lake: the lake of the connection.
        model: a model_id, the name before its ``@``, a model's folder, or ``default`` for the model in production.

    Raises:
        LakeError: ``unknown_model`` where no finished video has scores of it, or several models have the name.
    """
    wanted = model
    if model == PRODUCTION:
        (wanted,) = con.execute("SELECT model_id FROM raw.production").fetchall()[0]
    elif (card := Path(model) / CARD).is_file():
        wanted = str(json.loads(card.read_text(encoding="utf-8"))["model_id"])
    rows = rows_of(con, f"SELECT DISTINCT model_id FROM ({relation_sql(lake.location, 'videos')}) ORDER BY ALL")
    known = rows["model_id"].to_pylist()
    found = [known_id for known_id in known if wanted in (known_id, known_id.rpartition("@")[0])]
    if len(found) == 1:
        return str(found[0])
    if found:
        message = f"{len(found)} models are called {model!r}; name one of {', '.join(found)}"
    else:
        meant = model if wanted == model else f"{model} ({wanted})"
        message = (
            f"no finished video of the lake {lake.location} has scores of the model {meant}; it has scores of "
            f"{', '.join(known) or 'none'}; `mfer analyze VIDEOS --model NAME` adds a model's scores"
        )
    raise LakeError(message, "unknown_model")


def models_shown(con: duckdb.DuckDBPyConnection, video_ids: Collection[str] | None = None) -> dict[str, int]:
    """Each model whose scores the views show, most videos first, with the number of its videos.

    Args:
        con: from ``storage.sql.views.connect``.
        video_ids: count only these; None: every video.
    """
    where = "" if video_ids is None else "AND video_id IN (SELECT unnest(?::VARCHAR[]))"
    sql = f"SELECT model_id, count(*) AS n FROM raw.finished WHERE chosen {where} GROUP BY model_id"
    return dict(
        con.execute(f"{sql} ORDER BY n DESC, model_id", [] if video_ids is None else [list(video_ids)]).fetchall()
    )


def mixture_note(
    con: duckdb.DuckDBPyConnection, video_ids: Collection[str] | None = None, *, remedy: str = "--model NAME"
) -> str:
    """A sentence where the views show scores of more than one model; empty where they do not.

    Args:
        con: from ``storage.sql.views.connect``.
        video_ids: what is looked at; None: every video.
        remedy: how the reader chooses one model.
    """
    shown = models_shown(con, video_ids)
    if len(shown) < 2:
        return ""
    counts = ", ".join(f"{model} ({counted(n, 'video')})" for model, n in shown.items())
    return f"scores of {len(shown)} models are mixed here, and differ for that reason too: {counts}; {remedy} takes one"
