"""A decoder over frames: a path in, one label a state with blanks kept, and the labels of another path out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.batch import Draft, Encoded, Padded
from narspeech.decoders.base import DecodeOptions, Decoder, Memory
from narspeech.nn.attention import key_mask
from narspeech.nn.heads import TokenHead
from narspeech.nn.layers import DecoderStack
from narspeech.nn.positions import sinusoids
from narspeech.ops.ctc import collapse
from narspeech.tokenizer import BOS, EOS, MASK, PAD


@dataclass(frozen=True, kw_only=True)
class PathConfig:
    depth: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 2048
    dropout: float = 0.1


class PathDecoder(Decoder):
    """Every label of the path is embedded and its frame's state added (as in the Imputer: Chan et al. 2020, section 3),
    which stands alone where the label is masked; a bidirectional Transformer sees them all, and the whole utterance by
    cross-attention.

    A draft's tokens are the labels of all T states, BLANK among them, until `finish` collapses them.
    """

    def __init__(self, config: PathConfig, memory_width: int, size: int) -> None:
        super().__init__()
        self.width = config.width
        self.tokens = TokenHead(size, config.width, (PAD, MASK, BOS, EOS))
        self.hear = nn.Linear(memory_width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.stack = DecoderStack(
            config.depth, config.width, config.heads, config.feed_forward, memory_width, config.dropout
        )

    def prepare(self, encoded: Encoded) -> Memory:
        states = encoded.states
        keys, values = self.stack.project(states.data)
        mask = key_mask(states.lengths, states.data.shape[1])
        return Memory(mask, states, encoded.inputs, keys, values, encoded.ctc, heard=self.hear(states.data))

    def forward(self, path: Padded, memory: Memory) -> Tensor:
        """Logits (R, T, V) of every frame's label."""
        frames = path.data.shape[1]
        assert memory.heard is not None
        places = sinusoids(torch.arange(frames, device=path.data.device), self.width)
        labels = self.tokens.embed(path.data).masked_fill((path.data == MASK).unsqueeze(-1), 0)
        x = self.dropout(labels + memory.heard + places.to(memory.heard.dtype))
        logits: Tensor = self.tokens(
            self.stack(x, key_mask(path.lengths, frames), memory.keys, memory.values, memory.mask)
        )
        return logits

    def log_probs(self, path: Padded, memory: Memory) -> Padded:
        """(R, T, V) in float32."""
        return Padded(F.log_softmax(self(path, memory).float(), -1), path.lengths)

    def finish(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Draft:  # noqa: ARG002
        """The tokens that the path spells; a token's score is the highest in its run of frames."""
        tokens, scores, _ = collapse(draft.tokens, draft.scores)
        return draft._replace(tokens=tokens, scores=scores)


def best_path(log_probs: Padded) -> Draft:
    """The likeliest label of every frame of log_probs (R, T, V), with its log-probability."""
    scores, labels = log_probs.data.max(-1)
    rows = torch.arange(len(labels), device=labels.device)
    path = Padded(labels.masked_fill(~log_probs.mask, PAD), log_probs.lengths)
    return Draft(path, scores, rows, torch.zeros_like(rows))


def masked_path(states: Padded) -> Padded:
    """(R, T) a MASK at every real frame: a path of which nothing is known."""
    return Padded(torch.where(states.mask, MASK, PAD), states.lengths)
