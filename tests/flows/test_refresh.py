"""A model's life: labels, a candidate, the gate, production, and back. Tiny recipe, real faces, real videos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.analyze import analyze_folder
from flows.cli.main import main
from flows.refresh import RefreshOutcome, RefreshRequest, refresh_model
from flows.run import FolderRun
from mfer.card import read_card
from mfer.errors import ConfigError
from mfer.gate import GateRules
from pipelines.scoring.lookup import DEFAULT_MODEL, find_model
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.annotations.edits import add_edit, add_label
from storage.annotations.labels import suggested_faces
from storage.lake import Lake
from storage.maintenance.forget import forget_video
from storage.models import WEIGHTS, ModelStore
from storage.sql.views import run_sql
from tests.labelled import made_faces, write_parquet
from tests.models import tiny_model

#: Few faces show little: what is tested is that the gate is asked and obeyed; its margins are in mfer/test_gate.py.
RULES = GateRules(
    max_accuracy_loss=0.2,
    max_mean_recall_loss=0.2,
    max_ece_rise=1.0,
    max_class_recall_loss=0.3,
    min_class_faces=8,
    min_faces=30,
    max_slowdown=5.0,
    n_resamples=200,
)
RECIPE = """
description = "tiny"
[optimisation]
epochs = 8
batch_size = 16
optimizer = "adamw"
learning_rate = 1e-3
ema = 0.9
[augmentation]
flip = 0.0
rotate_deg = 5.0
erase = 0.0
"""
SETTINGS = AnalysisSettings(detector=DetectorSettings(min_face_px=36), segment_s=60.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_talk: Callable[..., Path]) -> Path:
    """A base set, three clips of a man, and a lake in which an untrained model is in production; do not change it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "data").mkdir()
    (folder / "videos").mkdir()
    write_parquet(folder / "data" / "train.parquet", made_faces(96, prefix="t"))
    write_parquet(folder / "data" / "valid.parquet", made_faces(128, seed=1, prefix="v"))
    (folder / "tiny.toml").write_text(RECIPE)
    for k, name in enumerate(("one", "two", "three")):
        write_talk(folder / "videos" / f"{name}.mp4", list(range(40 * k, 40 * k + 4)))
    lake = Lake.open(folder / "lake", create=True)
    first = tiny_model(folder / "first", name="mfer_atto.random_v1", seed=3)
    store = ModelStore(lake)
    card = read_card(first)
    trained = replace(card, training={"recipe": {"optimisation": {"logit_adjustment": 0.1}}})
    store.promote(store.publish(card.name, first / WEIGHTS, trained.to_dict()))
    analyze_folder(FolderRun((str(folder / "videos"),), str(folder / "lake"), settings=SETTINGS))
    return folder


