"""Speech translation on two cores: captions of Multi30k read by espeak-ng, SYNTHETIC English to German text.

narspeech run recipes/synthetic_st/recipe.py:mask_ctc --data DIR --out OUT --init narspeech/models/english
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from narspeech.cli import main
from narspeech.model import CTCConfig
from narspeech.profile import Recipe, Source, command, load_file
from narspeech.tasks.base import DataConfig, RecipeConfig
from narspeech.train.vocabulary import TokenizerConfig

covost2 = load_file(Path(__file__).parents[1] / "covost2" / "recipe.py")
librispeech = load_file(Path(__file__).parents[1] / "librispeech" / "recipe.py")
prepare = load_file(Path(__file__).with_name("prepare.py")).prepare

# The encoder and frontend of the bundled English model, so that it can be the start; no alignment guides the training,
# because the words that come out are not those that are heard.
BASE = RecipeConfig(
    task="speech_translation",
    data=DataConfig(held_out=200, longest=15.0),
    tokenizer=TokenizerConfig(kind="unigram", size=2000, inherit=False),
    model=replace(
        librispeech.SMALL.model,
        encoder=replace(librispeech.SMALL_ENCODER, dropout=0.1),
        ctc=CTCConfig(intermediate=0.4, condition=True),
    ),
    train=replace(librispeech.SMALL.train, epochs=40, max_seconds=120.0),
)
# Those of Multi30k's models of text, so that a decoder that has learnt to translate there can go on here.
LAYERS = covost2.Layers(depth=4, width=128, heads=4, feed_forward=256)


def source(train: str, dev: str = "val-200", test: str = "test_2016_flickr") -> Source:
    return Source("synthetic_st-en-de", prepare, train=(train,), dev=(dev,), test=(test,))


def tiny() -> Recipe:
    """Mask-CTC, 160 captions and a few updates: shows in minutes that everything runs, and learns nothing."""
    config = covost2.configure("mask_ctc", BASE, LAYERS)
    return Recipe(
        (source("train-160", "val-20", "test_2016_flickr-20"),),
        replace(
            config,
            tokenizer=replace(config.tokenizer, size=300),
            train=replace(config.train, epochs=1),
            decode=replace(config.decode, thresholds=(0.9,)),
        ),
    )


FULL = replace(BASE, train=replace(BASE.train, epochs=20))
PROFILES = {
    "tiny": tiny,
    **covost2.family_profiles(source("train-8000"), BASE, LAYERS),
    **covost2.family_profiles(source("train"), FULL, LAYERS, "_full"),
}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
