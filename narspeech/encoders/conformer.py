"""Conformer (Gulati et al. 2020) whose output for a row never depends on its padding or batch-mates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from narspeech.batch import Encoded, Padded
from narspeech.encoders.base import Encoder
from narspeech.encoders.subsampling import Subsampling
from narspeech.errors import ConfigError
from narspeech.nn.attention import SelfAttention, key_mask
from narspeech.nn.convolution import ConvolutionModule
from narspeech.nn.dropout import Dropout
from narspeech.nn.layers import BranchDropout, FeedForward
from narspeech.nn.positions import relative, rotary


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """stochastic_depth: drop rate of the last layer, rising linearly from the first; window: (left, right) frames of
    context in attention, None for all; taps: layers (from 1) whose states are handed out for intermediate CTC."""

    kind: ClassVar[str] = "conformer"
    depth: int = 12
    width: int = 256
    heads: int = 4
    feed_forward: int = 1024
    kernel: int = 15
    dropout: float = 0.1
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    subsampling: Literal["conv2d4", "depthwise4", "depthwise8"] = "depthwise8"
    channels: int = 128
    positions: Literal["rotary", "relative"] = "rotary"
    window: tuple[int, int] | None = None
    norm: Literal["layer", "batch"] = "layer"
    taps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"expected a depth of at least 1 layer, received {self.depth}")
        if self.window is not None and min(self.window) < 0:
            raise ConfigError(f"expected a window of 0 or more frames on either side, received {self.window}")
        outside = [tap for tap in self.taps if not 1 <= tap < self.depth]
        if outside:
            raise ConfigError(
                f"expected taps from 1 to depth - 1 = {self.depth - 1}, received {outside}; the last layer is no tap"
            )


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, each a pre-norm residual; then a norm."""

    def __init__(self, config: ConformerConfig, drop: float) -> None:
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.feed_in = FeedForward(width, config.feed_forward, config.dropout)
        self.attention = SelfAttention(
            width, config.heads, relative=config.positions == "relative", dropout=config.attention_dropout
        )
        self.convolution = ConvolutionModule(width, config.kernel, config.norm)
        self.feed_out = FeedForward(width, config.feed_forward, config.dropout)
        self.drop = BranchDropout(config.dropout, drop)

    def forward(self, x: Tensor, positions: Tensor, attend: Tensor, mask: Tensor) -> Tensor:
        n = self.norms
        x = x + 0.5 * self.drop(self.feed_in(n[0](x)))
        x = x + self.drop(self.attention(n[1](x), positions, attend))
        x = x + self.drop(self.convolution(n[2](x), mask))
        x = x + 0.5 * self.drop(self.feed_out(n[3](x)))
        out: Tensor = n[4](x)
        return out


class Conformer(Encoder):
    def __init__(self, config: ConformerConfig, num_features: int) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.subsampling = Subsampling(config.subsampling, num_features, config.width, config.channels)
        self.reduction = 2 ** len(self.subsampling.stages)
        self.dropout = Dropout(config.dropout)
        rates = torch.linspace(0, config.stochastic_depth, config.depth).tolist()
        self.layers = nn.ModuleList(ConformerLayer(config, rate) for rate in rates)

    def lengths(self, lengths: Tensor) -> Tensor:
        return self.subsampling.lengths(lengths)

    def forward(self, features: Padded, feedback: Callable[[Tensor], Tensor] | None = None) -> Encoded:
        config = self.config
        x, lengths = self.subsampling(features)
        x = self.dropout(x)
        length = x.shape[1]
        if config.positions == "rotary":
            positions = rotary(length, config.width // config.heads, x.device)
        else:
            positions = relative(length, config.width, x.device)
        attend = key_mask(lengths, length, config.window)
        mask = Padded(x, lengths).mask.unsqueeze(-1)
        taps = []
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, positions, attend, mask)
            if number in config.taps:
                taps.append(x)  # normalised: a layer ends with its norm
                if feedback is not None:
                    x = x + feedback(x)
        return Encoded(Padded(x, lengths), features, tuple(taps))
