"""IWSLT14, German to English and back: an autoregressive teacher and every non-autoregressive family, all of one size.

narspeech run recipes/iwslt14/recipe.py:ar --data DIR --out OUT/ar --stages prepare,train,average,decode,score,distill
narspeech run recipes/iwslt14/recipe.py:cmlm --data DIR --out OUT/cmlm --distilled OUT/ar/distilled
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from narspeech.cli import main
from narspeech.profile import Source, command, family_profiles, load_file
from narspeech.tasks.base import DataConfig, RecipeConfig
from narspeech.tasks.families import AUTOREGRESSIVE, Size, configure
from narspeech.train.optim import OptimConfig
from narspeech.train.trainer import TrainConfig
from narspeech.train.vocabulary import TokenizerConfig

prepare = load_file(Path(__file__).with_name("prepare.py")).prepare

# fairseq's transformer_iwslt_de_en, and how its examples/translation trains it; how long is our choice.
SIZE = Size(depth=6, deep=12, width=512, heads=4, feed_forward=1024, dropout=0.3)
BASE = RecipeConfig(
    task="translation",
    data=DataConfig(held_out=1000, longest=1000),  # characters
    tokenizer=TokenizerConfig(kind="unigram", size=10000),
    train=TrainConfig(
        epochs=100,
        max_seconds=4096,  # tokens
        keep=5,
        optim=OptimConfig(learning_rate=5e-4, warmup=4000, schedule="noam", weight_decay=1e-4),
    ),
)


def source(languages: tuple[str, str], *, lower: bool = False) -> Source:
    """From one language to the other; each 23rd training pair chooses epochs."""
    name = f"iwslt14-{'-'.join(languages)}{'-lower' * lower}"
    parts = {"train": ("train",), "dev": ("valid",), "test": ("test",)}
    return Source(name, partial(prepare, languages=languages, lower=lower), **parts)


def config(family: str) -> RecipeConfig:
    """What writes all tokens at once learns longer, and from twice as many at a time."""
    train = BASE.train if family in AUTOREGRESSIVE else replace(BASE.train, epochs=250, accumulate=2)
    return configure(family, SIZE, replace(BASE, train=train))


LOWER = " In lower case, as published scores are."
PROFILES = {
    **family_profiles(source(("de", "en")), SIZE, config),
    **family_profiles(source(("en", "de")), SIZE, config, suffix="_de", remark=" To German."),
    **family_profiles(source(("de", "en"), lower=True), SIZE, config, suffix="_lower", remark=LOWER),
}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
