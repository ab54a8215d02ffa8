"""Answers of SQL in the forms that people use."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from mfer.errors import ConfigError

__all__ = ["write_result"]

_MAX_ROWS_SHOWN = 200


def write_result(rows: pa.Table, form: str, output: str | None) -> None:
    """Write a table to a file or to standard output.

    Args:
        rows: the answer.
        form: ``table`` (shortened to fit a screen), ``csv``, ``json`` (a list of objects) or ``parquet``.
        output: a path; None is standard output, where parquet is refused.
    """
    if form == "parquet":
        if output is None:
            raise ConfigError("parquet is not for a terminal; add --output FILE.parquet")
        pq.write_table(rows, output, compression="zstd")
    elif output is not None:
        with Path(output).open("w", newline="", encoding="utf-8") as file:
            _write(rows, form, file)
    else:
        _write(rows, form, sys.stdout)


def _write(rows: pa.Table, form: str, file: Any) -> None:
    if form == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows.column_names)
        for batch in rows.to_batches():
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    elif form == "json":
        json.dump(rows.to_pylist(), file, default=str, indent=1)
        file.write("\n")
    else:
        _print_table(rows, file)


def _print_table(rows: pa.Table, file: Any) -> None:
    shown = rows.slice(0, _MAX_ROWS_SHOWN)
    table = Table(show_edge=False, pad_edge=False)
    for field in rows.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        table.add_column(field.name, justify="right" if number else "left", overflow="fold")
    for row in zip(*(column.to_pylist() for column in shown.columns), strict=True):
        table.add_row(*(_cell(value) for value in row))
    console = Console(file=file, width=None if file.isatty() else 200)
    console.print(table)
    if len(rows) > len(shown):
        console.print(f"... {len(shown)} of {len(rows)} rows; --format csv, json or parquet gives all", style="dim")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
