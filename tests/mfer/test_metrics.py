"""Figures against plain loops, scipy and cases whose answer is known."""

import math

import numpy as np
import pytest

from mfer.metrics import (
    confusion_matrix,
    fit_temperature,
    measure,
    reliability,
    softmax,
    unseen_interval,
    wilson_interval,
)


def made(n=400, k=5, seed=0, sharpness=2.0):
    """Faces whose labels are drawn from the very probabilities, so that these are calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * sharpness
    prob = softmax(logits)
    majority = np.array([rng.choice(k, p=p) for p in prob])
    return logits, prob, np.eye(k)[majority], majority


def test_figures_are_those_of_plain_loops():
    _, prob, target, majority = made()
    soft = 0.8 * target + 0.2 / 5
    found = measure(prob, soft, majority, n_resamples=10)
    top = prob.argmax(1)
    assert found.accuracy.value == pytest.approx(np.mean(top == majority))
    recalls = [np.mean(top[majority == k] == k) for k in range(5)]
    assert [f.value for f in found.per_class_recall] == pytest.approx(recalls)
    assert found.mean_recall.value == pytest.approx(np.mean(recalls))
    assert found.nll.value == pytest.approx(-np.mean([math.log(p[y]) for p, y in zip(prob, majority, strict=True)]))
    kl = [sum(a * math.log(a / b) for a, b in zip(t, p, strict=True)) for t, p in zip(soft, prob, strict=True)]
    assert found.kl.value == pytest.approx(np.mean(kl))
    ece = 0.0
    confidence = prob.max(1)
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs((top == majority)[inside].mean() - confidence[inside].mean())
    assert found.ece.value == pytest.approx(ece)


def test_calibrated_probabilities_have_little_calibration_error_and_boasting_ones_much():
    logits, prob, target, majority = made(n=20_000)
    assert measure(prob, target, majority, n_resamples=2).ece.value < 0.015
    assert measure(softmax(logits, 0.3), target, majority, n_resamples=2).ece.value > 0.1


def test_certain_and_right_is_perfect():
    target = np.eye(3)[[0, 1, 2, 1]]
    found = measure(target, target, np.array([0, 1, 2, 1]))
    assert (found.accuracy.value, found.mean_recall.value) == (1, 1)
    assert (found.ece.value, found.nll.value, found.kl.value) == (0, 0, 0)


def test_certain_and_wrong_is_finite():
    found = measure(np.eye(3)[[1]], np.eye(3)[[0]], np.array([0]))
    assert math.isfinite(found.nll.value)
    assert found.ece.value == 1


def test_class_without_faces_has_no_recall_and_does_not_lower_the_mean():
    prob = np.eye(3)[[0, 0, 1]]
    found = measure(prob, prob, np.array([0, 0, 1]), n_resamples=50)
    assert math.isnan(found.per_class_recall[2].value)
    assert math.isnan(found.per_class_recall[2].low)
    assert found.mean_recall.value == 1


def test_bootstrap_interval_is_that_of_the_binomial_and_the_same_every_time():
    _, prob, target, majority = made(n=500)
    found = measure(prob, target, majority)
    p = found.accuracy.value
    spread = 1.96 * math.sqrt(p * (1 - p) / 500)
    assert found.accuracy.low == pytest.approx(p - spread, abs=0.006)
    assert found.accuracy.high == pytest.approx(p + spread, abs=0.006)
    assert measure(prob, target, majority) == found
    assert measure(prob, target, majority, seed=1) != found


def test_no_faces_give_no_figures_but_no_error():
    found = measure(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.int64), n_resamples=3)
    assert found.n == 0
    assert math.isnan(found.accuracy.value)


def test_confusion_counts_majority_by_top_class():
    prob = np.eye(3)[[0, 2, 2, 1]]
    assert confusion_matrix(prob, np.array([0, 0, 2, 2])).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_reliability_bins_hold_every_face_certain_ones_too():
    prob = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    bins = reliability(prob, np.array([0, 0, 0]), n_bins=10)
    assert bins.count.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert bins.accuracy[9] == 0.5
    assert math.isnan(bins.accuracy[0])


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_temperature_that_spoilt_the_logits_is_found_again(temperature):
    logits, _, _, majority = made(n=20_000)
    assert fit_temperature(logits * temperature, majority) == pytest.approx(temperature, rel=0.04)


def test_temperature_is_where_the_loss_is_least():
    optimize = pytest.importorskip("scipy.optimize")
    logits, _, _, majority = made(n=300, sharpness=4.0, seed=5)
    logits = logits + np.random.default_rng(1).normal(size=logits.shape) * 3

    def loss(log_t):
        return -np.log(softmax(logits, math.exp(log_t))[np.arange(300), majority]).mean()

    best = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8})
    assert fit_temperature(logits, majority) == pytest.approx(math.exp(best.x), rel=1e-5)


def test_temperature_of_faultless_logits_stays_in_bounds():
    assert fit_temperature(np.eye(3) * 5, np.arange(3)) == pytest.approx(0.05)


def test_wilson_interval_of_a_few_faces():
    assert wilson_interval(0, 0) == (0, 1)
    low, high = wilson_interval(10, 10)
    assert low == pytest.approx(0.7225, abs=1e-4)
    assert high == pytest.approx(1)


def test_unseen_interval_covers_what_other_faces_show():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        low, high = unseen_interval(rng.binomial(800, 0.8) / 800, 800, 1500)
        inside += low <= rng.binomial(1500, 0.8) / 1500 <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)
