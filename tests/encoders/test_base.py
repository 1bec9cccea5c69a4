from __future__ import annotations

import pytest
import torch

from narspeech.batch import Padded
from narspeech.encoders.base import Encoder


def test_a_new_encoder_answers_both_questions() -> None:
    lengths = torch.tensor([1])
    with pytest.raises(NotImplementedError):
        Encoder()(Padded(torch.zeros(1, 1, 1), lengths))
    with pytest.raises(NotImplementedError):
        Encoder().lengths(lengths)
