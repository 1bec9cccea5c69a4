"""Every family of translation models at one size, so that recipes differ in their data and numbers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, TypedDict

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
from narspeech.errors import ConfigError
from narspeech.frontends.text import TextConfig
from narspeech.model import CTCConfig, ModelConfig
from narspeech.tasks.base import DecodeConfig, RecipeConfig


class Layer(TypedDict):
    """What the layers of an encoder and of a decoder have in common."""

    width: int
    heads: int
    feed_forward: int
    dropout: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """depth: layers of the encoder, and as many of the decoder; deep: of the encoder whose decoder has one; the others
    are those of every layer."""

    depth: int = 6
    deep: int = 12
    width: int = 512
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1

    @property
    def layer(self) -> Layer:
        return Layer(width=self.width, heads=self.heads, feed_forward=self.feed_forward, dropout=self.dropout)

    @property
    def encoder(self) -> TransformerConfig:
        return TransformerConfig(depth=self.depth, **self.layer)

    def model(self, decoder: _Decoder, *, upsample: int = 1, ctc: CTCConfig | None = None) -> ModelConfig:
        """A decoder over an encoder with `upsample` states a token, from its last layer on: the layers before cost what
        they cost any other family, and can be a teacher's."""
        encoder = replace(self.encoder, upsample=upsample, upsample_at=self.depth if upsample > 1 else 1)
        return ModelConfig(frontend=TextConfig(width=self.width), encoder=encoder, decoder=decoder, ctc=ctc)

    def on_ctc(self, decoder: MaskCTCConfig | AlignRefineConfig) -> ModelConfig:
        """A decoder that refines what the CTC head of an encoder with three states a token wrote."""
        return self.model(decoder, upsample=3, ctc=CTCConfig(weight=0.5, intermediate=0.0))


_Decoder = (
    ARConfig
    | CTCDecoderConfig
    | MaskCTCConfig
    | AlignRefineConfig
    | GlatCTCConfig
    | CMLMConfig
    | LevenshteinConfig
    | NATConfig
    | DAGConfig
)


class Family(NamedTuple):
    """about: one sentence, with the numbers of a size in braces; decode: at which settings it is tested; fertilities:
    whether an aligner's guide its training; split: its batches are so many times smaller, and as many make an update.
    """

    about: str
    model: Callable[[Size], ModelConfig]
    decode: DecodeConfig
    fertilities: bool = False
    split: int = 1


def ar_shallow(size: Size) -> ModelConfig:
    model = size.model(ARConfig(depth=1, **size.layer))
    return replace(model, encoder=replace(size.encoder, depth=size.deep))


def ctc(size: Size) -> ModelConfig:
    model = size.model(CTCDecoderConfig(), ctc=CTCConfig(weight=1.0, intermediate=0.0))
    return replace(model, encoder=replace(size.encoder, depth=2 * size.depth, upsample=3, upsample_at=size.depth + 1))


ONE_PASS = DecodeConfig(steps=(), thresholds=(), batch_size=64)
BEAMS = replace(ONE_PASS, beams=(1, 5))
LENGTHS = replace(ONE_PASS, candidates=(1, 5))
REFINED = replace(ONE_PASS, steps=(1, 4, 10))

