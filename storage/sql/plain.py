"""Answers whose values every program can hold: dates, intervals and the like as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.delta.relations import memory_connection, rows_of

__all__ = ["as_objects", "as_text", "for_parquet", "is_plain"]


def is_plain(kind: pa.DataType) -> bool:
    """Whether Python has a number, a text or a truth value for all that a column of this type can hold."""
    of = pa.types
    tests = (of.is_integer, of.is_floating, of.is_boolean, of.is_string, of.is_large_string, of.is_decimal, of.is_null)
    return any(test(kind) for test in tests)


def as_text(rows: pa.Table) -> pa.Table:
    """The same table with text, as DuckDB writes it, in place of what is not plain."""
    if all(is_plain(field.type) for field in rows.schema):
        return rows
    columns = ", ".join(f"{_text(k, field.type)} AS {_name(k)}" for k, field in enumerate(rows.schema))
    return _asked(rows, f"SELECT {columns} FROM answer").rename_columns(rows.column_names)


def for_parquet(rows: pa.Table) -> pa.Table:
    """The same table with text in place of what Parquet cannot hold, such as intervals and unions, and a name of its
    own for each column."""
    own_names = _own_names(rows.column_names)
    held = [_parquet_holds(field) for field in rows.schema]
    if not all(held):
        columns = [_name(k) if holds else f"CAST({_name(k)} AS VARCHAR)" for k, holds in enumerate(held)]
        rows = _asked(rows, f"SELECT {', '.join(columns)} FROM answer")
    return rows.rename_columns(own_names)


def _parquet_holds(field: pa.Field) -> bool:
    try:
        pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    return True


def as_objects(rows: pa.Table) -> list[dict[str, Any]]:
    """A dictionary per row, of what JSON can hold; lists and structures stay what they are, and a name that is there
    twice gets a number, as in ``for_parquet``."""
    pairs = ", ".join(f"{_name(k)} := {_text(k, field.type, keep_nested=True)}" for k, field in enumerate(rows.schema))
    texts = _asked(rows, f"SELECT to_json(struct_pack({pairs})) AS row FROM answer")["row"].to_pylist()
    names = _own_names(rows.column_names)
    return [dict(zip(names, json.loads(text).values(), strict=True)) for text in texts]


def _own_names(names: Sequence[str]) -> list[str]:
    """Names of which none is there twice: ``a``, ``a_1``, as DuckDB numbers the columns of a subquery."""
    own: list[str] = []
    for name in names:
        fresh, number = name, 0
        while fresh in own or (number and fresh in names):
            number += 1
            fresh = f"{name}_{number}"
        own.append(fresh)
    return own


def _asked(rows: pa.Table, sql: str) -> pa.Table:
    with memory_connection() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("answer", rows.rename_columns([_name(k) for k in range(rows.num_columns)]))
        return rows_of(con, sql)


def _name(column: int) -> str:
    return f"column{column}"  # those of an answer may be the same twice


def _text(column: int, kind: pa.DataType, *, keep_nested: bool = False) -> str:
    name = _name(column)
    if is_plain(kind) or (keep_nested and pa.types.is_nested(kind)):
        return name
    if pa.types.is_timestamp(kind) and kind.tz is not None:  # ISO 8601 wants the minutes of the zone
        return f"CAST({name} AS VARCHAR) || CASE WHEN isfinite({name}) THEN ':00' ELSE '' END"
    return f"CAST({name} AS VARCHAR)"
