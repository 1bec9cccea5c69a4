"""The scores of a corpus: texts joined by id, compared, counted, and summed over all of it or over groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narspeech import __version__
from narspeech.evaluate import normalise as normalisers
from narspeech.evaluate.alignment import Alignment, Counts, Edit, aligned, counts
from narspeech.evaluate.error_rate import ErrorRate, word_errors
from narspeech.evaluate.error_rate import alignment as side_by_side
from narspeech.evaluate.normalise import Normalisation, normalised
from narspeech.evaluate.texts import check_ids


@dataclass(frozen=True, kw_only=True)
class UtteranceScore:
    """One utterance, its texts as they were compared."""

    id: str
    reference: str
    hypothesis: str
    word: ErrorRate
    character: ErrorRate

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "word": self.word.to_dict(), "character": self.character.to_dict()}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The errors of a whole corpus; sentence_errors counts the utterances with at least one word error."""

    word: ErrorRate
    character: ErrorRate
    utterances: int
    sentence_errors: int

    @property
    def sentence_rate(self) -> float:
        """The sentence error rate (SER), a fraction."""
        return self.sentence_errors / max(self.utterances, 1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "utterances": self.utterances,
            "sentence_errors": self.sentence_errors,
            "sentence_rate": self.sentence_rate,
            "word": self.word.to_dict(),
            "character": self.character.to_dict(),
        }

    def rows(self) -> list[Sequence[str]]:
        """The cells of a table for people, header first; rates in per cent."""
        rows: list[Sequence[str]] = [("", "rate %", "errors", "sub", "del", "ins", "reference")]
        for name, value in (("word", self.word), ("character", self.character)):
            figures = (value.errors, value.substitutions, value.deletions, value.insertions, value.reference)
            rows.append((name, f"{100 * value.rate:.2f}", *map(str, figures)))
        rate = f"{100 * self.sentence_rate:.2f}"
        rows.append(("sentence", rate, str(self.sentence_errors), "", "", "", str(self.utterances)))
        return rows

    def table(self) -> str:
        """`rows` in aligned columns."""
        return columns(self.rows())


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Texts as they were compared, in the order of the references, and what `counts` tells of each utterance."""

    ids: Sequence[str]
    references: Sequence[str]
    hypotheses: Sequence[str]
    words: Counts
    characters: Counts
    alignment: Alignment

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> UtteranceScore:
        return UtteranceScore(
            id=self.ids[index],
            reference=self.references[index],
            hypothesis=self.hypotheses[index],
            word=ErrorRate.of(self.words[index, None]),
            character=ErrorRate.of(self.characters[index, None]),
        )

    @property
    def errors(self) -> NDArray[np.int64]:
        """The word errors of each utterance, (utterances,)."""
        errors: NDArray[np.int64] = self.words[:, :3].sum(axis=1)
        return errors

    def __iter__(self) -> Iterator[UtteranceScore]:
        return map(self.__getitem__, range(len(self)))

    def total(self, rows: Sequence[int] | slice = slice(None)) -> Scores:
        """The scores of all utterances, or of those given by number."""
        words = self.words[rows]
        return Scores(
            word=ErrorRate.of(words),
            character=ErrorRate.of(self.characters[rows]),
            utterances=len(words),
            sentence_errors=int(np.count_nonzero(words[:, :3].sum(axis=1))),
        )

    def aligned(self, rows: Sequence[int]) -> Iterator[list[Edit]]:
        """The words of the given utterances side by side."""
        return aligned([self.references[row] for row in rows], [self.hypotheses[row] for row in rows], self.alignment)


def score(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    normalise: Normalisation = "none",
    alignment: Alignment = "jiwer",
) -> Scores:
    """The corpus scores of texts joined by id. Raises ManifestError if an id is on one side only."""
    return score_each(references, hypotheses, normalise=normalise, alignment=alignment).total()


def score_each(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    normalise: Normalisation = "none",
    alignment: Alignment = "jiwer",
) -> Corpus:
    """The scores of each utterance, in the order of the references. ManifestError if an id is on one side only."""
    check_ids(references, hypotheses)
    truth = [normalised(text, normalise) for text in references.values()]
    found = [normalised(hypotheses[name], normalise) for name in references]
    return Corpus(
        ids=list(references),
        references=truth,
        hypotheses=found,
        words=counts(truth, found, alignment=alignment),
        characters=counts(truth, found, unit="character", alignment=alignment),
        alignment=alignment,
    )


def signature(normalise: Normalisation, alignment: Alignment) -> str:
    """All that one must know to get the same figures again, in one line, as sacrebleu has it."""
    by = f"rapidfuzz-{metadata.version('rapidfuzz')}" if alignment == "jiwer" else "sctk-ties"
    weights = "1/1/1" if alignment == "jiwer" else "4/3/3"
    aligned_by, norm = f"{alignment}-{weights}-{by}", normalisers.signature(normalise)
    return f"scorer:narspeech-{__version__}|align:{aligned_by}|units:word+character+sentence|norm:{norm}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """A table for people: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(cell.rjust(2 + width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def sample_lines(reference: str, hypothesis: str) -> str:
    """Two lines that show at a glance what went wrong in one utterance, for a log:

    ref  the cat sat on the old mat
    hyp  the {cat>bat} sat {-on} the old mat {+again}  (S 1, D 1, I 1 of 7)
    """
    shown: list[str] = []
    for before, after in side_by_side(reference, hypothesis):
        if before == after:
            shown.append(f"{after}")
        elif after is None:
            shown.append(f"{{-{before}}}")
        else:
            shown.append(f"{{+{after}}}" if before is None else f"{{{before}>{after}}}")
    found = word_errors(reference, hypothesis)
    figures = f"(S {found.substitutions}, D {found.deletions}, I {found.insertions} of {found.reference})"
    return f"ref  {' '.join(reference.split())}\nhyp  {' '.join([*shown, f' {figures}'])}"
