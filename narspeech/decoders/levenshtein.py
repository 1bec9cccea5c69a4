"""The Levenshtein Transformer (Gu et al. 2019): every refinement step deletes tokens, inserts placeholders and fills
them, so that a hypothesis may grow and shrink.

One stack of decoder layers serves three policies. Their expert is the shortest way of deletions and insertions to the
target.
"""

from __future__ import annotations

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
from narspeech.ops.cross_entropy import smoothed_cross_entropy
from narspeech.ops.edits import common, fit, insert, keep, missing_counts
from narspeech.ops.ends import with_ends
from narspeech.ops.masking import top
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import MASK, PAD

# Placeholders that one gap may be given in one step (Gu et al. 2019, section 3.2).
MOST = 255
# Tokens that even the shortest source may become.
FLOOR = 10


@dataclass(frozen=True, kw_only=True)
class LevenshteinConfig(StackConfig):
    """start: what refinement begins with, nothing (as published) or the hypothesis of the model's CTC head.

    restart: the share of the training examples in which insertion learns from that start, the others being targets
    with a uniform number of tokens dropped; with the start "ctc" deletion learns from it too. zero_penalty: what is
    taken off the logit of inserting nothing, against hypotheses that are too short. max_ratio: the longest hypothesis,
    in tokens an encoder state.
    """

    kind: ClassVar[str] = "levenshtein"
    label_smoothing: float = 0.1
    start: Literal["empty", "ctc"] = "empty"
    restart: float = 0.5
    zero_penalty: float = 0.0
    max_ratio: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("restart", self.restart)
        if not self.max_ratio > 0:
            raise ConfigError(f"expected a max_ratio above 0, received {self.max_ratio}; 2 is usual")


