"""The model store of a lake: files that are never overwritten, and events that say which model is in production.

In an object store, a model is used from a copy in the user's cache whose weights were checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from platformdirs import user_cache_path

from storage.delta import tables
from storage.delta.object_store import READ_BYTES, ObjectPath, StoragePath
from storage.delta.relations import read_errors, relation_sql, rows_of, shared_connection
from storage.errors import LakeError
from storage.lake import Lake
from storage.schema import TABLES

__all__ = ["CARD", "PACKAGE_MODEL", "WEIGHTS", "ModelEvent", "ModelStore", "StoredModel"]

#: The package's model, in production until a lake promotes one. A test compares it with the files in mfer/models.
PACKAGE_MODEL = "mfer_faceres.ferplus_v7@3a06e71de33e"
WEIGHTS = "weights.safetensors"
CARD = "card.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HASH_DIGITS = 12
_MAX_ATTEMPTS = 30


@dataclass(frozen=True)
class StoredModel:
    """A published model: ``path`` is where it is in the lake, with ``weights.safetensors`` and ``card.json``."""

    model_id: str
    name: str
    path: StoragePath
    in_production: bool
    published_utc: datetime
    card: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class ModelEvent:
    """One event in the life of the lake's models; ``gate_summary`` is that of a published candidate."""

    event: str
    model_id: str | None
    created_utc: datetime
    gate_summary: str


def _put_folder(target: Path, weights_path: Path, card: str) -> None:
    fresh = target.parent / f".new-{uuid.uuid4().hex}"
    try:
        fresh.mkdir()
        shutil.copyfile(weights_path, fresh / WEIGHTS)
        (fresh / CARD).write_text(card, encoding="utf-8")
        if not target.exists():
            os.rename(fresh, target)  # fails where another process was faster: the folder is not empty
    except FileExistsError:
        pass
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _fetched(folder: ObjectPath, model_id: str) -> Path:
    """A model from the cache, or copied into it from an object store."""
    kept = user_cache_path("mfer") / "models" / model_id
    card = (folder / CARD).read_text(encoding="utf-8")
    if kept.is_dir() and _is_whole(kept, model_id) and (kept / CARD).read_text(encoding="utf-8") == card:
        return kept
    fresh = kept.parent / f".new-{uuid.uuid4().hex}"
    try:
        fresh.mkdir(parents=True)
        with (fresh / WEIGHTS).open("wb") as file:
            shutil.copyfileobj((folder / WEIGHTS).open(), file, READ_BYTES)
        (fresh / CARD).write_text(card, encoding="utf-8")
        if not _is_whole(fresh, model_id):
            message = f"{folder / WEIGHTS} has other bytes than were published; restore it from a copy"
            raise LakeError(f"the lake is damaged: {message}", "damaged")
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(fresh, kept)
    except OSError:
        if not (kept.is_dir() and _is_whole(kept, model_id)):  # else another process was faster
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return kept


def _is_whole(folder: Path, model_id: str) -> bool:
    return (folder / WEIGHTS).is_file() and _sha256(folder / WEIGHTS).startswith(model_id.rpartition("@")[2])


