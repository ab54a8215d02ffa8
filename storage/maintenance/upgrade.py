"""Bring a lake of an earlier schema version up to this program's, a step for each version."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake

from storage.delta.object_store import Place, place_of
from storage.delta.relations import Connection, quote, read_errors, relation_sql, rows_of, shared_connection
from storage.delta.tables import (
    append_once,
    create_table,
    data_files,
    hold,
    lake_errors,
    open_table,
    writer_properties,
)
from storage.errors import LakeError
from storage.lake import schema_version, write_marker
from storage.schema import SCHEMA_VERSION, TABLES, conform
from storage.summary import sum_seconds, sum_stretches

__all__ = ["UPGRADES", "upgrade_lake"]

Step = Callable[[Place], None]
Summed = Callable[[Connection, pa.Table], pa.Table]

#: Tables that stay small: rewriting them whole takes a moment.
_SMALL = ("runs", "labels", "edits", "models", "drift")


def _renew_small_tables(location: Place) -> None:
    """Give the small tables the columns of today; those that are new are NULL in rows of before."""
    for name in _SMALL:
        table, snapshot = TABLES[name], open_table(location, name)
        rows = snapshot.to_pyarrow_table()
        if rows.schema.equals(table.schema, check_metadata=True):
            continue
        write_deltalake(
            snapshot,
            conform(rows, table.schema),
            mode="overwrite",
            schema_mode="overwrite",
            writer_properties=writer_properties(table),
        )


_VIDEOS_AT_A_TIME = 100


def _batches_of(location: Place, table: str) -> Iterator[tuple[str, list[str]]]:
    """An analysis and some videos of which a table has rows, until all are named; it may lack columns of today."""
    if not (files := data_files(location, table)):
        return
    with read_errors(location), shared_connection() as con:
        listed = ", ".join(map(quote, files))
        keys = f"SELECT DISTINCT analysis_id, video_id FROM read_parquet([{listed}]) ORDER BY ALL"
        rows = rows_of(con, keys).to_pylist()
    for analysis_id, of_analysis in groupby(rows, key=lambda row: row["analysis_id"]):
        videos = [row["video_id"] for row in of_analysis]
        for first in range(0, len(videos), _VIDEOS_AT_A_TIME):
            yield analysis_id, videos[first : first + _VIDEOS_AT_A_TIME]


def _sum_again(location: Place, analysis_id: str, video_ids: Sequence[str], summed: Summed) -> pa.Table:
    """What the observations of some videos add up to."""
    wanted = f"analysis_id = {quote(analysis_id)} AND video_id IN ({', '.join(map(quote, video_ids))})"
    with read_errors(location), shared_connection() as con:
        files = relation_sql(location, "observations", analysis_id=analysis_id, video_ids=video_ids)
        con.execute(f"CREATE TEMP VIEW observations AS SELECT * FROM ({files}) WHERE {wanted}")
        tracks = relation_sql(location, "tracks", video_ids=video_ids)
        return summed(con, rows_of(con, f"SELECT * FROM ({tracks}) WHERE {wanted}"))


def _add_stretches(location: Place) -> None:
    """Sum the table ``stretches`` from the observations of every finished video."""
    create_table(location, TABLES["stretches"])
    for analysis_id, videos in _batches_of(location, "videos"):
        rows = _sum_again(location, analysis_id, videos, sum_stretches)
        of_video = {f"{analysis_id}/{name}": rows.filter(pc.equal(rows["video_id"], name)) for name in videos}
        append_once(location, "stretches", of_video, held=True)


def _renew_seconds(location: Place) -> None:
    """Sum the table ``seconds`` anew in one commit: of the videos that have rows in it, finished or not, because the
    log keeps the names of their commits."""
    table = TABLES["seconds"]
    with tempfile.TemporaryDirectory() as folder:  # Delta's writer takes no generator that reads Delta tables itself
        file = str(Path(folder) / "seconds.arrow")
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for analysis_id, videos in _batches_of(location, "seconds"):
                writer.write_table(conform(_sum_again(location, analysis_id, videos, sum_seconds), table.schema))
        with pa.memory_map(file) as source:
            write_deltalake(
                open_table(location, "seconds"),
                pa.ipc.open_file(source).read_all(),
                mode="overwrite",
                schema_mode="overwrite",
                writer_properties=writer_properties(table),
            )


#: From each version to the next. A step gets the lake's folder, may be killed and is then done again from its start.
#: Whoever raises SCHEMA_VERSION adds one, and a lake of the version before beside tests/storage/maintenance/lake_v1.
#: 1 to 2: ``runs`` got the column ``log``; 2 to 3: the table ``stretches``; 3 to 4: ``seconds`` got
#: ``n_faces_ok``, ``max_entropy`` and ``min_margin``.
UPGRADES: dict[int, Step] = {1: _renew_small_tables, 2: _add_stretches, 3: _renew_seconds}


def upgrade_lake(
    location: str | Place, *, steps: Mapping[int, Step] = UPGRADES, to_version: int = SCHEMA_VERSION
) -> list[int]:
    """Do the steps that a lake lacks, one by one; the marker is written after each, so a killed upgrade goes on.

    Returns:
        The versions that it has gone through; empty where the lake is as new as the program.

    Raises:
        LakeError: not a lake, newer than this program, no step for its version, or it cannot be written.
    """
    place = place_of(location)
    with lake_errors(place, "opening"):
        schema_version(place)
    done = []
    with hold(place, alone=True), lake_errors(place, "upgrading"):
        version = schema_version(place)
        while version < to_version:
            if version not in steps:
                message = (
                    f"the lake {place} has schema version {version}, from which no upgrade to {to_version} is known"
                )
                raise LakeError(message, "schema_version")
            steps[version](place)
            version += 1
            write_marker(place, version)
            done.append(version)
    if version > to_version:
        message = f"the lake {place} has schema version {version}, this program knows {to_version}; use a newer program"
        raise LakeError(message, "schema_version")
    return done
