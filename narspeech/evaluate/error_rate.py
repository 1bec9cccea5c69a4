"""Word and character error rates: edit operations counted over a whole corpus, and the significance of a difference.

Words are what `str.split` gives, so any run of white space separates two words; characters are those of the words
joined by single spaces, spaces included. Text is compared as given, case and punctuation too, unless it went through
`normalised` first.

The number of errors is the Levenshtein distance (every operation costs 1), as in jiwer and kaldialign. How it splits
into substitutions, deletions and insertions is ambiguous where several alignments cost the same: here it is the split
of rapidfuzz, hence of jiwer 4. sclite weighs a substitution 4 and the others 3: its splits, at times totals, differ.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from narspeech.errors import ConfigError, NarspeechError

Unit = Literal["word", "character"]
Normalisation = Literal["none", "basic"]

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


class Edit(NamedTuple):
    """A pair of aligned words; without reference it was inserted, without hypothesis deleted."""

    reference: str | None
    hypothesis: str | None


def word_errors(reference: str, hypothesis: str) -> ErrorRate:
    """The word errors of one utterance."""
    return _rate(*_count(reference.split(), hypothesis.split()))


def character_errors(reference: str, hypothesis: str) -> ErrorRate:
    """The character errors of one utterance; the single spaces between words count as characters."""
    return _rate(*_count(" ".join(reference.split()), " ".join(hypothesis.split())))


def corpus(pairs: Iterable[tuple[str, str]], unit: Unit = "word") -> ErrorRate:
    """The errors of all (reference, hypothesis) pairs together: long utterances weigh more, as is the custom.

    Raises ConfigError on an unknown unit.
    """
    counts = [_count(_units(reference, unit), _units(hypothesis, unit)) for reference, hypothesis in pairs]
    return _rate(*map(sum, zip(*counts, strict=True))) if counts else ErrorRate()


def alignment(reference: str, hypothesis: str) -> list[Edit]:
    """The words of both texts side by side, by the same edit operations that `word_errors` counts."""
    before, after = reference.split(), hypothesis.split()
    edits: list[Edit] = []
    for operation in Levenshtein.opcodes(before, after):
        left: list[str | None] = [*before[operation.src_start : operation.src_end]]
        right: list[str | None] = [*after[operation.dest_start : operation.dest_end]]
        # An operation is equal or replace, with as many words on both sides, or it has words on one side only.
        length = max(len(left), len(right))
        left += [None] * (length - len(left))
        right += [None] * (length - len(right))
        edits += map(Edit, left, right)
    return edits


def paired_bootstrap(
    reference: Sequence[str],
    system_a: Sequence[str],
    system_b: Sequence[str],
    *,
    samples: int = 10_000,
    seed: int = 0,
    unit: Unit = "word",
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
    if not reference or samples < 1 or seed < 0:
        raise NarspeechError(
            "expected at least one utterance, at least one sample and a seed of 0 or more, "
            f"received {len(reference)} utterances, {samples} samples and seed {seed}: correct the one that is amiss"
        )
    truth = [_units(text, unit) for text in reference]
    lengths = np.array([len(text) for text in truth], dtype=np.int64)
    # Levenshtein.distance without the operations: only totals matter here.
    errors = np.array(
        [
            [Levenshtein.distance(text, _units(other, unit)) for text, other in zip(truth, system, strict=True)]
            for system in (system_a, system_b)
        ],
        dtype=np.int64,
    )
    excess = errors[0] - errors[1]
    deltas = _resample(excess, lengths, samples, np.random.default_rng(seed))
    return Bootstrap.of(float(excess.sum() / max(int(lengths.sum()), 1)), deltas)


def normalised(text: str, how: Normalisation = "basic") -> str:
    """`text` as it is compared: "none" leaves it alone; "basic" is NFKC, lower case, no punctuation, single spaces.

    Punctuation (Unicode's P categories) separates words, as a hyphen does; an apostrophe stays inside a word (don't,
    o'clock) and goes at its ends. Typographic apostrophes become the plain one. Symbols that are spoken ($, +) and
    combining marks, which Indic scripts need, stay. Raises ConfigError on another `how`.
    """
    if how == "none":
        return text
    if how != "basic":
        raise ConfigError(f"expected a normalisation of none or basic, received {how!r}: choose one of the two")
    # Apostrophes first, for NFKC would turn the acute accent into a space. NFKC again: lower-casing may undo it.
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    text = unicodedata.normalize("NFKC", text).translate(_PUNCTUATION)
    words = (word.strip("'") for word in text.split())
    return " ".join(word for word in words if word)


class _Punctuation(dict[int, str]):
    """A table for `str.translate` that learns a character when it first meets it: scanning all of Unicode is slow."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_punctuation = unicodedata.category(character).startswith("P") and character != "'"
        return self.setdefault(code, " " if is_punctuation else character)


_PUNCTUATION = _Punctuation()
_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u201b\u02bc\u00b4`"), "'")


def _units(text: str, unit: Unit) -> Sequence[str]:
    words = text.split()
    if unit == "word":
        return words
    if unit == "character":
        return " ".join(words)
    raise ConfigError(f"expected a unit of word or character, received {unit!r}: choose one of the two")


def _count(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int, int, int]:
    """(substitutions, deletions, insertions, length of the reference)."""
    # rapidfuzz compares the 64-bit hashes of list elements: a collision of two words is out of reach.
    operations = [operation[0] for operation in Levenshtein.editops(reference, hypothesis).as_list()]
    substitutions, deletions = operations.count("replace"), operations.count("delete")
    return substitutions, deletions, len(operations) - substitutions - deletions, len(reference)


def _rate(*counts: int) -> ErrorRate:
    substitutions, deletions, insertions, reference = counts
    return ErrorRate(substitutions=substitutions, deletions=deletions, insertions=insertions, reference=reference)


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
