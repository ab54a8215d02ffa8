"""Answers of SQL in the forms that people use."""

from __future__ import annotations

import csv
import json
import math
import sys
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from mfer.errors import ConfigError
from storage.files import whole_file
from storage.identity import printable
from storage.sql.plain import as_objects, as_text, for_parquet

__all__ = ["write_result"]

_MAX_ROWS_SHOWN = 200
#: What is too wide for the screen is shown a value a line if it has few rows, else with fewer columns.
_MAX_RECORDS = 5
#: Longer text is folded, in characters.
_MAX_CELL = 60


def write_result(rows: pa.Table, form: str, output: str | None) -> None:
    """Write a table to a file or to standard output.

    Args:
        rows: the answer.
        form: ``table`` (shortened to fit a screen), ``csv``, ``json`` (a list of objects) or ``parquet``.
        output: a path; None is standard output, where parquet is refused.

    Raises:
        ConfigError: parquet without a path, or a path that cannot be written.
    """
    if output is None:
        if form == "parquet":
            raise ConfigError("parquet is not for a terminal; add --output FILE.parquet")
        _write(rows, form, sys.stdout)
        return
    try:
        with whole_file(output) as fresh:
            if form == "parquet":
                pq.write_table(for_parquet(rows), fresh, compression="zstd")
            else:
                with fresh.open("w", newline="", encoding="utf-8") as file:
                    _write(rows, form, file)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}; name another file") from error


def _write(rows: pa.Table, form: str, file: Any) -> None:
    if form == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows.column_names)
        for batch in as_text(rows).to_batches():
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    elif form == "json":
        json.dump(_finite(as_objects(rows)), file, indent=1, allow_nan=False)
        file.write("\n")
    else:
        _print_table(rows, file)


def _finite(value: Any) -> Any:
    """NaN and infinity, which have no form in JSON, as null."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_table(rows: pa.Table, file: Any) -> None:
    # a file's name may look like markup: print what is there
    console = Console(file=file, markup=False, emoji=False, highlight=False)
    shown = as_text(rows.slice(0, _MAX_ROWS_SHOWN))
    columns = [_cells(column) for column in shown.columns]
    widths = [
        max(map(cell_len, "\n".join([name, *cells]).split("\n")))
        for name, cells in zip(rows.column_names, columns, strict=True)
    ]
    if not file.isatty():
        console.width = sum(widths) + 3 * len(widths) + 1
    n_fit = _n_columns_that_fit([min(width, _MAX_CELL) for width in widths] if file.isatty() else widths, console.width)
    if n_fit < len(widths) and len(shown) <= _MAX_RECORDS:
        _print_records(rows.column_names, columns, console)
    else:
        console.print(_grid(rows.schema, columns, n_fit))
        if n_fit < len(widths):
            console.print(
                f"{n_fit} of {len(widths)} columns; name those that you want, or --format csv gives all", soft_wrap=True
            )
    if not len(rows):
        console.print("0 rows")
    if len(rows) > len(shown):
        console.print(
            f"... {len(shown)} of {len(rows)} rows; --format csv, json or parquet gives all",
            style="dim",
            soft_wrap=True,
        )


def _grid(schema: pa.Schema, columns: list[list[str]], n_shown: int) -> Table:
    """The first columns, and one of dots where others are left out."""
    table = Table(show_edge=False, pad_edge=False)
    for field in list(schema)[:n_shown]:
        table.add_column(field.name, justify="right" if _is_number(field.type) else "left", overflow="fold")
    if n_shown < len(columns):
        table.add_column("…")
    for row in zip(*columns, strict=True):
        table.add_row(*row[:n_shown], *(["…"] if n_shown < len(row) else []))
    return table


def _print_records(names: list[str], columns: list[list[str]], console: Console) -> None:
    """One line for each value: what is wider than the screen."""
    wide = max(map(cell_len, names))
    for number, row in enumerate(zip(*columns, strict=True)):
        if number:
            console.print()
        for name, cell in zip(names, row, strict=True):
            console.print(f"{name}{' ' * (wide - cell_len(name))}  {cell}", soft_wrap=True)


def _n_columns_that_fit(widths: list[int], width: int) -> int:
    """How many of the first columns the screen has room for, at least one."""
    ends = list(accumulate(column + 3 for column in widths))
    if not ends or ends[-1] - 3 <= width:
        return len(widths)
    return max(sum(end + len("…") <= width for end in ends), 1)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _cells(column: pa.ChunkedArray) -> list[str]:
    """The values of a column as text; fractions with the same number of decimals, so that points stand in a line."""
    values = column.to_pylist()
    if not pa.types.is_floating(column.type):
        # a file name may hold what moves the cursor; EXPLAIN answers in several lines
        return ["" if value is None else printable(str(value), keep="\n") for value in values]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    short = [f"{value:.6g}" for value in finite]
    decimals = max((len(text.partition(".")[2]) for text in short if "e" not in text), default=0)
    if any("e-" in text for text in short):  # too small for any sensible number of decimals
        return ["" if value is None else f"{value:.6g}" for value in values]
    return ["" if value is None else f"{value:.{decimals}f}" for value in values]
