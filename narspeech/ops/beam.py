"""What a beam search keeps, and finds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from narspeech.batch import Draft, Padded


class Beam(NamedTuple):
    """K hypotheses a row: tokens (R, K, U); scores (R, K, U) of each token; lengths (R, K); totals (R, K) by which they
    stand in order, the best first, -inf where there is none."""

    tokens: Tensor
    scores: Tensor
    lengths: Tensor
    totals: Tensor

    def take(self, index: Tensor) -> Beam:
        """Those that index (R, K') names in each row."""
        wide = index.unsqueeze(-1).expand(-1, -1, self.tokens.shape[2])
        narrow = (self.lengths.gather(1, index), self.totals.gather(1, index))
        return Beam(self.tokens.gather(1, wide), self.scores.gather(1, wide), *narrow)

    def draft(self) -> Draft:
        """Those that there are, and the first of a row in any case. One host sync."""
        exists = self.totals > float("-inf")
        exists[:, 0] = True
        index = exists.flatten().nonzero().squeeze(-1)
        tokens, scores, lengths = (x.flatten(0, 1)[index] for x in (self.tokens, self.scores, self.lengths))
        return Draft(Padded(tokens, lengths), scores, index // exists.shape[1], torch.zeros_like(index))
