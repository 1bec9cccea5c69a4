"""N-gram models in the ARPA format, which every toolkit reads: a line an n-gram, with logarithms to the base 10."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path

import numpy as np

from narspeech.errors import CheckpointError
from narspeech.files import write_chunks_atomic
from narspeech.search.ngram import Grams, Ints, NGram
from narspeech.tokenizer import BOS, EOS, NUM_SPECIAL, SPECIAL_PIECES, UNK

ENDS = {BOS: "<s>", EOS: "</s>", UNK: "<unk>"}
IMPOSSIBLE = -99.0
SPACE = "▁"
LOG_TEN = math.log(10)


def write_arpa(path: Path, model: NGram) -> None:
    """Write the model atomically. Raises OSError."""
    write_chunks_atomic(path, (f"{line}\n".encode() for line in lines(model)))


def names(pieces: Sequence[str]) -> list[str]:
    """What files call the tokens: words, which a token that is a space cannot be; SentencePiece has a mark for it."""
    return [ENDS.get(index, piece.replace(" ", SPACE)) for index, piece in enumerate(pieces)]


def lines(model: NGram) -> Iterator[str]:
    """The lines of the file. Tokens that never stand in a text, and unigrams that never did, are left out."""
    words = names(model.pieces)
    listed = unigrams(model)
    yield "\\data\\"
    for n, count in enumerate((len(listed), *model.counts[1:]), 1):
        yield f"ngram {n}={count}"
    before = words  # the text of every n-gram of the order below
    for n, (keys, log_probs, backoffs) in enumerate(model.grams, 1):
        yield f"\n\\{n}-grams:"
        size = len(words)
        texts = words if n == 1 else [f"{before[key // size]} {words[key % size]}" for key in keys.tolist()]
        values = (log_probs / LOG_TEN).tolist()
        extra = (backoffs / LOG_TEN).tolist()
        for place in listed.tolist() if n == 1 else range(len(texts)):
            value = IMPOSSIBLE if n == 1 and place == BOS else values[place]
            yield f"{value:.7g}\t{texts[place]}" + (f"\t{extra[place]:.7g}" if extra else "")
        before = texts
    yield "\n\\end\\"


def unigrams(model: NGram) -> Ints:
    """Those that the file lists: UNK, and every token that has more than UNK's probability or leads on to another."""
    keys, log_probs, backoffs = model.grams[0]
    listed = log_probs > log_probs[UNK]
    if len(backoffs):
        listed |= backoffs != 0
    if model.order > 1:
        listed[model.grams[1].keys // len(keys)] = True
    listed[:UNK] = False
    listed[[BOS, EOS, UNK]] = True
    return np.flatnonzero(listed)


def read_arpa(path: Path, pieces: Sequence[str] | None = None) -> NGram:
    """The model in an ARPA file. pieces: the vocabulary it must speak of, by default its own.

    Raises CheckpointError where it is damaged, or holds a word that the vocabulary lacks.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return parse(path, file, None if pieces is None else tuple(pieces))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def parse(path: Path, file: Iterator[str], pieces: tuple[str, ...] | None) -> NGram:
    """The model in the lines of a file."""
    ids: dict[str, int] = {name: index for index, name in ENDS.items()}
    ids |= {name: index for index, name in enumerate(names(pieces or ())) if index >= NUM_SPECIAL}
    sections: list[list[tuple[tuple[int, ...], float, float]]] = []
    ended, new = False, NUM_SPECIAL
    for number, line in enumerate(file, 1):
        text = line.strip(" \r\n")
        where = f"{path}:{number}"
        if text.startswith("\\") and text.endswith("-grams:"):
            sections.append([])
        elif text == "\\end\\":
            ended = True
            break
        elif sections and text:
            words, value, backoff = gram(where, text, len(sections))
            if len(sections) == 1 and pieces is None and words[0] not in ids:
                ids[words[0]], new = new, new + 1
            missing = next((word for word in words if word not in ids), None)
            if missing is not None:
                raise foreign(where, missing)
            sections[-1].append((tuple(ids[word] for word in words), value, backoff))
    if not ended or not sections:
        raise CheckpointError(f"expected an ARPA language model in {path}, received no whole one: copy it again")
    own = (*SPECIAL_PIECES, *(word for word in ids if ids[word] >= NUM_SPECIAL))
    return build(path, pieces or own, sections)


def foreign(where: str, word: str) -> CheckpointError:
    """What is wrong with a word that is no token."""
    return CheckpointError(
        f"{where}: expected tokens of the model that the language model is for, received {word!r}: "
        "train it with `narspeech lm --tokenizer MODEL_FOLDER`"
    )


def read_words(path: Path) -> list[str]:
    """The words of an ARPA file, without the rest of it. Raises CheckpointError."""
    try:
        with path.open(encoding="utf-8") as file:
            listed = dropwhile(lambda line: line.strip() != "\\1-grams:", file)
            next(listed, None)
            entries = (line.strip(" \r\n") for line in takewhile(lambda line: not line.startswith("\\"), listed))
            return [gram(str(path), entry, 1)[0][0] for entry in entries if entry]
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"expected an ARPA language model in {path}, received: {error}; copy it again")


def gram(where: str, text: str, order: int) -> tuple[list[str], float, float]:
    """The words of a line, their log-probability and their backoff, natural logarithms."""
    fields = text.split("\t") if "\t" in text else text.split(" ")
    try:
        value = float(fields[0]) * LOG_TEN
        words = fields[1].split(" ") if "\t" in text else fields[1 : order + 1]
        rest = fields[2:] if "\t" in text else fields[order + 1 :]
        backoff = float(rest[0]) * LOG_TEN if rest else 0.0
    except (ValueError, IndexError):
        words = []
        value = backoff = 0.0
    if len(words) != order:
        raise CheckpointError(f"{where}: expected a logarithm and {order} words, received {text[:80]!r}: copy it again")
    return words, value, backoff


def build(path: Path, pieces: tuple[str, ...], sections: list[list[tuple[tuple[int, ...], float, float]]]) -> NGram:
    """The model of these n-grams, which need not be sorted."""
    size = len(pieces)
    first = {words[0]: (value, backoff) for words, value, backoff in sections[0]}
    unknown = first.get(UNK, (IMPOSSIBLE * LOG_TEN, 0.0))
    table = np.array([first.get(index, (unknown[0], 0.0)) for index in range(size)], dtype=np.float32)
    grams = [Grams(np.arange(size, dtype=np.int64), table[:, 0], table[:, 1] if len(sections) > 1 else table[:0, 1])]
    place: dict[tuple[int, ...], int] = {(index,): index for index in range(size)}
    for n, section in enumerate(sections[1:], 2):
        keyed = []
        for words, value, backoff in section:
            prefix = place.get(words[:-1])
            if prefix is None:
                raise CheckpointError(
                    f"expected every {n}-gram of {path} to continue a {n - 1}-gram, received another: make it anew"
                )
            keyed.append((prefix * size + words[-1], words, value, backoff))
        keyed.sort(key=lambda row: row[0])
        place = {words: index for index, (_, words, _, _) in enumerate(keyed)}
        keys = np.array([key for key, *_ in keyed], dtype=np.int64)
        values = np.array([row[2:] for row in keyed], dtype=np.float32).reshape(-1, 2)
        last = n == len(sections)
        grams.append(Grams(keys, values[:, 0].copy(), values[:0, 1] if last else values[:, 1].copy()))
    return NGram(pieces=pieces, grams=tuple(grams))
