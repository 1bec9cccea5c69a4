from __future__ import annotations

from dataclasses import replace

import pytest

from narspeech.errors import ConfigError
from narspeech.model import DECODERS
from narspeech.tasks.base import DataConfig, RecipeConfig, settings
from narspeech.tasks.families import AUTOREGRESSIVE, FAMILIES, Size, configure, describe
from narspeech.train.trainer import TrainConfig

SIZE = Size(depth=3, deep=5, width=24, heads=3, feed_forward=40, dropout=0.25)
BASE = RecipeConfig(
    task="translation", data=DataConfig(longest=77), train=TrainConfig(epochs=7, max_seconds=1000, accumulate=3)
)


def test_every_decoder_is_in_a_family():
    assert {configure(name, SIZE, BASE).model.decoder.kind for name in FAMILIES} == set(DECODERS)
    assert {name for name in FAMILIES if configure(name, SIZE, BASE).model.decoder.kind == "ar"} == AUTOREGRESSIVE


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_size_and_leaves_the_data_sets_numbers(name):
    config = configure(name, SIZE, BASE)
    model = config.model
    layers = [model.encoder] + ([model.decoder] if hasattr(model.decoder, "depth") else [])
    for layer in layers:
        assert (layer.width, layer.heads, layer.feed_forward, layer.dropout) == (24, 3, 40, 0.25)
    assert model.frontend.width == 24
    # As many layers as the others have in all, whatever stands where.
    assert sum(layer.depth for layer in layers) == 6
    assert config.train.max_seconds * config.train.accumulate == 3000
    assert config == replace(
        BASE, data=replace(BASE.data, fertilities=name == "nat_fertility"), model=model, train=config.train,
        decode=config.decode,
    )  # fmt: skip
    # Paths and graphs need room, and nothing but paths that are refined needs the CTC head.
    kind = model.decoder.kind
    assert (model.encoder.upsample > 1) == (kind in ("ctc", "mask_ctc", "align_refine", "glat_ctc"))
    assert kind != "dag" or model.decoder.graph_ratio > 1
    assert (model.ctc is not None) == (kind in ("ctc", "mask_ctc", "align_refine"))
    assert settings(config, model.decoding)


def test_a_graph_has_smaller_batches_and_as_many_tokens_an_update():
    train = configure("dag", SIZE, BASE).train
    assert (train.max_seconds, train.accumulate, train.epochs) == (500, 6, 7)


def test_a_description_tells_the_layers():
    assert describe("ar", SIZE).startswith("Autoregressive, 3 + 3 layers, ")
    assert "; 6 layers, as many as" in describe("ctc", SIZE)
    assert not [name for name in FAMILIES if "{" in describe(name, SIZE)]


def test_an_unknown_family_is_refused():
    with pytest.raises(ConfigError, match=r"a family among ar, ar_shallow, .* received 'cmml'"):
        configure("cmml", SIZE, BASE)
    with pytest.raises(ConfigError, match="a family among"):
        describe("cmml", SIZE)
