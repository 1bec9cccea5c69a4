"""Multi30k, English to German or French: an autoregressive teacher and every non-autoregressive family, all small.

narspeech run recipes/multi30k/recipe.py:ar --data DIR --out OUT/ar --stages prepare,train,average,decode,score,distill
narspeech run recipes/multi30k/recipe.py:cmlm --data DIR --out OUT/cmlm --distilled OUT/ar/distilled
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from narspeech.cli import main
from narspeech.profile import Source, command, family_profiles, load_file
from narspeech.tasks.base import DataConfig, RecipeConfig
from narspeech.tasks.families import Size, configure
from narspeech.train.optim import OptimConfig
from narspeech.train.trainer import TrainConfig
from narspeech.train.vocabulary import TokenizerConfig

prepare = load_file(Path(__file__).with_name("prepare.py")).prepare

# The small Transformer that suits 29,000 sentences (Wu et al. 2021, "Good for misconceived reasons").
SIZE = Size(depth=4, deep=7, width=128, heads=4, feed_forward=256, dropout=0.3)
BASE = RecipeConfig(
    task="translation",
    data=DataConfig(held_out=500, longest=400),  # characters
    tokenizer=TokenizerConfig(kind="unigram", size=6000),
    train=TrainConfig(
        epochs=40,
        max_seconds=2048,  # tokens; an update is of two batches, so that each of two cores can have a process
        accumulate=2,
        keep=5,
        save_every=200,
        evaluate_every=2,
        optim=OptimConfig(learning_rate=3e-3, warmup=1000),
    ),
)


def source(target: str) -> Source:
    """English to `target`; the official val part chooses epochs."""
    name, languages = f"multi30k-en-{target}", ("en", target)
    parts = {"train": ("train",), "dev": ("val",), "test": ("test_2016_flickr",)}
    return Source(name, partial(prepare, languages=languages), **parts)


config = partial(configure, size=SIZE, base=BASE)
PROFILES = {
    **family_profiles(source("de"), SIZE, config),
    **family_profiles(source("fr"), SIZE, config, suffix="_fr", remark=" To French."),
}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
