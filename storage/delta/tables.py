"""Delta tables: appends that happen exactly once, the files that a table's log names, and foreign errors made ours."""

from __future__ import annotations

import fcntl
import random
import re
import time
import uuid
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import ColumnProperties, CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from storage.delta.lease import lease
from storage.delta.object_store import NAMED_BYTES, ObjectPath, StoragePath, StoreError, plain_reason, storage_options
from storage.delta.transactions import names_among
from storage.errors import LakeError
from storage.rounding import round_for_storage
from storage.schema import OBSERVATIONS, TABLES, LakeTable, conform

__all__ = [
    "KEEP_DAYS",
    "MARKER",
    "REMEDY",
    "append_once",
    "as_stored",
    "committed",
    "compact",
    "count_rows_in",
    "create_table",
    "damaged_file",
    "data_files",
    "lake_errors",
    "lock",
    "named_files",
    "open_table",
    "writer_properties",
]

#: The file that makes a folder a lake.
MARKER = "lake.json"
#: What to do about a data file that a log names and that is missing or broken.
REMEDY = (
    "restore it from a copy, or let `mfer lake check --repair` take it out, after which the next analysis does its "
    "videos again"
)
#: Rows that are rounded and handed to the Parquet writer at a time: what bounds memory beside the caller's table.
_ROWS_PER_BATCH = 65_536
_ROWS_PER_ROW_GROUP = 131_072
_MAX_ATTEMPTS = 30
#: For so long compaction keeps files of older versions, so that whoever reads one of those can end (Delta's default).
KEEP_DAYS = 7
_ERRNO = re.compile(r"os error (\d+)")
_FULL = {"28", "122", "27"}  # no space left, quota exceeded, file too large
_FORBIDDEN = {"30", "13", "1"}  # read-only file system, permission denied, operation not permitted
_MISSING = {"2"}
_NO_PATH = {"36", "40"}  # name too long, links in a circle
_REFUSED = re.compile(
    r"\b(403|401)\b|necessary privileges|AccessDenied|InvalidAccessKey|SignatureDoesNotMatch"
    r"|[Cc]redential|must be specified"
)
#: Attempts after an object store broke off: it may have stored what it never confirmed, so each looks first.
_MAX_BROKEN_OFF = 5


@contextmanager
def lake_errors(location: StoragePath, doing: str) -> Iterator[None]:
    """Turn errors of the file system and of Delta Lake into LakeError, with what to do about them."""
    try:
        yield
    except LakeError:
        raise
    except TableNotFoundError as error:
        raise LakeError(
            f"the lake {location} is damaged ({doing} it failed: {error}); restore it from a copy", "damaged"
        ) from error
    except (OSError, DeltaError) as error:
        if isinstance(location, ObjectPath):
            raise _store_error(location, doing, error) from error
        text = str(error)
        found = _ERRNO.search(text)
        number = str(error.errno) if isinstance(error, OSError) and error.errno else found.group(1) if found else ""
        if number in _FULL:
            message = f"the disk is full while {doing} {location}; free some space and run again: what is done is kept"
            raise LakeError(message, "disk_full") from error
        if number in _FORBIDDEN:
            message = f"no permission to write while {doing} {location} ({text}); name a folder that can be written"
            raise LakeError(message, "read_only") from error
        if number in _NO_PATH:
            raise LakeError(f"{location} is no possible path ({text}); name another folder", "bad_location") from error
        if number in _MISSING:
            message = f"the lake {location} is damaged ({doing} it failed: {text}); {REMEDY}"
            raise LakeError(message, "damaged") from error
        raise LakeError(f"failed while {doing} {location}: {text}", "failed") from error


def _store_error(location: ObjectPath, doing: str, error: Exception) -> LakeError:
    reason = plain_reason(str(error))
    if isinstance(error, CommitFailedError):
        return LakeError(f"failed while {doing} {location}: {reason}", "failed")
    if "NoSuchBucket" in reason or "ContainerNotFound" in reason:
        return LakeError(f"{location} is in no bucket that exists ({reason}); make the bucket first", "bad_location")
    if _REFUSED.search(reason):
        message = f"the object store refuses {doing} {location} ({reason}); check the keys in the environment"
        return LakeError(f"{message} and what they may do (docs/object_storage.md)", "read_only")
    if isinstance(error, FileNotFoundError) or "not found" in reason:
        return LakeError(f"the lake {location} is damaged ({doing} it failed: {reason}); {REMEDY}", "damaged")
    message = f"the object store failed while {doing} {location} ({reason}); run again: what is done is kept"
    return LakeError(message, "unreachable")


