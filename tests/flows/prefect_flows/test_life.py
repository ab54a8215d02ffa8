"""By itself: an inbox that is looked into, a refresh on the server, the next look with the new model, and back."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.exceptions import ParameterTypeError

from flows.prefect_flows.drift_flow import check_drift_flow, drift_state
from flows.prefect_flows.refresh_flow import refresh_model_flow, refresh_state
from flows.refresh import RefreshOutcome
from mfer.card import read_card
from mfer.gate import Decision
from pipelines.video.encode import write_video
from storage.annotations.labels import Judgement, add_labels
from storage.drift import DriftFinding, DriftReport
from storage.errors import LakeError
from storage.lake import Lake
from storage.models import WEIGHTS, ModelStore
from storage.sql.views import run_sql
from tests.faces import astronaut
from tests.labelled import made_faces, write_parquet
from tests.models import tiny_model
from tests.prefect_server import ROOT, Background, answers, ask, prefect, quiet_machine, until
from tests.strangers import write_strangers

RECIPE = """
[optimisation]
epochs = 8
batch_size = 16
optimizer = "adamw"
learning_rate = 1e-3
ema = 0.9
"""
RULES = {"min_faces": 30, "max_accuracy_loss": 0.2, "max_mean_recall_loss": 0.2, "max_ece_rise": 1, "max_slowdown": 5}


@pytest.mark.parametrize(
    ("status", "missing", "name"),
    [("nothing_new", (), "Completed"), ("promoted", ("/gone.mp4",), "Completed"), ("refused", (), "CandidateRefused")],
)
def test_how_a_refresh_ends_is_its_state_and_what_is_gone_is_said(status: str, missing: Any, name: str) -> None:
    outcome = RefreshOutcome(status, "so it is", "m@1", "m@2", Decision(status == "promoted", ()), missing=missing)
    state = refresh_state(outcome)
    assert (state.name, state.is_completed()) == (name, True)
    assert str(state.message) == "so it is" + "".join(f"; gone or changed: {path}" for path in missing)


def test_drift_is_a_state_of_its_own() -> None:
    from datetime import UTC, datetime

    when = datetime(2026, 3, 2, tzinfo=UTC)
    small, large = (DriftFinding("/a", "sharpness", value, 0.3, 9, 30, 1.0, 2.0) for value in (0.2, 0.8))
    states = [drift_state(DriftReport("a", "m@1", when, when, when, (each,), ())) for each in (small, large)]
    assert [(state.name, state.is_completed()) for state in states] == [("Completed", True), ("DriftFound", True)]
    assert "sharpness of /a: 2 -> 1" in str(states[1].message)


@pytest.mark.parametrize(
    ("flow", "wrong"),
    [
        (refresh_model_flow, {"data": "faces", "epochs": 0}),
        (refresh_model_flow, {"data": "faces", "rules": {"min_faces": "many"}}),
        (check_drift_flow, {"recent_days": -1}),
    ],
    ids=["epochs", "min_faces", "recent_days"],
)
def test_wrong_parameters_are_refused_by_name(flow: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError, match=list(wrong)[-1]):
        flow.validate_parameters(wrong)


@pytest.mark.full
def test_a_life_on_a_server(tmp_path: Path, write_talk: Callable[..., Path]) -> None:
    env = quiet_machine(tmp_path) | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    for place in ("inbox", "faces"):
        (tmp_path / place).mkdir()
    write_parquet(tmp_path / "faces" / "train.parquet", made_faces(96, prefix="t"))
    write_parquet(tmp_path / "faces" / "valid.parquet", made_faces(128, seed=1, prefix="v"))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    lake = Lake.open(tmp_path / "lake", create=True)
    first = _promote(lake, tiny_model(tmp_path / "first", seed=3))
    for k in range(3):
        write_talk(tmp_path / "inbox" / f"{k}.mp4", list(range(40 * k, 40 * k + 4)))
    write_strangers(tmp_path)  # the folder that the command runs in, as a Prefect project has its own flows/
    words = ["mfer", "serve", "--lake", str(lake.location), "--inbox", str(tmp_path / "inbox"), "--every", "60"]
    served = Background([*words, "--data", str(tmp_path / "faces")], env, tmp_path)
    try:
        served.wait_for("Your deployments are being served")
        until(lambda: _n_videos(lake, first) == 3)  # nobody started that run
        _judge_everything(lake)
        refused = _run(env, "refresh-model/default", recipe=tmp_path / "tiny.toml", rules={**RULES, "min_faces": 10**6})
        assert "'CandidateRefused'" in refused
        assert ModelStore(lake).production() == first
        better = _run(env, "refresh-model/default", recipe=tmp_path / "tiny.toml", rules=RULES, force="true")
        assert "'Completed'" in better
        second = ModelStore(lake).production()
        assert second != first
        nothing = _run(env, "refresh-model/default", recipe=tmp_path / "tiny.toml", rules=RULES)
        assert "'Completed'" in nothing
        reasons = [artifact["data"] for artifact in ask(env, "artifacts", artifacts={"key": {"any_": ["promotion"]}})]
        assert sum("the gate passes" in text and "| accuracy | base set | pass |" in text for text in reasons) == 1
        assert sum("the gate fails: enough faces on all sets" in text for text in reasons) == 1
        assert sum("nothing new to learn from" in text for text in reasons) == 1

        write_talk(tmp_path / "inbox" / "late.mp4", [20, 21])
        until(lambda: _n_videos(lake, second) == 4)  # the next look into the inbox uses the new model, for all of it
        assert "'Completed'" in _run(env, "check-drift/default")
        assert ModelStore(lake).rollback() == first
        missing = prefect(
            env, "deployment", "run", "refresh-model/default", "-p", "data=/nowhere", "-p", "force=true", "--watch"
        )
        assert missing.returncode == 1
    finally:
        served.stop()


@pytest.mark.full
def test_a_run_that_dies_with_its_machine_ends_as_crashed_and_the_next_one_does_the_rest(tmp_path: Path) -> None:
    env = quiet_machine(tmp_path) | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "one.mp4", [astronaut()] * 40, 25)
    model = tiny_model(tmp_path / "model")
    address = httpx.URL(env["PREFECT_API_URL"])
    server = Background(["prefect", "server", "start", "--host", address.host, "--port", str(address.port)], env, ROOT)
    machines = []

    def machine() -> Background:
        machines.append(Background(["mfer", "serve", "--lake", str(tmp_path / "lake")], env, tmp_path))
        machines[-1].wait_for("Your deployments are being served")
        return machines[-1]

    parameters = {"folder": tmp_path / "videos", "model": model, "min_face": 12, "detect": "exact"}
    options = [text for name, value in parameters.items() for text in ("-p", f"{name}={value}")]
    try:
        until(lambda: answers(env))
        dies = machine()
        prefect(env, "deployment", "run", "analyze-folder/default", *options)
        until(lambda: _heartbeats(env))
        (run,) = ask(env, "flow_runs", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
        dies.stop(signal.SIGKILL)  # and every process of its session
        (crashed,) = until(lambda: ask(env, "flow_runs", flow_runs={"state": {"type": {"any_": ["CRASHED"]}}}))
        assert crashed["id"] == run["id"]
        assert "no heartbeat for 90 s" in crashed["state"]["message"]
        machine()
        assert "'Completed'" in _run(env, "analyze-folder/default", **parameters)
        n = run_sql(Lake.open(tmp_path / "lake"), "SELECT count(*) AS n FROM frames").to_pylist()[0]["n"]
        assert n == 40
    finally:
        for process in (*machines, server):
            process.stop()


def _heartbeats(env: dict[str, str]) -> list[Any]:
    payload = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
    answer = httpx.post(f"{env['PREFECT_API_URL']}/events/filter", json=payload, timeout=120)
    answer.raise_for_status()
    found: list[Any] = answer.json()["events"]
    return found


def _run(env: dict[str, str], deployment: str, **parameters: Any) -> str:
    texts = {k: json.dumps(v) if isinstance(v, dict) else str(v) for k, v in parameters.items()}
    options = [text for name, value in texts.items() for text in ("-p", f"{name}={value}")]
    done = prefect(env, "deployment", "run", deployment, *options, "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _promote(lake: Lake, folder: Path) -> str:
    store, card = ModelStore(lake), read_card(folder)
    store.promote(store.publish(card.name, folder / WEIGHTS, card.to_dict()))
    return card.model_id


def _n_videos(lake: Lake, model_id: str | None) -> int:
    try:
        rows = run_sql(lake, f"SELECT count(DISTINCT video_id) AS n FROM scores_all WHERE model_id = '{model_id}'")
    except LakeError:  # a commit is under way
        return -1
    return int(rows.to_pylist()[0]["n"])


def _judge_everything(lake: Lake) -> None:
    faces = run_sql(lake, "SELECT video_id, frame_index, face_index FROM scores").to_pylist()
    output = [Judgement(where="", verdict="expression", expression="happiness", rater="ann", **face) for face in faces]
    assert add_labels(lake, output)[0] == len(faces) > 0
