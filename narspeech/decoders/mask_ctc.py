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
from narspeech.decoders.base import DecodeOptions, Decoder, Memory
from narspeech.decoders.ctc import greedy_draft
from narspeech.errors import ConfigError
from narspeech.nn.attention import key_mask
from narspeech.nn.heads import TokenHead
from narspeech.nn.layers import DecoderStack
from narspeech.nn.positions import sinusoids
from narspeech.ops.cross_entropy import smoothed_cross_entropy
from narspeech.ops.ctc import greedy, token_starts
from narspeech.ops.masking import fill, mask_uniform, quota
from narspeech.tokenizer import BLANK, BOS, EOS, MASK, PAD


@dataclass(frozen=True, kw_only=True)
class MaskCTCConfig:
    """places: what a token's position stands for.

    "number": 0, 1, 2, ... as published; "time": the frame at which CTC heard it (in training: forced alignment to the
    model's own CTC), in the same encoding as the frames' own places. That frame's state is added to the token, as in
    the token-level acoustic embeddings of CASS-NAT (Fan et al. 2021): a masked token begins with what was heard.

    errors: with places "time", the share of the visible tokens that training replaces by what CTC hears at their
    places, so that the decoder learns to doubt its context as it must in decoding.
    """

    kind: ClassVar[str] = "mask_ctc"
    depth: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 2048
    dropout: float = 0.1
    label_smoothing: float = 0.1
    places: Literal["number", "time"] = "number"
    errors: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= 1:
            raise ConfigError(f"expected errors between 0 and 1, received {self.errors}: it is a share")
        if self.errors and self.places != "time":
            raise ConfigError(
                f"expected errors of 0 where places are numbers, received {self.errors}: "
                'only places in "time" tell where CTC heard a token'
            )


class MaskCTC(Decoder):
    def __init__(self, config: MaskCTCConfig, memory_width: int, size: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = TokenHead(size, config.width, (BLANK, PAD, MASK, BOS, EOS))
        self.dropout = nn.Dropout(config.dropout)
        self.stack = DecoderStack(
            config.depth, config.width, config.heads, config.feed_forward, memory_width, config.dropout
        )
        self.hear = nn.Linear(memory_width, config.width) if config.places == "time" else None

    def prepare(self, encoded: Encoded) -> Memory:
        assert encoded.ctc is not None
        return self._memory(encoded, greedy(encoded.ctc).starts if self.config.places == "time" else None)

    def _memory(self, encoded: Encoded, places: Tensor | None) -> Memory:
        states = encoded.states
        keys, values = self.stack.project(states.data)
        heard = None
        if self.hear is not None:
            assert places is not None
            heard = at_places(self.hear(states.data), places)
        mask = key_mask(states.lengths, states.data.shape[1])
        return Memory(mask, states, encoded.inputs, keys, values, encoded.ctc, places, heard)

    def forward(self, tokens: Padded, memory: Memory) -> Tensor:
        """Logits (R, U, V) of every token, masked or not."""
        length = tokens.data.shape[1]
        x = self.tokens.embed(tokens.data)
        if memory.heard is not None:
            x = x + memory.heard
        # Rotary attention over equal tokens has equal outputs: those of an all-masked draft need a place of their own.
        places = torch.arange(length, device=x.device) if memory.places is None else memory.places
        x = self.dropout(x + sinusoids(places, self.config.width).to(x.dtype))
        logits: Tensor = self.tokens(
            self.stack(x, key_mask(tokens.lengths, length), memory.keys, memory.values, memory.mask)
        )
        return logits

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:  # noqa: ARG002
        """Cross-entropy at n ~ U{1..U} distinct masked positions of each target."""
        # Attention needs at least one place, though all texts be empty.
        room = int(not batch.target.data.shape[1])
        target = Padded(F.pad(batch.target.data, (0, room), value=PAD), batch.target.lengths)
        hidden, seen, places = mask_uniform(target), target.data, None
        if self.config.places == "time":
            assert encoded.ctc is not None
            places = token_starts(encoded.ctc, target)
            if self.config.errors > 0:
                seen = self._mishear(seen, at_places(encoded.ctc.data, places))
        tokens = Padded(seen.masked_fill(hidden, MASK), target.lengths)
        logits = self(tokens, self._memory(encoded, places))[hidden].float()
        truth = target.data[hidden]
        total = smoothed_cross_entropy(logits, truth, self.config.label_smoothing, self.tokens.allowed)
        correct = (logits.argmax(-1) == truth).sum()
        return Loss(total, target.lengths.sum(), {"masked": hidden.sum(), "masked_correct": correct})

    def _mishear(self, tokens: Tensor, posteriors: Tensor) -> Tensor:
        """tokens (B, U), some of them replaced by the likeliest of their `posteriors` (B, U, V), the blank aside."""
        chosen = torch.rand(tokens.shape).to(tokens.device) < self.config.errors
        return torch.where(chosen & (tokens != PAD), (posteriors + self.tokens.forbidden).argmax(-1), tokens)

    def draft(self, memory: Memory, options: DecodeOptions) -> Draft:
        draft = greedy_draft(memory)
        if options.steps == 0 or options.threshold == 0:
            return draft
        # A posterior may round to 1, and a threshold of 1 means every token all the same.
        weak = (draft.scores < math.log(options.threshold)) | (options.threshold == 1)
        weak &= draft.tokens.mask
        tokens = Padded(draft.tokens.data.masked_fill(weak, MASK), draft.tokens.lengths)
        return draft._replace(tokens=tokens, undecided=weak.sum(-1))

    def refine(self, draft: Draft, memory: Memory, turn: Round, options: DecodeOptions) -> Draft:  # noqa: ARG002
        confidence, proposal = F.log_softmax(self(draft.tokens, memory).float(), -1).max(-1)
        count = quota(draft.undecided, turn.index, turn.steps)
        tokens, scores = fill(draft.tokens.data, draft.scores, proposal, confidence, count)
        return draft._replace(tokens=draft.tokens._replace(data=tokens), scores=scores)

    def settled(self, draft: Draft) -> Tensor:
        return ~(draft.tokens.data == MASK).any(-1)


def at_places(frames: Tensor, places: Tensor) -> Tensor:
    """(R, U, D): of frames (R, T, D) the one at each of the places (R, U); zeros where there is no frame at all."""
    if not frames.shape[1]:
        return frames.new_zeros(*places.shape, frames.shape[2])
    return frames.gather(1, places.clamp(max=frames.shape[1] - 1).unsqueeze(-1).expand(-1, -1, frames.shape[2]))
