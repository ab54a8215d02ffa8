"""Muon: orthogonal steps for matrices, Adam for the rest."""

import numpy as np
import pytest
import torch
from torch import nn

from mfer.card import Architecture
from mfer.muon import Muon, orthogonalise, parameter_groups
from mfer.network import MFER

torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(24, 24), (10, 40), (40, 10)], ids=str)
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_vectors(shape, dtype):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ orthogonalise(matrix.to(dtype)).double() @ vh.T
    diagonal = rotated.diagonal()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    bound = 1e-6 if dtype == torch.float64 else 0.03  # float32 may be multiplied as bfloat16
    assert (rotated - diagonal.diag()).abs().max() < bound


def test_step_size_does_not_depend_on_the_size_of_the_gradient():
    moved = []
    for scale in (1e-3, 1e3):
        p = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
        optimizer = Muon([{"params": [p], "weight_decay": 0.0, "muon": True}], lr=0.1)
        p.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double() * scale
        optimizer.step()
        moved.append(p.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-4)


def test_vectors_move_as_adamw_moves_them():
    start = torch.randn(6, generator=torch.Generator().manual_seed(0))
    ours, library = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [{"params": [ours], "weight_decay": 0.1, "muon": False}]
    optimizers = Muon(groups, lr=0.01), torch.optim.AdamW([library], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for _ in range(5):
        for p, optimizer in zip((ours, library), optimizers, strict=True):
            p.grad = 2 * p.detach() + 1
            optimizer.step()
    torch.testing.assert_close(ours, library)


def test_every_parameter_is_in_one_group_and_only_matrices_are_orthogonalised():
    model = MFER(Architecture("mfer_atto", in_channels=1, stem="conv2"))
    centres = nn.Parameter(torch.zeros(8, model.feature_dim))
    groups = parameter_groups(model, [centres], 0.05)
    sorted_in = [id(p) for group in groups for p in group["params"]]
    assert sorted(sorted_in) == sorted(id(p) for p in (*model.parameters(), centres))
    by_kind = {group["muon"]: group for group in groups if group["weight_decay"]}
    assert all(p.flatten(1).ndim == 2 and min(p.flatten(1).shape) > 8 for p in by_kind[True]["params"])
    assert not any(p is model.stem[0].weight for p in by_kind[True]["params"])
    assert any(p is model.attention["3"].query_conv.weight for p in by_kind[True]["params"])
    undecayed = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    assert any(p is model.stages[0].blocks[0].conv_dw.weight for p in undecayed)


def test_small_problem_is_learned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 20))
    x = torch.randn(256, 20)
    wanted = torch.tanh(x @ torch.randn(20, 20) / 4)
    optimizer = Muon(parameter_groups(model, [], 0.0), lr=0.02)
    losses = []
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 150)
        loss = nn.functional.mse_loss(model(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.1 * losses[0]
