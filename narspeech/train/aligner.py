"""Which source token each target token translates: IBM model 2 with a diagonal prior, for the fertilities of NAT.

p(target token f, source place i | target place j) = p(i | j, n, m) x t(f | e_i), where p(i | j, n, m) falls off with
the distance from the diagonal (Dyer et al. 2013, fast_align, eq. 2) and the table t is learnt by expectation
maximisation (Brown et al. 1993). There is no null word: every target token comes from exactly one source token, so that
the fertilities of a sentence sum to the length of its target, as copying needs (Gu et al. 2018, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from narspeech.errors import TrainingError

Sentences = Sequence[Sequence[int]]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

# Links laid out at once, and the bits that a token id may take in a key.
CHUNK = 2**21
BITS = 32
# What a pair of tokens that never met counts as: then the diagonal decides.
UNSEEN = 1e-12


class Links(NamedTuple):
    """All pairs of a source and a target place (P,) of some sentences, those of one target place together.

    keys: the source and the target token in one number; places: in the source; prior: p(place | target place);
    starts: (M,) the first link of each target place; counts: (M,) how many there are; lengths: (S,) of the targets.
    """

    keys: Integers
    places: Integers
    prior: Floats
    starts: Integers
    counts: Integers
    lengths: Integers


@dataclass(frozen=True, kw_only=True)
class Aligner:
    """keys: (K,) pairs of tokens that met, rising; table: (K,) t(target | source); tension: how steeply the prior falls
    off the diagonal; losses: negative log-likelihood of the corpus before each iteration."""

    keys: Integers
    table: Floats
    tension: float
    losses: tuple[float, ...]

    def align(self, sources: Sentences, targets: Sentences) -> list[Integers]:
        """For each sentence the likeliest source place (U,) of each target token, the first of equally likely ones.

        Raises TrainingError where a target has no source to come from.
        """
        found: list[Integers] = []
        for links in chunks(sources, targets, self.tension):
            values = np.maximum(self._lookup(links.keys), UNSEEN) * links.prior
            best = np.repeat(_segments(np.maximum, values, links), links.counts)
            places = np.where(values == best, links.places, np.iinfo(np.int64).max)
            found += np.split(_segments(np.minimum, places, links), links.lengths.cumsum()[:-1])
        return found

    def fertilities(self, sources: Sentences, targets: Sentences) -> list[Integers]:
        """For each sentence how many target tokens each source token (T,) gives; they sum to the target's length."""
        links = zip(sources, self.align(sources, targets), strict=True)
        return [np.bincount(places, minlength=len(source)) for source, places in links]

    def _lookup(self, keys: Integers) -> Floats:
        """t(target | source) of pairs (P,), 0 where they never met."""
        if not len(self.keys):
            return np.zeros(len(keys))
        slots = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[slots] == keys, self.table[slots], 0.0)


class Layout(NamedTuple):
    """What learning keeps of some links: the entries (L,) of the table that they use, and which of these each uses."""

    entries: Integers
    slots: NDArray[np.int32]
    prior: NDArray[np.float32]
    starts: Integers
    counts: Integers


def learn(sources: Sentences, targets: Sentences, *, iterations: int = 5, tension: float = 4.0) -> Aligner:
    """An aligner of token ids (below 2 ** 31), learnt from sentence pairs by expectation maximisation.

    tension: 4 is where fast_align begins, 0 is IBM model 1. Keeps 8 bytes a link, a pair of places of one sentence.
    Raises TrainingError on sides of unequal number and on a target without a source.
    """
    kept = []
    for links in chunks(sources, targets, tension):
        keys, slots = np.unique(links.keys, return_inverse=True)
        kept.append(Layout(keys, slots.astype(np.int32), links.prior.astype(np.float32), links.starts, links.counts))
    keys = np.unique(np.concatenate([layout.entries for layout in kept])) if kept else np.zeros(0, np.int64)
    layouts = [layout._replace(entries=np.searchsorted(keys, layout.entries)) for layout in kept]
    _, source = np.unique(keys >> BITS, return_inverse=True)
    table, losses = np.full(len(keys), 1 / max(1, len(np.unique(keys & (2**BITS - 1))))), []
    for _ in range(iterations):
        loss, counts = expect(layouts, table)
        losses.append(loss)
        table = counts / np.bincount(source, counts)[source]
    return Aligner(keys=keys, table=table, tension=tension, losses=tuple(losses))


