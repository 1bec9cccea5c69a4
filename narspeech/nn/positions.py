"""Where a frame or token stands: rotary angles and Transformer-XL relative encodings."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def rotary(length: int, head_width: int, device: torch.device) -> Tensor:
    """(2, length, head_width) cosines and sines of the rotation angles (Su et al. 2021, RoFormer, eq. 34).

    The sines of the first half are negative: there they are a coordinate's share of the one that it turns with.
    """
    return _rotary(room(length), head_width, device)[:, :length]


@lru_cache(maxsize=16)
def _rotary(length: int, head_width: int, device: torch.device) -> Tensor:
    """Made once: beside the small layers of one sentence it would take its time."""
    with torch.inference_mode(False):  # else what was made in decoding could not serve in training
        half = torch.arange(0, head_width, 2, device=device, dtype=torch.float32)
        angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * 10000.0 ** (-half / head_width)
        cosine, sine = angles.cos(), angles.sin()
        return torch.stack([torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)])


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn queries or keys (..., T, D) by their positions (2, T, D) from `rotary`."""
    cosine, sine = positions.to(x.dtype)
    turned: Tensor = x * cosine + x.roll(x.shape[-1] // 2, -1) * sine
    return turned


def sinusoids(places: Tensor, width: int) -> Tensor:
    """(..., width) sines and cosines of places (...) in float32 (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(
        torch.arange(0, width, 2, device=places.device, dtype=torch.float32) * (-math.log(10000.0) / width)
    )
    angles = places.float().unsqueeze(-1) * rate
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def placed(x: Tensor, places: Tensor | None = None) -> Tensor:
    """x (..., L, D) with the sinusoids of its places (..., L) added, which are 0, 1, ... L - 1 where none are given."""
    if places is not None:
        return x + sinusoids(places, x.shape[-1]).to(x.dtype)
    length = x.shape[-2]
    return x + _sinusoids(room(length), x.shape[-1], x.device)[:length].to(x.dtype)


@lru_cache(maxsize=16)
def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """(length, width), made once as `_rotary`."""
    with torch.inference_mode(False):
        return sinusoids(torch.arange(length, device=device), width)


def room(length: int) -> int:
    """A power of two that is not less, so that what is kept for it serves for many lengths."""
    return 1 << max(length - 1, 63).bit_length()


def relative(length: int, width: int, device: torch.device) -> Tensor:
    """(2 * length - 1, width) sinusoids of the distances length-1 .. -(length-1) (Dai et al. 2019, Transformer-XL)."""
    return sinusoids(torch.arange(length - 1, -length, -1, device=device), width)
