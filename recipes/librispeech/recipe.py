"""LibriSpeech: profiles from five hours on two cores to the whole corpus.

narspeech run recipes/librispeech/recipe.py:mini_mask_ctc --data DIR --out DIR
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from narspeech.cli import main
from narspeech.decoders.ctc import CTCDecoderConfig
from narspeech.decoders.mask_ctc import MaskCTCConfig
from narspeech.encoders.conformer import ConformerConfig
from narspeech.frontends.augment import SpecAugmentConfig
from narspeech.frontends.fbank import FbankConfig
from narspeech.model import CTCConfig, ModelConfig
from narspeech.profile import Recipe, Source, command, load_file
from narspeech.tasks.base import DataConfig, RecipeConfig
from narspeech.train.optim import OptimConfig
from narspeech.train.trainer import TrainConfig
from narspeech.train.vocabulary import TokenizerConfig

prepare = load_file(Path(__file__).with_name("prepare.py")).prepare
speechocean762 = load_file(Path(__file__).parents[1] / "speechocean762" / "prepare.py").prepare
synthetic = load_file(Path(__file__).parents[1] / "synthetic" / "prepare.py").prepare

# A small encoder for small data: 12.5 frames a second, 5 million parameters; 7 million with Mask-CTC's decoder.
SMALL_ENCODER = ConformerConfig(
    depth=7,
    width=192,
    heads=4,
    feed_forward=576,
    kernel=15,
    dropout=0.0,
    channels=64,
    subsampling="depthwise8",
    taps=(4,),
)
SMALL = RecipeConfig(
    tokenizer=TokenizerConfig(kind="unigram", size=256),
    model=ModelConfig(
        frontend=FbankConfig(
            floor=-1.0, augment=SpecAugmentConfig(freq_warp=0.1, band_limit=14, freq_width=27, time_masks=4)
        ),
        encoder=SMALL_ENCODER,
        decoder=MaskCTCConfig(depth=3, width=192, heads=4, feed_forward=768, places="time", errors=0.2),
        ctc=CTCConfig(weight=0.6, intermediate=0.4, condition=True, consistency=0.2, guided=0.2),
    ),
    train=TrainConfig(
        epochs=20,
        # Consistency takes two views of everything. An update is of two batches: a process on each of two cores is
        # faster than two threads.
        max_seconds=25.0,
        accumulate=2,
        short_first=0,
        keep=3,
        save_every=200,
        optim=OptimConfig(learning_rate=1e-3, warmup=200, schedule="cosine"),
    ),
)


def mini_mask_ctc() -> Recipe:
    """Mini-LibriSpeech, five hours: small enough to try everything on two cores. Start it from `warm`."""
    return Recipe((Source("librispeech", prepare, train=("train-clean-5",), test=("dev-clean-2",)),), SMALL)


def mini_ctc() -> Recipe:
    """The same with CTC alone."""
    sources, config = mini_mask_ctc()
    model = replace(config.model, decoder=CTCDecoderConfig(), ctc=replace(config.model.ctc, weight=1.0))
    return Recipe(sources, replace(config, model=model))


def small_mask_ctc() -> Recipe:
    """English for two cores: mini-LibriSpeech, train-clean-extra, speechocean762 and three hours of synthetic voices.

    --data holds LibriSpeech/, speechocean762/ and text/english_books.txt.xz. Start it from `warm`.
    """
    sources = (
        Source("librispeech", prepare, train=("train-clean-5", "train-clean-extra"), test=("dev-clean",)),
        Source("speechocean762", speechocean762, train=("train",)),
        Source("synthetic", synthetic, train=("train", "flite")),
    )
    return Recipe(sources, SMALL)


def warm() -> Recipe:
    """Half an hour on characters at 25 frames a second and short utterances, whose `final/` the others start from.

    CTC with word pieces at 12.5 frames a second emits nothing but blanks for a thousand updates and more. A model of
    letters leaves that plateau sooner, and aligns the training texts well enough to guide the next one (`guided`).
    """
    sources, config = small_mask_ctc()
    return Recipe(
        tuple(source._replace(test=()) for source in sources if source.name != "synthetic"),
        replace(
            config,
            data=replace(config.data, longest=7.0, speeds=(1.0,)),
            tokenizer=TokenizerConfig(kind="characters"),
            model=replace(
                config.model,
                frontend=FbankConfig(),
                encoder=replace(SMALL_ENCODER, subsampling="depthwise4"),
                decoder=CTCDecoderConfig(),
                ctc=CTCConfig(weight=1.0),
            ),
            train=TrainConfig(
                epochs=10,
                max_seconds=40.0,
                keep=1,
                optim=OptimConfig(learning_rate=1e-3, warmup=300, floor=1.0),
            ),
        ),
    )


# The published settings of ESPnet2's librispeech_100 recipe, and their model shape.
PUBLISHED_ENCODER = ConformerConfig(
    depth=18,
    width=256,
    heads=4,
    feed_forward=1024,
    kernel=31,
    dropout=0.1,
    attention_dropout=0.1,
    subsampling="conv2d4",
    channels=256,
    positions="relative",
    norm="batch",
)
PUBLISHED = RecipeConfig(
    data=DataConfig(held_out=1000),
    tokenizer=TokenizerConfig(kind="bpe", size=5000),
    model=ModelConfig(
        frontend=FbankConfig(augment=SpecAugmentConfig()),
        encoder=PUBLISHED_ENCODER,
        decoder=CTCDecoderConfig(),
        ctc=CTCConfig(weight=1.0, intermediate=0.0),
    ),
    train=TrainConfig(
        epochs=60,
        max_seconds=600.0,
        accumulate=4,
        keep=10,
        workers=4,
        optim=OptimConfig(learning_rate=2e-3, warmup=15000, schedule="noam", weight_decay=1e-6),
    ),
)
TESTS = ("dev-clean", "dev-other", "test-clean", "test-other")


def libri100_ctc() -> Recipe:
    """LibriSpeech-100 with the published settings: 18 conformer layers, BPE 5000."""
    return Recipe((Source("librispeech", prepare, train=("train-clean-100",), test=TESTS),), PUBLISHED)


def libri100_interctc() -> Recipe:
    """With intermediate CTC after layers 6 and 12, all three losses weighing a third (Lee & Watanabe 2021)."""
    return _tapped(condition=False)


def libri100_scctc() -> Recipe:
    """Self-conditioned: the intermediate posteriors go back into the encoder (Nozaki & Komatsu 2021)."""
    return _tapped(condition=True)


def libri100_mask_ctc() -> Recipe:
    """A 12-layer encoder with a 6-layer masked decoder, BPE 300, tapped at 6."""
    sources, config = libri100_ctc()
    model = replace(
        config.model,
        encoder=replace(PUBLISHED_ENCODER, depth=12, taps=(6,)),
        decoder=MaskCTCConfig(),
        ctc=CTCConfig(weight=0.3, intermediate=0.5),
    )
    return Recipe(sources, replace(config, tokenizer=TokenizerConfig(kind="bpe", size=300), model=model))


def libri960_mask_ctc() -> Recipe:
    """The whole of LibriSpeech."""
    _, config = libri100_mask_ctc()
    train = ("train-clean-100", "train-clean-360", "train-other-500")
    return Recipe((Source("librispeech", prepare, train=train, test=TESTS),), config)


def _tapped(*, condition: bool) -> Recipe:
    sources, config = libri100_ctc()
    model = replace(
        config.model,
        encoder=replace(PUBLISHED_ENCODER, taps=(6, 12)),
        ctc=replace(config.model.ctc, intermediate=2 / 3, condition=condition),
    )
    return Recipe(sources, replace(config, model=model))


PROFILES = {
    profile.__name__: profile
    for profile in (
        warm,
        mini_ctc,
        mini_mask_ctc,
        small_mask_ctc,
        libri100_ctc,
        libri100_interctc,
        libri100_scctc,
        libri100_mask_ctc,
        libri960_mask_ctc,
    )
}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
