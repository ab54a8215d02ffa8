"""Feature losses against references written out face by face from their equations, in float64."""

import math

import pytest
import torch

from mfer.errors import ConfigError
from mfer.losses import FEATURE_LOSSES, make_feature_loss

N, K, D = 7, 4, 6
WITH_CENTRES = [name for name in FEATURE_LOSSES if name != "none"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name):
    torch.manual_seed(3)
    loss = make_feature_loss(name, K, D).double()
    features = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    return loss, features, torch.tensor([0, 1, 3, 1, 0, 2, 3])


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def pairs(c):
    """1 + cosine of every ordered pair of different centres."""
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    return [1 + dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for a in c for b in c if a is not b]


def log_softmax(z):
    total = math.log(sum(math.exp(v) for v in z))
    return [v - total for v in z]


def centre(f, y, c):
    return sum(squared(x, c[k]) / 2 for x, k in zip(f, y, strict=True)) / len(f)


def island(f, y, c):
    return centre(f, y, c) + 10 * sum(pairs(c))


def lgm(f, y, c):
    total = 0.0
    for x, k in zip(f, y, strict=True):
        d = [squared(x, centre) / 2 for centre in c]
        total += -log_softmax([-v * (1.3 if j == k else 1) for j, v in enumerate(d)])[k] + 0.1 * d[k]
    return total / len(f)


def dsf(f, y, c):
    total = 0.0
    for x, k in zip(f, y, strict=True):
        d = [squared(x, centre) / (2 * D) for centre in c]
        logs = log_softmax([-v * (1.1 if j == k else 1) for j, v in enumerate(d)])
        smoothed = [0.9 * (j == k) + 0.1 / K for j in range(K)]
        total -= sum(s * q for s, q in zip(smoothed, logs, strict=True))
        gaps = [abs(a - b) for a, b in zip(x, c[k], strict=True)]
        total += 0.1 * sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / D
    both = pairs(c)
    return total / len(f) + 0.01 * sum(both) / len(both)


REFERENCES = {"centre": centre, "island": island, "lgm": lgm, "dsf": dsf}


@pytest.mark.parametrize("name", WITH_CENTRES)
def test_loss_is_what_its_equation_says(name):
    loss, features, classes = made(name)
    expected = REFERENCES[name](features.tolist(), classes.tolist(), loss.centres.tolist())
    assert loss(features, classes).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", WITH_CENTRES)
def test_gradients_reach_features_and_every_centre_and_are_right(name):
    loss, features, classes = made(name)
    loss(features, classes).backward()
    assert (features.grad.abs().sum(1) > 0).all()
    assert (loss.centres.grad.abs().sum(1) > 0).all()
    assert torch.autograd.gradcheck(lambda f: loss(f, classes), features)


@pytest.mark.parametrize("name", WITH_CENTRES)
def test_descent_draws_features_to_their_own_centres(name):
    loss, features, classes = made(name)
    start = torch.cdist(features, loss.centres).gather(1, classes[:, None]).mean().item()
    optimizer = torch.optim.Adam([features, *loss.parameters()], lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        loss(features, classes).backward()
        optimizer.step()
    distances = torch.cdist(features, loss.centres)
    assert distances.gather(1, classes[:, None]).mean().item() < start
    assert distances.argmin(1).tolist() == classes.tolist()


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_loss_is_finite_where_a_feature_sits_on_its_centre_and_in_half_precision_range(name):
    loss = make_feature_loss(name, 8, 320)
    features = torch.stack([torch.full((320,), 60.0), torch.zeros(320)]).requires_grad_(True)
    if name != "none":
        with torch.no_grad():
            loss.centres[0] = features[0]
    value = loss(features, torch.tensor([0, 1]))
    assert torch.isfinite(value)
    if name != "none":
        value.backward()
        assert torch.isfinite(features.grad).all()


def test_none_is_zero_and_has_nothing_to_learn():
    loss, features, classes = made("none")
    assert loss(features, classes).item() == 0
    assert not list(loss.parameters())


def test_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'arcface'; allowed: none, centre, island, lgm, dsf"):
        make_feature_loss("arcface", 8, 320)
