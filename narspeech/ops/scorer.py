"""What a search adds to the log-probability of each next token: a language model, hotwords, or their sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Padded
from narspeech.tokenizer import BOS


class Scorer(Protocol):
    """context: how many tokens before the next one it reads."""

    @property
    def context(self) -> int: ...

    def __call__(self, context: Tensor, candidates: Tensor) -> Tensor:
        """context (R, context) the tokens before, BOS where a text begins; candidates (R, k) tokens that may follow,
        EOS among them -> (R, k) what is added to the log-probability of each, weights included."""
        ...


class Sum:
    """Scorers side by side, each times its weight."""

    def __init__(self, parts: Sequence[tuple[Scorer, float]]) -> None:
        self.parts = tuple(parts)
        self.context = max((scorer.context for scorer, _ in self.parts), default=0)

    def __call__(self, context: Tensor, candidates: Tensor) -> Tensor:
        total = torch.zeros(candidates.shape, device=candidates.device)
        for scorer, weight in self.parts:
            total = total + weight * scorer(context[:, context.shape[1] - scorer.context :], candidates)
        return total


def contexts(tokens: Padded, size: int) -> Tensor:
    """tokens (R, U) -> (R, U, size): what stands before each of them, BOS before the first."""
    return (
        F.pad(tokens.data, (size, 0), value=BOS).unfold(1, size + 1, 1)[..., :size]
        if size
        else tokens.data[..., None][..., :0]
    )
