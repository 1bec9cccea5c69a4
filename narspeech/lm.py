"""`narspeech lm`: an n-gram language model from text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from narspeech import tokenizer
from narspeech.data.parallel import read_lines
from narspeech.errors import NarspeechError
from narspeech.search import kneser_ney, lmplz, ngram_file
from narspeech.search.arpa import ENDS
from narspeech.search.ngram import NGram
from narspeech.tokenizer import BOS, EOS, NUM_SPECIAL, SPECIAL_PIECES

Ids = NDArray[np.int32]
SUFFIXES = (".nslm", ".arpa")
# Lines that are encoded at a time.
TOGETHER = 1 << 16


@dataclass(frozen=True, kw_only=True)
class LMOptions:
    """Train an n-gram language model (interpolated modified Kneser-Ney) on text with a sentence a line."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """UTF-8 text, packed by gzip or xz where the name ends in .gz or .xz. Never the transcripts that you score on."""
    out: Path
    """Where the model goes: X.nslm, compact, which `narspeech transcribe --lm` reads, or X.arpa for other tools."""
    tokenizer: Path | None = None
    """A model folder whose tokens the text is cut into, as decoding needs; by default words at spaces."""
    order: int = 6
    """Tokens of the longest n-gram."""
    prune: tuple[int, ...] = (0, 0, 1, 3, 5, 8)
    """Drop n-grams that occur no more often than this, a number for each order from 1 on, the last one for the rest."""
    lower: bool = True
    """Read the text in lower case."""
    builder: Literal["numpy", "kenlm"] = "numpy"
    """kenlm: have KenLM's lmplz do it, which must be on the PATH; the model is the same."""


def main(argv: list[str]) -> int:
    """`narspeech lm`: 0 written; it raises where it cannot."""
    options = tyro.cli(LMOptions, args=argv, prog="narspeech lm")
    if options.out.suffix not in SUFFIXES:
        raise NarspeechError(f"expected --out to end in {' or '.join(SUFFIXES)}, received {options.out}: name it so")
    if not options.files:
        raise NarspeechError("expected at least one text to learn from, received none: name files after `narspeech lm`")
    if options.builder == "kenlm":
        lmplz.find()  # that it is not there is told now, and not when the text has been read
    options.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    model = learn(options)
    ngram_file.write(options.out, model)
    counts = " ".join(f"{n}:{count}" for n, count in enumerate(model.counts, 1))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes, n-grams by order {counts}", file=sys.stderr)
    return 0


def learn(options: LMOptions) -> NGram:
    """The model that the options ask for."""
    lines: Iterator[str] = chain.from_iterable(read_lines(path) for path in options.files)
    if options.lower:
        lines = (line.lower() for line in lines)
    texts = (line for line in lines if line)
    if options.tokenizer is None:
        tokens, pieces = by_word(texts)
    else:
        found = tokenizer.load(options.tokenizer)
        tokens, pieces = by_piece(texts, found), found.pieces
    train = lmplz.train if options.builder == "kenlm" else kneser_ney.train
    return train(tokens.astype(np.int64), pieces, options.order, options.prune)


def by_piece(texts: Iterator[str], pieces: tokenizer.Tokenizer) -> Ids:
    """All texts as ids, each between BOS and EOS."""
    found = [np.zeros(0, dtype=np.int32)]
    while part := list(islice(texts, TOGETHER)):
        found.append(flat([BOS, *row, EOS] for row in pieces.encode_batch(part)))
    return np.concatenate(found)


def by_word(texts: Iterator[str]) -> tuple[Ids, tuple[str, ...]]:
    """All texts as ids of their words, each between BOS and EOS, and the words behind the special tokens. What looks
    like one of those is left out, as by lmplz."""
    ids: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        words = (word for word in text.split(" ") if word not in ENDS.values())
        return [ids.setdefault(word, len(ids) + NUM_SPECIAL) for word in words]

    tokens = flat([BOS, *encode(text), EOS] for text in texts)
    return tokens, (*SPECIAL_PIECES, *ids)


def flat(rows: Iterable[list[int]]) -> Ids:
    return np.fromiter((token for row in rows for token in row), dtype=np.int32)
