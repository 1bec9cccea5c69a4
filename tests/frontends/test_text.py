from __future__ import annotations

import pytest
import torch

from narspeech.batch import Padded
from narspeech.errors import ConfigError
from narspeech.frontends.text import TextConfig, TextEmbedding


def test_embeds_and_zeroes_what_is_beyond() -> None:
    frontend = TextEmbedding(TextConfig(width=4), size=9)
    ids = torch.tensor([[6, 7, 8], [7, 7, 7]])
    features = frontend(Padded(ids, torch.tensor([3, 1])))
    torch.testing.assert_close(features.data[0], 2 * frontend.embedding.weight[ids[0]])
    assert not features.data[1, 1:].any()
    assert features.lengths.tolist() == [3, 1]


def test_views_are_two_copies() -> None:
    frontend = TextEmbedding(TextConfig(width=4), size=9)
    source = Padded(torch.tensor([[6, 7], [8, 8]]), torch.tensor([2, 1]))
    one, views = frontend(source), frontend(source, views=True)
    assert torch.equal(views.data, torch.cat([one.data, one.data]))
    assert views.lengths.tolist() == [2, 1, 2, 1]


def test_nothing_has_a_place_to_stand() -> None:
    features = TextEmbedding(TextConfig(width=4), size=9)(Padded(torch.zeros(2, 0).long(), torch.tensor([0, 0])))
    assert features.data.shape == (2, 1, 4)
    assert features.lengths.tolist() == [0, 0]


def test_samples_are_no_text() -> None:
    with pytest.raises(ValueError, match="token ids"):
        TextEmbedding(TextConfig(width=4), size=9)(Padded(torch.zeros(1, 5), torch.tensor([5])))
    with pytest.raises(ConfigError, match="width"):
        TextConfig(width=0)
