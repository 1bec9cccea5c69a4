"""WMT14, English to German and back: an autoregressive teacher and every non-autoregressive family, all of base size.

narspeech run recipes/wmt14/recipe.py:ar --data DIR --out OUT/ar --stages prepare,train,average,decode,score,distill
narspeech run recipes/wmt14/recipe.py:cmlm --data DIR --out OUT/cmlm --distilled OUT/ar/distilled
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

# Transformer base (Vaswani et al. 2017), trained as by Huang et al. 2022: about 64,000 tokens an update, about 300,000
# updates, the mean of the five best epochs. The autoregressive ones are done in a third of these.
SIZE = Size(depth=6, deep=12, width=512, heads=8, feed_forward=2048, dropout=0.1)
BASE = RecipeConfig(
    task="translation",
    data=DataConfig(held_out=3000, longest=1000),  # characters
    tokenizer=TokenizerConfig(kind="unigram", size=32000),
    train=TrainConfig(
        epochs=150,
        max_seconds=8192,  # tokens
        accumulate=8,
        keep=5,
        optim=OptimConfig(learning_rate=5e-4, warmup=10000, schedule="noam"),
    ),
)


def source(languages: tuple[str, str] = ("en", "de"), *, news: str = "v12") -> Source:
    """From one language to the other, with a version of News Commentary; newstest2013 chooses epochs."""
    name = f"wmt14-{'-'.join(languages)}{f'-nc-{news}' * (news != 'v12')}"
    train = ("europarl-v7", "commoncrawl", f"news-commentary-{news}")
    return Source(name, partial(prepare, languages=languages), train, test=("newstest2014",), dev=("newstest2013",))


def config(family: str) -> RecipeConfig:
    train = replace(BASE.train, epochs=50) if family in AUTOREGRESSIVE else BASE.train
    return configure(family, SIZE, replace(BASE, train=train))


PROFILES = {
    **family_profiles(source(), SIZE, config),
    **family_profiles(source(("de", "en")), SIZE, config, suffix="_en", remark=" To English."),
    **family_profiles(source(news="v9"), SIZE, config, suffix="_v9", remark=" With News Commentary v9."),
}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
