"""N-gram language models with backoff: what they are, and how a batch of tokens is scored by one.

An n-gram is kept as its first n - 1 tokens, which are an n-gram of the order below, and its last one: a trie, each of
whose levels is one sorted array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narspeech.ops.scorer import Window

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Grams(NamedTuple):
    """The n-grams of one order. keys (G,) int64, rising: (place of the first n - 1 tokens among those of the order
    below) * V + last token; log_probs (G,) and backoffs (G,) float32, natural logarithms. Those of order 1 are all V
    tokens; the highest order's backoffs are empty."""

    keys: Ints
    log_probs: Floats
    backoffs: Floats


@dataclass(frozen=True, kw_only=True)
class NGram:
    """An n-gram model of a vocabulary: pieces are the tokens' surfaces, the specials of `tokenizer` first; grams stand
    by order, unigrams first."""

    pieces: tuple[str, ...]
    grams: tuple[Grams, ...]

    @property
    def order(self) -> int:
        return len(self.grams)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of n-grams of each order."""
        return tuple(len(grams.keys) for grams in self.grams)


class NGramScorer(Window):
    """Log-probabilities by an NGram, of whole batches at once on any device: a `Scorer`.

    p(w | context) is that of the longest n-gram that exists, times the backoffs of the longer contexts (Katz 1987). A
    context with a token that stands in no n-gram, such as MASK, is cut there.
    """

    def __init__(self, model: NGram, device: torch.device | str = "cpu") -> None:
        self.context, self.size = model.order - 1, len(model.pieces)
        self.keys = [torch.from_numpy(grams.keys).to(device) for grams in model.grams]
        self.log_probs = [torch.from_numpy(grams.log_probs).to(device) for grams in model.grams]
        self.backoffs = [torch.from_numpy(grams.backoffs).to(device) for grams in model.grams[:-1]]

    def __call__(self, state: Tensor, candidates: Tensor) -> Tensor:
        """state (R, n - 1) the tokens before, candidates (R, k) -> log-probabilities (R, k), natural logarithms."""
        scores = self.log_probs[0][candidates]
        for level, node in enumerate(self._nodes(state), 1):
            place, found = self._find(level, node.unsqueeze(-1), candidates)
            backoff = self.backoffs[level - 1][node].where(node >= 0, 0.0)
            scores = torch.where(found, self.log_probs[level][place], scores + backoff.unsqueeze(-1))
        return scores

    def _nodes(self, context: Tensor) -> list[Tensor]:
        """Where the last 1, 2, ... n - 1 tokens (R,) stand among the n-grams of that order, -1 where they do not."""
        if not self.context:
            return []
        nodes = context  # of the n-grams that end at each place
        last = [nodes[:, -1]]
        for level in range(1, self.context):
            place, found = self._find(level, nodes[:, :-1], context[:, level:])
            nodes = place.where(found, -1)
            last.append(nodes[:, -1])
        return last

    def _find(self, level: int, prefix: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Where the n-grams of order level + 1 stand that are a prefix and a token, and whether they exist."""
        keys = self.keys[level]
        wanted = prefix * self.size + token
        if not len(keys):
            return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return place, (keys[place] == wanted) & (prefix >= 0)
