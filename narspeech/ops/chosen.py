"""Log-probabilities of a few tokens of a large vocabulary, without those of all the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits at a time: what a CPU's cache holds, and what keeps a GPU busy.
BLOCK = {"cpu": 1 << 22}
LARGE_BLOCK = 1 << 27
# Where there are no more logits than these, their softmax is kept for the gradient: half a gigabyte.
KEPT = 1 << 27


class Chosen(NamedTuple):
    """log_probs (B, T, U) of the chosen tokens at every state; best (B, T) the highest of any token, which has no
    gradient. Both float32."""

    log_probs: Tensor
    best: Tensor


def chosen_log_probs(states: Tensor, weight: Tensor, bias: Tensor, ids: Tensor) -> Chosen:
    """log softmax(states weight^T + bias) at the tokens ids (B, U) of each row.

    states (B, T, D), weight (V, D), bias (V,). The same as `log_softmax` and `gather`, somewhat faster, and in bounded
    memory: the (B, T, V) logits exist for a few rows at a time, and many are computed again for the gradient.
    """
    return Chosen(*_Chosen.apply(states, weight, bias, ids))  # type: ignore[no-untyped-call]


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        places = ids[:, None].expand(-1, states.shape[1], -1)
        best = torch.empty(states.shape[:2], dtype=torch.float32, device=states.device)
        norms = torch.empty_like(best)
        chosen = torch.empty(places.shape, dtype=torch.float32, device=states.device)
        keep = any(ctx.needs_input_grad) and best.numel() * len(weight) <= KEPT
        kept = []
        for rows in _blocks(states, weight):
            logits = _logits(states[rows], weight, bias)
            chosen[rows] = logits.gather(2, places[rows])
            best[rows] = logits.amax(-1)
            shares = logits.sub_(best[rows].unsqueeze(-1)).exp_()
            norms[rows] = best[rows] + shares.sum(-1).log()
            if keep:
                kept.append(shares)
        ctx.save_for_backward(states, weight, bias, places, norms, best, *kept)
        best = best - norms
        ctx.mark_non_differentiable(best)
        return chosen - norms.unsqueeze(-1), best

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, places, norms, best, *kept = ctx.saved_tensors
        by_state = torch.empty_like(states)
        by_weight, by_bias = torch.zeros_like(weight, dtype=torch.float32), torch.zeros_like(bias, dtype=torch.float32)
        for number, rows in enumerate(_blocks(states, weight)):
            shares = kept[number] if kept else _logits(states[rows], weight, bias).sub_(best[rows].unsqueeze(-1)).exp_()
            # d log p(y) / d logits = one-hot(y) - p
            scale = gradient[rows].sum(-1) * (best[rows] - norms[rows]).exp()
            slope = (shares * -scale.unsqueeze(-1)).scatter_add_(2, places[rows], gradient[rows])
            by_bias += slope.sum((0, 1))
            slope = slope.to(states.dtype)
            by_state[rows] = slope @ weight.to(states.dtype)
            by_weight += slope.flatten(0, 1).T @ states[rows].flatten(0, 1)
        return by_state, by_weight.to(weight.dtype), by_bias.to(bias.dtype), None


def _logits(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(states, weight.to(states.dtype), bias.to(states.dtype)).float()


def _blocks(states: Tensor, weight: Tensor) -> Iterator[slice]:
    """The rows, so many at a time that their logits stay small."""
    row = max(1, states.shape[1] * len(weight))
    count = max(1, BLOCK.get(states.device.type, LARGE_BLOCK) // row)
    for start in range(0, len(states), count):
        yield slice(start, start + count)
