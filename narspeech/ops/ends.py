"""Sequences with marks at their ends."""

from __future__ import annotations

import torch.nn.functional as F

from narspeech.batch import Padded
from narspeech.tokenizer import BOS, EOS, PAD


def ended(tokens: Padded) -> Padded:
    """tokens (R, U) with EOS after the last one, and PAD beyond: (R, U + 1)."""
    data = F.pad(tokens.data.masked_fill(~tokens.mask, PAD), (0, 1), value=PAD)
    return Padded(data.scatter(1, tokens.lengths[:, None], EOS), tokens.lengths + 1)


def with_ends(tokens: Padded) -> Padded:
    """BOS, tokens (R, U) and EOS, which follows a row's last one: (R, U + 2)."""
    data, lengths = ended(tokens)
    return Padded(F.pad(data, (1, 0), value=BOS), lengths + 1)
