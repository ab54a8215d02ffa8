"""Losses on the feature that the classifier sees: they draw it towards a learnable centre of its class.

With f the feature of one face, y its class and c_k the centres, every loss is a mean over the batch (the published
sums are divided by the number of faces, so that a weight means the same at every batch size). The centres
learn by the same gradient steps as the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfer.errors import ConfigError

__all__ = ["FEATURE_LOSSES", "CentreLoss", "DSFLoss", "IslandLoss", "LGMLoss", "NoFeatureLoss", "make_feature_loss"]


class _FeatureLoss(nn.Module):
    """forward: features float [N,D], classes int64 [N] -> scalar."""

    def __init__(self, n_classes: int, dim: int) -> None:
        super().__init__()
        # As wide as the layer-normalised features, so that no class starts out nearest to all of them.
        self.centres = nn.Parameter(torch.randn(n_classes, dim))

    def squared_distances(self, features: Tensor) -> Tensor:
        """|f - c_k|^2, float [N,K]."""
        return (features[:, None] - self.centres).square().sum(2)

    def mean_pair_cosine(self) -> Tensor:
        """The mean over ordered pairs j != k of 1 + cos(c_j, c_k)."""
        unit = F.normalize(self.centres, dim=1)
        k = len(unit)
        cosine = unit @ unit.T
        return 1 + (cosine.sum() - cosine.diagonal().sum()) / max(k * (k - 1), 1)


class NoFeatureLoss(nn.Module):
    """No feature loss: zero, without centres."""

    def __init__(self, n_classes: int, dim: int) -> None:
        super().__init__()

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        return features.new_zeros(())


class CentreLoss(_FeatureLoss):
    """Centre loss: 1/2 |f - c_y|^2.

    Source: Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition", eq. 2
    (doi 10.1007/978-3-319-46478-7_31).
    """

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        return (features - self.centres[classes]).square().sum(1).mean() / 2


class IslandLoss(CentreLoss):
    """Island loss: centre loss + lambda_1 * sum over ordered pairs j != k of (1 + cos(c_j, c_k)), lambda_1 = 10.

    Source: Cai et al. 2018, "Island Loss for Learning Discriminative Features in Facial Expression Recognition",
    eq. 5 (doi 10.1109/FG.2018.00051).
    """

    PAIR_WEIGHT = 10.0

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        k = len(self.centres)
        return super().forward(features, classes) + self.PAIR_WEIGHT * k * (k - 1) * self.mean_pair_cosine()


class LGMLoss(_FeatureLoss):
    """Large-margin Gaussian mixture loss with unit covariance and equal priors.

    With d_k = 1/2 |f - c_k|^2: -log softmax_k(-d_k (1 + alpha [k = y]))_y + lambda d_y, alpha 0.3 and lambda 0.1.

    Source: Wan et al. 2018, "Rethinking Feature Distribution for Loss Functions in Image Classification",
    eqs. 9, 11 and 15 (arXiv:1803.02988).
    """

    MARGIN = 0.3
    LIKELIHOOD_WEIGHT = 0.1

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        distance = self.squared_distances(features) / 2
        logits = _with_margin(distance, classes, self.MARGIN)
        likelihood = distance.gather(1, classes[:, None]).mean()
        return F.cross_entropy(logits, classes) + self.LIKELIHOOD_WEIGHT * likelihood


class DSFLoss(_FeatureLoss):
    """Deep Smooth Feature loss: a reconstruction, the authors released none.

    With tau the feature's dimension, d_k = |f - c_k|^2 / (2 tau) and q = softmax_k(-d_k (1 + alpha [k = y])):
    cross-entropy(smoothed y, q) + beta SmoothL1(f, c_y) + mu * mean over j != k of (1 + cos(c_j, c_k)), with
    smoothing 0.1, alpha 0.1, beta 0.1, mu 0.01. Smoothed y is (1 - smoothing) [k = y] + smoothing / K; SmoothL1 is
    averaged over the feature.

    Source: built from the aim stated in the MFER paper (doi 10.1109/TAFFC.2024.3458464), "to balance the
    probability difference of encoded intra-class features and promote intra-class features towards corresponding
    centers", and its comparison with L-GM. Figures made with it are this project's, not the paper's.
    """

    SMOOTHING = 0.1
    MARGIN = 0.1
    PULL_WEIGHT = 0.1
    PAIR_WEIGHT = 0.01

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        distance = self.squared_distances(features) / (2 * features.shape[1])
        logits = _with_margin(distance, classes, self.MARGIN)
        separation = F.cross_entropy(logits, classes, label_smoothing=self.SMOOTHING)
        pull = F.smooth_l1_loss(features, self.centres[classes])
        return separation + self.PULL_WEIGHT * pull + self.PAIR_WEIGHT * self.mean_pair_cosine()


def _with_margin(distance: Tensor, classes: Tensor, margin: float) -> Tensor:
    """-d_k (1 + margin [k = y]), float [N,K]."""
    own = F.one_hot(classes, distance.shape[1]).to(distance.dtype)
    return -distance * (1 + margin * own)


FEATURE_LOSSES: dict[str, type[nn.Module]] = {
    "none": NoFeatureLoss,
    "centre": CentreLoss,
    "island": IslandLoss,
    "lgm": LGMLoss,
    "dsf": DSFLoss,
}


def make_feature_loss(name: str, n_classes: int, dim: int) -> nn.Module:
    """A feature loss by name, one of FEATURE_LOSSES: call it with features float [N,D] and classes int64 [N].

    Its centres are parameters: hand them to the optimizer.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in FEATURE_LOSSES:
        raise ConfigError(f"feature loss is {name!r}; allowed: {', '.join(FEATURE_LOSSES)}")
    return FEATURE_LOSSES[name](n_classes, dim)
