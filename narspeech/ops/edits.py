"""Deletions and insertions: the shortest way from one sequence to another, and what they make of a sequence
(Levenshtein Transformer: Gu et al. 2019, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Padded


class Common(NamedTuple):
    """What a source (R, N) and a target (R, U) have in common, in order, where few edits part them.

    kept: (R, N) bool, source tokens that stay, the others being deleted; met: (R, U) bool, target tokens that those
    are, the others being inserted. Both are False on padding.
    """

    kept: Tensor
    met: Tensor


def common(source: Padded, target: Padded) -> Common:
    """The path of the fewest deletions and insertions from source (R, N) to target (R, U): the expert's edits.

    It keeps a longest common subsequence, found by dynamic programming, one vectorised step a source token:

        L[n, u] = L[n-1, u-1] + 1 where the tokens are equal, else max(L[n-1, u], L[n, u-1])

    Of several it takes the one that goes backwards from the ends and prefers to match, then to delete, then to insert.
    """
    # (N, R, U + 1): column u has u target tokens behind it.
    equal = (source.data.T.unsqueeze(-1) == target.data) & source.mask.T.unsqueeze(-1) & target.mask
    equal = F.pad(equal, (1, 0))
    entered = torch.empty_like(equal)  # whether the path comes into a cell from the row above, not from the left
    longest = torch.zeros(equal.shape[1:], dtype=torch.int32, device=equal.device)
    for index, same in enumerate(equal):
        above = longest
        longest = torch.where(same, F.pad(above[:, :-1], (1, 0)) + 1, above).cummax(-1).values
        entered[index] = same | (longest == above)
    columns = torch.arange(equal.shape[2], device=equal.device)
    entry = columns.where(entered, 0).cummax(-1).values  # in every row, where the path from a cell to the left goes up
    kept, met = torch.zeros_like(source.mask), torch.zeros_like(longest, dtype=torch.bool)
    column = target.lengths[:, None]
    for index in range(len(equal) - 1, -1, -1):
        column = entry[index].gather(1, column)
        match = equal[index].gather(1, column)
        kept[:, index : index + 1] = match
        met.scatter_(1, column, met.gather(1, column) | match)
        column = column - match.long()
    return Common(kept, met[:, 1:])


def missing_counts(met: Padded) -> Tensor:
    """(R, U + 1) how many tokens are missing in each gap of those that are met (R, U) bool: before the first of them,
    between it and the second, and so on; 0 beyond the last gap."""
    gap = met.data.cumsum(-1)
    counts = gap.new_zeros(len(gap), gap.shape[1] + 1)
    return counts.scatter_add_(1, gap, (~met.data & met.mask).long())


def keep(x: Padded, kept: Tensor, fill: float = 0) -> Padded:
    """x (R, N) without what is not kept (R, N) bool: (R, N) again, `fill` beyond the new lengths. No host sync."""
    order = (~kept).int().argsort(dim=-1, stable=True)
    kept_first = Padded(x.data.gather(1, order), kept.sum(-1))
    return Padded(kept_first.data.masked_fill(~kept_first.mask, fill), kept_first.lengths)


def fit(counts: Tensor, room: Tensor) -> Tensor:
    """counts (R, N + 1) of insertions, those that come later cut so that no row's sum is greater than its room (R,)."""
    ends = torch.minimum(counts.cumsum(-1), room.clamp(min=0)[:, None])
    return ends.diff(dim=-1, prepend=torch.zeros_like(ends[:, :1]))


def insert(x: Padded, counts: Tensor, width: int, fill: float) -> Padded:
    """x (R, N) with counts[:, n] (R, N + 1) times `fill` before its item n, and the last of the counts at the end:
    (R, width), `fill` beyond the new lengths too. Gaps beyond a row's end must count 0. No host sync.

    `width` must hold the longest row.
    """
    places = torch.arange(x.data.shape[1], device=x.data.device) + counts[:, :-1].cumsum(-1)
    data = x.data.new_full((len(x.data), width + 1), fill)  # the last column, which is cut off, takes the padding
    data.scatter_(1, places.masked_fill(~x.mask, width), x.data)
    return Padded(data[:, :width], x.lengths + counts.sum(-1))
