"""The depthwise convolution against the library's, at sizes on both sides of its switch."""

import pytest
import torch
from torch import nn

from mfer.depthwise import DepthwiseConv2d

torch.set_num_threads(1)

SIZES = [(1, 1), (2, 2), (4, 4), (3, 5), (16, 16), (20, 20)]  # the last is beyond the matrix product


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_and_gradients_are_those_of_the_library(size, kernel, training):
    torch.manual_seed(0)
    ours = DepthwiseConv2d(6, kernel).double().train(training)
    library = nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=6).double()
    library.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, *size, dtype=torch.float64, requires_grad=True)
    out, expected = ours(x), library(x)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), [x, *ours.parameters()])
    wanted = torch.autograd.grad((expected * weight).sum(), [x, *library.parameters()])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_a_channel_never_sees_another():
    conv = DepthwiseConv2d(4, 7).train()
    x = torch.randn(1, 4, 5, 5)
    changed = x.clone()
    changed[:, 2] += 1
    with torch.no_grad():
        moved = (conv(changed) - conv(x)).abs().amax((0, 2, 3))
    assert moved[2] > 0
    assert moved[[0, 1, 3]].max() == 0
