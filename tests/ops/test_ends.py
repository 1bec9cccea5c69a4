from __future__ import annotations

import torch

from narspeech.batch import Padded
from narspeech.ops.ends import ended, with_ends
from narspeech.tokenizer import BOS, EOS, PAD


def test_ends_stand_where_a_row_does() -> None:
    tokens = Padded(torch.tensor([[6, 7, 8], [6, 99, 99], [99, 99, 99]]), torch.tensor([3, 1, 0]))
    found = ended(tokens)
    assert found.data.tolist() == [[6, 7, 8, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD]]
    assert found.lengths.tolist() == [4, 2, 1]
    both = with_ends(tokens)
    assert both.data.tolist() == [[BOS, *row] for row in found.data.tolist()]
    assert both.lengths.tolist() == [5, 3, 2]
    nothing = with_ends(Padded(tokens.data[:, :0], torch.zeros(3).long()))
    assert nothing.data.tolist() == [[BOS, EOS]] * 3