class Levenshtein(StackDecoder):
    """Drafts hold the tokens alone: BOS and EOS, which nothing deletes, are set around them where they are read."""

    def __init__(self, config: LevenshteinConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size)
        self.config, self.reads_ctc = config, config.start == "ctc"
        self.deletion, self.insertion = nn.Linear(config.width, 1), nn.Linear(2 * config.width, MOST + 1)

    def forward(self, tokens: Padded, memory: Memory) -> Tensor:
        """States (R, U + 2, D) of BOS, the tokens (R, U) and EOS, which follows a row's last one."""
        data, lengths = with_ends(tokens)
        return self.read(self.tokens.embed(data), lengths, memory)

    def delete_logits(self, tokens: Padded, memory: Memory) -> Tensor:
        """(R, U) float32 logit of deleting each token."""
        logits: Tensor = self.deletion(self(tokens, memory)[:, 1:-1]).squeeze(-1).float()
        return logits

    def insert_logits(self, tokens: Padded, memory: Memory) -> Tensor:
        """(R, U + 1, MOST + 1) float32 logits of the number of placeholders between neighbours, the ends included."""
        states = self(tokens, memory)
        logits: Tensor = self.insertion(torch.cat([states[:, :-1], states[:, 1:]], -1)).float()
        return logits

    def fill_logits(self, tokens: Padded, memory: Memory) -> Tensor:
        """(R, U, V) float32 logits of every token, a placeholder or not."""
        logits: Tensor = self.tokens(self(tokens, memory)[:, 1:-1]).float()
        return logits

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        """The cross-entropy of each policy to the expert's action (section 4.1, dual policy): insertion learns from
        targets with tokens dropped, deletion from what the model itself, sampled, has filled in."""
        memory, target = self.prepare(encoded), batch.target
        restarted = torch.rand(len(target.lengths)).to(target.data.device) < self.config.restart
        first = self._first(memory).tokens
        met = Padded(common(choose(restarted, first, dropped(target)), target).met, target.lengths)

        standing = keep(target, met.data)
        gaps = torch.arange(target.data.shape[1] + 1, device=target.data.device) <= standing.lengths[:, None]
        counts = missing_counts(met)[gaps].clamp(max=MOST)
        inserting = F.cross_entropy(self.insert_logits(standing, memory)[gaps], counts, reduction="sum")

        missing = ~met.data & target.mask
        tokens, truth = Padded(target.data.masked_fill(missing, MASK), target.lengths), target.data[missing]
        logits = self.tokens(self(tokens, memory)[:, 1:-1][missing]).float()
        filling = smoothed_cross_entropy(logits, truth, self.config.label_smoothing, self.tokens.allowed)

        # The Gumbel-max trick: unlike `multinomial`, it takes what is not finite without stopping the device.
        sampled = (logits.detach() - torch.empty_like(logits).exponential_().log()).argmax(-1)
        filled = Padded(target.data.masked_scatter(missing, sampled), target.lengths)
        if self.config.start == "ctc":
            filled = choose(restarted, first, filled)
        wrong = ~common(filled, target).kept[filled.mask]
        doubts = self.delete_logits(filled, memory)[filled.mask]
        deleting = F.binary_cross_entropy_with_logits(doubts, wrong.float(), reduction="sum")

        parts = {"insertion": inserting, "filling": filling, "deletion": deleting}
        total = inserting + filling + deleting
        return Loss(total, target.lengths.sum(), {name: part.detach() for name, part in parts.items()})

    def _first(self, memory: Memory) -> Draft:
        if self.config.start == "ctc":
            return greedy_draft(memory)
        lengths = torch.zeros_like(memory.states.lengths)
        nothing = lengths.new_zeros(len(lengths), 0)
        return Draft.decided(Padded(nothing, lengths), nothing.float())

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        """The start; where that is nothing and there are no steps to come, one step from there."""
        draft = self._first(memory)
        if options.steps or self.config.start == "ctc":
            return draft
        return self.refine(draft, memory, Round(0, 1), options)

    def refine(
        self, draft: Draft, memory: Memory, turn: Round, options: DecodeOptions, scorer: Scorer | None = None
    ) -> Draft:
        """Delete, insert placeholders, fill them. One host sync, for the width of the result and whether anything is
        to be filled: it costs less than the layers would, at the longest width that a row may have in every step, and
        in the last one for nothing."""
        kept = draft.tokens.mask
        if kept.shape[1]:  # else there is nothing to delete
            kept = kept & (self.delete_logits(draft.tokens, memory) <= 0)
        tokens, scores = keep(draft.tokens, kept, PAD), keep(Padded(draft.scores, draft.tokens.lengths), kept)

        logits = self.insert_logits(tokens, memory)
        penalty = self.config.zero_penalty * (torch.arange(MOST + 1, device=logits.device) == 0)
        gaps = torch.arange(logits.shape[1], device=logits.device) <= tokens.lengths[:, None]
        counts = fit((logits - penalty).argmax(-1) * gaps, self._longest(memory) - tokens.lengths)
        width, inserted = torch.stack([(tokens.lengths + counts.sum(-1)).max(), counts.sum()]).tolist()
        tokens, scores = insert(tokens, counts, width, MASK), insert(scores, counts, width, 0)
        tokens = tokens._replace(data=tokens.data.masked_fill(~tokens.mask, PAD))

        data, values = tokens.data, scores.data
        if inserted:
            confidence, proposal = F.log_softmax(self.fill_logits(tokens, memory), -1).max(-1)
            empty = data == MASK
            data, values = torch.where(empty, proposal, data), torch.where(empty, confidence, values)
        return draft._replace(tokens=tokens._replace(data=data), scores=values)

    def settled(self, draft: Draft) -> Tensor:
        return torch.zeros_like(draft.owner, dtype=torch.bool)

    def _longest(self, memory: Memory) -> Tensor:
        """(R,) tokens that a row may have: none where there is no state."""
        states = memory.states.lengths
        return (states * self.config.max_ratio).long().clamp(min=FLOOR) * (states > 0)


def dropped(target: Padded) -> Padded:
    """target (B, U) without n ~ U{0..its length} of its tokens, drawn on the CPU: every device drops the same."""
    draw = torch.rand(len(target.data), target.data.shape[1] + 1).to(target.data.device)
    chosen = top(draw[:, 1:], target.mask, (draw[:, 0] * (target.lengths + 1)).long())
    return keep(target, target.mask & ~chosen, PAD)


def choose(rows: Tensor, some: Padded, others: Padded) -> Padded:
    """`some` at the rows (R,) bool, `others` elsewhere; either may be the wider one."""
    width = max(some.data.shape[1], others.data.shape[1])
    first, second = (x.widened(width, PAD).data for x in (some, others))
    return Padded(torch.where(rows[:, None], first, second), torch.where(rows, some.lengths, others.lengths))
