"""A decoder whose tokens are read by a stack of Transformer layers, which most families are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from narspeech.batch import Encoded, Padded
from narspeech.decoders.base import Decoder, Memory
from narspeech.nn.attention import key_mask
from narspeech.nn.dropout import Dropout
from narspeech.nn.heads import TokenHead
from narspeech.nn.layers import DecoderStack, StackConfig
from narspeech.nn.positions import placed
from narspeech.tokenizer import BLANK, BOS, EOS, MASK, PAD


class StackDecoder(Decoder):
    """forbidden: the tokens that never come out; memory_width: None for layers that do not attend to the memory."""

    def __init__(
        self,
        config: StackConfig,
        memory_width: int | None,
        size: int,
        forbidden: Iterable[int] = (BLANK, PAD, MASK, BOS, EOS),
    ) -> None:
        super().__init__()
        self.tokens = TokenHead(size, config.width, forbidden)
        self.dropout = Dropout(config.dropout)
        self.stack = DecoderStack(config, memory_width)

    def prepare(self, encoded: Encoded) -> Memory:
        # Attention needs at least one place, and a row without frames looks at the same zeros in every batch.
        states = encoded.states.zeroed().widened(1)
        keys, values = self.stack.project(states.data)
        mask = key_mask(states.lengths, states.data.shape[1])
        return Memory(mask, states, encoded.inputs, keys, values, encoded.ctc)

    def states(self, tokens: Padded, memory: Memory) -> Tensor:
        """What the head reads, (R, U, D), of tokens (R, U)."""
        return self.read(self.tokens.embed(tokens.data), tokens.lengths, memory)

    def read(self, x: Tensor, lengths: Tensor, memory: Memory) -> Tensor:
        """States (R, U, D) of embeddings (R, U, D) of so many real tokens, all of which see each other, with what was
        heard at their places."""
        if memory.heard is not None:
            x = x + memory.heard
        # Rotary attention over equal tokens has equal outputs: those of an all-masked draft need a place of their own.
        x = self.dropout(placed(x, memory.places))
        out: Tensor = self.stack(x, key_mask(lengths, x.shape[1]), memory.keys, memory.values, memory.mask)
        return out
