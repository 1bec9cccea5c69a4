"""What families take from the base of all decoders."""

from __future__ import annotations

import math

import pytest
import torch

from narspeech.batch import Draft, Padded
from narspeech.decoders.base import DecodeOptions, Decoder, Memory, check_shares
from narspeech.errors import ConfigError
from narspeech.tokenizer import MASK, PAD


def test_options_but_for_what_is_given() -> None:
    own = DecodeOptions(steps=7, threshold=0.5, trace=True)
    assert own.but() == own.but(steps=None, beam=None) == own
    assert own.but(steps=0, candidates=3, trace=False) == DecodeOptions(steps=0, threshold=0.5, candidates=3)
    with pytest.raises(ConfigError, match="steps of 0 or more"):
        own.but(steps=-1)


def test_shares_lie_between_0_and_1() -> None:
    check_shares("glance")
    check_shares("glance", 0.0, 1.0)
    for values in ((0.5, 1.1), (-0.1,), (math.nan,)):
        with pytest.raises(ConfigError, match=r"expected glance between 0 and 1, received .*: it is a share"):
            check_shares("glance", *values)


def test_defaults_of_a_family() -> None:
    """Rows without a MASK are settled; finished ones are ranked by the mean score of their tokens, empty ones last."""
    tokens = Padded.pack([torch.tensor(row).long() for row in ([6, MASK], [7], [6, 7], [])], PAD)
    draft = Draft.decided(tokens, torch.tensor([[-1.0, -3.0], [-1.5, -99.0], [-1.0, -1.0], [-99.0, -99.0]]))
    decoder, options = Decoder(), DecodeOptions()
    memory = Memory(torch.ones(4, 1, 1, 1), tokens, tokens)
    assert decoder.settled(draft).tolist() == [False, True, True, True]
    assert decoder.rank(draft, memory, options).tolist() == [-2.0, -1.5, -1.0, -math.inf]
