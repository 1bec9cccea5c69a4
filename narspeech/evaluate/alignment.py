"""Words of two texts side by side, for a whole corpus at once: jiwer's alignment and sclite's.

jiwer: every operation costs 1 (Levenshtein); where several alignments cost the same, rapidfuzz chooses, as in jiwer 4.
sclite: a substitution costs 4, a deletion or an insertion 3, so that two deletions beside an insertion can win over two
substitutions and the total of errors can be higher than jiwer's. Ties go to the pair of words, then to the insertion
(NIST SCTK, sclite's dynamic programming; seen from the end of both texts). Its totals are those of `sclite -s`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from narspeech.errors import ConfigError, NarspeechError

Unit = Literal["word", "character"]
Alignment = Literal["jiwer", "sclite"]
Counts = NDArray[np.int64]

# Cells (a byte each) of sclite's tables: of a batch, and at most for a pair of texts.
_CELLS_AT_ONCE, _MOST_CELLS = 1 << 21, 1 << 30
_REPLACE, _GAP = 4, 3
_EQUAL, _SUBSTITUTION, _DELETION, _INSERTION, _NONE = range(5)
_KIND = itemgetter(0)


class Edit(NamedTuple):
    """A pair of aligned words; without reference it was inserted, without hypothesis deleted."""

    reference: str | None
    hypothesis: str | None


def counts(
    references: Sequence[str], hypotheses: Sequence[str], *, unit: Unit = "word", alignment: Alignment = "jiwer"
) -> Counts:
    """Substitutions, deletions, insertions and length of the reference of every pair of texts: (utterances, 4).

    Raises ConfigError on an unknown unit or alignment, and NarspeechError on texts too long for sclite's alignment.
    """
    _check(unit, alignment)
    if alignment == "sclite":
        found = np.empty((len(references), 4), dtype=np.int64)
        for row, operations in _weighted(references, hypotheses, unit):
            found[row, :3] = np.bincount(operations, minlength=_NONE)[_SUBSTITUTION:_NONE]
            found[row, 3] = np.count_nonzero(operations != _INSERTION)
        return found
    cut = str.split if unit == "word" else _characters
    pairs = zip(map(cut, references), map(cut, hypotheses), strict=True)
    return np.array([_levenshtein(*pair) for pair in pairs], dtype=np.int64).reshape(-1, 4)


def aligned(
    references: Sequence[str], hypotheses: Sequence[str], alignment: Alignment = "jiwer"
) -> Iterator[list[Edit]]:
    """The words of every pair of texts side by side, by the very operations that `counts` counts, in their order."""
    _check("word", alignment)
    if alignment == "sclite":
        operations = dict(_weighted(references, hypotheses, "word"))
        for row, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
            before, after = iter(reference.split()), iter(hypothesis.split())
            yield [
                Edit(None if each == _INSERTION else next(before), None if each == _DELETION else next(after))
                for each in operations[row].tolist()
            ]
        return
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        yield _levenshtein_edits(reference.split(), hypothesis.split())


def _check(unit: str, alignment: str) -> None:
    if unit not in ("word", "character"):
        raise ConfigError(f"expected a unit of word or character, received {unit!r}: choose one of the two")
    if alignment not in ("jiwer", "sclite"):
        raise ConfigError(f"expected an alignment of jiwer or sclite, received {alignment!r}: choose one of the two")


def _characters(text: str) -> str:
    return " ".join(text.split())


def _levenshtein(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int, int, int]:
    # rapidfuzz compares the 64-bit hashes of words: a collision of two is out of reach.
    operations = Levenshtein.editops(reference, hypothesis)
    errors, length = len(operations), len(reference)
    surplus = length - len(hypothesis)  # deletions - insertions
    # What is left over is substitutions, and pairs of a deletion and an insertion: one can only be a substitution, of
    # more the operations must be looked at, which costs more than finding them.
    substitutions = errors - abs(surplus)
    if substitutions > 1:
        substitutions = list(map(_KIND, operations.as_list())).count("replace")
    deletions = (errors - substitutions + surplus) // 2
    return substitutions, deletions, errors - substitutions - deletions, length


def _levenshtein_edits(before: Sequence[str], after: Sequence[str]) -> list[Edit]:
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


def _weighted(
    references: Sequence[str], hypotheses: Sequence[str], unit: Unit
) -> Iterator[tuple[int, NDArray[np.int8]]]:
    """The operations of every pair by sclite's weights: its number, then one code for each aligned pair of words."""
    numbers: dict[str, int] = {}

    def cut(text: str) -> list[int]:
        units: Sequence[str] = text.split() if unit == "word" else _characters(text)
        return [numbers.setdefault(each, len(numbers)) for each in units]

    before, after = list(map(cut, references)), list(map(cut, hypotheses))
    batch: list[int] = []
    height = width = 0
    # Like lengths together, so that little is computed for padding.
    for row in sorted(range(len(before)), key=lambda each: (len(before[each]), len(after[each]))):
        higher, wider = max(height, len(before[row])), max(width, len(after[row]))
        if batch and (len(batch) + 1) * higher * wider > _CELLS_AT_ONCE:
            yield from zip(batch, _weighted_batch([before[n] for n in batch], [after[n] for n in batch]), strict=True)
            batch, higher, wider = [], len(before[row]), len(after[row])
        if higher * wider > _MOST_CELLS:
            raise NarspeechError(
                f"expected texts short enough for sclite's alignment ({_MOST_CELLS} cells), received one of "
                f"{len(before[row])} against {len(after[row])} {unit}s: cut the recording, or use --alignment jiwer"
            )
        batch.append(row)
        height, width = higher, wider
    if batch:
        yield from zip(batch, _weighted_batch([before[n] for n in batch], [after[n] for n in batch]), strict=True)


