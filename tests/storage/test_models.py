"""Models are published once, and events say which is in production."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.models import CARD, WEIGHTS, ModelStore
from storage.sql.views import run_sql

CARD_A = {"classes": ["neutral", "happiness"], "temperature": 1.25}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


def weights(folder: Path, content: bytes) -> Path:
    file = folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
    file.write_bytes(content)
    return file


def test_a_published_model_can_be_read_back(lake: Lake, tmp_path: Path) -> None:
    store = ModelStore(lake)
    model_id = store.publish("mfer_atto.ferplus_v1", weights(tmp_path, b"one"), CARD_A)
    assert model_id == "mfer_atto.ferplus_v1@" + hashlib.sha256(b"one").hexdigest()[:12]
    for name in (model_id, "mfer_atto.ferplus_v1"):
        assert (store.path_of(name) / WEIGHTS).read_bytes() == b"one"
        assert json.loads((store.path_of(name) / CARD).read_text()) == CARD_A
    (stored,) = store.published()
    assert (stored.model_id, stored.card, stored.in_production) == (model_id, CARD_A, False)


def test_publishing_never_overwrites(lake: Lake, tmp_path: Path) -> None:
    store = ModelStore(lake)
    model_id = store.publish("m", weights(tmp_path, b"one"), CARD_A)
    assert store.publish("m", weights(tmp_path, b"one"), CARD_A) == model_id
    for content, card in ((b"two", CARD_A), (b"one", {"classes": []})):
        with pytest.raises(LakeError, match=model_id) as error:
            store.publish("m", weights(tmp_path, content), card)
        assert error.value.code == "model_exists"
    assert (store.path_of("m") / WEIGHTS).read_bytes() == b"one"
    assert len(store.published()) == 1
    assert {entry.name for entry in (lake.location / "models").iterdir()} == {"m", "_events"}


@pytest.mark.parametrize("name", ["", "_events", "../up", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(lake: Lake, tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="cannot name a model"):
        ModelStore(lake).publish(name, weights(tmp_path, b"one"), CARD_A)


def test_promotion_moves_production_and_rollback_moves_it_back(lake: Lake, tmp_path: Path) -> None:
    store = ModelStore(lake)
    a, b, c = (store.publish(name, weights(tmp_path, name.encode()), CARD_A) for name in "abc")
    assert store.production() is None
    for model_id in (a, "b", c):
        store.promote(model_id)
    assert store.production() == c
    assert store.rollback() == b
    assert store.rollback() == a
    store.promote(c)
    assert store.rollback() == a
    assert store.rollback() is None
    assert store.production() is None
    with pytest.raises(LakeError, match="no promotion"):
        store.rollback()
    store.promote(b)
    answer = run_sql(lake, "SELECT model_id, in_production FROM models ORDER BY name").to_pylist()
    assert [(row["model_id"], row["in_production"]) for row in answer] == [(a, False), (b, True), (c, False)]


def test_an_unknown_model_is_refused_with_what_there_is(lake: Lake, tmp_path: Path) -> None:
    store = ModelStore(lake)
    known = store.publish("a", weights(tmp_path, b"a"), CARD_A)
    for attempt in (store.promote, store.path_of):
        with pytest.raises(LakeError, match=known) as error:
            attempt("nobody")
        assert error.value.code == "unknown_model"
    (store.path_of("a") / WEIGHTS).unlink()
    with pytest.raises(LakeError, match=WEIGHTS) as error:
        store.path_of("a")
    assert error.value.code == "damaged"


def publish_and_promote(location: Path, file: Path, rounds: int) -> None:
    store = ModelStore(Lake.open(location))
    for _ in range(rounds):
        store.promote(store.publish("m", file, CARD_A))


@pytest.mark.full
def test_events_of_racing_processes_have_one_order(lake: Lake, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    file = weights(tmp_path, b"one")
    racers = [spawn.Process(target=publish_and_promote, args=(lake.location, file, 5)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    store = ModelStore(lake)
    assert len(store.published()) == 1
    assert [store.rollback() for _ in range(10)] == [store.published()[0].model_id] * 9 + [None]
