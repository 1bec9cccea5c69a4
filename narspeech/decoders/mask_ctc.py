"""Mask-CTC (Higuchi et al. 2020): CTC's weak tokens are masked and filled in again, the most confident first.

A bidirectional Transformer sees the tokens that stand and the whole utterance, and predicts the masked ones in
parallel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, Round, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory, check_shares
from narspeech.decoders.ctc import greedy_draft
from narspeech.decoders.stack import StackDecoder
from narspeech.errors import ConfigError
from narspeech.nn.layers import StackConfig
from narspeech.ops.copying import at_places
from narspeech.ops.ctc import greedy, token_starts
from narspeech.ops.ends import ended
from narspeech.ops.masking import fill, mask_uniform, quota
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import BOS, MASK, PAD

# How many of the likeliest tokens of a place a scorer chooses among.
CHOICE = 16


@dataclass(frozen=True, kw_only=True)
class MaskCTCConfig(StackConfig):
    """places: what a token's position stands for.

    "number": 0, 1, 2, ... as published; "time": the frame at which CTC heard it (in training: forced alignment to the
    model's own CTC), in the same encoding as the frames' own places. That frame's state is added to the token, as in
    the token-level acoustic embeddings of CASS-NAT (Fan et al. 2021): a masked token begins with what was heard.

    errors: with places "time", the share of the visible tokens that training replaces by what CTC hears at their
    places, so that the decoder learns to doubt its context as it must in decoding.
    """

    kind: ClassVar[str] = "mask_ctc"
    label_smoothing: float = 0.1
    places: Literal["number", "time"] = "number"
    errors: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("errors", self.errors)
        if self.errors and self.places != "time":
            raise ConfigError(
                f"expected errors of 0 where places are numbers, received {self.errors}: "
                'only places in "time" tell where CTC heard a token'
            )


class MaskCTC(StackDecoder):
    reads_ctc = True
    reads_scorer = True

    def __init__(self, config: MaskCTCConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size)
        self.config = config
        self.hear = nn.Linear(memory_width, config.width) if config.places == "time" else None

    def prepare(self, encoded: Encoded) -> Memory:
        assert encoded.ctc is not None
        return self._memory(encoded, greedy(encoded.ctc).starts if self.config.places == "time" else None)

    def _memory(self, encoded: Encoded, places: Tensor | None) -> Memory:
        memory = super().prepare(encoded)
        if self.hear is None or places is None:
            return memory
        return memory._replace(places=places, heard=at_places(self.hear(memory.states.data), places))

    def forward(self, tokens: Padded, memory: Memory) -> Tensor:
        """Logits (R, U, V) of every token, masked or not."""
        logits: Tensor = self.tokens(self.states(tokens, memory))
        return logits

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        """Cross-entropy at n ~ U{1..U} distinct masked positions of each target."""
        target = batch.target.widened(1, PAD)  # attention needs at least one place, though all texts be empty
        hidden, seen, places = mask_uniform(target), target.data, None
        if self.config.places == "time":
            assert encoded.ctc is not None
            places = token_starts(encoded.ctc, target)
            if self.config.errors > 0:
                seen = self._mishear(seen, at_places(encoded.ctc.data, places))
        tokens = Padded(seen.masked_fill(hidden, MASK), target.lengths)
        states = self.states(tokens, self._memory(encoded, places))[hidden]
        total, correct = self.tokens.loss(states, target.data[hidden], self.config.label_smoothing)
        return Loss(total, target.lengths.sum(), {"masked": hidden.sum(), "masked_correct": correct})

    def _mishear(self, tokens: Tensor, posteriors: Tensor) -> Tensor:
        """tokens (B, U), some of them replaced by the likeliest of their `posteriors` (B, U, V), the blank aside."""
        chosen = torch.rand(tokens.shape).to(tokens.device) < self.config.errors
        return torch.where(chosen & (tokens != PAD), (posteriors + self.tokens.forbidden).argmax(-1), tokens)

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        draft = greedy_draft(memory)
        if options.steps == 0 or options.threshold == 0:
            return draft
        # A posterior may round to 1, and a threshold of 1 means every token all the same.
        weak = (draft.scores < math.log(options.threshold)) | (options.threshold == 1)
        weak &= draft.tokens.mask
        tokens = Padded(draft.tokens.data.masked_fill(weak, MASK), draft.tokens.lengths)
        return draft._replace(tokens=tokens, undecided=weak.sum(-1))

    def refine(
        self, draft: Draft, memory: Memory, turn: Round, options: DecodeOptions, scorer: Scorer | None = None
    ) -> Draft:
        """scorer: it joins the choice of each token whose left neighbour is decided."""
        log_probs = F.log_softmax(self(draft.tokens, memory).float(), -1)
        if scorer is None:
            confidence, proposal = log_probs.max(-1)
        else:
            confidence, proposal = fused(log_probs, draft.tokens, scorer)
        count = quota(draft.undecided, turn.index, turn.steps)
        tokens, scores = fill(draft.tokens.data, draft.scores, proposal, confidence, count)
        return draft._replace(tokens=draft.tokens._replace(data=tokens), scores=scores)


def fused(log_probs: Tensor, tokens: Padded, scorer: Scorer) -> tuple[Tensor, Tensor]:
    """Log-probability (R, U) and token (R, U) of the best choice by log_probs (R, U, V) and the scorer together.

    The scorer judges the likeliest tokens by what stands before them, and the token behind them, where that is decided,
    as their continuation; it shares out their probability anew, so that places with and without neighbours compare.
    """
    values, choice = log_probs.topk(min(CHOICE, log_probs.shape[-1]))
    before = scorer.states(tokens.data)
    after = ended(tokens).data[:, 1:]  # EOS behind the last
    known = torch.cat([torch.full_like(after[:, :1], BOS), tokens.data], 1)[:, :-1] != MASK
    bonus = scorer(before.flatten(0, 1), choice.flatten(0, 1)).view_as(values) * known.unsqueeze(-1)
    wide = before.unsqueeze(2).expand(-1, -1, choice.shape[2], -1).flatten(0, 2)
    following = scorer.advance(wide, choice.flatten())
    next_token = after.unsqueeze(-1).expand_as(choice).reshape(-1, 1)
    right = scorer(following, next_token).view_as(values)
    bonus = bonus + right * (after != MASK).unsqueeze(-1)
    shared = (values + bonus).log_softmax(-1) + values.logsumexp(-1, keepdim=True)
    confidence, best = shared.max(-1)
    return confidence, choice.gather(-1, best.unsqueeze(-1)).squeeze(-1)
