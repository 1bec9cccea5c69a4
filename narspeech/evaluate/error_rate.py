"""Word and character error rates: edit operations counted over a whole corpus, and the significance of a difference.

Words are what `str.split` gives, so any run of white space separates two words; characters are those of the words
joined by single spaces, spaces included. Text is compared as given, case and punctuation too, unless it went through
`narspeech.evaluate.normalise` first. How errors are counted where alignments tie: `narspeech.evaluate.alignment`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from narspeech.errors import NarspeechError
from narspeech.evaluate.alignment import Alignment, Counts, Edit, Unit, aligned, counts

# Elements drawn at a time by the bootstrap: large enough to be vectorised, small enough to stay within a cache.
_DRAWN_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """Edit operations that turn the reference into the hypothesis; reference is its number of words (or characters)."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """errors / reference, a fraction, above 1 where much is inserted.

        With an empty reference it is the number of errors, as in jiwer: 0 if the hypothesis is empty too, else finite.
        """
        return self.errors / max(self.reference, 1)

    @staticmethod
    def of(found: Counts) -> ErrorRate:
        """The rate of a corpus from the counts of its utterances, (utterances, 4)."""
        substitutions, deletions, insertions, reference = found.sum(axis=0).tolist()
        return ErrorRate(substitutions=substitutions, deletions=deletions, insertions=insertions, reference=reference)

    def __add__(self, other: ErrorRate) -> ErrorRate:
        """The counts of both together: `sum(rates, ErrorRate())` is the rate of a corpus."""
        return ErrorRate(
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
            reference=self.reference + other.reference,
        )

    def to_dict(self) -> dict[str, int | float]:
        """The rate (a fraction, not per cent), the errors and the four counts, ready for JSON."""
        return {"rate": self.rate, "errors": self.errors, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """The difference of two corpus rates, a - b (below 0: a is better), its 95 % interval and two-sided p-value."""

    delta: float
    low: float
    high: float
    p: float

    @staticmethod
    def of(delta: float, deltas: NDArray[np.float64]) -> Bootstrap:
        """From the difference, and those of corpora drawn with replacement, of which p is twice the smaller share on
        either side of zero (zero counting for both, one imaginary one added so that it is never 0), at most 1."""
        low, high = np.quantile(deltas, [0.025, 0.975])
        below, above = np.count_nonzero(deltas <= 0), np.count_nonzero(deltas >= 0)
        p = min(1.0, 2 * (min(below, above) + 1) / (len(deltas) + 1))
        return Bootstrap(delta=delta, low=float(low), high=float(high), p=float(p))

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def word_errors(reference: str, hypothesis: str, alignment: Alignment = "jiwer") -> ErrorRate:
    """The word errors of one utterance."""
    return corpus([(reference, hypothesis)], alignment=alignment)


def character_errors(reference: str, hypothesis: str, alignment: Alignment = "jiwer") -> ErrorRate:
    """The character errors of one utterance; the single spaces between words count as characters."""
    return corpus([(reference, hypothesis)], "character", alignment)


def corpus(pairs: Iterable[tuple[str, str]], unit: Unit = "word", alignment: Alignment = "jiwer") -> ErrorRate:
    """The errors of all (reference, hypothesis) pairs together: long utterances weigh more, as is the custom.

    Raises ConfigError on an unknown unit or alignment.
    """
    references, hypotheses = list(zip(*pairs, strict=True)) or ((), ())
    return ErrorRate.of(counts(references, hypotheses, unit=unit, alignment=alignment))


def alignment(reference: str, hypothesis: str) -> list[Edit]:
    """The words of both texts side by side, by the same edit operations that `word_errors` counts."""
    return next(aligned([reference], [hypothesis]))


def paired_bootstrap(
    reference: Sequence[str],
    system_a: Sequence[str],
    system_b: Sequence[str],
    *,
    samples: int = 10_000,
    seed: int = 0,
    unit: Unit = "word",
    alignment: Alignment = "jiwer",
) -> Bootstrap:
    """Is a better than b? Utterances are drawn with replacement, the same ones for both (Bisani & Ney 2004, ICASSP).

    The three sequences hold the texts of the same utterances in the same order. The interval runs from the 2.5 to the
    97.5 percentile of the difference of the corpus rates; p: see `Bootstrap.of`. The same seed gives the same result.

    Raises NarspeechError if there are no utterances, the lengths differ, samples is not positive or seed is negative.
    """
    if not len(reference) == len(system_a) == len(system_b):
        raise NarspeechError(
            "expected one text of each system for every reference, "
            f"received {len(reference)} references, {len(system_a)} and {len(system_b)} texts: join them by id first"
        )
    found = [counts(reference, system, unit=unit, alignment=alignment) for system in (system_a, system_b)]
    return bootstrap(*found, samples=samples, seed=seed)


def bootstrap(found_a: Counts, found_b: Counts, *, samples: int, seed: int) -> Bootstrap:
    """`paired_bootstrap` from the counts of the same utterances for both systems, (utterances, 4) each."""
    if not len(found_a) or samples < 1 or seed < 0:
        raise NarspeechError(
            "expected at least one utterance, at least one sample and a seed of 0 or more, "
            f"received {len(found_a)} utterances, {samples} samples and seed {seed}: correct the one that is amiss"
        )
    lengths = found_a[:, 3]
    excess = found_a[:, :3].sum(axis=1) - found_b[:, :3].sum(axis=1)
    deltas = _resample(excess, lengths, samples, np.random.default_rng(seed))
    return Bootstrap.of(float(excess.sum() / max(int(lengths.sum()), 1)), deltas)


def _resample(
    excess: NDArray[np.int64], lengths: NDArray[np.int64], samples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """The difference of the rates in each of `samples` corpora drawn from the utterances: (samples,)."""
    utterances = len(excess)
    rows = max(1, _DRAWN_AT_ONCE // utterances)
    deltas = np.empty(samples)
    for start in range(0, samples, rows):
        stop = min(start + rows, samples)
        drawn = generator.integers(0, utterances, size=(stop - start, utterances), dtype=np.int32)
        deltas[start:stop] = excess[drawn].sum(axis=1) / np.maximum(lengths[drawn].sum(axis=1), 1)
    return deltas
