from __future__ import annotations

from typing import Any

import pytest
import torch

from narspeech.batch import Padded
from narspeech.encoders.transformer import Transformer, TransformerConfig
from narspeech.errors import ConfigError


def encoder(**settings: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerConfig(**{"depth": 3, "width": 8, "heads": 2, "feed_forward": 16, **settings}), 8
    ).eval()


@pytest.mark.parametrize(
    "settings", [{}, {"upsample": 3}, {"upsample": 2, "upsample_at": 3}, {"upsample": 2, "taps": (1, 2)}]
)
def test_a_row_does_not_depend_on_padding_or_batch_mates(settings: dict[str, Any]) -> None:
    model = encoder(**settings)
    rows = [torch.randn(length, 8) for length in (5, 1, 3)]
    batch = Padded.pack(rows)
    louder = Padded(batch.data.where(batch.mask[..., None], torch.tensor(9.0)), batch.lengths)
    encoded = model(louder)
    assert encoded.states.lengths.tolist() == model.lengths(batch.lengths).tolist()
    for row, alone in enumerate(rows):
        single = model(Padded.pack([alone]))
        length = int(single.states.lengths[0])
        assert length == len(alone) * settings.get("upsample", 1)
        torch.testing.assert_close(encoded.states.data[row, :length], single.states.data[0])
        for tap, own in zip(encoded.taps, single.taps, strict=True):
            torch.testing.assert_close(tap[row, :length], own[0])
    assert len(encoded.taps) == len(settings.get("taps", ()))


def test_the_states_of_a_token_differ() -> None:
    states = encoder(upsample=3)(Padded.pack([torch.randn(4, 8)])).states.data[0].view(4, 3, 8)
    assert (states[:, 0] - states[:, 1]).abs().max() > 0.1


def test_feedback_reaches_the_layers_behind_the_tap() -> None:
    model, features = encoder(taps=(2,)), Padded.pack([torch.randn(4, 8)])
    plain, fed = model(features), model(features, lambda tap: 0.5 * tap)
    torch.testing.assert_close(plain.taps[0], fed.taps[0])
    assert (plain.states.data - fed.states.data).abs().max() > 1e-2


def test_embeddings_of_another_width_are_projected() -> None:
    model = Transformer(TransformerConfig(depth=1, width=8, heads=2, feed_forward=16), 5)
    assert model(Padded.pack([torch.randn(4, 5)])).states.data.shape == (1, 4, 8)


@pytest.mark.parametrize(
    "settings", [{"depth": 0}, {"upsample": 0}, {"upsample_at": 4}, {"taps": (3,)}, {"taps": (1,), "upsample_at": 2}]
)
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        encoder(**settings)
