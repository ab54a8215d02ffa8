"""docs/tables.md: every view, function and table with type, unit and meaning of its columns, from the schema itself.

``python -m storage.sql.column_docs docs/tables.md`` renews the part of the file after the marker; a test keeps it so.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from storage.delta.relations import sql_type
from storage.lake import Lake
from storage.schema import TABLES, meaning_of, unit_of
from storage.sql.table_functions import FUNCTIONS, TableFunction
from storage.sql.views import VIEWS, View, connect

__all__ = ["MARKER", "column_meaning", "renew", "tables_markdown"]

MARKER = "<!-- From here on made by `python -m storage.sql.column_docs docs/tables.md`; edit the schema instead. -->"


def column_meaning(view: View | TableFunction, column: str) -> tuple[str, str]:
    """Unit and meaning of a column of a view or a table function. Raises KeyError where nobody has stated them."""
    if column in view.columns:
        return view.columns[column]
    if isinstance(view, TableFunction):
        return column_meaning(VIEWS["scores"], column)
    for table in view.tables:
        if column in TABLES[table].schema.names:
            field = TABLES[table].schema.field(column)
            return unit_of(field), meaning_of(field)
    raise KeyError(f"{view.name}.{column} has no stated meaning")


def _columns(rows: Iterable[tuple[str, str, str, str]]) -> list[str]:
    lines = ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    return lines + [f"| {name} | {kind} | {unit} | {meaning} |" for name, kind, unit, meaning in rows]


def tables_markdown() -> str:
    """The views, the table functions and the Delta tables below them, as Markdown."""
    lines = ["## Views", ""]
    with tempfile.TemporaryDirectory() as folder, connect(Lake.open(Path(folder) / "lake", create=True)) as con:
        for view in VIEWS.values():
            described = con.execute(f"DESCRIBE {view.name}").fetchall()
            rows = [(name, kind, *column_meaning(view, name)) for name, kind, *_ in described]
            lines += [f"### {view.name}", "", view.meaning, "", *_columns(rows), ""]
        lines += ["## Functions", "", "Table functions over the views, such as `SELECT * FROM smoothed(width_s := 1)`;"]
        lines += [
            "parameters that are left out have the values shown. [analysis.md](analysis.md) has the formulas.",
            "",
        ]
        for function in FUNCTIONS.values():
            described = con.execute(f"DESCRIBE FROM {function.name}()").fetchall()
            rows = [(name, kind, *column_meaning(function, name)) for name, kind, *_ in described]
            lines += [
                f"### {function.name}",
                "",
                f"`{function.signature}`",
                "",
                function.meaning,
                "",
                *_columns(rows),
                "",
            ]
    lines += ["## Tables", "", "The Delta tables as they are stored; in SQL they are in the schema `raw`.", ""]
    for table in TABLES.values():
        partition = f" Partitioned by {', '.join(table.partition_by)}." if table.partition_by else ""
        lines += [f"### raw.{table.name}", "", f"Folder `{table.place}/`. {table.meaning}{partition}", ""]
        lines += [*_columns((f.name, sql_type(f.type), unit_of(f), meaning_of(f)) for f in table.schema), ""]
    return "\n".join(lines)


def renew(text: str) -> str:
    """The document with the part after the marker made anew."""
    head, found, _ = text.partition(MARKER)
    if not found:
        raise ValueError(f"the document lacks the line {MARKER}")
    return f"{head}{MARKER}\n\n{tables_markdown()}"


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(renew(document.read_text(encoding="utf-8")), encoding="utf-8")
