"""A decoder over frames: a path in, one label a state with blanks kept, and the labels of another path out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Draft, Encoded, Padded
from narspeech.decoders.base import DecodeOptions, Memory
from narspeech.decoders.stack import StackDecoder
from narspeech.nn.layers import StackConfig
from narspeech.ops.ctc import collapse
from narspeech.tokenizer import BOS, EOS, MASK, PAD


@dataclass(frozen=True, kw_only=True)
class PathConfig(StackConfig):
    """cross: whether the layers attend to the memory, as published. Each place of a path hears its own state already,
    and self-attention brings it the others': without, a pass is faster."""

    cross: bool = True


class PathDecoder(StackDecoder):
    """Every label of the path is embedded and its frame's state added (as in the Imputer: Chan et al. 2020, section 3),
    which stands alone where the label is masked; a bidirectional Transformer sees them all, and the whole utterance by
    cross-attention, if there is any.

    A draft's tokens are the labels of all T states, BLANK among them, until `finish` collapses them.
    """

    writes_path = True

    def __init__(self, config: PathConfig, memory_width: int, size: int) -> None:
        super().__init__(config, memory_width if config.cross else None, size, (PAD, MASK, BOS, EOS))
        self.hear = nn.Linear(memory_width, config.width)

    def prepare(self, encoded: Encoded) -> Memory:
        memory = super().prepare(encoded)
        return memory._replace(heard=self.hear(memory.states.data))

    def states(self, tokens: Padded, memory: Memory) -> Tensor:
        """What the head reads, (R, T, D), of a path (R, T)."""
        labels = self.tokens.embed(tokens.data).masked_fill((tokens.data == MASK).unsqueeze(-1), 0)
        return self.read(labels, tokens.lengths, memory)

    def unread(self, memory: Memory) -> Tensor:
        """`states` of a path in which every label is masked, for less."""
        assert memory.heard is not None
        return self.read(memory.heard, memory.states.lengths, memory._replace(heard=None))

    def forward(self, path: Padded, memory: Memory) -> Tensor:
        """Logits (R, T, V) of every frame's label."""
        logits: Tensor = self.tokens(self.states(path, memory))
        return logits

    def log_probs(self, states: Tensor, memory: Memory) -> Padded:
        """(R, T, V) in float32, of what the head reads (R, T, D)."""
        return Padded(F.log_softmax(self.tokens(states).float(), -1), memory.states.lengths)

    def finish(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Draft:
        """The tokens that the path spells; a token's score is the highest in its run of frames."""
        tokens, scores, _ = collapse(draft.tokens, draft.scores)
        return draft._replace(tokens=tokens, scores=scores)


def best_path(log_probs: Padded) -> Draft:
    """The likeliest label of every frame of log_probs (R, T, V), with its log-probability."""
    scores, labels = log_probs.data.max(-1)
    return Draft.decided(Padded(labels.masked_fill(~log_probs.mask, PAD), log_probs.lengths), scores)


def masked_path(states: Padded) -> Padded:
    """(R, T) a MASK at every real frame: a path of which nothing is known."""
    return Padded(torch.where(states.mask, MASK, PAD), states.lengths)
