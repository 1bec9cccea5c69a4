"""The conditional masked language model and Mask-Predict (Ghazvininejad et al. 2019).

A bidirectional Transformer is told how many tokens there are, predicts all of them at once, and predicts its weakest
ones again among the stronger, fewer in every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, Round, TrainStep
from narspeech.decoders.base import DecodeOptions, Decoder, Memory
from narspeech.errors import ConfigError
from narspeech.nn.attention import key_mask
from narspeech.nn.heads import LengthHead, TokenHead
from narspeech.nn.layers import DecoderStack
from narspeech.nn.positions import sinusoids
from narspeech.ops.cross_entropy import smoothed_cross_entropy
from narspeech.ops.masking import mask_uniform, top
from narspeech.tokenizer import BLANK, BOS, EOS, MASK, PAD


@dataclass(frozen=True, kw_only=True)
class CMLMConfig:
    """longest: tokens that an utterance has at most; length_weight: what an utterance's length counts in the loss,
    against one of its tokens; unseen: the share of the targets that training masks as a whole, as decoding begins,
    beside those whose number of masks is uniform (as published: 0)."""

    kind: ClassVar[str] = "cmlm"
    depth: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 2048
    dropout: float = 0.1
    label_smoothing: float = 0.1
    longest: int = 255
    length_weight: float = 1.0
    unseen: float = 0.2

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ConfigError(f"expected longest of 1 or more, received {self.longest}; 255 is usual")
        if not self.length_weight > 0:
            raise ConfigError(
                f"expected a length_weight above 0, received {self.length_weight}: without it no length is learned"
            )
        if not 0 <= self.unseen <= 1:
            raise ConfigError(f"expected unseen between 0 and 1, received {self.unseen}: it is a share")


class CMLM(Decoder):
    def __init__(self, config: CMLMConfig, memory_width: int, size: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = TokenHead(size, config.width, (BLANK, PAD, MASK, BOS, EOS))
        self.length = LengthHead(memory_width, config.longest)
        self.dropout = nn.Dropout(config.dropout)
        self.stack = DecoderStack(
            config.depth, config.width, config.heads, config.feed_forward, memory_width, config.dropout
        )

    def prepare(self, encoded: Encoded) -> Memory:
        states = encoded.states
        keys, values = self.stack.project(states.data)
        mask = key_mask(states.lengths, states.data.shape[1])
        return Memory(mask, states, encoded.inputs, keys, values, encoded.ctc)

    def forward(self, tokens: Padded, memory: Memory) -> Tensor:
        """Logits (R, U, V) of every token, masked or not."""
        length = tokens.data.shape[1]
        x = self.tokens.embed(tokens.data)
        # Rotary attention over equal tokens has equal outputs: those of an all-masked draft need a place of their own.
        places = sinusoids(torch.arange(length, device=x.device), self.config.width)
        x = self.dropout(x + places.to(x.dtype))
        mask = key_mask(tokens.lengths, length)
        logits: Tensor = self.tokens(self.stack(x, mask, memory.keys, memory.values, memory.mask))
        return logits

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:  # noqa: ARG002
        """Cross-entropy at n ~ U{1..U} distinct masked positions of each target (section 3.1), and of its length."""
        # Attention needs at least one place, though all texts be empty.
        room = int(not batch.target.data.shape[1])
        target = Padded(F.pad(batch.target.data, (0, room), value=PAD), batch.target.lengths)
        unseen = torch.rand(len(target.lengths), 1).to(target.data.device) < self.config.unseen
        hidden = mask_uniform(target) | (unseen & target.mask)
        tokens = Padded(target.data.masked_fill(hidden, MASK), target.lengths)
        logits, truth = self(tokens, self.prepare(encoded))[hidden].float(), target.data[hidden]
        total = smoothed_cross_entropy(logits, truth, self.config.label_smoothing, self.tokens.allowed)
        length = self.length.loss(encoded.states, target.lengths)
        correct = (logits.argmax(-1) == truth).sum()
        parts = {"masked": hidden.sum(), "masked_correct": correct, "length": length.detach()}
        return Loss(total + self.config.length_weight * length, target.lengths.sum(), parts)

    def draft(self, memory: Memory, options: DecodeOptions) -> Draft:
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

    def refine(self, draft: Draft, memory: Memory, turn: Round, options: DecodeOptions) -> Draft:  # noqa: ARG002
        """Mask the n = floor(U (1 - t / T)) tokens of lowest score and predict them again (section 3.2)."""
        count = draft.tokens.lengths * (turn.steps - turn.index) // turn.steps
        weak = top(-draft.scores, draft.tokens.mask, count)
        tokens = draft.tokens._replace(data=draft.tokens.data.masked_fill(weak, MASK))
        confidence, proposal = F.log_softmax(self(tokens, memory).float(), -1).max(-1)
        data, scores = torch.where(weak, proposal, tokens.data), torch.where(weak, confidence, draft.scores)
        return draft._replace(tokens=tokens._replace(data=data), scores=scores)

    def settled(self, draft: Draft) -> Tensor:
        return draft.tokens.lengths == 0

    def rank(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Tensor:
        """The mean log-probability a token (section 3.3). Of no token there is none: an empty row comes first where
        that is the likeliest length, and last elsewhere."""
        empty = (draft.tokens.lengths == 0) & (self.length.likeliest(memory.states, 1)[:, 0] > 0)
        return super().rank(draft, memory, options).masked_fill(empty, float("-inf"))
