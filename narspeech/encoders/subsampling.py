"""From 100 feature frames a second to 25 or 12.5, by strided convolutions that never see padding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Padded
from narspeech.errors import ConfigError

KINDS = ("conv2d4", "depthwise4", "depthwise8")


class Subsampling(nn.Module):
    """features (B, T', F) -> (B, T, D).

    conv2d4: two full 3x3 convolutions of stride 2 without padding, as in ESPnet; depthwise4, depthwise8: one full and
    one or two depthwise-separable 3x3 convolutions of stride 2 with padding 1 (Rekesh et al. 2023, Fast Conformer).
    """

    def __init__(self, kind: str, num_features: int, width: int, channels: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"expected subsampling to be one of {', '.join(KINDS)}, received {kind!r}")
        self.padding = 0 if kind == "conv2d4" else 1
        stages: list[nn.Module] = [nn.Conv2d(1, channels, 3, 2, self.padding)]
        if kind == "conv2d4":
            stages.append(nn.Conv2d(channels, channels, 3, 2))
        else:
            for _ in range(1 if kind == "depthwise4" else 2):
                depthwise = nn.Conv2d(channels, channels, 3, 2, 1, groups=channels)
                stages.append(nn.Sequential(depthwise, nn.Conv2d(channels, channels, 1)))
        self.stages = nn.ModuleList(stages)
        size = num_features
        for _ in stages:
            size = max(0, (size + 2 * self.padding - 3) // 2 + 1)
        if not size:
            raise ConfigError(
                f"expected enough features for {kind} to shrink {len(stages)} times, received {num_features}; "
                "80 mel bands are usual"
            )
        self.output = nn.Linear(channels * size, width)

    def _shrink(self, lengths: Tensor) -> Tensor:
        """Frames behind one stage."""
        return ((lengths + 2 * self.padding - 3).div(2, rounding_mode="floor") + 1).clamp(min=0)

    def lengths(self, lengths: Tensor) -> Tensor:
        """Output frames for `lengths` (B,) input frames; too short an input gives 0."""
        for _ in self.stages:
            lengths = self._shrink(lengths)
        return lengths

    def forward(self, features: Padded) -> Padded:
        x, lengths = features.zeroed()
        x = x.to(self.output.weight.dtype)  # a frontend computes in float32 whatever the model's precision
        shortest = 2 ** (len(self.stages) + 1) - 1  # the least input from which every stage has a frame
        x = F.pad(x, (0, 0, 0, max(0, shortest - x.shape[1])))[:, None]  # (B, 1, T, F)
        for stage in self.stages:
            lengths = self._shrink(lengths)
            x = F.relu(stage(x))
            # A bias makes padding non-zero, and the next stage would read it.
            x = Padded(x.transpose(1, 2), lengths).zeroed().data.transpose(1, 2)
        x = self.output(x.transpose(1, 2).flatten(2))
        return Padded(x, lengths)
