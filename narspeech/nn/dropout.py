"""Dropout (Srivastava et al. 2014) that costs little on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256


class Dropout(nn.Module):
    """`nn.Dropout`, several times faster on a CPU (benchmarks/bench_training.py), where torch draws one random number
    after the other, one an element.

    Here each gives eight elements a byte. So `p` is rounded to 256ths on a CPU, never to 0 or 1, and what is kept is
    scaled by the share that really is, so that expectations stay.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"expected a dropout between 0 and 1, received {p}: it is the share that is dropped")
        self.p = p

    @property
    def dropped(self) -> int:
        """How many of LEVELS are dropped."""
        return min(max(round(self.p * LEVELS), int(self.p > 0)), LEVELS - int(self.p < 1))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.p == 1 or x.device.type != "cpu":
            return F.dropout(x, self.p)
        return x * keep_mask(x, self.dropped)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def keep_mask(x: Tensor, dropped: int) -> Tensor:
    """Of the shape and type of x: 0 with probability dropped / 256, else what keeps the mean."""
    bounds = torch.iinfo(torch.int64)
    drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(bounds.min, bounds.max)
    kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
