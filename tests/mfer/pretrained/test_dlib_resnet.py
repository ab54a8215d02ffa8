"""dlib's face network, read from its published file: the numbers that dlib itself gives, and a start for training."""

import numpy as np
import pytest
import torch

from mfer.build import build_network
from mfer.card import Architecture
from mfer.errors import ConfigError
from mfer.pretrained import files
from mfer.pretrained.dlib_resnet import read_dlib
from mfer.pretrained.files import dlib_file, read_verified

torch.set_num_threads(1)

ARCHITECTURE = Architecture("dlib_resnet", in_channels=3, ds="none", multiscale=False)


@pytest.fixture(scope="module")
def network():
    network = build_network(ARCHITECTURE)
    network.load_pretrained()
    return network.eval()


def made_picture(side):
    """RGB in 0..1, float [1,3,S,S]: r = 7 y + 3 x, g = y^2 + x, b = 5 x + 13, each modulo 256."""
    y, x = np.mgrid[:side, :side]
    picture = np.stack([(7 * y + 3 * x) % 256, (y**2 + x) % 256, (5 * x + 13) % 256])
    return torch.from_numpy(picture[None].astype(np.float32)) / 255


@torch.inference_mode()
def test_numbers_are_those_of_dlib(network):
    _, identity = read_dlib()
    found = network.maps(made_picture(150))[-1].mean((2, 3)) @ identity
    assert found.shape == (1, 128)
    torch.testing.assert_close(
        found[0, :4], torch.tensor([-0.0412387, 0.102616, 0.0402845, -0.0326736]), atol=2e-6, rtol=0
    )


@torch.inference_mode()
def test_feature_is_the_mean_of_the_last_two_stages_at_any_size(network):
    for side in (128, 144, 150):
        assert network.embed(made_picture(side)).shape == (1, 512)
    grey = torch.rand(2, 1, 144, 144)
    torch.testing.assert_close(network.embed(grey), network.embed(grey.expand(-1, 3, -1, -1)))


def test_layers_near_the_input_come_first(network):
    assert len(network.depths()) == 15
    assert network.depths()[0] is network.stem
    learned = {p for module in network.depths() for p in module.parameters()}
    assert {n.split(".")[0] for n, p in network.named_parameters() if p not in learned} == {"norm", "classifier"}


def test_another_file_is_refused(tmp_path, monkeypatch):
    data = bytearray(dlib_file().read_bytes())
    data[1000] ^= 1
    damaged = tmp_path / "network.dat"
    damaged.write_bytes(data)
    with pytest.raises(ConfigError, match=r"is not the published file: 22466066 bytes, sha256 .* fetch it again"):
        read_verified(damaged, files.DLIB_SHA256)
    monkeypatch.setattr(files, "_DLIB_MODULE", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'mfer\[teacher\]'"):
        build_network(ARCHITECTURE).load_pretrained()
