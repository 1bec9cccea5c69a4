"""Output heads. None of them can emit a token that only means something inside the machine."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Padded
from narspeech.nn.positions import sinusoids
from narspeech.ops.chosen import Chosen, chosen_log_probs
from narspeech.ops.cross_entropy import count_right, smoothed_cross_entropy
from narspeech.tokenizer import BOS, EOS, MASK, PAD

# Low enough that no softmax ever picks it, finite so that 0 * log p stays 0 in divergences.
NEVER = -1e4


def forbid(size: int, ids: Iterable[int]) -> Tensor:
    """(V,) added to the logits: NEVER at `ids`, 0 elsewhere."""
    bias = torch.zeros(size)
    bias[list(ids)] = NEVER
    return bias


class TokenHead(nn.Module):
    """A decoder's way in and out of the vocabulary, with the same weights (Press & Wolf 2017)."""

    forbidden: Tensor

    def __init__(self, size: int, width: int, forbidden: Iterable[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("forbidden", forbid(size, forbidden), persistent=False)

    @property
    def allowed(self) -> Tensor:
        """(V,) bool: the tokens that may come out."""
        allowed: Tensor = self.forbidden == 0
        return allowed

    def embed(self, tokens: Tensor) -> Tensor:
        """ids (R, U) -> (R, U, D)."""
        width = self.embedding.embedding_dim
        out: Tensor = self.embedding(tokens) * math.sqrt(width)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(R, U, D) -> logits (R, U, V)."""
        logits: Tensor = F.linear(x, self.embedding.weight, self.bias + self.forbidden)
        return logits

    def log_probs(self, x: Tensor, tokens: Tensor) -> Chosen:
        """At every state (R, T, D), of each token (R, U) of its row: (R, T, U), and the best of any, (R, T)."""
        return chosen_log_probs(x, self.embedding.weight, self.bias + self.forbidden, tokens)

    def loss(self, x: Tensor, truth: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """() the label-smoothed cross-entropy of tokens (N,) at states (N, D), summed, and () how many are right."""
        logits = self(x).float()
        return smoothed_cross_entropy(logits, truth, smoothing, self.allowed), count_right(logits, truth)


class LengthHead(nn.Module):
    """States (B, T, D) -> log-probabilities (B, longest + 1) of the number of tokens that they stand for.

    A classifier over the mean of the states and their number (Ghazvininejad et al. 2019, section 3.2, use a token of
    its own). Longer targets count as `longest`. Without a state there is no token.
    """

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.hidden, self.output = nn.Linear(width, width), nn.Linear(width, longest + 1)

    def forward(self, states: Padded) -> Tensor:
        count = states.lengths[:, None]
        mean = states.zeroed().data.sum(1) / count.clamp(min=1)
        logits = self.output(
            F.silu(self.hidden(mean + sinusoids(states.lengths, mean.shape[1]).to(mean.dtype)))
        ).float()
        nothing = (count == 0) & (torch.arange(self.longest + 1, device=count.device) > 0)
        logits = logits + NEVER * nothing
        return F.log_softmax(logits, -1)

    def loss(self, states: Padded, lengths: Tensor) -> Tensor:
        """() the sum over utterances of the negative log-likelihood of `lengths` (B,)."""
        return F.nll_loss(self(states), lengths.clamp(max=self.longest), reduction="sum")

    def likeliest(self, states: Padded, count: int) -> Tensor:
        """(B, count) the likeliest lengths, best first, at most longest + 1 of them; 0 throughout without a state."""
        best: Tensor = self(states).topk(min(count, self.longest + 1)).indices
        return best * (states.lengths > 0)[:, None]


class CTCHead(nn.Module):
    """states (B, T, D) -> log-probabilities (B, T, V), always in float32.

    With `condition`, `feedback` maps an intermediate layer's posteriors back to its width
    (self-conditioned CTC: Nozaki & Komatsu 2021, eq. 9), with weights shared by all tapped layers.
    """

    forbidden: Tensor

    def __init__(self, width: int, size: int, *, condition: bool = False) -> None:
        super().__init__()
        self.output = nn.Linear(width, size)
        self.condition = nn.Linear(size, width) if condition else None
        if self.condition is not None:  # an encoder that was trained without it starts as it was
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)
        self.register_buffer("forbidden", forbid(size, (PAD, MASK, BOS, EOS)), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        return F.log_softmax(self.output(states).float() + self.forbidden, -1)

    def feedback(self, states: Tensor) -> Tensor:
        assert self.condition is not None
        out: Tensor = self.condition(self(states).exp().to(states.dtype))
        return out
