from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from narspeech.train.optim import OptimConfig, adamw, learning_rate


def test_warm_up_rises_in_a_line_to_the_peak():
    config = OptimConfig(learning_rate=2e-3, warmup=10)
    rates = [learning_rate(config, update, 0.0) for update in range(10)]
    assert rates == pytest.approx([2e-4 * n for n in range(1, 11)])


def test_noam_falls_with_the_inverse_square_root_from_its_peak():
    config = OptimConfig(learning_rate=1.0, warmup=100, schedule="noam")
    for update in range(1000):
        # Vaswani et al. 2017: min(n^-.5, n * warmup^-1.5), here divided by its greatest value.
        number = update + 1
        expected = min(number**-0.5, number * 100**-1.5) / 100**-0.5
        assert learning_rate(config, update, update / 1000) == pytest.approx(expected)


def test_cosine_ends_at_its_floor_and_is_halfway_in_the_middle():
    config = OptimConfig(learning_rate=1.0, warmup=1, floor=0.1)
    assert learning_rate(config, 10, 0.0) == pytest.approx(1.0)
    assert learning_rate(config, 500, 0.5) == pytest.approx(0.55)
    assert learning_rate(config, 999, 1.0) == pytest.approx(0.1)
    assert learning_rate(config, 1100, 1.1) == pytest.approx(0.1)
    rates = [learning_rate(config, 10, step / 100) for step in range(101)]
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize("schedule", ["noam", "cosine"])
def test_no_warm_up_starts_at_the_peak(schedule):
    rate = learning_rate(OptimConfig(learning_rate=0.5, warmup=0, schedule=schedule), 0, 0.0)
    assert math.isclose(rate, 0.5)


def test_matrices_decay_and_biases_do_not():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    optimizer = adamw(model, OptimConfig(weight_decay=0.5, learning_rate=0.1))
    decaying, others = optimizer.param_groups
    assert [p is model[0].weight for p in decaying["params"]] == [True]
    assert len(others["params"]) == 3
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(model[0].weight, torch.tensor(0.95))
    assert all(torch.equal(p, torch.ones_like(p)) for p in (model[0].bias, model[1].weight, model[1].bias, frozen))
