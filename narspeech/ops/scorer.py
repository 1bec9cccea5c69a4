"""What a search adds to the log-probability of each next token: a language model, hotwords, or their sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.tokenizer import BOS


class Scorer(Protocol):
    """What it remembers of a text is its state: S whole numbers, which a search carries along with the text."""

    def start(self, device: torch.device) -> Tensor:
        """(S,) where a text begins."""
        ...

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        """state (R, S), tokens (R,) -> (R, S) behind them."""
        ...

    def states(self, tokens: Tensor) -> Tensor:
        """tokens (R, U) of whole texts -> (R, U, S) before each of them."""
        ...

    def __call__(self, state: Tensor, candidates: Tensor) -> Tensor:
        """state (R, S); candidates (R, k) tokens that may follow, EOS among them -> (R, k) what is added to the
        log-probability of each, weights included."""
        ...


class Window:
    """What a scorer inherits whose state is the last `context` tokens, BOS before a text."""

    context: int

    def start(self, device: torch.device) -> Tensor:
        return torch.full((self.context,), BOS, device=device)

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([state, tokens.unsqueeze(-1)], -1)[:, 1:]

    def states(self, tokens: Tensor) -> Tensor:
        return F.pad(tokens, (self.context, 0), value=BOS).unfold(1, self.context + 1, 1)[..., : self.context]


class Sum:
    """Scorers side by side, each times its weight; their states stand side by side, too."""

    def __init__(self, parts: Sequence[tuple[Scorer, float]]) -> None:
        self.parts = tuple(parts)
        self.widths = [len(scorer.start(torch.device("cpu"))) for scorer, _ in self.parts]

    def start(self, device: torch.device) -> Tensor:
        return torch.cat([scorer.start(device) for scorer, _ in self.parts])

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        split = zip(self.parts, torch.split(state, self.widths, -1), strict=True)
        return torch.cat([scorer.advance(own, tokens) for (scorer, _), own in split], -1)

    def states(self, tokens: Tensor) -> Tensor:
        return torch.cat([scorer.states(tokens) for scorer, _ in self.parts], -1)

    def __call__(self, state: Tensor, candidates: Tensor) -> Tensor:
        total = torch.zeros(candidates.shape, device=candidates.device)
        for (scorer, weight), own in zip(self.parts, torch.split(state, self.widths, -1), strict=True):
            total = total + weight * scorer(own, candidates)
        return total
