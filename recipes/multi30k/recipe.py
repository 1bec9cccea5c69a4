"""Multi30k, English to German or French: an autoregressive teacher and every non-autoregressive family, all small.

narspeech run recipes/multi30k/recipe.py:ar --data DIR --out OUT/ar --stages prepare,train,average,decode,score,distill
narspeech run recipes/multi30k/recipe.py:cmlm --data DIR --out OUT/cmlm --distilled OUT/ar/distilled
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from narspeech.cli import main
from narspeech.decoders.align_refine import AlignRefineConfig
from narspeech.decoders.ar import ARConfig
from narspeech.decoders.cmlm import CMLMConfig
from narspeech.decoders.ctc import CTCDecoderConfig
from narspeech.decoders.dag import DAGConfig
from narspeech.decoders.glat_ctc import GlatCTCConfig
from narspeech.decoders.levenshtein import LevenshteinConfig
from narspeech.decoders.mask_ctc import MaskCTCConfig
from narspeech.decoders.nat import NATConfig
from narspeech.encoders.transformer import TransformerConfig
from narspeech.frontends.text import TextConfig
from narspeech.model import CTCConfig, ModelConfig
from narspeech.profile import Recipe, Source, command, load_file
from narspeech.tasks.base import DataConfig, DecodeConfig, RecipeConfig
from narspeech.train.optim import OptimConfig
from narspeech.train.trainer import TrainConfig
from narspeech.train.vocabulary import TokenizerConfig

prepare = load_file(Path(__file__).with_name("prepare.py")).prepare

# The small Transformer that suits 29,000 sentences (Wu et al. 2021, "Good for misconceived reasons").
SHAPE = {"width": 128, "heads": 4, "feed_forward": 256, "dropout": 0.3}
ENCODER = TransformerConfig(depth=4, **SHAPE)
ONE_PASS = DecodeConfig(steps=(), thresholds=(), batch_size=64)
REFINED = replace(ONE_PASS, steps=(1, 4, 10))
BASE = RecipeConfig(
    task="translation",
    data=DataConfig(held_out=500, longest=400),  # characters
    tokenizer=TokenizerConfig(kind="unigram", size=6000),
    model=ModelConfig(frontend=TextConfig(width=128), encoder=ENCODER, decoder=ARConfig(depth=4, **SHAPE), ctc=None),
    train=TrainConfig(
        epochs=60,
        max_seconds=4096,  # tokens
        keep=5,
        save_every=200,
        optim=OptimConfig(learning_rate=2e-3, warmup=1000),
    ),
    decode=replace(ONE_PASS, beams=(1, 5)),
)


def source(target: str) -> Source:
    """English to `target`; the official val part chooses epochs."""
    name, languages = f"multi30k-en-{target}", ("en", target)
    parts = {"train": ("train",), "dev": ("val",), "test": ("test_2016_flickr",)}
    return Source(name, partial(prepare, languages=languages), **parts)


def ar() -> Recipe:
    """Autoregressive, 4 + 4 layers, greedy and with beam 5: the baseline, and the teacher of `--distilled`."""
    return Recipe((source("de"),), BASE)


def ar_shallow() -> Recipe:
    """Autoregressive with a deep encoder and one decoder layer, the baseline for speed (Kasai et al. 2021)."""
    return with_model(replace(BASE.model, encoder=replace(ENCODER, depth=7), decoder=ARConfig(depth=1, **SHAPE)))


def ctc() -> Recipe:
    """CTC over three states a token (Libovicky & Helcl 2018); 8 layers, as many as the others have in all."""
    encoder = replace(ENCODER, depth=8, upsample=3)
    model = replace(
        BASE.model, encoder=encoder, decoder=CTCDecoderConfig(), ctc=CTCConfig(weight=1.0, intermediate=0.0)
    )
    return with_model(model, ONE_PASS)


def mask_ctc() -> Recipe:
    """CTC's weak tokens masked and filled in again (Higuchi et al. 2020)."""
    decode = replace(REFINED, thresholds=DecodeConfig().thresholds)
    return with_model(on_ctc(MaskCTCConfig(depth=4, **SHAPE)), decode)


def align_refine() -> Recipe:
    """CTC's path, rewritten as a whole in each step (Chi et al. 2021)."""
    return with_model(on_ctc(AlignRefineConfig(depth=4, **SHAPE)), replace(REFINED, steps=(1, 4)))


