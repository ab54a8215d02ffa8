"""Bring a lake of an earlier schema version up to this program's, a step for each version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import pyarrow.compute as pc
from deltalake import write_deltalake

from storage.delta import MARKER, append_once, create_table, hold, lake_errors, open_table, writer_properties
from storage.errors import LakeError
from storage.objects import Place, place_of, replace_bytes
from storage.relations import quote, read_errors, relation_sql, rows_of, shared_connection
from storage.schema import SCHEMA_VERSION, TABLES, conform
from storage.summary import sum_stretches

__all__ = ["UPGRADES", "schema_version", "upgrade_lake", "write_marker"]

Step = Callable[[Place], None]

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


_VIDEOS_PER_COMMIT = 100


def _add_stretches(location: Place) -> None:
    """Sum the table ``stretches`` from the observations of every finished video."""
    create_table(location, TABLES["stretches"])
    with read_errors(location), shared_connection() as con:
        keys = f"SELECT analysis_id, video_id FROM ({relation_sql(location, 'videos')}) ORDER BY ALL"
        by_analysis: dict[str, list[str]] = {}
        for row in rows_of(con, keys).to_pylist():
            by_analysis.setdefault(row["analysis_id"], []).append(row["video_id"])
    for analysis_id, videos in by_analysis.items():
        for first in range(0, len(videos), _VIDEOS_PER_COMMIT):
            _sum_stretches_of(location, analysis_id, videos[first : first + _VIDEOS_PER_COMMIT])


def _sum_stretches_of(location: Place, analysis_id: str, video_ids: Sequence[str]) -> None:
    wanted = f"analysis_id = {quote(analysis_id)} AND video_id IN ({', '.join(map(quote, video_ids))})"
    with read_errors(location), shared_connection() as con:
        files = relation_sql(location, "observations", analysis_id=analysis_id, video_ids=video_ids)
        con.execute(f"CREATE TEMP VIEW observations AS SELECT * FROM ({files}) WHERE {wanted}")
        tracks = relation_sql(location, "tracks", video_ids=video_ids)
        rows = sum_stretches(con, rows_of(con, f"SELECT * FROM ({tracks}) WHERE {wanted}"))
    of_video = {f"{analysis_id}/{name}": rows.filter(pc.equal(rows["video_id"], name)) for name in video_ids}
    append_once(location, "stretches", of_video, held=True)


#: From each version to the next. A step gets the lake's folder, may be killed and is then done again from its start.
#: Whoever raises SCHEMA_VERSION adds one, and a lake of the version before beside tests/storage/lake_v1.
#: 1 to 2: ``runs`` got the column ``log``; 2 to 3: the table ``stretches``.
UPGRADES: dict[int, Step] = {1: _renew_small_tables, 2: _add_stretches}


def schema_version(location: Place) -> int:
    """The version that a lake's marker states. Raises LakeError where there is no marker or it cannot be read."""
    marker = location / MARKER
    if not marker.is_file():
        raise LakeError(
            f"{location} is not a lake (it has no {MARKER}); name a lake, or analyse videos to make one", "not_a_lake"
        )
    try:
        return int(json.loads(marker.read_text(encoding="utf-8"))["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise LakeError(f"{marker} is damaged: {error}; restore it from a copy", "damaged") from error


def write_marker(location: Place, version: int) -> None:
    """Make a folder a lake of a version, in one step."""
    replace_bytes(location / MARKER, (json.dumps({"schema_version": version}) + "\n").encode())


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
