"""Which source place a target place copies: evenly, or by fertilities, the numbers of copies (Gu et al. 2018); and the
copying itself."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_copy(source: Tensor, target: Tensor, width: int) -> Tensor:
    """(R, width): place u of `target` (R,) copies round(u T / U) of `source` (R,) places, the last one at most.

    Gu et al. 2018, section 3.1. Halves are rounded up, in integers, so that every device copies the same. Places
    beyond the target carry no meaning; without a source all copy place 0.
    """
    places = torch.arange(width, device=source.device)
    count, length = source[:, None], target.clamp(min=1)[:, None]
    return torch.minimum((2 * places * count + length) // (2 * length), (count - 1).clamp(min=0))


def at_places(frames: Tensor, places: Tensor) -> Tensor:
    """(R, U, D): of frames (R, T, D) the one at each of the places (R, U); zeros where there is no frame at all."""
    if not frames.shape[1]:
        return frames.new_zeros(*places.shape, frames.shape[2])
    return frames.gather(1, places.clamp(max=frames.shape[1] - 1).unsqueeze(-1).expand(-1, -1, frames.shape[2]))


def fertile_copy(fertilities: Tensor, width: int) -> Tensor:
    """(R, width): source place i as often as `fertilities` (R, T) say, in order (Gu et al. 2018, section 3.3).

    Places beyond a row's sum carry no meaning.
    """
    ends = fertilities.cumsum(-1)
    places = torch.arange(width, device=ends.device).expand(len(ends), width).contiguous()
    return torch.searchsorted(ends, places, right=True).clamp(max=max(fertilities.shape[1] - 1, 0))


def even_fertilities(total: Tensor, source: Tensor, width: int) -> Tensor:
    """(B, width): `total` (B,) copies spread evenly over `source` (B,) places, zeros beyond these."""
    count = source[:, None]
    places = torch.minimum(torch.arange(width + 1, device=source.device), count)
    divisor = count.clamp(min=1)
    return ((2 * places * total[:, None] + divisor) // (2 * divisor)).diff(dim=-1)


def mean_fertilities(expected: Tensor) -> Tensor:
    """Expected fertilities (B, T) in whole numbers: where their running sum passes n - 1/2, token n is born.

    Each place on its own would round states that bear half a token or less to nothing, however many they are.
    """
    # In float64, as float32 sums over many frames would depend on the padding.
    ends = (expected.double().cumsum(-1) + 0.5).floor().long()
    return ends.diff(dim=-1, prepend=ends.new_zeros(len(ends), 1))


def sampled_fertilities(probabilities: Tensor, count: int) -> Tensor:
    """(B, count, T): samples of fertilities with `probabilities` (B, T, F), by inversion of their running sums.

    The random numbers are a fixed table of place and sample, the same for every row: a sample depends neither on
    batch-mates nor on padding.
    """
    length = probabilities.shape[1]
    # One place after the other, so that a longer table begins with a shorter one.
    draw = torch.rand(length, count, generator=torch.Generator().manual_seed(0)).to(probabilities.device)
    below = probabilities.cumsum(-1)[..., :-1]
    return (draw[..., None] >= below[:, :, None]).sum(-1).transpose(1, 2)