@contextmanager
def lock(location: StoragePath, *, exclusive: bool = False) -> Iterator[None]:
    """Lock the lake while something is done to it: shared by many, or ``exclusive``.

    Delta's own commits need no lock. But ``rewrite_log`` takes old versions away, and a writer that still looks at one
    of those could commit where nobody will look. The kernel lets go when a process dies, however it dies.

    An object store has no such lock. There, writers hold nothing, and an exclusive lock excludes only its like
    (``storage.delta.lease``); writers are fenced off by their own commits (``storage.delta.fence``).
    """
    if isinstance(location, ObjectPath):
        with lake_errors(location, "locking"), lease(location) if exclusive else nullcontext():
            yield
        return
    with lake_errors(location, "locking"), (location / MARKER).open("r+b" if exclusive else "rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


def writer_properties(table: LakeTable) -> WriterProperties:
    columns = {}
    for field in table.schema:
        if field.name in table.partition_by:
            continue
        if field.name == "duration_s":
            columns[field.name] = ColumnProperties(dictionary_enabled=True)  # few distinct values
        elif pa.types.is_floating(field.type):
            columns[field.name] = ColumnProperties(dictionary_enabled=False, encoding="BYTE_STREAM_SPLIT")
        elif pa.types.is_integer(field.type):
            columns[field.name] = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
    return WriterProperties(
        compression="ZSTD", compression_level=3, max_row_group_size=_ROWS_PER_ROW_GROUP, column_properties=columns
    )


def create_table(location: StoragePath, table: LakeTable) -> None:
    """Create one empty table; does nothing where it exists, also when another process creates it meanwhile."""
    place, options = _address(location, table.name), storage_options(location)
    if isinstance(location, Path):
        (location / table.place).mkdir(parents=True, exist_ok=True)
    # statistics of the other columns would make the log larger than small data files, and nothing prunes by them
    keys = [name for name in ("video_id",) if name in table.schema.names]
    configuration = {"delta.dataSkippingStatsColumns": ",".join(keys)} if keys else {}
    if options is not None:  # each entry of a log since its last checkpoint is a request, or two, whoever opens it
        configuration["delta.checkpointInterval"] = "10"
    try:
        DeltaTable.create(
            place,
            schema=table.schema,
            mode="ignore",
            partition_by=list(table.partition_by),
            name=table.name,
            description=table.meaning,
            configuration=configuration or None,
            storage_options=options,
        )
    except DeltaError:
        if not DeltaTable.is_deltatable(str(place), options):
            raise


def _address(location: StoragePath, name: str) -> str | Path:
    place = location / TABLES[name].place
    return place if isinstance(place, Path) else str(place)


def open_table(location: StoragePath, name: str) -> DeltaTable:
    """The newest version of a table. Raises LakeError where it is missing or its log cannot be read."""
    with lake_errors(location, f"reading {name} of"):
        return DeltaTable(_address(location, name), storage_options=storage_options(location))


def committed(
    location: StoragePath, name: str, transactions: Collection[str], snapshot: DeltaTable | None = None
) -> set[str]:
    """Those of some transaction names whose appends are in a table, or in a snapshot of it."""
    snapshot = snapshot or open_table(location, name)
    with lake_errors(location, f"reading {name} of"):
        return names_among(snapshot, location / TABLES[name].place / "_delta_log", transactions)


def append_once(location: StoragePath, name: str, parts: Mapping[str, pa.Table], *, held: bool = False) -> set[str]:
    """Append rows in one commit, each part exactly once under its transaction name.

    Parts that are in the table already are left out, also when another process commits them meanwhile.
    ``held``: the caller holds the exclusive lock.

    Returns:
        The names that this call committed.
    """
    table = TABLES[name]
    parts = {key: conform(rows, table.schema) for key, rows in parts.items()}
    properties = writer_properties(table)
    log, writer, n_broken_off = location / table.place / "_delta_log", uuid.uuid4().hex, 0
    for attempt in range(_MAX_ATTEMPTS):
        with nullcontext() if held else lock(location):
            snapshot = open_table(location, name)
            wanted, there = set(parts), committed(location, name, parts.keys(), snapshot)
            parts = {key: rows for key, rows in parts.items() if key not in there}
            if n_broken_off and wanted - set(parts) and _wrote(log, snapshot.version(), writer):
                return wanted - set(parts)  # all of them: a commit happens whole or not at all
            if not parts:
                return set()
            # in order of their names, so of videos: each row group has few, and whoever asks for one reads few groups
            rows = pa.concat_tables(parts[key] for key in sorted(parts))
            properties_of_commit = CommitProperties(
                app_transactions=[Transaction(key, 1) for key in parts],
                custom_metadata={"writer": writer} if isinstance(location, ObjectPath) else None,
            )
            try:
                with lake_errors(location, f"writing {name} to"):
                    write_deltalake(
                        snapshot,
                        _batches(table, rows),
                        mode="append",
                        writer_properties=properties,
                        commit_properties=properties_of_commit,
                    )
                return set(parts)
            except LakeError as error:
                # a store's client asks again where an answer got lost, and then finds its own commit in the way
                n_broken_off += isinstance(location, ObjectPath)
                if not _was_outrun(error) and (error.code != "unreachable" or n_broken_off >= _MAX_BROKEN_OFF):
                    raise
        time.sleep(random.uniform(0, 0.01 * (attempt + 1)))  # another writer was faster: look again
    raise LakeError(f"the lake {location} is too busy: {_MAX_ATTEMPTS} attempts to write {name} failed", "busy")


def _wrote(log: StoragePath, newest: int, writer: str) -> bool:
    """Whether one of the latest commits is that writer's, though it got no confirmation."""
    for version in range(newest, max(newest - _MAX_ATTEMPTS, -1), -1):
        entry = log / f"{version:020d}.json"
        if entry.exists() and writer in entry.read_text():
            return True
    return False


def _was_outrun(error: LakeError) -> bool:
    return isinstance(error.__cause__, CommitFailedError) and error.code == "failed"


def _batches(table: LakeTable, rows: pa.Table) -> pa.RecordBatchReader:
    def rounded() -> Iterator[pa.RecordBatch]:
        for batch in rows.to_batches(max_chunksize=_ROWS_PER_BATCH):
            yield from as_stored(table, pa.Table.from_batches([batch])).to_batches()

    return pa.RecordBatchReader.from_batches(table.schema, rounded())


def as_stored(table: LakeTable, rows: pa.Table) -> pa.Table:
    """Rows as the table will hold them: its columns and types, rounded as its schema says."""
    rows = conform(rows, table.schema)
    return (round_for_storage(rows) if table is OBSERVATIONS else rows).cast(table.schema)


def named_files(location: StoragePath, name: str) -> pa.Table:
    """The data files that the newest version of a table names, a row each: path, size_bytes, statistics, partition."""
    actions = open_table(location, name).get_add_actions(flatten=True)
    return pa.RecordBatchReader.from_stream(actions).read_all()  # pa.table would import pandas: 0.2 s of each command


def data_files(
    location: StoragePath, name: str, *, analysis_id: str | None = None, video_ids: Iterable[str] | None = None
) -> list[str]:
    """Paths of the Parquet files that the newest version of a table names.

    ``analysis_id`` and ``video_ids`` leave out files that, by partition and statistics in the log, hold no such row;
    what is left may hold other rows too. No data file is opened.
    """
    files = named_files(location, name)
    if analysis_id is not None and "partition.analysis_id" in files.column_names:
        files = files.filter(pc.equal(files["partition.analysis_id"], analysis_id))
    if video_ids is not None and "min.video_id" in files.column_names and len(files):
        wanted = sorted(video_ids)
        bounds = zip(files["min.video_id"].to_pylist(), files["max.video_id"].to_pylist(), strict=True)
        keep = [low is None or high is None or _any_between(wanted, low, high) for low, high in bounds]
        files = files.filter(pa.array(keep, pa.bool_()))
    else:  # DuckDB takes the first file's rows for those of each: after a small one it would join the wrong way round
        files = files.sort_by([("size_bytes", "descending")])
    # the log's own URIs are percent-encoded, also for local files: join the relative paths ourselves
    paths = [str(location / TABLES[name].place / path) for path in files["path"].to_pylist()]
    if isinstance(location, ObjectPath):
        NAMED_BYTES.update(zip(paths, files["size_bytes"].to_pylist(), strict=True))
    return paths


def _any_between(wanted: list[str], low: str, high: str) -> bool:
    first = bisect_left(wanted, low)
    return first < len(wanted) and wanted[first] <= high


def damaged_file(location: StoragePath, *, read: bool = False) -> str | None:
    """The first data file that a log names and that is missing or has another size than the log says.

    With ``read``, every file is read to the end too, which finds damage in the middle and takes its time.
    """
    for name, table in TABLES.items():
        files = named_files(location, name)
        for path, size in zip(files["path"].to_pylist(), files["size_bytes"].to_pylist(), strict=True):
            file = location / table.place / path
            if not file.is_file() or file.stat().st_size != size or (read and count_rows_in(file) is None):
                return str(file)
    return None


def count_rows_in(file: StoragePath) -> int | None:
    """The rows of a Parquet file that can be read to its end; None where it cannot. Raises StoreError."""
    try:
        with pq.ParquetFile(file if isinstance(file, Path) else file.open()) as parquet:
            return sum(len(batch) for batch in parquet.iter_batches())
    except StoreError:
        raise  # nobody knows
    except (OSError, pa.ArrowException):
        return None


def compact(location: StoragePath, name: str) -> tuple[int, int]:
    """Rewrite many small files of a table as few; rows and transactions stay, readers and writers go on.

    Files that no version of the last KEEP_DAYS days names are deleted, also those that killed writers left behind.

    Returns:
        Number of data files before and after.
    """
    before = len(data_files(location, name))
    for attempt in range(_MAX_ATTEMPTS):
        try:
            with lock(location), lake_errors(location, f"compacting {name} of"):
                table = open_table(location, name)
                table.optimize.compact(writer_properties=writer_properties(TABLES[name]))
                table.vacuum(retention_hours=24 * KEEP_DAYS, dry_run=False, full=True)
            return before, len(data_files(location, name))
        except LakeError as error:
            if not _was_outrun(error):
                raise
        time.sleep(random.uniform(0, 0.01 * (attempt + 1)))
    raise LakeError(f"the lake {location} is too busy: {_MAX_ATTEMPTS} attempts to compact {name} failed", "busy")
