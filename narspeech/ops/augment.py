"""Augmentation as pure functions: speed perturbation of samples; warps, cuts and SpecAugment's masks of features.

Every draw is made on the CPU, a fixed number a row, and moved: the CPU and CUDA see the same masks, and what a row
receives depends on its place in the batch and on its own length, never on its batch-mates.
"""

from __future__ import annotations

from fractions import Fraction

import torch
import torchaudio.functional
from torch import Tensor

from narspeech.batch import Padded
from narspeech.errors import ConfigError


def speed_perturb(samples: Tensor, factor: float) -> Tensor:
    """Play samples (N,) `factor` times as fast, which moves the pitch as well (Ko et al. 2015): (ceil(N / factor),).

    The factor is taken as a fraction of small integers (.9 is 9/10), which makes the resampling a short convolution.
    """
    if samples.dim() != 1:
        raise ValueError(f"expected samples of shape (N,), received {tuple(samples.shape)}; pass one channel at a time")
    if not 0.1 <= factor <= 10:
        raise ConfigError(f"expected a speed factor from 0.1 to 10, received {factor}; .9, 1 and 1.1 are usual")
    ratio = Fraction(factor).limit_denominator(100)
    if ratio == 1 or not len(samples):
        return samples
    resampled: Tensor = torchaudio.functional.resample(samples, ratio.numerator, ratio.denominator)
    return resampled


def time_warp(features: Padded, window: int, generator: torch.Generator | None = None) -> Padded:
    """Move one random anchor of each row by up to `window` frames, stretching one side and squeezing the other.

    Features (B, T, F) keep their lengths and their first and last frames (Park et al. 2019, with linear interpolation).
    A row shorter than 2 * window + 3 frames has no room for an anchor and stays as it is.
    """
    data, lengths = features
    if window <= 0:
        return features
    draws = _draws(len(data), 2, features, generator)
    room = lengths - 2 * window - 2  # anchors are window + 1 ... length - 2 - window: a moved one is strictly inside
    anchor = window + 1 + _integers(draws[:, 0], room.clamp(min=1))
    moved = anchor - window + _integers(draws[:, 1], torch.full_like(lengths, 2 * window + 1))
    frame = torch.arange(data.shape[1], device=data.device)
    anchor, moved, last = anchor[:, None], moved[:, None], (lengths - 1)[:, None]
    before = frame * (anchor / moved)
    after = anchor + (frame - moved) * ((last - anchor) / (last - moved).clamp(min=1))
    position = torch.where(frame < moved, before, torch.minimum(after, last))
    position = torch.where((room > 0)[:, None] & (frame < last), position, frame)
    lower = position.floor()
    offset = torch.arange(len(data), device=data.device)[:, None] * data.shape[1]
    flat = data.flatten(0, 1)
    left = flat.index_select(0, (offset + lower.long()).flatten()).view_as(data)
    right = flat.index_select(0, (offset + position.ceil().long()).flatten()).view_as(data)
    return Padded(torch.lerp(left, right, (position - lower)[..., None].to(data.dtype)), lengths)


def frequency_warp(features: Padded, width: float, generator: torch.Generator | None = None) -> Padded:
    """Stretch the feature axis of each row of (B, T, F) by its own factor in 1 - `width` ... 1 + `width`.

    On a mel scale this moves the formants as another speaker's vocal tract would (Jaitly & Hinton 2013, VTLP). Band j
    takes what stood at j times the factor, interpolated between bands; beyond the last band, that one.
    """
    if not 0 <= width < 1:
        raise ConfigError(f"expected a frequency warp from 0 to below 1, received {width}; .1 is usual")
    data, lengths = features
    if width == 0:
        return features
    bands = torch.arange(data.shape[2], device=data.device, dtype=torch.float32)
    factor = 1 + width * (2 * _draws(len(data), 1, features, generator) - 1)  # (B, 1)
    source = (bands * factor).clamp(max=data.shape[2] - 1)
    weights = (1 - (bands[:, None] - source[:, None]).abs()).clamp(min=0)  # (B, F source, F target)
    return Padded(data @ weights.to(data.dtype), lengths)


def band_limit(features: Padded, width: int, generator: torch.Generator | None = None) -> Padded:
    """In every other row of (B, T, F), on average, the last 0 ... `width` bands fall to the row's least value.

    That is what a codec or a telephone leaves of them; a frequency mask hides a band behind its mean instead.
    """
    data, lengths = features
    if width == 0 or not data.numel():
        return features
    draws = _draws(len(data), 2, features, generator)
    cut = _integers(draws[:, 0], torch.full_like(lengths, width + 1)) * (draws[:, 1] < 0.5)
    gone = torch.arange(data.shape[2], device=data.device) >= data.shape[2] - cut[:, None]
    least = data.masked_fill(~features.mask[..., None], float("inf")).amin((1, 2), keepdim=True)
    return Padded(torch.where(gone[:, None] & features.mask[..., None], least, data), lengths)


def frequency_masks(features: Padded, count: int, width: int, generator: torch.Generator | None = None) -> Padded:
    """Set `count` bands of 0 ... `width` neighbouring features to zero, drawn anew for each row of (B, T, F)."""
    num_features = features.data.shape[2]
    total = torch.full_like(features.lengths, num_features)
    hidden = _spans(features, count, total, total.clamp(max=width), num_features, generator)
    # Zero is the mean of normalised features; what stands beyond a row's length is left alone.
    return Padded(features.data.masked_fill(hidden[:, None, :] & features.mask[..., None], 0), features.lengths)


def time_masks(features: Padded, count: int, width_ratio: float, generator: torch.Generator | None = None) -> Padded:
    """Set `count` runs of frames of (B, T, F) to zero, each of 0 ... floor(width_ratio * its row's own length)."""
    if not 0 <= width_ratio <= 1:
        raise ConfigError(f"expected a time-mask ratio from 0 to 1, received {width_ratio}; .05 is usual")
    widest = (features.lengths * width_ratio).floor().long()
    hidden = _spans(features, count, features.lengths, widest, features.data.shape[1], generator)
    return Padded(features.data.masked_fill(hidden[..., None], 0), features.lengths)


def _spans(
    features: Padded, count: int, total: Tensor, widest: Tensor, size: int, generator: torch.Generator | None
) -> Tensor:
    """(B, size) bool: the union of `count` spans a row, each of 0 ... widest positions among the first `total`."""
    draws = _draws(len(total), 2 * count, features, generator).view(len(total), count, 2)
    total, widest = total[:, None], widest[:, None]
    width = _integers(draws[..., 0], widest + 1)
    start = _integers(draws[..., 1], total - width + 1)
    place = torch.arange(size, device=total.device)
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(1)


def _draws(rows: int, count: int, features: Padded, generator: torch.Generator | None) -> Tensor:
    """(rows, count) uniform in [0, 1), drawn on the CPU whatever the device."""
    return torch.rand(rows, count, generator=generator).to(features.data.device, non_blocking=True)


def _integers(draws: Tensor, bound: Tensor) -> Tensor:
    """Uniform integers 0 ... bound - 1 (bound >= 1). One product alone, so that every device rounds it alike."""
    return (draws * bound).long()
