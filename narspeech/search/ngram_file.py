"""The compact file of an n-gram model (.nslm): safetensors packed by xz, about two bytes an n-gram of word pieces.

Of every order it holds how many n-grams continue each one of the order below and their last tokens, which make the
sorted keys, and the log-probabilities and backoffs as places in tables of 256 values (Federico & Bertoldi 2006).
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from narspeech.errors import CheckpointError
from narspeech.files import write_atomic
from narspeech.search.arpa import read_arpa, write_arpa
from narspeech.search.ngram import Floats, Grams, Ints, NGram

LEVELS = 256


def write(path: Path, model: NGram) -> None:
    """Write the model atomically, as ARPA where the name ends so, else compactly. Raises OSError."""
    if path.suffix == ".arpa":
        write_arpa(path, model)
        return
    arrays: dict[str, NDArray[np.generic]] = {}
    size, below = len(model.pieces), 1
    for n, (keys, log_probs, backoffs) in enumerate(model.grams, 1):
        arrays[f"{n}.children"] = smallest(np.bincount(keys // size, minlength=below))
        arrays[f"{n}.tokens"] = smallest(keys % size)
        below = len(keys)
        for name, values in (("log_probs", log_probs), ("backoffs", backoffs)):
            arrays[f"{n}.{name}"], arrays[f"{n}.{name}.table"] = quantise(values)
    arrays["pieces"] = np.frombuffer(json.dumps(model.pieces).encode(), np.uint8)
    write_atomic(path, lzma.compress(save(arrays)))


def read(path: Path, pieces: tuple[str, ...] | None = None) -> NGram:
    """The model in an .arpa file or a compact one. pieces: the vocabulary that it must have. Raises CheckpointError."""
    if path.suffix == ".arpa":
        return read_arpa(path, pieces)
    try:
        arrays, grams = load(lzma.decompress(path.read_bytes())), list[Grams]()
        own = tuple(json.loads(arrays["pieces"].tobytes()))
        while f"{len(grams) + 1}.tokens" in arrays:
            level = len(grams) + 1
            children, tokens = (arrays[f"{level}.{name}"].astype(np.int64) for name in ("children", "tokens"))
            keys = np.repeat(np.arange(len(children)), children) * len(own) + tokens
            values = (arrays[f"{level}.{name}.table"][arrays[f"{level}.{name}"]] for name in ("log_probs", "backoffs"))
            grams.append(Grams(keys, *values))
        if not grams or len(grams[0].keys) != len(own):
            raise ValueError("no whole model")
    except (OSError, lzma.LZMAError, SafetensorError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"expected a language model in {path}, received: {error}; make it with `narspeech lm`"
        ) from error
    if pieces is not None and own != pieces:
        raise CheckpointError(
            f"expected a language model of the recogniser's {len(pieces)} tokens, received one of {len(own)} others in "
            f"{path}: train it with `narspeech lm --tokenizer MODEL_FOLDER`"
        )
    return NGram(pieces=own, grams=tuple(grams))


def smallest(values: Ints) -> NDArray[np.generic]:
    """The same in as few bytes a number as will do."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def quantise(values: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """values (G,) as places in a table of at most 256 of them: exact where there are no more, else the means of as many
    bins of like numbers."""
    distinct = np.unique(values)
    if len(distinct) > LEVELS:
        edges = np.quantile(values, np.linspace(0, 1, LEVELS + 1)[1:-1])
        bins = np.searchsorted(edges, values, side="right")
        _, bins = np.unique(bins, return_inverse=True)
        distinct = (np.bincount(bins, values) / np.bincount(bins)).astype(np.float32)
        return bins.astype(np.uint8), distinct
    return np.searchsorted(distinct, values).astype(np.uint8), distinct
