"""The conditional masked language model and Mask-Predict (Ghazvininejad et al. 2019).

A bidirectional Transformer is told how many tokens there are, predicts all of them at once, and predicts its weakest
ones again among the stronger, fewer in every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, Round, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory, check_shares
from narspeech.decoders.stack import StackDecoder
from narspeech.errors import ConfigError
from narspeech.nn.heads import LengthHead
from narspeech.nn.layers import StackConfig
from narspeech.ops.copying import at_places
from narspeech.ops.masking import mask_uniform, top
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import MASK, PAD


@dataclass(frozen=True, kw_only=True)
class CMLMConfig(StackConfig):
    """longest: tokens that an utterance has at most; length_weight: what an utterance's length counts in the loss,
    against one of its tokens; unseen: the share of the targets that training masks as a whole, as decoding begins,
    beside those whose number of masks is uniform (as published: 0)."""

    kind: ClassVar[str] = "cmlm"
    label_smoothing: float = 0.1
    longest: int = 255
    length_weight: float = 1.0
    unseen: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("unseen", self.unseen)
        if self.longest < 1:
            raise ConfigError(f"expected longest of 1 or more, received {self.longest}; 255 is usual")
        if not self.length_weight > 0:
            raise ConfigError(
                f"expected a length_weight above 0, received {self.length_weight}: without it no length is learned"
            )


class CMLM(StackDecoder):
    """A draft's `undecided` tokens are those that the next step predicts again."""

    repeats = False
    several = ("candidates",)

    def __init__(self, config: CMLMConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width, size)
        self.config = config
        self.length = LengthHead(memory_width, config.longest)

    def forward(self, tokens: Padded, memory: Memory) -> Tensor:
        """Logits (R, U, V) of every token, masked or not."""
        logits: Tensor = self.tokens(self.states(tokens, memory))
        return logits

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        """Cross-entropy at n ~ U{1..U} distinct masked positions of each target (section 3.1), and of its length."""
        target = batch.target.widened(1, PAD)  # attention needs at least one place, though all texts be empty
        unseen = torch.rand(len(target.lengths), 1).to(target.data.device) < self.config.unseen
        hidden = mask_uniform(target) | (unseen & target.mask)
        tokens = Padded(target.data.masked_fill(hidden, MASK), target.lengths)
        states = self.states(tokens, self.prepare(encoded))[hidden]
        total, correct = self.tokens.loss(states, target.data[hidden], self.config.label_smoothing)
        length = self.length.loss(encoded.states, target.lengths)
        parts = {"masked": hidden.sum(), "masked_correct": correct, "length": length.detach()}
        return Loss(total + self.config.length_weight * length, target.lengths.sum(), parts)

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        """All MASK at the likeliest lengths, best first, `candidates` rows an utterance; where there are no steps to
        fill them, one prediction of them all."""
        lengths = self.length.likeliest(memory.states, options.candidates)
        utterances = torch.arange(len(lengths), device=lengths.device)
        owner, lengths = utterances.repeat_interleave(lengths.shape[1]), lengths.flatten()
        width = max(1, int(lengths.max()))  # attention needs at least one place
        masks = Padded(torch.full((len(lengths), width), MASK, device=lengths.device), lengths)
        tokens = masks._replace(data=masks.data.masked_fill(~masks.mask, PAD))
        draft = Draft(tokens, torch.zeros(tokens.data.shape, device=lengths.device), owner, lengths)
        return draft if options.steps else self.refine(draft, memory.rows(owner), Round(0, 1), options)

    def refine(
        self, draft: Draft, memory: Memory, turn: Round, options: DecodeOptions, scorer: Scorer | None = None
    ) -> Draft:
        """Mask the n = floor(U (1 - t / T)) tokens of lowest score and predict them again (section 3.2)."""
        lengths, left = draft.tokens.lengths, turn.steps - turn.index
        weak = top(-draft.scores, draft.tokens.mask, lengths * left // turn.steps)
        tokens = draft.tokens._replace(data=draft.tokens.data.masked_fill(weak, MASK))
        # The head reads the masked places alone: of the longest row there can be so many.
        most = max(1, tokens.data.shape[1] * left // turn.steps)
        places = weak.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :most]
        logits = self.tokens(at_places(self.states(tokens, memory), places))
        confidence, proposal = F.log_softmax(logits.float(), -1).max(-1)
        masked = weak.gather(1, places)
        data = tokens.data.scatter(1, places, torch.where(masked, proposal, tokens.data.gather(1, places)))
        scores = draft.scores.scatter(1, places, torch.where(masked, confidence, draft.scores.gather(1, places)))
        undecided = lengths * (left - 1) // turn.steps
        return draft._replace(tokens=tokens._replace(data=data), scores=scores, undecided=undecided)

    def settled(self, draft: Draft) -> Tensor:
        return draft.undecided == 0

    def rank(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Tensor:
        """The mean log-probability a token (section 3.3). An empty row, which has none, comes first where that is the
        likeliest length, and last elsewhere."""
        empty = (draft.tokens.lengths == 0) & (self.length.likeliest(memory.states, 1)[:, 0] == 0)
        return super().rank(draft, memory, options).masked_fill(empty, 0)
