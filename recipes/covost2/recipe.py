"""CoVoST 2, from sound to text of another language: an autoregressive teacher and non-autoregressive families.

narspeech run recipes/covost2/recipe.py:asr --data DIR --out OUT/asr
narspeech run recipes/covost2/recipe.py:dag --data DIR --out OUT/dag --init OUT/asr/final
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from narspeech.cli import main
from narspeech.decoders.ar import ARConfig
from narspeech.decoders.cmlm import CMLMConfig
from narspeech.decoders.ctc import CTCDecoderConfig
from narspeech.decoders.dag import DAGConfig
from narspeech.decoders.glat_ctc import GlatCTCConfig
from narspeech.decoders.levenshtein import LevenshteinConfig
from narspeech.decoders.mask_ctc import MaskCTCConfig
from narspeech.encoders.transformer import TransformerConfig
from narspeech.frontends.text import TextConfig
from narspeech.model import CTCConfig, ModelConfig
from narspeech.profile import Recipe, Source, command, load_file
from narspeech.tasks.base import DataConfig, DecodeConfig, RecipeConfig
from narspeech.train.optim import OptimConfig
from narspeech.train.trainer import TrainConfig
from narspeech.train.vocabulary import TokenizerConfig

librispeech = load_file(Path(__file__).parents[1] / "librispeech" / "recipe.py")
prepare = load_file(Path(__file__).with_name("prepare.py")).prepare

Languages = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Those of a decoder."""

    depth: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: int = 2048
    dropout: float = 0.1


class Family(NamedTuple):
    """about: one sentence; decoder: its config for the layers and the states a second; weight: what CTC of the
    translation, on the encoder, counts in the loss; decode: at which settings it is tested."""

    about: str
    decoder: Callable[[dict[str, Any], float], Any]
    decode: DecodeConfig
    weight: float = 0.3


ONE_PASS = DecodeConfig(steps=(), thresholds=(), batch_size=32)
BEAMS = replace(ONE_PASS, beams=(1, 5))
REFINED = replace(ONE_PASS, steps=(1, 4, 10))
# CTC of the translation is part of every model: the encoder reorders for it (Chuang et al. 2021), and an autoregressive
# decoder gains from it, too (Yan et al. 2023).
FAMILIES = {
    "ar": Family(
        "Autoregressive, greedy and with beam 5: the baseline, and a teacher of `--distilled`.",
        lambda layers, _: ARConfig(**layers),
        BEAMS,
    ),
    "ctc": Family(
        "CTC alone, conditioned on its own intermediate predictions (Nozaki & Komatsu 2021).",
        lambda _layers, _: CTCDecoderConfig(),
        ONE_PASS,
        weight=1.0,
    ),
    "mask_ctc": Family(
        "CTC's weak tokens masked and filled in again (Higuchi et al. 2020).",
        lambda layers, _: MaskCTCConfig(**layers),
        replace(REFINED, thresholds=DecodeConfig().thresholds),
    ),
    "cmlm": Family(
        "Mask-Predict over sound (Inaguma et al. 2021) in 1, 4 and 10 steps, with the likeliest length and with five.",
        lambda layers, _: CMLMConfig(**layers),
        replace(REFINED, candidates=(1, 5)),
    ),
    "levenshtein": Family(
        "Deletes, makes room and fills in (Gu et al. 2019), from the CTC hypothesis on, in 1, 4 and 10 steps.",
        lambda layers, _: LevenshteinConfig(start="ctc", **layers),
        REFINED,
    ),
    "glat_ctc": Family(
        "One pass over a masked path, with glancing at the forced alignment (Gu & Kong 2021).",
        lambda layers, _: GlatCTCConfig(**layers),
        ONE_PASS,
    ),
    "dag": Family(
        "DA-Transformer over sound, 12.5 vertices a second (Fang et al. 2023), by lookahead and by beam search.",
        lambda layers, rate: DAGConfig(graph_ratio=12.5 / rate, **layers),
        BEAMS,
    ),
}


def configure(name: str, base: RecipeConfig, layers: Layers) -> RecipeConfig:
    """`base`, whose data, encoder and training are the data set's, with a family's decoder, CTC weight and decoding."""
    family, model = FAMILIES[name], base.model
    rate = 12.5 if model.encoder.subsampling == "depthwise8" else 25.0
    ctc = replace(model.ctc, weight=family.weight)
    model = replace(model, decoder=family.decoder(asdict(layers), rate), ctc=ctc)
    return replace(base, model=model, decode=family.decode)


