"""What every decoder of the table keeps to, over a conformer that hears sound and over a Transformer that reads text.

A new line in DECODERS is tested here without a new line in this file, and a decoder over paths without cross-attention
too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from narspeech import checkpoint
from narspeech.batch import Padded, TrainStep
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.path import PathConfig, PathDecoder
from narspeech.model import DECODERS, Model
from narspeech.result import Hypothesis
from narspeech.tokenizer import BOS, MASK, PAD
from tests import fakes

# Samples, or letters; two rows give no frame.
LENGTHS = {"speech": (8000, 2100, 5003, 0, 150, 8000, 799, 3200), "text": (12, 3, 8, 0, 0, 12, 1, 5)}
OPTIONS = (DecodeOptions(steps=0), DecodeOptions(steps=3, threshold=1.0), DecodeOptions(steps=10, threshold=0.7))


@pytest.fixture(params=list(DECODERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


WITHOUT_CROSS = [f"{kind}, no cross" for kind, family in DECODERS.items() if issubclass(family, PathDecoder)]


@pytest.fixture(params=list(LENGTHS))
def side(request: pytest.FixtureRequest) -> fakes.Side:
    return cast("fakes.Side", request.param)


@pytest.fixture(params=[*DECODERS, *WITHOUT_CROSS])
def model(request: pytest.FixtureRequest, side: fakes.Side) -> Model:
    kind, _, without = str(request.param).partition(", ")
    decoder = fakes.model_config(kind, side).decoder
    if without:
        decoder = replace(cast("PathConfig", decoder), cross=False)
    return fakes.tiny_model(kind, side, decoder=decoder)


def babble(side: fakes.Side) -> Padded:
    return fakes.noise(LENGTHS[side]) if side == "speech" else fakes.nonsense(LENGTHS[side])


def close(found: Hypothesis, expected: Hypothesis) -> None:
    """The same tokens in the same number of steps, with the same scores up to rounding."""
    assert found.tokens == expected.tokens
    assert found.steps == expected.steps
    torch.testing.assert_close(torch.tensor(found.scores), torch.tensor(expected.scores), rtol=0, atol=1e-4)


def test_the_table_names_kinds(kind: str) -> None:
    config = fakes.model_config(kind).decoder
    assert config.kind == kind
    assert isinstance(fakes.tiny_model(kind).decoder, DECODERS[kind])


def test_loss_is_finite_and_reaches_every_parameter(model: Model, side: fakes.Side) -> None:
    model.train()
    loss = model(fakes.batch(side=side), TrainStep(progress=0.5))
    assert torch.isfinite(loss.total)
    assert loss.total > 0
    assert loss.count == sum(len(text) for text in fakes.SENTENCES)
    assert all(not part.requires_grad and torch.isfinite(part) for part in loss.parts.values())
    loss.total.backward()
    bad = [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()
    ]
    assert bad == []


def test_empty_targets_cost_no_nan(model: Model, side: fakes.Side) -> None:
    batch = fakes.batch(["ab", "ba"], side)
    for lengths in ([0, 2], [0, 0]):
        target = Padded(batch.target.data[:, : max(lengths)], torch.tensor(lengths))
        loss = model(batch._replace(target=target))
        model.zero_grad()
        loss.total.backward()
        assert torch.isfinite(loss.total)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("options", OPTIONS)
def test_batched_is_single_whatever_the_padding(model: Model, side: fakes.Side, options: DecodeOptions) -> None:
    source = babble(side)
    batched = model.decode(source, options)
    assert len({hypothesis.tokens for hypothesis in batched}) > 4  # else there is nothing to confuse
    assert batched[3].tokens == batched[4].tokens == ()
    order = torch.tensor([4, 0, 7, 2, 1, 3, 6, 5])
    for place, found in zip(order.tolist(), model.decode(source.rows(order), options), strict=True):
        close(found, batched[place])
    for row, length in enumerate(source.lengths):
        own = source.data[row, :length]
        for padding in (own[:0], 50 * torch.randn(1234) if side == "speech" else fakes.nonsense([17], seed=1).data[0]):
            padded = Padded(torch.cat([own, padding])[None], length[None])
            close(model.decode(padded, options)[0], batched[row])


@pytest.mark.parametrize("options", OPTIONS)
def test_no_special_token_comes_out(model: Model, side: fakes.Side, options: DecodeOptions) -> None:
    # The worst case: a model that wants nothing but the forbidden ones.
    with torch.no_grad():
        assert model.ctc is not None
        model.ctc.output.bias[[PAD, MASK, BOS]] += 50
        if hasattr(model.decoder, "tokens"):
            model.decoder.tokens.bias[[PAD, MASK, BOS]] += 50
    for hypothesis in model.decode(babble(side), options):
        assert not {PAD, MASK, BOS} & set(hypothesis.tokens)
        assert len(hypothesis.tokens) == len(hypothesis.scores)
        assert all(score <= 0 for score in hypothesis.scores)
        assert hypothesis.steps <= options.steps


def test_save_and_load(model: Model, side: fakes.Side, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, model)
    again = checkpoint.load(tmp_path)
    assert again.config == model.config
    assert type(again.decoder) is type(model.decoder)
    source = babble(side)
    assert again.decode(source) == model.decode(source)


def test_decoding_changes_nothing(model: Model, side: fakes.Side) -> None:
    before = {name: x.clone() for name, x in model.state_dict().items()}
    source = babble(side)
    data = source.data.clone()
    first, second = model.decode(source), model.decode(source)
    assert first == second
    assert torch.equal(source.data, data)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_overfits_eight_examples(kind: str, side: fakes.Side) -> None:
    model = fakes.tiny_model(kind, side, varied=False)
    batch = fakes.batch(side=side)
    losses: list[float] = []
    for _ in range(3):  # most families need one
        losses += fakes.train(model, batch, updates=70)
        texts = [model.tokenizer.decode(hypothesis.tokens) for hypothesis in model.decode(batch.source)]
        if texts == list(batch.ids):
            break
    assert texts == list(batch.ids)
    assert losses[-1] < 0.2 * losses[0]
