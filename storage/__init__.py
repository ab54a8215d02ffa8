"""The lake: what the rows mean, commits that happen exactly once, views for SQL and the model store.

Import from the modules (``storage.lake``, ``storage.sql.views``, ``storage.models``): the package itself imports
nothing, so that a command line that only prints its help stays fast. ``storage.connect`` is the short way to ask.
Open ``lake.py`` and ``schema.py`` first. ``delta/`` keeps tables, ``sql/`` asks, ``annotations/`` are what people add,
``maintenance/`` is rare work, ``exports/`` are files for other programs. Imports no other package of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

__all__ = ["connect"]


def connect(lake: str | Path, model: str | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views and table functions of a lake, as the lake is now.

    ``connect("lake").sql("SELECT ...")`` gives a relation: ``.to_arrow_table()`` and ``.fetchall()`` always work,
    ``.df()`` where pandas is installed and ``.pl()`` where polars is. Anything that is written in the connection
    stays in its memory; the lake's files are only read.

    Args:
        lake: its folder, or the address of an object store.
        model: whose scores the views show: a name, a model_id or a folder; ``default`` is the model in production.
            None: of each video the model in production, or another where that has not scored it; a ``UserWarning``
            says so where the views show more than one model.

    Raises:
        LakeError: there is no lake, it cannot be read, or no video has scores of that model.
    """
    import warnings

    from storage.lake import Lake
    from storage.sql.model_choice import mixture_note
    from storage.sql.views import connect as connect_to

    con = connect_to(Lake.open(lake), model=model)
    if note := mixture_note(con, remedy="connect(lake, model=NAME)"):
        warnings.warn(note, stacklevel=2)
    return con
