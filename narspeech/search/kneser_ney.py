"""Interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998) in whole arrays, as KenLM's lmplz computes it
(Heafield et al. 2013), pruning by counts included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from narspeech.errors import ConfigError
from narspeech.search.ngram import Grams, NGram
from narspeech.tokenizer import BOS, UNK

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Kept = NDArray[np.bool_]
# KenLM's --discount_fallback, for orders too small or too artificial to have their own.
FALLBACK = (0.5, 1.0, 1.5)


class Counts(NamedTuple):
    """The distinct n-grams of one order, in the order of their keys. keys as in `Grams`; suffix (G,): the place of the
    last n - 1 tokens among those of the order below; raw (G,): occurrences; first (G,) bool: begins with BOS."""

    keys: Ints
    suffix: Ints
    raw: Ints
    first: Kept


def train(tokens: Ints, pieces: Sequence[str], order: int, prune: Sequence[int] = ()) -> NGram:
    """An n-gram model of `order` of texts, all in one array of ids: each begins with BOS and ends with EOS.

    prune: n-grams that occur no more often than this are dropped, one number an order from the unigrams' on, the last
    one standing for those that follow; they rise, and the unigrams' is 0. Raises ConfigError.
    """
    thresholds = check_prune(prune, order)
    if not len(tokens):
        raise ConfigError("expected text to learn a language model from, received none: check the files")
    counts = count(tokens, len(pieces), order)
    kept = [grams.raw > threshold for grams, threshold in zip(counts, thresholds, strict=True)]
    kept[0][:] = True
    adjusted = [adjust(counts, level) for level in range(order)]
    probs, shares = [unigrams(adjusted[0])], list[Floats]()
    for level in range(1, order):
        prob, share = interpolate(counts[level], adjusted[level], kept[level], probs[-1], len(pieces))
        probs.append(prob)
        shares.append(share)
    return assemble(tuple(pieces), counts, kept, probs, shares)


def check_prune(prune: Sequence[int], order: int) -> list[int]:
    """A threshold for each order. Raises ConfigError."""
    if order < 1:
        raise ConfigError(f"expected an order of 1 or more, received {order}: 3 to 6 are usual")
    thresholds = (list(prune) or [0])[:order]
    thresholds += [thresholds[-1]] * (order - len(thresholds))
    if thresholds[0] != 0 or thresholds != sorted(thresholds):
        received = " ".join(map(str, prune))
        raise ConfigError(f"expected thresholds that begin with 0 and rise, received {received}: 0 0 1 2 is an example")
    return thresholds


def count(tokens: Ints, size: int, order: int) -> list[Counts]:
    """The n-grams of every order up to `order`, which never reach over the ends of a text."""
    begins = tokens == BOS
    here = np.arange(len(tokens))
    place = here - np.maximum.accumulate(np.where(begins, here, 0))  # 0 at BOS
    names = np.arange(size, dtype=np.int64)
    found = [Counts(names, names, np.bincount(tokens, minlength=size), names == BOS)]
    ids = tokens.astype(np.int64)  # of the n-gram that ends at each place
    for n in range(2, order + 1):
        ends = np.flatnonzero(place >= n - 1)
        keys = ids[ends - 1] * size + tokens[ends]
        by_key = np.argsort(keys)
        keys = keys[by_key]
        fresh = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
        example = ends[by_key[fresh]]
        raw = np.diff(np.flatnonzero(np.append(fresh, True)))
        found.append(Counts(keys[fresh], ids[example], raw, place[example] == n - 1))
        ids = np.full_like(ids, -1)
        ids[ends[by_key]] = np.cumsum(fresh) - 1
    return found


def adjust(counts: Sequence[Counts], level: int) -> Ints:
    """How often each n-gram counts: the highest order as often as it occurs, as do those that begin a text; the others
    once for every token before them."""
    grams = counts[level]
    if level == len(counts) - 1:
        raw = grams.raw
    else:
        before = np.bincount(counts[level + 1].suffix, minlength=len(grams.keys))
        raw = np.where(grams.first, grams.raw, before)
    return raw * (np.arange(len(raw)) != BOS) if level == 0 else raw


def discounts(adjusted: Ints) -> Floats:
    """(4,) what is taken off a count of 0, 1, 2 and of 3 or more (Chen & Goodman, equation 26)."""
    n1, n2, n3, n4 = (int((adjusted == n).sum()) for n in range(1, 5))
    if not (n1 and n2 and n3):
        return np.array([0, *FALLBACK])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if (found >= 0).all() and (found <= np.arange(4)).all() else np.array([0, *FALLBACK])


def unigrams(adjusted: Ints) -> Floats:
    """(V,) probabilities, interpolated with the uniform one of all tokens seen and UNK; unseen ones have UNK's."""
    discount, total = discounts(adjusted)[np.minimum(adjusted, 3)], adjusted.sum()
    seen = adjusted > 0
    number = seen.sum() + (not seen[UNK])
    probs: Floats = (adjusted - discount) / total + discount.sum() / total / number
    return probs


def interpolate(grams: Counts, adjusted: Ints, kept: Kept, lower: Floats, size: int) -> tuple[Floats, Floats]:
    """Probabilities (G,) of one order, and for each n-gram of the order below the share that it leaves to shorter
    contexts, given the probabilities of those and the size of the vocabulary. What is pruned leaves all that it has."""
    prefix = grams.keys // size
    taken = discounts(adjusted)[np.minimum(adjusted, 3)]
    # Of no n-grams at all numpy makes integers.
    total = np.bincount(prefix, adjusted, minlength=len(lower)).astype(np.float64)
    left = np.bincount(prefix, np.where(kept, taken, adjusted), minlength=len(lower)).astype(np.float64)
    share = np.divide(left, total, out=np.ones_like(total), where=total > 0)
    probs: Floats = (adjusted - taken) / total[prefix] + share[prefix] * lower[grams.suffix]
    return probs, share


def assemble(
    pieces: tuple[str, ...],
    counts: Sequence[Counts],
    kept: Sequence[Kept],
    probs: Sequence[Floats],
    shares: Sequence[Floats],
) -> NGram:
    """The model without what is pruned."""
    size, grams = len(pieces), list[Grams]()
    places = np.arange(size)  # of the n-grams of the order below among those that are kept
    for level, (found, keep) in enumerate(zip(counts, kept, strict=True)):
        keys = found.keys[keep]
        if level:
            keys = places[keys // size] * size + keys % size
        places = np.cumsum(keep) - 1
        log_probs = np.log(probs[level][keep]).astype(np.float32)
        last = level == len(counts) - 1
        backoffs = np.zeros(0) if last else np.log(shares[level][keep])
        grams.append(Grams(keys, log_probs, backoffs.astype(np.float32)))
    return NGram(pieces=pieces, grams=tuple(grams))
