"""The promotion gate: better opens it, worse shuts it, and every decision has its reasons."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfer.errors import ConfigError
from mfer.gate import Decision, GateRules, GoldenScores, PairedScores, Speed, decide_promotion

CLASSES = ("neutral", "happiness", "surprise", "sadness")
RULES = GateRules(n_resamples=400)


def scores(majority: np.ndarray, accuracy: float, rng: np.random.Generator, confidence: float = 0.0) -> np.ndarray:
    """Probabilities [N,K] of a model that is right with a probability, and as sure of itself as it is right."""
    k = len(CLASSES)
    right = rng.random(len(majority)) < accuracy
    top = np.where(right, majority, (majority + rng.integers(1, k, len(majority))) % k)
    sure = confidence or accuracy
    prob = np.full((len(majority), k), (1 - sure) / (k - 1))
    prob[np.arange(len(majority)), top] = sure
    return prob


def mend(
    prob: np.ndarray, majority: np.ndarray, share: float, rng: np.random.Generator, to: str = "right"
) -> np.ndarray:
    """The same model with a share of its faces made right, or wrong."""
    changed = prob.copy()
    for i in np.flatnonzero(rng.random(len(prob)) < share):
        aim = majority[i] if to == "right" else (majority[i] + 1) % len(CLASSES)
        at = prob[i].argmax()
        changed[i, [at, aim]] = prob[i, [aim, at]]
    return changed


def calibrated(prob: np.ndarray, majority: np.ndarray) -> np.ndarray:
    """The same top classes, as sure as they are right: what temperature scaling does for a real candidate."""
    top = np.eye(len(CLASSES))[prob.argmax(1)]
    accuracy = float((prob.argmax(1) == majority).mean())
    return top * accuracy + (1 - top) * (1 - accuracy) / (len(CLASSES) - 1)


def paired(
    n: int, seed: int, candidate: float, production: float, per_video: int = 1, name: str = "base"
) -> PairedScores:
    rng = np.random.default_rng(seed)
    majority = np.arange(n) % len(CLASSES)
    group = [str(i // per_video) for i in range(n)]
    return PairedScores(
        name,
        scores(majority, candidate, rng),
        scores(majority, production, rng),
        np.eye(len(CLASSES))[majority],
        majority,
        group,
        CLASSES,
    )


def failed(decision: Decision) -> set[str]:
    return {check.name for check in decision.failed}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), gain=st.floats(0.03, 0.2))
def test_a_better_model_gets_through(seed: int, gain: float) -> None:
    rng = np.random.default_rng(seed)
    each = paired(1500, seed, 0.7, 0.7)
    better = calibrated(mend(each.production, each.majority, gain, rng), each.majority)
    decision = decide_promotion([replace(each, candidate=better)], RULES)
    assert decision.passes, decision.summary
    assert decision.failed == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.floats(0.08, 0.5))
def test_a_worse_model_is_refused_with_the_loss_in_the_reasons(seed: int, loss: float) -> None:
    rng = np.random.default_rng(seed)
    each = paired(1500, seed, 0.7, 0.7)
    worse = mend(each.production, each.majority, loss, rng, to="wrong")
    decision = decide_promotion([replace(each, candidate=worse)], RULES)
    assert not decision.passes
    assert "accuracy" in failed(decision)
    check = next(check for check in decision.failed if check.name == "accuracy")
    assert check.value is not None
    assert check.high is not None
    assert check.high > RULES.max_accuracy_loss
    assert 0 < check.value <= check.high
    assert "accuracy on base" in decision.summary


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(300, 1200))
def test_the_same_model_loses_nothing_and_gets_through(seed: int, n: int) -> None:
    each = paired(n, seed, 0.6, 0.6)
    decision = decide_promotion([replace(each, candidate=each.production)], RULES)
    assert decision.passes
    assert all(check.value in (0, None) for check in decision.checks if check.subject == "base")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), harm=st.floats(0.0, 0.3), more=st.floats(0.05, 0.3))
def test_more_harm_never_opens_a_gate_that_less_harm_shut(seed: int, harm: float, more: float) -> None:
    each = paired(600, seed, 0.7, 0.7)
    worse = mend(each.production, each.majority, harm, np.random.default_rng(seed), "wrong")
    worst = mend(worse, each.majority, more, np.random.default_rng(seed + 1), "wrong")
    right = [(p.argmax(1) == each.majority) for p in (worse, worst)]
    worst = np.where((right[1] & ~right[0])[:, None], worse, worst)  # only ever worse, face by face
    first, second = (decide_promotion([replace(each, candidate=p)], RULES).passes for p in (worse, worst))
    assert first or not second


def test_wider_margins_never_refuse_what_narrower_ones_let_through() -> None:
    for seed in range(12):
        each = paired(500, seed, 0.68, 0.7)
        opens = [
            decide_promotion([each], replace(RULES, max_accuracy_loss=m, max_mean_recall_loss=m)).passes
            for m in (0.0, 0.02, 0.05, 0.1, 1.0)
        ]
        assert opens == sorted(opens)


def test_losses_that_each_lie_within_the_margin_do_not_add_up() -> None:
    """Twenty candidates, each a little worse than the model before it: alone each gets through, in line they stop."""
    rng = np.random.default_rng(5)
    each = paired(1800, 5, 0.75, 0.75)
    first, line, n_promoted = each.production, {}, 0
    production, names_of_failed = first, set()
    for k in range(20):
        candidate = mend(production, each.majority, 0.006, rng, to="wrong")
        alone = replace(each, candidate=candidate, production=production)
        assert decide_promotion([alone], RULES).passes
        decision = decide_promotion([replace(alone, earlier=line)], RULES)
        names_of_failed |= failed(decision)
        if decision.passes:
            line[f"model_{k}"], production, n_promoted = production, candidate, n_promoted + 1
    lost = (first.argmax(1) == each.majority).mean() - (production.argmax(1) == each.majority).mean()
    assert 1 <= n_promoted < 10
    assert 0 < lost <= RULES.max_accuracy_loss
    assert "accuracy since earlier models" in names_of_failed
    assert all(name.endswith("since earlier models") for name in names_of_failed)


def test_the_hardest_of_the_earlier_models_is_named() -> None:
    each = paired(900, 7, 0.7, 0.7)
    better = mend(each.production, each.majority, 0.3, np.random.default_rng(7))
    decision = decide_promotion(
        [replace(each, candidate=each.production, earlier={"as_good": each.production, "better": better})], RULES
    )
    (check,) = (check for check in decision.failed if check.name == "accuracy since earlier models")
    assert "against better, the hardest of 2" in check.reason
    assert check.value == pytest.approx(
        (better.argmax(1) == each.majority).mean() - (each.production.argmax(1) == each.majority).mean()
    )
    with pytest.raises(ValueError, match="base: 900 faces"):
        replace(each, earlier={"other": better[:-1]})


def test_faces_of_few_videos_show_less_than_as_many_faces_of_many() -> None:
    """Every face forty times is forty times as many faces and not one more witness."""
    few = paired(30, 3, 0.7, 0.75)
    repeated = {
        name: np.repeat(getattr(few, name), 40, 0) for name in ("candidate", "production", "target", "majority")
    }
    as_one = replace(few, **repeated, group=[str(i // 40) for i in range(1200)])
    as_many = replace(few, **repeated, group=[str(i) for i in range(1200)])
    widths = []
    for each in (few, as_one, as_many):
        check = next(c for c in decide_promotion([each], RULES).checks if c.name == "accuracy")
        assert check.low is not None
        assert check.high is not None
        widths.append(check.high - check.low)
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)
    assert widths[2] < widths[0] / 4


def test_a_class_that_falls_is_refused_though_the_rest_gains() -> None:
    each = paired(1200, 5, 0.7, 0.7)
    candidate = mend(each.production, each.majority, 0.6, np.random.default_rng(0))
    fallen = each.majority == 2
    candidate[fallen] = mend(each.production[fallen], each.majority[fallen], 0.3, np.random.default_rng(1), "wrong")
    candidate = calibrated(candidate, each.majority)
    decision = decide_promotion([replace(each, candidate=candidate)], RULES)
    assert failed(decision) == {"recall of surprise"}
    lenient = replace(RULES, min_class_faces=1000)
    assert decide_promotion([replace(each, candidate=candidate)], lenient).passes


def test_a_model_that_is_right_as_often_and_too_sure_of_itself_is_refused() -> None:
    each = paired(1500, 7, 0.7, 0.7)
    top = np.eye(4)[each.production.argmax(1)]
    sure = 0.997 * top + 0.001 * (1 - top)
    decision = decide_promotion([replace(each, candidate=sure)], RULES)
    assert failed(decision) == {"calibration error"}


def test_a_small_set_stops_what_is_clearly_worse_and_lets_the_rest_be() -> None:
    base = paired(600, 1, 0.7, 0.7)
    base = replace(base, candidate=base.production)
    alike, worse = paired(40, 2, 0.7, 0.7, name="labels"), paired(40, 2, 0.1, 0.9, name="labels")
    two_changed = alike.production.copy()
    two_changed[:2] = np.roll(two_changed[:2], 1, axis=1)
    alike = replace(alike, candidate=two_changed)
    assert decide_promotion([base, alike], RULES).passes
    refused = decide_promotion([base, worse], RULES)
    assert {check.subject for check in refused.failed} == {"labels"}


@pytest.mark.parametrize("sets", [(), (paired(40, 0, 1.0, 0.1),)], ids=["no set", "a small one"])
def test_without_enough_faces_the_gate_stays_shut(sets: tuple[PairedScores, ...]) -> None:
    decision = decide_promotion(sets, RULES)
    assert failed(decision) == {"enough faces"}


def test_golden_clips_and_speed_are_judged_where_they_were_measured() -> None:
    each = paired(600, 1, 0.7, 0.7)
    each = replace(each, candidate=each.production)
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(4), 200), rng.dirichlet(np.ones(4), 200)
    outcomes = {
        (agrees, quick): failed(
            decide_promotion(
                [each], RULES, GoldenScores(one, one if agrees else other), Speed(1.0 if quick else 2.0, 1.0)
            )
        )
        for agrees in (True, False)
        for quick in (True, False)
    }
    assert outcomes == {
        (True, True): set(),
        (True, False): {"speed"},
        (False, True): {"agreement"},
        (False, False): {"agreement", "speed"},
    }
    left = [c.name for c in decide_promotion([each], RULES).checks if c.outcome == "not judged"]
    assert left == ["agreement", "speed"]


def test_a_decision_says_every_value_and_threshold_as_json_and_as_a_table() -> None:
    each = paired(400, 1, 0.5, 0.7)
    decision = decide_promotion([each], RULES)
    payload = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert payload["passes"] is False
    assert all(check["reason"] for check in payload["checks"])
    assert {"value", "low", "high", "threshold", "outcome"} <= set(payload["checks"][1])
    assert decision.markdown().count("\n") == len(decision.checks) + 1
    assert decide_promotion([each], RULES) == decision


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_accuracy_loss": -0.1},
        {"min_faces": 0},
        {"max_slowdown": 0.0},
        {"speed": 1},
        {"min_faces": "many"},
        {"n_resamples": 200.5},
        {"seed": -1},
        {"min_faces": float("inf")},
        {"min_class_faces": float("nan")},
        {"max_slowdown": float("inf")},
        {"max_ece_rise": float("nan")},
    ],
    ids=str,
)
def test_rules_that_cannot_be_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        GateRules.from_dict(wrong)


def test_rules_of_json_are_the_rules() -> None:
    assert GateRules.from_dict({"min_faces": 30.0, "max_slowdown": 2}) == GateRules(min_faces=30, max_slowdown=2.0)
    assert isinstance(GateRules.from_dict({"min_faces": 30.0}).min_faces, int)


def test_scores_that_do_not_fit_are_refused() -> None:
    each = paired(40, 1, 0.5, 0.7)
    with pytest.raises(ValueError, match="base: 40 faces"):
        replace(each, candidate=each.candidate[:-1])
    with pytest.raises(ValueError, match="39 groups"):
        replace(each, group=each.group[:-1])
