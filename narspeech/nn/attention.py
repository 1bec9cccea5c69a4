"""Multi-head attention through `scaled_dot_product_attention`: self-attention with rotary or relative positions,
and cross-attention over keys and values computed once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narspeech.errors import ConfigError
from narspeech.nn.positions import rotate


def key_mask(lengths: Tensor, size: int, window: tuple[int, int] | None = None) -> Tensor:
    """(B, 1, 1 or T, T) bool, True where a query may look: real keys, at most `window` = (left, right) away.

    A row without real keys looks at its first place instead of at nothing, which would give NaN; its output is never
    used. A padded query whose whole window is padding looks at itself for the same reason.
    """
    place = torch.arange(size, device=lengths.device)
    mask = (place < lengths.clamp(min=1)[:, None])[:, None, None, :]
    if window is None:
        return mask
    offset = place[None, :] - place[:, None]
    near = (offset >= -window[0]) & (offset <= window[1])
    return (mask & near) | (offset == 0)


class Cache:
    """The keys and values (B, H, L, D / H) of one self-attention layer, appended to as decoding goes on.

    Made to be changed in place, unlike the other records: the room doubles when it is used up, so that a step costs no
    copy of what is there.
    """

    def __init__(self) -> None:
        self.room: Tensor | None = None
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """keys and values (B, H, N, D / H) of new places -> those of all places, (B, H, L + N, D / H)."""
        batch, heads, new, head_width = keys.shape
        start, self.length = self.length, self.length + new
        if self.room is None or self.length > self.room.shape[3]:
            wider = keys.new_empty(2, batch, heads, max(2 * self.length, 16 * new), head_width)
            if self.room is not None:
                wider[:, :, :, :start] = self.room[:, :, :, :start]
            self.room = wider
        self.room[0, :, :, start : self.length] = keys
        self.room[1, :, :, start : self.length] = values
        return self.room[0, :, :, : self.length], self.room[1, :, :, : self.length]

    def keep(self, index: Tensor) -> None:
        """Go on with the rows that `index` (R,) names."""
        assert self.room is not None
        self.room = self.room[:, index]


class SelfAttention(nn.Module):
    """x (B, T, D) -> (B, T, D); positions from `nn.positions`: rotary (2, T, D / H), or relative (2 T - 1, D).

    With a cache (rotary only) the T new places look back at the cached ones too: mask (B or 1, 1, T, L + T).
    """

    def __init__(self, width: int, heads: int, *, relative: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ConfigError(
                f"expected width to be heads times an even number, received width {width} and heads {heads}; "
                "change one of the two"
            )
        self.heads, self.head_width, self.dropout = heads, width // heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.relative = relative
        if relative:
            self.position = nn.Linear(width, width, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
            self.position_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, cache: Cache | None = None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        if self.relative:
            q, k, v = qkv
            bias = self._relative_bias(q, positions).masked_fill(~mask, float("-inf"))
            q = q + self.content_bias
        else:
            (q, k), v, bias = rotate(qkv[:2], positions), qkv[2], mask
            if cache is not None:
                k, v = cache.append(k, v)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        out: Tensor = self.output(y.transpose(1, 2).reshape(batch, length, width))
        return out

    def _relative_bias(self, q: Tensor, positions: Tensor) -> Tensor:
        """(B, H, T, T) position scores, the (b) and (d) terms of Transformer-XL's eq. 5, already scaled."""
        batch, heads, length, head_width = q.shape
        p = self.position(positions.to(q.dtype)).view(-1, heads, head_width).permute(1, 2, 0)  # (H, D / H, 2 T - 1)
        scores = ((q + self.position_bias) / math.sqrt(head_width)) @ p
        # Row i needs the distances i, i-1, .. i-T+1: the same storage read one place earlier in every row.
        stride = scores.stride()
        shifted: Tensor = scores.as_strided(
            (batch, heads, length, length),
            (stride[0], stride[1], stride[2] - 1, 1),
            scores.storage_offset() + length - 1,
        )
        return shifted


class CrossAttention(nn.Module):
    """Queries (R, U, D) over a memory whose keys and values `project` computes once an utterance."""

    def __init__(self, width: int, heads: int, memory_width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.head_width, self.dropout = heads, width // heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width, 2 * width)
        self.output = nn.Linear(width, width)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """states (B, T, M) -> keys and values, each (B, H, T, D / H)."""
        batch, length, _ = states.shape
        k, v = self.key_value(states).view(batch, length, 2, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        q = self.query(x).view(batch, length, self.heads, self.head_width).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.output(y.transpose(1, 2).reshape(batch, length, width))
        return out
