from __future__ import annotations

import math

import pytest
import torch

from narspeech.ops.cross_entropy import count_right, smoothed_cross_entropy


def by_hand(logits: list[list[float]], truth: list[int], smoothing: float, allowed: list[bool]) -> float:
    total = 0.0
    for row, right in zip(logits, truth, strict=True):
        normaliser = math.log(sum(math.exp(x) for x in row))
        for token, x in enumerate(row):
            share = (1 - smoothing) * (token == right) + (smoothing / sum(allowed) if allowed[token] else 0)
            total -= share * (x - normaliser)
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("barred", [(), (0, 3)])
def test_equals_the_formula(smoothing: float, barred: tuple[int, ...]) -> None:
    logits = torch.randn(5, 6, dtype=torch.float64)
    truth, allowed = torch.tensor([1, 2, 5, 4, 1]), torch.ones(6, dtype=torch.bool)
    allowed[list(barred)] = False
    loss = smoothed_cross_entropy(logits, truth, smoothing, allowed)
    assert loss.item() == pytest.approx(by_hand(logits.tolist(), truth.tolist(), smoothing, allowed.tolist()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torch_where_every_token_is_allowed(smoothing: float) -> None:
    logits, truth = torch.randn(7, 9), torch.randint(9, (7,))
    loss = smoothed_cross_entropy(logits, truth, smoothing, torch.ones(9, dtype=torch.bool))
    wanted = torch.nn.functional.cross_entropy(logits, truth, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(loss, wanted)


def test_what_is_forbidden_costs_nothing() -> None:
    """A head that can never emit a token must not pay for it: the loss is that of a vocabulary without the token."""
    logits, truth = torch.randn(4, 5), torch.tensor([1, 2, 4, 3])
    allowed = torch.tensor([False, True, True, True, True])
    barred = logits.clone()
    barred[:, 0] = -1e4
    loss = smoothed_cross_entropy(barred, truth, 0.1, allowed)
    wanted = smoothed_cross_entropy(logits[:, 1:], truth - 1, 0.1, allowed[1:])
    torch.testing.assert_close(loss, wanted)


def test_no_token() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = smoothed_cross_entropy(logits, torch.zeros(0, dtype=torch.long), 0.1, torch.ones(5, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]


def test_right_is_what_is_likeliest() -> None:
    logits = torch.tensor([[0.0, 1.0], [3.0, 2.0], [5.0, 7.0]], requires_grad=True)
    right = count_right(logits, torch.tensor([1, 1, 1]))
    assert right == 2
    assert not right.requires_grad