def expect(layouts: Sequence[Layout], table: Floats) -> tuple[float, Floats]:
    """The negative log-likelihood of the corpus and the expected counts (K,) of the pairs under t = table (K,)."""
    loss, counts = 0.0, np.zeros(len(table))
    for layout in layouts:
        values = table[layout.entries][layout.slots] * layout.prior
        sums = _segments(np.add, values, layout)
        loss -= float(np.log(sums).sum())
        posteriors = values / np.repeat(sums, layout.counts)
        counts[layout.entries] += np.bincount(layout.slots, posteriors, minlength=len(layout.entries))
    return loss, counts


def _segments(operation: np.ufunc, values: NDArray[np.generic], links: Links | Layout) -> NDArray[Any]:
    """(M,): the values (P,) of each target place's links, added up or compared."""
    # A chunk of empty targets has no link at all, which reduceat refuses.
    return operation.reduceat(values, links.starts) if len(values) else values


def chunks(sources: Sentences, targets: Sentences, tension: float) -> Iterator[Links]:
    """The links of all sentences in order, about CHUNK at a time."""
    if len(sources) != len(targets):
        raise TrainingError(
            f"expected as many sources as targets, received {len(sources)} and {len(targets)}: pair them by id"
        )
    sizes = np.array([[len(source), len(target)] for source, target in zip(sources, targets, strict=True)])
    sizes = sizes.reshape(-1, 2).astype(np.int64)
    orphans = np.flatnonzero((sizes[:, 0] == 0) & (sizes[:, 1] > 0))
    if len(orphans):
        raise TrainingError(
            f"expected a source for every target, received none for sentence {orphans[0]} (from 0): leave the pair out"
        )
    ends = sizes.prod(-1).cumsum()
    bounds = np.unique(np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, CHUNK), side="right"))
    for start, end in pairwise([0, *bounds[bounds > 0].tolist(), len(sizes)]):
        if end > start:
            yield lay_out(sources[start:end], targets[start:end], sizes[start:end], tension)


def lay_out(sources: Sentences, targets: Sentences, sizes: Integers, tension: float) -> Links:
    """The links of sentences of `sizes` (S, 2)."""
    source, target = (
        np.fromiter((token for sentence in side for token in sentence), np.int64, int(count))
        for side, count in zip((sources, targets), sizes.sum(0), strict=True)
    )
    lengths = sizes[:, 1]
    # Of each target place: how many source places it sees, where these begin, and where it stands itself, in 0..1.
    counts = np.repeat(sizes[:, 0], lengths)
    begins = np.repeat(sizes[:, 0].cumsum() - sizes[:, 0], lengths)
    place = np.arange(len(target)) - np.repeat(lengths.cumsum() - lengths, lengths)
    height = (place + 0.5) / np.repeat(lengths, lengths)
    starts = counts.cumsum() - counts
    # Of each link.
    places = np.arange(counts.sum()) - np.repeat(starts, counts)
    keys = (source[np.repeat(begins, counts) + places] << BITS) | np.repeat(target, counts)
    distance = np.abs((places + 0.5) / np.repeat(counts, counts) - np.repeat(height, counts))
    prior = np.exp(-tension * distance)
    links = Links(keys, places, prior, starts, counts, lengths)
    return links._replace(prior=prior / np.repeat(_segments(np.add, prior, links), counts))
