"""Log-probabilities of a few tokens of a large vocabulary, without holding those of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits at a time: what a CPU's cache holds, and what keeps a GPU busy.
BLOCK = {"cpu": 1 << 20}
LARGE_BLOCK = 1 << 27


def chosen_log_probs(states: Tensor, weight: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
    """(B, T, U) float32: log softmax(states weight^T + bias) at the tokens ids (B, U) of each row.

    states (B, T, D), weight (V, D), bias (V,). The same as `log_softmax` and `gather`, about as fast, in a fraction of
    their memory: the (B, T, V) logits exist for a few rows at a time, and are computed again for the gradient.
    """
    chosen: Tensor = _Chosen.apply(states, weight, bias, ids)  # type: ignore[no-untyped-call]
    return chosen


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
        places = ids[:, None].expand(-1, states.shape[1], -1)
        norms = torch.empty(states.shape[:2], dtype=torch.float32, device=states.device)
        chosen = torch.empty(places.shape, dtype=torch.float32, device=states.device)
        for rows in _blocks(states, weight):
            logits = F.linear(states[rows], weight.to(states.dtype), bias.to(states.dtype)).float()
            norms[rows] = logits.logsumexp(-1)
            chosen[rows] = logits.gather(2, places[rows])
        ctx.save_for_backward(states, weight, bias, places, norms)
        return chosen - norms.unsqueeze(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, places, norms = ctx.saved_tensors
        by_state = torch.empty_like(states)
        by_weight, by_bias = torch.zeros_like(weight, dtype=torch.float32), torch.zeros_like(bias, dtype=torch.float32)
        for rows in _blocks(states, weight):
            logits = F.linear(states[rows], weight.to(states.dtype), bias.to(states.dtype)).float()
            # d log p(y) / d logits = one-hot(y) - p
            slope = logits.sub_(norms[rows].unsqueeze(-1)).exp_().mul_(-gradient[rows].sum(-1, keepdim=True))
            slope.scatter_add_(2, places[rows], gradient[rows])
            by_bias += slope.sum((0, 1))
            slope = slope.to(states.dtype)
            by_state[rows] = slope @ weight.to(states.dtype)
            by_weight += slope.flatten(0, 1).T @ states[rows].flatten(0, 1)
        return by_state, by_weight.to(weight.dtype), by_bias.to(bias.dtype), None


def _blocks(states: Tensor, weight: Tensor) -> Iterator[slice]:
    """The rows, so many at a time that their logits stay small."""
    row = max(1, states.shape[1] * len(weight))
    count = max(1, BLOCK.get(states.device.type, LARGE_BLOCK) // row)
    for start in range(0, len(states), count):
        yield slice(start, start + count)
