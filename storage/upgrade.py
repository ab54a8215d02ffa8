"""Bring a lake of an earlier schema version up to this program's, a step for each version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from storage.delta import MARKER, hold, lake_errors
from storage.errors import LakeError
from storage.objects import Place, place_of, replace_bytes
from storage.schema import SCHEMA_VERSION

__all__ = ["UPGRADES", "schema_version", "upgrade_lake", "write_marker"]

Step = Callable[[Place], None]

#: From each version to the next. A step gets the lake's folder, may be killed and is then done again from its start.
#: Version 1 is the first, so there is none yet; whoever raises SCHEMA_VERSION adds one, and a lake of the version
#: before beside tests/storage/lake_v1.
UPGRADES: dict[int, Step] = {}


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
