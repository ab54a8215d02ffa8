"""Delta tables as DuckDB relations over the files that their logs name; no extension, typed also when empty."""

from __future__ import annotations

import atexit
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

from storage.delta.object_store import ObjectPath, StoragePath
from storage.delta.tables import REMEDY, damaged_file, data_files, lake_errors
from storage.errors import LakeError
from storage.schema import TABLES

__all__ = [
    "Connection",
    "memory_connection",
    "quote",
    "read_errors",
    "relation_sql",
    "relations_sql",
    "rows_of",
    "shared_connection",
    "sql_type",
]

#: What ``storage.connect`` gives, for those who may not import DuckDB themselves.
Connection = duckdb.DuckDBPyConnection

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.list_(pa.float32()): "FLOAT[]",
}
_ERRORS_OF_QUERIES = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.PermissionException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
)


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of a column type of the lake."""
    return _SQL_TYPES[kind]


def quote(text: str) -> str:
    """Text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


_SETTINGS: dict[str, Any] = {
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",
}


def memory_connection() -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own that keeps nothing on disk, reads no Python variables and loads no extension."""
    return _connect(_SETTINGS, with_objects=ObjectPath.in_use)


@cache
def _engine(pid: int, with_objects: bool) -> duckdb.DuckDBPyConnection:
    # one thread: sums come out the same each time, and workers run side by side anyway
    con = _connect(_SETTINGS | {"threads": 1}, with_objects)
    if with_objects:
        atexit.register(con.close)  # before the interpreter takes apart what a file system of ours needs
    return con


def _connect(settings: dict[str, Any], with_objects: bool) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config=settings)
    con.execute("SET parquet_metadata_cache = true")  # data files never change: parse their ends once, not every time
    if with_objects:
        from storage.delta.duckdb_fs import LakeFiles

        con.register_filesystem(LakeFiles())
    return con


def shared_connection() -> duckdb.DuckDBPyConnection:
    """A cursor on this process's own engine, for the lake's own reads: opening an engine costs 50 ms.

    Only temporary views may be made in it; they are the cursor's alone.
    """
    return _engine(os.getpid(), ObjectPath.in_use).cursor()  # by process: an engine does not survive a fork


def rows_of(con: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> pa.Table:
    """The answer to a query as a table in memory."""
    return con.sql(sql, params=list(values)).to_arrow_table()


def relation_sql(
    location: StoragePath,
    name: str,
    *,
    analysis_id: str | None = None,
    video_ids: Iterable[str] | None = None,
    without: Collection[str] = (),
) -> str:
    """A SELECT of all columns of a table, in the schema's order and types.

    ``analysis_id`` and ``video_ids`` only leave out files (see ``data_files``): the caller filters rows. ``without``
    are paths of files that are known to be broken.
    """
    table = TABLES[name]
    files = data_files(location, name, analysis_id=analysis_id, video_ids=video_ids)
    files = [file for file in files if file not in without]
    if not files:
        columns = ", ".join(f"CAST(NULL AS {sql_type(field.type)}) AS {field.name}" for field in table.schema)
        return f"SELECT {columns} WHERE false"
    listed = ", ".join(quote(file) for file in files)
    # a partition value of digits alone must stay text
    types = ", ".join(f"{column}: VARCHAR" for column in table.partition_by)
    hive = f"hive_partitioning = true, hive_types = {{{types}}}" if types else "hive_partitioning = false"
    return f"SELECT {', '.join(table.schema.names)} FROM read_parquet([{listed}], {hive})"


def relations_sql(
    location: StoragePath, names: Sequence[str], *, video_ids: Iterable[str] | None = None
) -> dict[str, str]:
    """``relation_sql`` of several tables by name; in an object store their logs are read side by side."""
    wanted = None if video_ids is None else sorted(video_ids)
    if not isinstance(location, ObjectPath):
        return {name: relation_sql(location, name, video_ids=wanted) for name in names}
    with ThreadPoolExecutor(len(names)) as pool:
        found = pool.map(lambda name: relation_sql(location, name, video_ids=wanted), names)
        return dict(zip(names, found, strict=True))


@contextmanager
def read_errors(location: StoragePath) -> Iterator[None]:
    """Turn DuckDB's errors over damaged or missing data files into LakeError that names the file."""
    try:
        yield
    except (duckdb.InterruptException, duckdb.OutOfMemoryException):
        raise  # no reason to doubt the files, which without memory would all seem damaged
    except duckdb.Error as error:
        # a query that is wrong by itself is no reason to read the whole lake
        with lake_errors(location, "reading"):  # an object store may be out of reach
            file = damaged_file(location, read=not isinstance(error, _ERRORS_OF_QUERIES))
        if file is not None:
            message = f"the lake {location} is damaged: {file} is missing or broken; {REMEDY}"
            raise LakeError(message, "damaged") from error
        if isinstance(error, duckdb.IOException) and f"{location}/" in str(error) and ".parquet" in str(error):
            message = f"files of the lake {location} were taken away while it was read; ask again"
            raise LakeError(message, "busy") from error
        raise
