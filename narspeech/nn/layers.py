"""Feed-forward and decoder layers, pre-norm, and their stack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.errors import ConfigError
from narspeech.nn.attention import Cache, CrossAttention, SelfAttention
from narspeech.nn.dropout import Dropout
from narspeech.nn.positions import placed, rotary


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(self.dropout(F.silu(self.inner(x))))
        return out


class StochasticDepth(nn.Module):
    """Drop a residual branch for some rows of the batch (Huang et al. 2016).

    It multiplies by zero and never skips the branch, so every parameter has a gradient on every rank.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ConfigError(f"expected a stochastic depth rate from 0 to below 1, received {rate}; 0.1 is usual")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * (torch.rand(len(x), 1, 1, device=x.device) < keep).to(x.dtype) / keep


class BranchDropout(nn.Sequential):
    """Dropout and stochastic depth of a residual branch. In evaluation neither is called: in the small layers of one
    sentence that would take its time."""

    def __init__(self, dropout: float, rate: float) -> None:
        super().__init__(Dropout(dropout), StochasticDepth(rate))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        dropout, depth = self
        out: Tensor = depth(dropout(x))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward: tokens (R, U, D) over keys and values computed once. Without a
    memory_width there is no cross-attention."""

    def __init__(self, width: int, heads: int, hidden: int, memory_width: int | None, dropout: float) -> None:
        super().__init__()
        self.self_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = SelfAttention(width, heads)
        if memory_width is not None:
            self.cross_norm = nn.LayerNorm(width)
            self.cross_attention = CrossAttention(width, heads, memory_width)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        memory_mask: Tensor,
        cache: Cache | None = None,
    ) -> Tensor:
        x = x + self.dropout(self.self_attention(self.self_norm(x), positions, mask, cache))
        if keys is not None and values is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), keys, values, memory_mask))
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_norm(x)))
        return out


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """depth: layers; feed_forward: units between their two maps; dropout: before every residual sum and inside the
    feed-forward. Raises ConfigError."""

    depth: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "feed_forward"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected a decoder's {name} of 1 or more, received {getattr(self, name)}: raise it")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"expected dropout from 0 to below 1, received {self.dropout}; .1 is usual")


class DecoderStack(nn.Module):
    """Decoder layers and a last norm; what it attends to, if anything, is projected once, by `project`."""

    def __init__(self, config: StackConfig, memory_width: int | None) -> None:
        super().__init__()
        self.cross = memory_width is not None
        self.head_width = config.width // config.heads
        layer = (config.width, config.heads, config.feed_forward, memory_width, config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(*layer) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def project(self, states: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """states (B, T, M) -> every layer's keys and values, each (B, H, T, D / H); the states' places are added.
        Without cross-attention there are none."""
        if not self.cross:
            return (), ()
        states, layers = placed(states), cast("Iterable[DecoderLayer]", self.layers)
        keys, values = zip(*(layer.cross_attention.project(states) for layer in layers), strict=True)
        return keys, values

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        memory_mask: Tensor,
        caches: Sequence[Cache] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """x (R, U, D), mask (R or 1, 1, 1 or U, U) what a token may see, memory_mask (R, 1, 1, T) -> (R, U, D).

        Decoding from left to right: one cache a layer, in which the L tokens before are kept (then mask (.., L + U)),
        and the new tokens' positions (2, U, D / H), which are otherwise 0, 1, ... U - 1.
        """
        if positions is None:
            positions = rotary(x.shape[1], self.head_width, x.device)
        nothing = [None] * len(self.layers)
        for layer, k, v, cache in zip(self.layers, keys or nothing, values or nothing, caches or nothing, strict=True):
            x = layer(x, positions, mask, k, v, memory_mask, cache)
        out: Tensor = self.norm(x)
        return out
