"""Transformer (Vaswani et al. 2017) over embeddings of text, which can give several states a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from narspeech.batch import Encoded, Padded
from narspeech.encoders.base import Encoder
from narspeech.errors import ConfigError
from narspeech.nn.attention import SelfAttention, key_mask
from narspeech.nn.dropout import Dropout
from narspeech.nn.layers import BranchDropout, FeedForward
from narspeech.nn.positions import rotary


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """upsample: states a token, so that families that read their length off the states (CTC, DAG) have room for a
    longer target; upsample_at: the layer (from 1) before which they part; taps: as the conformer's."""

    kind: ClassVar[str] = "transformer"
    depth: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    upsample: int = 1
    upsample_at: int = 1
    taps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"expected a depth of at least 1 layer, received {self.depth}")
        if self.upsample < 1:
            raise ConfigError(f"expected upsample of 1 or more, received {self.upsample}; 2 or 3 suits CTC")
        if not 1 <= self.upsample_at <= self.depth:
            raise ConfigError(f"expected upsample_at from 1 to depth = {self.depth}, received {self.upsample_at}")
        outside = [tap for tap in self.taps if not self.upsample_at <= tap < self.depth]
        if outside:
            raise ConfigError(
                f"expected taps from upsample_at to depth - 1 = {self.depth - 1}, received {outside}; "
                "the last layer is no tap"
            )


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each a pre-norm residual."""

    def __init__(self, config: TransformerConfig, drop: float) -> None:
        super().__init__()
        self.self_norm, self.feed_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.self_attention = SelfAttention(config.width, config.heads, dropout=config.attention_dropout)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.dropout)
        self.drop = BranchDropout(config.dropout, drop)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        x = x + self.drop(self.self_attention(self.self_norm(x), positions, mask))
        out: Tensor = x + self.drop(self.feed_forward(self.feed_norm(x)))
        return out


class Transformer(Encoder):
    """Embeddings (B, L, F) -> states (B, L * upsample, width); state k of token l is number l * upsample + k."""

    reduction = 1

    def __init__(self, config: TransformerConfig, num_features: int) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.input = nn.Linear(num_features, config.width) if num_features != config.width else nn.Identity()
        self.dropout = Dropout(config.dropout)
        rates = torch.linspace(0, config.stochastic_depth, config.depth).tolist()
        self.layers = nn.ModuleList(TransformerLayer(config, rate) for rate in rates)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in (*config.taps, config.depth))
        # The states of one token differ by what is added to each (Libovicky & Helcl 2018 split a projection instead).
        self.part = nn.Parameter(0.1 * torch.randn(config.upsample, config.width)) if config.upsample > 1 else None

    def lengths(self, lengths: Tensor) -> Tensor:
        return lengths * self.config.upsample

    def forward(self, features: Padded, feedback: Callable[[Tensor], Tensor] | None = None) -> Encoded:
        config = self.config
        x, lengths = self.dropout(self.input(features.data)), features.lengths
        positions, mask = self._surroundings(x, lengths)
        taps, norms = [], iter(self.norms)
        for number, layer in enumerate(self.layers, 1):
            if self.part is not None and number == config.upsample_at:
                x, lengths = (x.unsqueeze(2) + self.part).flatten(1, 2), self.lengths(lengths)
                positions, mask = self._surroundings(x, lengths)
            x = layer(x, positions, mask)
            if number in config.taps:
                taps.append(next(norms)(x))
                if feedback is not None:
                    x = x + feedback(taps[-1])
        return Encoded(Padded(next(norms)(x), lengths), features, tuple(taps))

    def _surroundings(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Places (2, T, D / H) and where a query may look (B, 1, 1, T)."""
        config, length = self.config, x.shape[1]
        return rotary(length, config.width // config.heads, x.device), key_mask(lengths, length)