@pytest.fixture
def lake(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A copy of that lake; caches of found landmarks are shared, states of killed runs are not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    return Lake.open(shutil.copytree(made / "lake", tmp_path / "lake"))


def request(made: Path, lake: Lake, **changes: object) -> RefreshRequest:
    plain = RefreshRequest(
        str(made / "data"),
        str(lake.location),
        str(made / "tiny.toml"),
        rules=RULES,
        work=str(lake.location.parent / "w"),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def label_everything(lake: Lake, video: str, person: str, expression: str = "happiness") -> None:
    """The man looks happy, as in the base set, says a person; and who he is, which decides train or test."""
    faces = [face for face in suggested_faces(lake, 100) if face["file_name"] == f"{video}.mp4"]
    assert faces
    keys = ("video_id", "faces_id", "frame_index", "time_s", "face_index", "track_id")
    for face in faces:
        add_label(lake, {key: face[key] for key in keys}, "expression", expression, "ann")
    face = faces[0]
    add_edit(lake, face["video_id"], "name", faces_id=face["faces_id"], track_id=face["track_id"], value=person)


def production(lake: Lake) -> str | None:
    return ModelStore(lake).production()


def test_without_labels_there_is_nothing_new_and_nothing_is_published(made: Path, lake: Lake) -> None:
    outcome = refresh_model(request(made, lake))
    assert (outcome.status, outcome.candidate) == ("nothing_new", None)
    assert "0 faces that no candidate has learned" in outcome.message
    assert len(ModelStore(lake).published()) == 1


@pytest.mark.full
def test_a_better_candidate_is_promoted_a_worse_one_refused_and_rollback_returns(made: Path, lake: Lake) -> None:
    first = production(lake)
    label_everything(lake, "one", "Tess")  # the hash of this name says train
    label_everything(lake, "two", "Ann")  # and of this one: test
    better = refresh_model(
        request(
            made,
            lake,
            reanalyze=True,
            golden=(str(made / "videos" / "three.mp4"),),
            rules=replace(RULES, min_golden_agreement=0.0),
        )
    )
    assert better.status == "promoted", better.message
    assert production(lake) == better.candidate
    assert better.production == first
    assert better.labels["n_train"] >= 1
    assert better.labels["n_test"] >= 1
    assert better.metrics["base set"]["candidate"]["accuracy"] > better.metrics["base set"]["production"]["accuracy"]
    assert {check.subject for check in better.decision.checks if check.outcome != "not judged"} >= {
        "base set",
        "labels",
    }
    card = read_card(find_model("default", lake))
    assert (card.model_id, card.parent) == (better.candidate, first)
    assert card.logit_adjustment == 0.1  # its parent's
    assert card.metrics["gate"]["summary"] == better.decision.summary
    _check_reanalysis(lake, better)

    assert refresh_model(request(made, lake)).status == "nothing_new"
    label_everything(lake, "three", "Tess", "fear")
    worse = refresh_model(request(made, lake, learning_rate=3.0, epochs=1))
    assert worse.status == "refused", worse.message
    assert "accuracy" in {check.name for check in worse.decision.failed}
    assert production(lake) == better.candidate
    published = {model.model_id: model for model in ModelStore(lake).published()}
    assert published[worse.candidate].card["metrics"]["gate"]["passes"] is False
    assert [model.name for model in published.values()][1:] == ["mfer_atto.random_v1_r1", "mfer_atto.random_v1_r2"]
    assert (
        card.training["labels"]["tested_videos"]
        == published[worse.candidate].card["training"]["labels"]["tested_videos"]
    )

    result = CliRunner().invoke(main, ["models", "history", "--lake", str(lake.location)])
    events = [line.split()[2] for line in result.output.splitlines()]
    assert events == ["publish", "promote", "publish", "promote", "publish"]
    assert "the gate fails: accuracy on" in result.output
    rolled = CliRunner().invoke(main, ["models", "rollback", "--lake", str(lake.location)])
    assert rolled.output == f"in production: {first}, before: {better.candidate}\n"
    assert production(lake) == first
    _check_that_small_losses_do_not_add_up(made, lake, str(first), better)
    gone = forget_video(lake, str(made / "videos" / "one.mp4"))  # a card of a model that learned it does not name it
    assert gone.left == ()
    assert gone.n_rows["labels"] >= 1


def _check_that_small_losses_do_not_add_up(made: Path, lake: Lake, first: str, better: RefreshOutcome) -> None:
    """Where a gate once let the untrained model in after the better one, the next candidate is held to the better."""
    store, gate = ModelStore(lake), {"passes": True, "promote": True, "production": better.candidate}
    card = {**next(m for m in store.published() if m.model_id == first).card, "name": "mfer_atto.slipped_v1"}
    card["metrics"] = {**card["metrics"], "gate": gate}
    store.promote(store.publish("mfer_atto.slipped_v1", store.path_of(first) / WEIGHTS, card))
    slipped = refresh_model(request(made, lake, epochs=1, learning_rate=1e-7, force=True))
    assert slipped.status == "refused", slipped.message
    assert {check.name for check in slipped.decision.failed} >= {"accuracy since earlier models"}
    assert "accuracy" not in {check.name for check in slipped.decision.failed}
    (check, *_) = (check for check in slipped.decision.failed if check.name == "accuracy since earlier models")
    assert f"against {better.candidate}, the hardest of 2" in check.reason


def _check_reanalysis(lake: Lake, outcome: RefreshOutcome) -> None:
    """The new model has scored every video on the stored boxes, and the old rows are as they were."""
    query = (
        "SELECT model_id, count(*) AS n, count(DISTINCT video_id) AS n_videos, sum(box_x1_px) AS boxes FROM scores_all"
    )
    rows = {row["model_id"]: row for row in run_sql(lake, f"{query} GROUP BY model_id").to_pylist()}
    old, new = rows[outcome.production], rows[outcome.candidate]
    assert (old["n"], old["n_videos"], old["boxes"]) == (new["n"], new["n_videos"], new["boxes"]) != (0, 0, 0)
    assert outcome.reanalysis is not None
    assert {o.status for run in outcome.reanalysis.runs for o in run.outcomes} == {"ok"}
    shown = run_sql(lake, "SELECT DISTINCT model_id FROM scores").to_pylist()
    assert shown == [{"model_id": outcome.candidate}]


@pytest.mark.full
def test_a_killed_run_goes_on_and_a_lost_promotion_is_made_up_for(made: Path, lake: Lake) -> None:
    label_everything(lake, "one", "Tess")

    class Killed(BaseException):
        pass

    steps: list[int] = []

    def kill_in_the_middle(stage: str, done: int, total: int) -> None:
        if stage.startswith("train"):
            steps.append(done)
            if done == 8:  # after the end of an epoch, which saves the state
                raise Killed

    with pytest.raises(Killed):
        refresh_model(request(made, lake, epochs=2), kill_in_the_middle)
    before, steps = steps, []
    outcome = refresh_model(
        request(made, lake, epochs=2, promote=True),
        lambda stage, done, n: steps.append(done) if stage[:5] == "train" else None,
    )
    assert before[-1] == 8
    assert steps[0] == 7  # the first epoch had six steps, and they are not taken again
    assert outcome.candidate is not None
    assert not (lake.location.parent / "w").exists() or not list((lake.location.parent / "w").iterdir())

    store = ModelStore(lake)
    card = dict(store.published()[-1].card)
    gate = {**card["metrics"]["gate"], "passes": True, "production": store.production()}
    weights = store.path_of(outcome.candidate) / WEIGHTS
    cut_off = store.publish(
        "mfer_atto.cut_v1", weights, {**card, "name": "mfer_atto.cut_v1", "metrics": {**card["metrics"], "gate": gate}}
    )
    assert production(lake) != cut_off
    assert refresh_model(request(made, lake)).status == "promoted"
    assert production(lake) == cut_off


def test_what_one_model_scored_can_be_scored_by_another_on_the_same_boxes(
    made: Path, lake: Lake, tmp_path: Path
) -> None:
    old, other = production(lake), tiny_model(tmp_path / "other", name="mfer_atto.other_v1", seed=5)
    words = ["models", "reanalyze", str(old), "--model", str(other), "--lake", str(lake.location)]
    first, second = (CliRunner().invoke(main, words) for _ in range(2))
    assert (first.exit_code, first.output) == (0, "3 ok, 0 partial, 0 failed, 0 skipped\n")
    assert (second.exit_code, second.output) == (0, "0 ok, 0 partial, 0 failed, 3 skipped\n")
    query = "SELECT model_id, count(*) AS n, sum(box_x1_px) AS boxes FROM scores_all GROUP BY model_id"
    rows = run_sql(lake, query).to_pylist()
    assert {row["model_id"] for row in rows} == {old, read_card(other).model_id}
    assert rows[0]["n"] == rows[1]["n"] > 0
    assert rows[0]["boxes"] == rows[1]["boxes"]


def test_an_old_model_that_nobody_knows_is_refused(made: Path, lake: Lake) -> None:
    other = tiny_model(made / "unused", name="mfer_atto.unused_v1", seed=6)
    unused = ModelStore(lake).publish("mfer_atto.unused_v1", other / WEIGHTS, read_card(other).to_dict())
    old = str(production(lake))
    outcomes = {}
    for name in (old[:-1], "nobody", unused, old.partition("@")[0]):
        outcomes[name] = CliRunner().invoke(main, ["models", "reanalyze", name, "--lake", str(lake.location)])
    assert [outcome.exit_code for outcome in outcomes.values()] == [2, 2, 0, 0]
    assert f"has scores of the model nobody; it has scores of {old}" in outcomes["nobody"].stderr
    assert outcomes[unused].output == "0 ok, 0 partial, 0 failed, 0 skipped\n"
    assert outcomes[old.partition("@")[0]].output == "0 ok, 0 partial, 0 failed, 3 skipped\n"


def test_settings_that_cannot_be_are_refused_before_anything_is_trained(made: Path, lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="min_new_faces is 0"):
        request(made, lake, min_new_faces=0)
    with pytest.raises(ConfigError, match="no recipe 'nobody'"):
        refresh_model(request(made, lake, recipe="nobody"))
    (tmp_path / "rules.toml").write_text("min_faces = true")
    words = ["models", "refresh", "--data", str(made / "data"), "--lake", str(lake.location)]
    done = CliRunner().invoke(main, [*words, "--rules", str(tmp_path / "rules.toml")])
    assert (done.exit_code, "gate rule min_faces is True" in done.output) == (2, True)
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["status"] == "nothing_new"


def test_a_model_of_the_package_and_a_folder_can_be_promoted(made: Path, lake: Lake, tmp_path: Path) -> None:
    def mfer(*words: str) -> str:
        done = CliRunner().invoke(main, ["models", *words, "--lake", str(lake.location)])
        assert done.exit_code == 0, done.output
        return done.output

    other = tiny_model(tmp_path / "other", name="mfer_atto.other_v1", seed=5)
    assert mfer("publish", str(other)) == f"{read_card(other).model_id}\n"
    assert f"in production: {read_card(other).model_id}" in mfer("promote", "mfer_atto.other_v1")
    assert "in production already" in mfer("promote", str(other))
    assert f"in production: {DEFAULT_MODEL}@" in mfer("promote", DEFAULT_MODEL)
    assert read_card(find_model("default", lake)).name == DEFAULT_MODEL
    assert f"in production: {read_card(other).model_id}" in mfer("rollback")
