"""SpecAugment as a module (Park et al. 2019), more of its kind, and the two views of CR-CTC (Yao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from narspeech.batch import Padded
from narspeech.errors import ConfigError
from narspeech.ops.augment import band_limit, frequency_masks, frequency_warp, time_masks, time_warp

# CR-CTC widens the time masks, because the two views must differ for their agreement to teach anything.
VIEWS_TIME_FACTOR = 2.5


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """warp: farthest move of the anchor in frames; freq_width: widest band in features; time_ratio: longest time mask
    as a share of the utterance; freq_warp: farthest stretch of the feature axis, as by another speaker's vocal tract;
    band_limit: the most features that are cut off at the top, as by a codec. 0 turns a part off."""

    warp: int = 5
    freq_warp: float = 0.0
    band_limit: int = 0
    freq_masks: int = 2
    freq_width: int = 27
    time_masks: int = 5
    time_ratio: float = 0.05

    def __post_init__(self) -> None:
        for name in ("warp", "band_limit", "freq_masks", "freq_width", "time_masks"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} of 0 or more, received {getattr(self, name)}; 0 turns it off")
        if not 0 <= self.freq_warp < 1:
            raise ConfigError(f"expected a freq_warp from 0 to below 1, received {self.freq_warp}; .08 is usual")
        if not 0 <= self.time_ratio <= 1:
            raise ConfigError(f"expected a time_ratio from 0 to 1, received {self.time_ratio}; .05 is usual")


class SpecAugment(nn.Module):
    """Warps and masks normalised features (B, T, F) in training mode; in evaluation mode they pass unchanged.

    Draws come from `generator`, or from torch's global CPU generator if it is None.
    """

    def __init__(self, config: SpecAugmentConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.generator = generator

    def forward(self, features: Padded) -> Padded:
        return self._masked(self._warped(features), self.config.time_ratio)

    def views(self, features: Padded) -> Padded:
        """One warp of time, the rest twice, with wider time masks: (B, T, F) -> (2B, T, F), rows i and i + B a pair."""
        return self._masked(self._warped(features).twice(), min(1.0, self.config.time_ratio * VIEWS_TIME_FACTOR))

    def _warped(self, features: Padded) -> Padded:
        return time_warp(features, self.config.warp, self.generator) if self.training else features

    def _masked(self, features: Padded, time_ratio: float) -> Padded:
        if not self.training:
            return features
        features = frequency_warp(features, self.config.freq_warp, self.generator)
        features = band_limit(features, self.config.band_limit, self.generator)
        features = frequency_masks(features, self.config.freq_masks, self.config.freq_width, self.generator)
        return time_masks(features, self.config.time_masks, time_ratio, self.generator)