def _sha256(path: StoragePath) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ModelStore:
    """The models of one lake."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self._folder = lake.location / "models"

    def publish(self, name: str, weights_path: str | Path, card: Mapping[str, Any]) -> str:
        """Copy a model into the lake; publishing the same weights and card again changes nothing.

        Returns:
            The model_id: the name, ``@`` and 12 hex digits of the weights' sha256.

        Raises:
            LakeError: the name is not a file name of letters, digits, ``.``, ``_`` and ``-``, is taken by other
                weights or another card (``model_exists``), or the lake cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise LakeError(f"{name!r} cannot name a model; use letters, digits, '.', '_' and '-'", "unknown_model")
        text = json.dumps(card, indent=2, sort_keys=True, allow_nan=False) + "\n"
        target = self._folder / name
        with tables.lake_errors(self.lake.location, "publishing a model into"):
            model_id = f"{name}@{_sha256(Path(weights_path))[:_HASH_DIGITS]}"
            if isinstance(target, ObjectPath):
                (target / WEIGHTS).create(Path(weights_path))
                (target / CARD).create(text.encode())  # of a killed process, too: it is added by the next
            else:
                _put_folder(target, Path(weights_path), text)
            stored = f"{name}@{_sha256(target / WEIGHTS)[:_HASH_DIGITS]}"
            if stored != model_id or (target / CARD).read_text(encoding="utf-8") != text:
                message = (
                    f"a model {name} with other weights or another card is in the lake ({stored}); choose a new name"
                )
                raise LakeError(message, "model_exists")
        self._record("publish", lambda events: _publication(events, model_id, name, card))
        return model_id

    def promote(self, model_id: str) -> None:
        """Make a published model, given by id or name, the one in production."""
        chosen = self._published(model_id)["model_id"]
        self._record("promote", lambda events: {"model_id": chosen})

    def rollback(self) -> str | None:
        """Undo the last promotion that is not undone yet.

        Returns:
            The model now in production; None for the package's own.
        """
        return self._record("rollback", _retreat)["model_id"]

    def production(self) -> str | None:
        """The model_id in production; None where none was promoted and the package's own model is meant."""
        promoted = _promoted(self._events())
        return promoted[-1] if promoted else None

    def published(self) -> list[StoredModel]:
        """Every published model, oldest first."""
        events = self._events()
        promoted = _promoted(events)
        return [
            StoredModel(
                event["model_id"],
                event["name"],
                self._folder / event["name"],
                bool(promoted) and promoted[-1] == event["model_id"],
                event["created_utc"],
                json.loads(event["card"]),
            )
            for event in events
            if event["event"] == "publish"
        ]

    def history(self) -> list[ModelEvent]:
        """Every event, oldest first."""
        return [
            ModelEvent(e["event"], e["model_id"], e["created_utc"], _gate_summary(e["card"])) for e in self._events()
        ]

    def was_promoted(self, model_id: str) -> bool:
        """Whether a model ever was put into production."""
        return any(e["event"] == "promote" and e["model_id"] == model_id for e in self._events())

    def path_of(self, model_id: str) -> Path:
        """A folder with a published model; a bare name will do, as each name has one model."""
        place = self.place_of(model_id)
        if isinstance(place, Path):
            return place
        with tables.lake_errors(self.lake.location, "fetching a model from"):
            return _fetched(place, self._published(model_id)["model_id"])

    def place_of(self, model_id: str) -> StoragePath:
        """Where the lake itself keeps a published model."""
        place = self._folder / self._published(model_id)["name"]
        for file in (place / WEIGHTS, place / CARD):
            if not file.is_file():
                raise LakeError(f"the lake is damaged: {file} is missing; restore it from a copy", "damaged")
        return place

    def _published(self, model_id: str) -> dict[str, Any]:
        published = [event for event in self._events() if event["event"] == "publish"]
        for event in published:
            if model_id in (event["model_id"], event["name"]):
                return event
        known = ", ".join(event["model_id"] for event in published) or "none"
        raise LakeError(f"no model {model_id} in the lake {self.lake.location}; published: {known}", "unknown_model")

    def _events(self) -> list[dict[str, Any]]:
        location = self.lake.location
        with read_errors(location), shared_connection() as con:
            return rows_of(con, f"{relation_sql(location, 'models')} ORDER BY sequence").to_pylist()

    def _record(self, event: str, decide: Callable[[list[dict[str, Any]]], dict[str, Any] | None]) -> dict[str, Any]:
        """Append the event that ``decide`` derives from those before it (None: nothing to append).

        An event is appended under its number, which of two writers one gets: the other decides again.
        """
        schema = TABLES["models"].schema
        for _ in range(_MAX_ATTEMPTS):
            events = self._events()
            decided = decide(events)
            if decided is None:
                return {}
            row = {"sequence": len(events) + 1, "event": event, "created_utc": datetime.now(UTC), **decided}
            rows = pa.Table.from_pylist([row], schema=schema)
            if self.lake.append("models", rows, transaction=str(row["sequence"])):
                return row
        raise LakeError(f"the lake {self.lake.location} is too busy to {event} a model", "busy")


def _gate_summary(card: str | None) -> str:
    gate = json.loads(card).get("metrics", {}).get("gate", {}) if card else {}
    return str(gate.get("summary", ""))


def _publication(
    events: list[dict[str, Any]], model_id: str, name: str, card: Mapping[str, Any]
) -> dict[str, Any] | None:
    if any(event["event"] == "publish" and event["model_id"] == model_id for event in events):
        return None
    return {"model_id": model_id, "name": name, "card": json.dumps(card, sort_keys=True)}


def _retreat(events: list[dict[str, Any]]) -> dict[str, Any]:
    promoted = _promoted(events)
    if not promoted:
        raise LakeError("there is no promotion to roll back", "unknown_model")
    return {"model_id": promoted[-2] if len(promoted) > 1 else None}


def _promoted(events: list[dict[str, Any]]) -> list[str]:
    """Promotions that are not undone, oldest first."""
    stack: list[str] = []
    for event in events:
        if event["event"] == "promote":
            stack.append(event["model_id"])
        elif event["event"] == "rollback":
            stack.pop()
    return stack
