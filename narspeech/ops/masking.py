"""Which tokens to hide in training and which to decide in decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.tokenizer import MASK


def top(scores: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """(R, U) bool: the `count` (R,) highest scores (R, U) among the eligible ones; ties go to the earlier place.

    Fewer are chosen where fewer are eligible.
    """
    lowest = torch.finfo(scores.dtype).min  # an eligible -inf still goes before what is not eligible
    ranked = scores.clamp(min=lowest).masked_fill(~eligible, float("-inf"))
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < count[:, None]) & eligible


def mask_uniform(target: Padded, generator: torch.Generator | None = None) -> Tensor:
    """(B, U) bool: n distinct positions of each row, n uniform on 1..its length (Higuchi et al. 2020; Ghazvininejad
    et al. 2019, section 3.1). Drawn on the CPU, so that every device masks the same."""
    batch, width = target.data.shape
    draw = torch.rand(batch, width + 1, generator=generator).to(target.data.device)
    count = (draw[:, 0] * target.lengths).long() + 1
    return top(draw[:, 1:], target.mask, count)


def quota(undecided: Tensor, index: int, steps: int) -> Tensor:
    """(R,) how many of the MASKs a row started with are decided at step `index` of `steps`: floor(M / K), at least one,
    and in the last step all that are left."""
    if index == steps - 1:
        return undecided
    return (undecided // steps).clamp(min=1)


def fill(tokens: Tensor, scores: Tensor, proposal: Tensor, confidence: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Decide the `count` (R,) MASKs whose proposals are most confident: new tokens and scores, all (R, U)."""
    chosen = top(confidence, tokens == MASK, count)
    return torch.where(chosen, proposal, tokens), torch.where(chosen, confidence, scores)
