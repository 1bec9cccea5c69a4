"""Which tokens a training writes: learned from its texts, or kept from the checkpoint that it starts from."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from narspeech import tokenizer as tokenizers
from narspeech.tokenizer import UNK, Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """size counts the special tokens; characters ignores it; inherit: a training that starts from a checkpoint keeps
    its tokenizer if that has the same kind (unigram and bpe count as one) and size: its heads know no other tokens;
    sample: of more texts than these, so many drawn at random teach the pieces (never the characters)."""

    kind: Literal["characters", "unigram", "bpe"] = "unigram"
    size: int = 256
    inherit: bool = True
    sample: int = 1_000_000


def make_tokenizer(config: TokenizerConfig, texts: Sequence[str], init: Path | None) -> Tokenizer:
    """The tokenizer of checkpoint `init` where it fits the settings, or a new one; what became of it goes to stderr."""
    if init is not None and config.inherit:
        tokenizer = tokenizers.load(init)
        if _fits(tokenizer, config):
            return keep_tokenizer(tokenizer, init, texts, "train a new tokenizer with --tokenizer.inherit false")
        print(
            f"the tokenizer of {_named(init, tokenizer)} is not of the profile's kind and size: a new one is trained",
            file=sys.stderr,
        )
    if config.kind == "characters":
        return tokenizers.train_characters(texts)
    if len(texts) > config.sample:
        texts = [texts[index] for index in sorted(random.Random(0).sample(range(len(texts)), config.sample))]
    return tokenizers.train_sentencepiece(texts, size=config.size, model_type=config.kind)


def keep_tokenizer(tokenizer: Tokenizer, init: Path, texts: Sequence[str], mend: str) -> Tokenizer:
    """The tokenizer, which is that of checkpoint `init`; stderr hears that it is kept, and of places in the
    training texts that it cannot spell, which are to be corrected, or `mend`."""
    print(f"the tokenizer of {_named(init, tokenizer)} is kept", file=sys.stderr)
    unknown = sum(ids.count(UNK) for ids in tokenizer.encode_batch(texts))
    if unknown:
        print(f"it cannot spell {unknown} places of the training texts: correct them, or {mend}", file=sys.stderr)
    return tokenizer


def _named(init: Path, tokenizer: Tokenizer) -> str:
    return f"{init} ({tokenizer.kind}, {tokenizer.size} tokens)"


def _fits(tokenizer: Tokenizer, config: TokenizerConfig) -> bool:
    characters = config.kind == "characters"
    same_kind = characters == (tokenizer.kind == "characters")
    return same_kind and (characters or tokenizer.size == config.size)
