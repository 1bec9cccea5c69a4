"""The conformer's convolution module, which never lets padding in (Gulati et al. 2020, section 2.2)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.errors import ConfigError


class MaskedBatchNorm(nn.Module):
    """Batch normalisation (B, T, D) whose statistics count real frames only; in evaluation a fixed affine map."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, D), mask (B, T, 1)."""
        mean, variance = self.mean, self.variance
        if self.training:
            count = mask.sum()
            share = mask / count.clamp(min=1)
            mean = (x * share).sum((0, 1), dtype=torch.float32)
            variance = ((x - mean).square() * share).sum((0, 1), dtype=torch.float32)
            with torch.no_grad():
                # As in torch the running variance is the unbiased one; a batch of no or one frame has none to add.
                unbiased = variance * (count / (count - 1).clamp(min=1))
                momentum = (self.momentum * (count > 1)).to(self.mean.dtype)
                self.mean.lerp_(mean.to(self.mean.dtype), momentum)
                self.variance.lerp_(unbiased.to(self.variance.dtype), momentum)
        scale = self.weight * (variance + self.epsilon).rsqrt()
        return (x * scale + (self.bias - mean * scale)).to(x.dtype)


class ConvolutionModule(nn.Module):
    """Pointwise, gated, depthwise over time, normalised, pointwise: (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, kernel: int, norm: Literal["layer", "batch"]) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError(
                f"expected an odd convolution kernel, so that it has a middle, received {kernel}; try {kernel + 1}"
            )
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.batch_norm = MaskedBatchNorm(width) if norm == "batch" else None
        self.layer_norm = nn.LayerNorm(width) if norm == "layer" else None
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, D), mask (B, T, 1) bool."""
        x = F.glu(self.gate(x), -1).masked_fill(~mask, 0)
        # (B, T, D) in memory is a channels-last (B, D, T, 1): as a 2-D convolution it needs no copy on the CPU.
        weight = self.depthwise.weight.unsqueeze(-1)
        padding = (self.depthwise.kernel_size[0] // 2, 0)
        x4 = x.transpose(1, 2).unsqueeze(-1)
        x = F.conv2d(x4, weight, self.depthwise.bias, padding=padding, groups=x4.shape[1]).squeeze(-1).transpose(1, 2)
        if self.batch_norm is not None:
            x = self.batch_norm(x, mask)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        out: Tensor = self.output(F.silu(x))
        return out