def _weighted_batch(before: list[list[int]], after: list[list[int]]) -> Iterator[NDArray[np.int8]]:
    reference, reference_lengths = _padded(before, -1)  # (N, A), (N,)
    hypothesis, hypothesis_lengths = _padded(after, -2)  # (N, B), (N,)
    backs = _tables(reference, hypothesis)
    rows = np.arange(len(before))
    i, j = reference_lengths.copy(), hypothesis_lengths.copy()
    steps = np.full((int((i + j).max(initial=0)), len(before)), _NONE, dtype=np.int8)
    # What lies beyond an utterance's own lengths was computed too, but the walk from its last cell never gets there.
    for step in steps:
        chosen = backs[np.maximum(i - 1, 0), rows, np.maximum(j - 1, 0)] if backs.size else np.zeros_like(step)
        chosen = np.where(i == 0, _INSERTION, np.where(j == 0, _DELETION, chosen))
        step[:] = np.where((i == 0) & (j == 0), _NONE, chosen)
        i = i - ((i > 0) & (chosen != _INSERTION))
        j = j - ((j > 0) & (chosen != _DELETION))
        if not (i.any() or j.any()):
            break
    for column in steps.T:
        yield column[column != _NONE][::-1]


def _tables(reference: NDArray[np.int32], hypothesis: NDArray[np.int32]) -> NDArray[np.int8]:
    """The last operation of the best alignment of every pair of prefixes: (A, N, B)."""
    count, width = hypothesis.shape
    backs = np.empty((reference.shape[1], count, width), dtype=np.int8)
    inserted = _GAP * np.arange(width + 1, dtype=np.int32)
    costs = np.broadcast_to(inserted, (count, width + 1))  # (N, B + 1)
    for position, word in enumerate(reference.T):
        equal = hypothesis == word[:, None]
        paired = costs[:, :-1] + np.where(equal, 0, _REPLACE).astype(np.int32)
        fresh = costs + _GAP
        np.minimum(fresh[:, 1:], paired, out=fresh[:, 1:])
        # An insertion is a step to the right at the same price everywhere: the least cost to the left decides.
        fresh = np.minimum.accumulate(fresh - inserted, axis=1) + inserted
        back = np.where(fresh[:, :-1] + _GAP == fresh[:, 1:], _INSERTION, _DELETION)
        backs[position] = np.where(paired == fresh[:, 1:], np.where(equal, _EQUAL, _SUBSTITUTION), back)
        costs = fresh
    return backs


def _padded(rows: list[list[int]], fill: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    lengths = np.array(list(map(len, rows)), dtype=np.int64)
    padded = np.full((len(rows), int(lengths.max(initial=0))), fill, dtype=np.int32)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded, lengths