FAMILIES = {
    "ar": Family(
        "Autoregressive, {depth} + {depth} layers, greedy and with beam 5: the baseline, and the teacher of "
        "`--distilled`.",
        lambda size: size.model(ARConfig(depth=size.depth, **size.layer)),
        BEAMS,
    ),
    "ar_shallow": Family(
        "Autoregressive with a deep encoder and one decoder layer, the baseline for speed (Kasai et al. 2021).",
        ar_shallow,
        BEAMS,
    ),
    "ctc": Family(
        "CTC over three states a token (Libovicky & Helcl 2018); {total} layers, as many as the others have in all.",
        ctc,
        ONE_PASS,
    ),
    "mask_ctc": Family(
        "CTC's weak tokens masked and filled in again (Higuchi et al. 2020).",
        lambda size: size.on_ctc(MaskCTCConfig(depth=size.depth, **size.layer)),
        replace(REFINED, thresholds=DecodeConfig().thresholds),
    ),
    "align_refine": Family(
        "CTC's path, rewritten as a whole in each step (Chi et al. 2021).",
        lambda size: size.on_ctc(AlignRefineConfig(depth=size.depth, **size.layer)),
        replace(REFINED, steps=(1, 4)),
    ),
    "align_denoise": Family(
        "CTC's path, rewritten in one step by a decoder that restores noisy paths (Chen et al. 2021).",
        lambda size: size.on_ctc(AlignRefineConfig(depth=size.depth, mode="align_denoise", **size.layer)),
        replace(REFINED, steps=(1, 2)),
    ),
    "imputer": Family(
        "CTC's path, of which each block of eight states keeps its surest labels; the others are filled in again, one "
        "or more a step (after Chan et al. 2020).",
        lambda size: size.on_ctc(AlignRefineConfig(depth=size.depth, mode="imputer", **size.layer)),
        replace(REFINED, steps=(1, 4, 7)),
    ),
    "glat_ctc": Family(
        "One pass over a masked path, with glancing at the forced alignment (Gu & Kong 2021).",
        lambda size: size.model(GlatCTCConfig(depth=size.depth, **size.layer), upsample=3),
        ONE_PASS,
    ),
    "cmlm": Family(
        "Mask-Predict (Ghazvininejad et al. 2019) in 1, 4 and 10 steps, with the likeliest length and with five.",
        lambda size: size.model(CMLMConfig(depth=size.depth, **size.layer)),
        replace(REFINED, candidates=(1, 5)),
    ),
    "levenshtein": Family(
        "Deletes, makes room and fills in, from nothing on (Gu et al. 2019), in 1, 4 and 10 steps.",
        lambda size: size.model(LevenshteinConfig(depth=size.depth, **size.layer)),
        REFINED,
    ),
    "nat": Family(
        "One pass over a uniform copy of the source (after Gu et al. 2018), with one and with five lengths.",
        lambda size: size.model(NATConfig(depth=size.depth, glancing=None, **size.layer)),
        LENGTHS,
    ),
    "nat_fertility": Family(
        "One pass over a copy of the source by predicted fertilities, learnt from a word aligner's (Gu et al. 2018).",
        lambda size: size.model(NATConfig(depth=size.depth, glancing=None, copy="fertility", **size.layer)),
        LENGTHS,
        fertilities=True,
    ),
    "glat": Family(
        "Glancing: training reveals a part of what the first pass got wrong (Qian et al. 2021).",
        lambda size: size.model(NATConfig(depth=size.depth, **size.layer)),
        LENGTHS,
    ),
    "dslp": Family(
        "Glancing with deep supervision and layer-wise prediction (Huang et al. 2022).",
        lambda size: size.model(NATConfig(depth=size.depth, dslp=True, **size.layer)),
        LENGTHS,
    ),
    # Its links are quadratic in the vertices, so that batches are smaller.
    "dag": Family(
        "A directed acyclic graph of eight vertices a token (Huang et al. 2022), by lookahead and by beam search.",
        lambda size: size.model(DAGConfig(depth=size.depth, graph_ratio=8, **size.layer)),
        BEAMS,
        split=2,
    ),
}
AUTOREGRESSIVE = frozenset({"ar", "ar_shallow"})


def configure(name: str, size: Size, base: RecipeConfig) -> RecipeConfig:
    """`base`, whose data, tokenizer and training are the data set's, with the model and decoding of a family.

    Raises ConfigError where there is no family of that name.
    """
    family = _family(name)
    train = base.train
    return replace(
        base,
        data=replace(base.data, fertilities=family.fertilities),
        model=family.model(size),
        # Of tokens, hence whole.
        train=replace(train, max_seconds=train.max_seconds // family.split, accumulate=train.accumulate * family.split),
        decode=family.decode,
    )


def describe(name: str, size: Size) -> str:
    """One sentence about a family at that size. Raises ConfigError as `configure`."""
    return _family(name).about.format(total=2 * size.depth, **asdict(size))


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise ConfigError(f"expected a family among {', '.join(FAMILIES)}, received {name!r}: choose one of them")
    return FAMILIES[name]