def align_denoise() -> Recipe:
    """CTC's path, rewritten in one step by a decoder that restores noisy paths (Chen et al. 2021)."""
    return with_model(on_ctc(AlignRefineConfig(depth=4, mode="align_denoise", **SHAPE)), replace(REFINED, steps=(1, 2)))


def imputer() -> Recipe:
    """A path that each block of eight states fills in one by one (Chan et al. 2020), or faster."""
    return with_model(on_ctc(AlignRefineConfig(depth=4, mode="imputer", **SHAPE)), replace(REFINED, steps=(2, 4, 8)))


def glat_ctc() -> Recipe:
    """One pass over a masked path, with glancing at the forced alignment (Gu & Kong 2021)."""
    model = replace(BASE.model, encoder=replace(ENCODER, upsample=3), decoder=GlatCTCConfig(depth=4, **SHAPE))
    return with_model(model, ONE_PASS)


def cmlm() -> Recipe:
    """Mask-Predict (Ghazvininejad et al. 2019) in 1, 4 and 10 steps, with the likeliest length and with five."""
    model = replace(BASE.model, decoder=CMLMConfig(depth=4, **SHAPE))
    return with_model(model, replace(REFINED, candidates=(1, 5)))


def nat() -> Recipe:
    """One pass over a uniform copy of the source (after Gu et al. 2018), with one and with five lengths."""
    model = replace(BASE.model, decoder=NATConfig(depth=4, glancing=None, **SHAPE))
    return with_model(model, replace(ONE_PASS, candidates=(1, 5)))


def nat_fertility() -> Recipe:
    """One pass over a copy of the source by predicted fertilities, learnt from a word aligner's (Gu et al. 2018)."""
    model = replace(BASE.model, decoder=NATConfig(depth=4, glancing=None, copy="fertility", **SHAPE))
    sources, config = with_model(model, replace(ONE_PASS, candidates=(1, 5)))
    return Recipe(sources, replace(config, data=replace(config.data, fertilities=True)))


def glat() -> Recipe:
    """Glancing: training reveals a part of what the first pass got wrong (Qian et al. 2021)."""
    model = replace(BASE.model, decoder=NATConfig(depth=4, **SHAPE))
    return with_model(model, replace(ONE_PASS, candidates=(1, 5)))


def dslp() -> Recipe:
    """Glancing with deep supervision and layer-wise prediction (Huang et al. 2022)."""
    model = replace(BASE.model, decoder=NATConfig(depth=4, dslp=True, **SHAPE))
    return with_model(model, replace(ONE_PASS, candidates=(1, 5)))


def levenshtein() -> Recipe:
    """Deletes, makes room and fills in, from nothing on (Gu et al. 2019), in 1, 4 and 10 steps."""
    return with_model(replace(BASE.model, decoder=LevenshteinConfig(depth=4, **SHAPE)), REFINED)


def dag() -> Recipe:
    """A directed acyclic graph of eight vertices a token (Huang et al. 2022), by lookahead and by beam search."""
    model = replace(BASE.model, encoder=replace(ENCODER, upsample=8), decoder=DAGConfig(depth=4, **SHAPE))
    recipe = with_model(model, replace(ONE_PASS, beams=(1, 5)))
    # Its links are quadratic in the vertices, so that batches are smaller; two make an update.
    train = replace(recipe.config.train, max_seconds=2048, accumulate=2)
    return recipe._replace(config=replace(recipe.config, train=train))


def with_model(model: ModelConfig, decode: DecodeConfig = BASE.decode) -> Recipe:
    sources, config = ar()
    return Recipe(sources, replace(config, model=model, decode=decode))


def on_ctc(decoder: MaskCTCConfig | AlignRefineConfig) -> ModelConfig:
    """A model whose decoder refines what the CTC head of an encoder with three states a token wrote."""
    encoder = replace(ENCODER, upsample=3)
    return replace(BASE.model, encoder=encoder, decoder=decoder, ctc=CTCConfig(weight=0.5, intermediate=0.0))


def in_french(profile: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """The same profile, English to French."""

    def french() -> Recipe:
        return profile()._replace(sources=(source("fr"),))

    french.__name__, french.__doc__ = f"{profile.__name__}_fr", f"{profile.__doc__} To French."
    return french


GERMAN = (
    ar,
    ar_shallow,
    ctc,
    mask_ctc,
    align_refine,
    align_denoise,
    imputer,
    glat_ctc,
    cmlm,
    levenshtein,
    nat,
    nat_fertility,
    glat,
    dslp,
    dag,
)
PROFILES = {profile.__name__: profile for profile in (*GERMAN, *map(in_french, GERMAN))}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
