"""Eight bits: weights stay near, sums nearer, and nothing overflows where two products are added in 16 bits."""

import pytest
import torch

from mfer.build import build_network
from mfer.card import INT8_ARCHITECTURES, Architecture
from mfer.int8 import round_weights
from mfer.recipe import Recipe

torch.set_num_threads(1)


@pytest.mark.parametrize("in_pairs", [False, True])
@pytest.mark.parametrize("shape", [(64, 1, 3, 3), (64, 48, 1, 1), (64, 7, 1, 1)])
def test_weights_are_whole_steps_of_their_channel_and_near_what_they_were(shape, in_pairs):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[5], weight[6] = 0, weight[6] * 1e-6
    rounded, step = round_weights(weight, in_pairs)
    exact = (rounded / step[:, None, None, None]).double()
    whole = exact.round()
    assert (exact - whole).abs().max() < 1e-3
    assert 100 < whole.abs().max() <= 127
    pairs = torch.nn.functional.pad(whole.flatten(1).abs(), (0, whole[0].numel() % 2)).reshape(64, -1, 2).sum(2)
    assert (pairs.max() * 255 < 2**15) == in_pairs  # AVX2 adds two products in 16 bits
    sums, plain_sums = (
        (value - weight).sum((1, 2, 3)).abs().mean() for value in (rounded, (weight / step[0]).round() * step[0])
    )
    assert sums < 0.5 * plain_sums  # errors of one sign would add up over pixels that are alike


@torch.inference_mode()
def test_a_relu6_has_256_values_and_the_network_that_was_copied_is_left_alone():
    torch.manual_seed(0)
    network = build_network(Architecture("mfer_faceres", in_channels=1, ds="none", multiscale=False)).eval()
    x = torch.rand(4, 1, 80, 80)
    before, rounded = network(x), network.with_int8()
    torch.testing.assert_close(network(x), before, rtol=0, atol=0)
    for of_map, of_rounded in zip(network.maps(x), rounded.maps(x), strict=True):
        steps = of_rounded * (255 / 6)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        assert 0 < (of_rounded - of_map).abs().max() < 6 / 255 * 20


def test_the_architectures_that_say_so_can():
    for name in INT8_ARCHITECTURES:
        assert build_network(Architecture(name, in_channels=1, ds="none", multiscale=False)).with_int8() is not None
    assert build_network(Recipe.load("ferplus_cpu").architecture).with_int8() is None
