from __future__ import annotations

import numpy as np
import pytest
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

from pipelines.faces.mtcnn_networks import MtcnnNetworks
from pipelines.settings import DetectorSettings
from tests.faces import astronaut


@pytest.fixture(scope="module")
def networks() -> MtcnnNetworks:
    return MtcnnNetworks(DetectorSettings())


def packages(net: torch.nn.Module, pictures: np.ndarray) -> list[np.ndarray]:
    """What the package's network says of pictures [N,H,W,3] in 0..255."""
    with torch.inference_mode():
        found = net.eval()(torch.from_numpy((pictures.astype(np.float32) - 127.5) / 128).permute(0, 3, 1, 2))
    return [part.numpy() for part in found]


def test_each_network_says_what_the_package_s_says(networks: MtcnnNetworks) -> None:
    level = np.stack([astronaut()[60:190, 150:301], astronaut()[300:430, 200:351]])
    offset, prob = networks._pnet(level)
    expected_offset, expected_prob = packages(PNet(), level)
    np.testing.assert_allclose(offset, expected_offset, atol=1e-4)
    np.testing.assert_allclose(prob, expected_prob[:, 1], atol=1e-4)
    rng = np.random.default_rng(0)
    for n in (1, 40):  # one pass, and several
        corners = rng.integers(0, 400, (n, 2))
        crops = np.stack([astronaut()[y : y + 24, x : x + 24] for y, x in corners]).astype(np.float32)
        offset, prob = networks._rnet(crops)
        expected_offset, expected_prob = packages(RNet(), crops)
        np.testing.assert_allclose(offset, expected_offset, atol=1e-4)
        np.testing.assert_allclose(prob, expected_prob[:, 1], atol=1e-4)
        crops = np.stack([astronaut()[y : y + 48, x : x + 48] for y, x in corners])
        offset, points, prob = networks.look(crops.transpose(0, 3, 1, 2))
        expected = packages(ONet(), crops)
        np.testing.assert_allclose(offset, expected[0], atol=1e-4)
        np.testing.assert_allclose(points, expected[1], atol=1e-4)
        np.testing.assert_allclose(prob, expected[2][:, 1], atol=1e-4)
