from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.ops import chosen
from narspeech.ops.chosen import chosen_log_probs

ROWS, TIMES, WIDTH, SIZE = 5, 4, 3, 11


def given(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    states, weight, bias = torch.randn(ROWS, TIMES, WIDTH), torch.randn(SIZE, WIDTH), torch.randn(SIZE)
    ids = torch.randint(SIZE, (ROWS, 6))
    ids[0, 1] = ids[0, 0]  # the same token twice
    return *(x.to(dtype).requires_grad_() for x in (states, weight, bias)), ids  # type: ignore[return-value]


def plain(states: Tensor, weight: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
    logits = F.linear(states, weight, bias).float()
    return logits.log_softmax(-1).gather(2, ids[:, None].expand(-1, states.shape[1], -1))


@pytest.mark.parametrize("kept", [0, 1 << 20])
@pytest.mark.parametrize("block", [1, 2 * TIMES * SIZE, 1 << 20])
def test_values_and_gradients_are_those_of_the_softmax(monkeypatch: pytest.MonkeyPatch, block: int, kept: int) -> None:
    monkeypatch.setitem(chosen.BLOCK, "cpu", block)
    monkeypatch.setattr(chosen, "KEPT", kept)
    *leaves, ids = given()
    found, wanted = chosen_log_probs(*leaves, ids).log_probs, plain(*leaves, ids)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn(found.shape)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((wanted * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_brain_floats_give_floats_and_gradients_of_their_own() -> None:
    *leaves, ids = given(torch.bfloat16)
    found = chosen_log_probs(*leaves, ids).log_probs
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(*leaves, ids))
    gradients = torch.autograd.grad(found.sum(), leaves)
    assert {gradient.dtype for gradient in gradients} == {torch.bfloat16}


def test_the_best_is_among_all() -> None:
    states, weight, bias, ids = given()
    log_probs, best = chosen_log_probs(states, weight, bias, ids)
    scores, tokens = F.linear(states, weight, bias).log_softmax(-1).max(-1)
    torch.testing.assert_close(best, scores)
    # To the last bit, so that they can be compared.
    assert torch.equal(log_probs == best.unsqueeze(-1), tokens.unsqueeze(-1) == ids[:, None])
    assert not best.requires_grad


def test_nothing_to_choose() -> None:
    *leaves, ids = given()
    assert chosen_log_probs(*leaves, ids[:, :0]).log_probs.shape == (ROWS, TIMES, 0)
    assert chosen_log_probs(leaves[0][:0], *leaves[1:], ids[:0]).log_probs.shape == (0, TIMES, 6)
    assert chosen_log_probs(leaves[0][:, :0], *leaves[1:], ids).log_probs.shape == (ROWS, 0, 6)