def family_profiles(
    source: Source, base: RecipeConfig, layers: Layers, suffix: str = ""
) -> dict[str, Callable[[], Recipe]]:
    """A profile for each family, named after it."""

    def profile(name: str) -> Callable[[], Recipe]:
        def recipe() -> Recipe:
            return Recipe((source,), configure(name, base, layers))

        recipe.__name__, recipe.__doc__ = f"{name}{suffix}", FAMILIES[name].about
        return recipe

    return {f"{name}{suffix}": profile(name) for name in FAMILIES}


# fairseq's S2T recipe of CoVoST: 50,000 frames x 8 an update, 30,000 updates. The conformer is DASpeech's for the same
# clips, and the decoder s2t_transformer_s's.
BASE = RecipeConfig(
    task="speech_translation",
    data=DataConfig(held_out=1000),
    # A start from a recogniser brings its encoder; its words are of another language.
    tokenizer=TokenizerConfig(kind="bpe", size=1000, inherit=False),
    model=ModelConfig(
        frontend=librispeech.PUBLISHED.model.frontend,
        encoder=replace(librispeech.PUBLISHED_ENCODER, depth=12, feed_forward=2048, taps=(6,)),
        ctc=CTCConfig(intermediate=0.5, condition=True),
    ),
    train=TrainConfig(
        epochs=80,
        max_seconds=500.0,
        accumulate=8,
        keep=10,
        workers=4,
        optim=OptimConfig(learning_rate=2e-3, warmup=10000, schedule="noam", weight_decay=1e-6, clip=10.0),
    ),
)
LAYERS = Layers()
PAIRS = (("en", "de"), ("fr", "en"), ("de", "en"), ("es", "en"), ("ca", "en"))


def source(languages: Languages, content: str = "translation") -> Source:
    """Whatever is read of a pair, its name, parts and ids are the same: so a teacher on text may write for sound."""
    parts = {"train": ("train",), "dev": ("dev",), "test": ("test",)}
    return Source(f"covost2-{'-'.join(languages)}", partial(prepare, languages=languages, content=content), **parts)


def asr(languages: Languages = PAIRS[0]) -> Recipe:
    """CTC of the transcripts, lower-cased, whose encoder the others start from (`--init`)."""
    config = replace(configure("ctc", BASE, LAYERS), task="recognition")
    return Recipe((source(languages, "transcript"),), config)


def mt(languages: Languages = PAIRS[0]) -> Recipe:
    """Transcript to translation, autoregressive: a teacher on text, better than one that has to listen."""
    encoder = TransformerConfig(depth=6, width=256, heads=4, feed_forward=2048, dropout=0.1)
    model = ModelConfig(frontend=TextConfig(width=256), encoder=encoder, decoder=ARConfig(**asdict(LAYERS)), ctc=None)
    config = RecipeConfig(
        task="translation",
        data=DataConfig(held_out=1000, longest=400),  # characters
        tokenizer=TokenizerConfig(kind="bpe", size=8000),
        model=model,
        train=TrainConfig(
            epochs=40,
            max_seconds=8192,  # tokens
            accumulate=4,
            keep=10,
            optim=OptimConfig(learning_rate=2e-3, warmup=4000, schedule="noam", weight_decay=1e-4),
        ),
        decode=BEAMS,
    )
    return Recipe((source(languages, "pair"),), config)


def pair_profiles(languages: Languages, suffix: str) -> dict[str, Callable[[], Recipe]]:
    """All profiles for a pair: `asr` and `mt`, and one for each family."""

    def of_pair(profile: Callable[[Languages], Recipe]) -> Callable[[], Recipe]:
        def recipe() -> Recipe:
            return profile(languages)

        recipe.__name__, recipe.__doc__ = f"{profile.__name__}{suffix}", profile.__doc__
        return recipe

    others = {f"{profile.__name__}{suffix}": of_pair(profile) for profile in (asr, mt)}
    return others | family_profiles(source(languages), BASE, LAYERS, suffix)


PROFILES = pair_profiles(PAIRS[0], "")
for pair in PAIRS[1:]:
    PROFILES |= pair_profiles(pair, f"_{pair[0]}_{pair[1]}")

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
