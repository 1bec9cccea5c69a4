"""The records that flow from floor to floor: padded tensors that know their lengths.

Legend: B batch, N samples, T frames, U tokens, V vocabulary, D width, F features, R rows (utterances x candidates).
Batch first; masks are True on real positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Padded(NamedTuple):
    """A batch of sequences of unequal length, padded at the end.

    data: (B, L, ...); lengths: (B,) int64. What stands beyond a row's length carries no meaning and may hold anything.
    """

    data: Tensor
    lengths: Tensor

    @staticmethod
    def pack(rows: Sequence[Tensor], fill: float = 0) -> Padded:
        """Stack tensors (L_i, ...) into one padded batch."""
        if not rows:
            raise ValueError("expected at least one sequence to pack, received none")
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        return Padded(torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill), lengths)

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True on real positions."""
        return torch.arange(self.data.shape[1], device=self.data.device) < self.lengths[:, None]

    def unpack(self) -> list[Tensor]:
        """The rows at their own lengths: the inverse of `pack`."""
        return [row[:length] for row, length in zip(self.data, self.lengths.tolist(), strict=True)]

    def rows(self, index: Tensor) -> Padded:
        """The rows that `index` (R,) names, in its order."""
        return Padded(self.data[index], self.lengths[index])

    def repeat(self, n: int) -> Padded:
        """Every row n times in succession: (B, ...) -> (B * n, ...)."""
        return Padded(self.data.repeat_interleave(n, 0), self.lengths.repeat_interleave(n, 0))

    def twice(self) -> Padded:
        """Two copies one after the other: (B, ...) -> (2 B, ...), rows i and i + B alike."""
        return Padded(torch.cat([self.data] * 2), torch.cat([self.lengths] * 2))

    def widened(self, width: int, fill: float = 0) -> Padded:
        """The same rows with room for `width` items at least, `fill` in the new places."""
        room = max(0, width - self.data.shape[1])
        return Padded(F.pad(self.data, (0, 0) * (self.data.dim() - 2) + (0, room), value=fill), self.lengths)

    def zeroed(self) -> Padded:
        """The same rows with zeros beyond their lengths, so that a convolution sees what a single row would see."""
        mask = self.mask.view(*self.data.shape[:2], *[1] * (self.data.dim() - 2))
        return Padded(self.data.masked_fill(~mask, 0), self.lengths)

    def to(self, device: torch.device | str) -> Padded:
        return Padded(self.data.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))


class Encoded(NamedTuple):
    """What an encoder gives to a decoder.

    states: (B, T, D); inputs: what the encoder read (features or source embeddings), for copying; taps: normalised
    states (B, T, D) of the tapped layers, in order; ctc: (B, T, V) log-probabilities, if there is a head.
    """

    states: Padded
    inputs: Padded
    taps: tuple[Tensor, ...] = ()
    ctc: Padded | None = None


class Draft(NamedTuple):
    """Hypotheses under refinement.

    tokens: (R, U), MASK where undecided; scores: (R, U) log-probability when last written; owner: (R,) the utterance
    that a row belongs to; undecided: (R,) number of MASKs at the START, which fixes the filling schedule.
    """

    tokens: Padded
    scores: Tensor
    owner: Tensor
    undecided: Tensor

    @staticmethod
    def decided(tokens: Padded, scores: Tensor) -> Draft:
        """A hypothesis for each utterance in which no token is to be decided."""
        owner = torch.arange(len(scores), device=scores.device)
        return Draft(tokens, scores, owner, torch.zeros_like(owner))

    def rows(self, index: Tensor) -> Draft:
        return Draft(self.tokens.rows(index), self.scores[index], self.owner[index], self.undecided[index])


class Batch(NamedTuple):
    """Training examples: ids; source (B, N) samples or (B, L) token ids; target (B, U) token ids;
    guide: per-token side information such as fertilities, or None."""

    ids: tuple[str, ...]
    source: Padded
    target: Padded
    guide: Padded | None = None

    def to(self, device: torch.device | str) -> Batch:
        guide = None if self.guide is None else self.guide.to(device)
        return Batch(self.ids, self.source.to(device), self.target.to(device), guide)


class Loss(NamedTuple):
    """total: scalar SUM over the utterances that count; count: () how many those are; parts: sums or counts to report.

    The trainer divides by the global count, so accumulation and data parallelism give the gradient of one big batch.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # no one counts the values of this tuple
    parts: dict[str, Tensor]


class Round(NamedTuple):
    """Refinement step `index` (from 0) of `steps`."""

    index: int  # type: ignore[assignment]  # no one looks a value up in this tuple
    steps: int


class TrainStep(NamedTuple):
    """progress: 0..1 through the training; views: rows i and i + B/2 are two views of one utterance (CR-CTC)."""

    progress: float = 0.0
    views: bool = False
