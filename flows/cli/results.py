"""Answers of SQL in the forms that people use."""

from __future__ import annotations

import csv
import json
import math
import sys
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from mfer.errors import ConfigError
from storage.files import whole_file
from storage.identity import printable

__all__ = ["write_result"]

_MAX_ROWS_SHOWN = 200


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
                pq.write_table(rows, fresh, compression="zstd")
            else:
                with fresh.open("w", newline="", encoding="utf-8") as file:
                    _write(rows, form, file)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}; name another file") from error


def _write(rows: pa.Table, form: str, file: Any) -> None:
    if form == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows.column_names)
        for batch in rows.to_batches():
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    elif form == "json":
        json.dump(_plain(rows.to_pylist()), file, default=str, indent=1, allow_nan=False)
        file.write("\n")
    else:
        _print_table(rows, file)


def _plain(value: Any) -> Any:
    """What JSON can hold: DuckDB's sums are decimals, and NaN and infinity have no form of their own."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _print_table(rows: pa.Table, file: Any) -> None:
    shown = rows.slice(0, _MAX_ROWS_SHOWN)
    table = Table(show_edge=False, pad_edge=False)
    for field in rows.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        table.add_column(field.name, justify="right" if number else "left", overflow="fold")
    for row in zip(*(column.to_pylist() for column in shown.columns), strict=True):
        table.add_row(*(_cell(value) for value in row))
    # a file's name may look like markup: print what is there
    console = Console(file=file, width=None if file.isatty() else 200, markup=False, emoji=False, highlight=False)
    console.print(table)
    if len(rows) > len(shown):
        console.print(f"... {len(shown)} of {len(rows)} rows; --format csv, json or parquet gives all", style="dim")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # a file name may hold what moves the cursor; EXPLAIN answers in several lines
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value), keep="\n")
