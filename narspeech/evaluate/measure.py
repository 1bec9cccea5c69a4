"""How good texts are beside their references, in one form for every task: transcripts by WER, translations by BLEU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from narspeech.evaluate.bleu import NAMES, check_installed, score_translations
from narspeech.evaluate.error_rate import corpus
from narspeech.evaluate.scores import sample_lines, score
from narspeech.evaluate.texts import check_ids

# (reference, hypothesis) of every example.
Texts = Sequence[tuple[str, str]]


class Scored(NamedTuple):
    """The scores of a decoded part for scores.json, and those that count by name, in percent or points."""

    result: dict[str, Any]
    figures: dict[str, float]

    @property
    def shown(self) -> str:
        return "  ".join(f"{name} {value:6.2f}" for name, value in self.figures.items())


class Measure(ABC):
    """What a validation tells of texts, which epoch is the best, and what is reported in the end.

    falling: whether lower figures are better.
    """

    falling: ClassVar[bool]

    @abstractmethod
    def check_installed(self) -> None:
        """Raise NarspeechError where a package is missing that the scores need."""

    @abstractmethod
    def rates(self, texts: Texts) -> dict[str, float]:
        """By name, for the metrics of a training."""

    @abstractmethod
    def errors(self, rates: Mapping[str, float]) -> tuple[float, float]:
        """Two of the rates, lower being better: the one that counts, and a finer one that tells bad models apart."""

    @abstractmethod
    def shown(self, rates: Mapping[str, float]) -> str:
        """The rate that counts, for people."""

    @abstractmethod
    def sample(self, reference: str, hypothesis: str) -> str:
        """One example for a log."""

    @abstractmethod
    def score(self, references: Mapping[str, str], hypotheses: Mapping[str, str]) -> Scored:
        """The scores of texts joined by id. Raises ManifestError if an id is on one side only."""


class ErrorRates(Measure):
    """Word and character error rates as fractions."""

    falling = True

    def check_installed(self) -> None:
        """What they need comes with narspeech."""

    def rates(self, texts: Texts) -> dict[str, float]:
        words = corpus(texts)
        reference = max(words.reference, 1)
        return {
            "wer": words.rate,
            "cer": corpus(texts, "character").rate,
            "substitutions": words.substitutions / reference,
            "deletions": words.deletions / reference,
            "insertions": words.insertions / reference,
        }

    def errors(self, rates: Mapping[str, float]) -> tuple[float, float]:
        return rates["wer"], rates["cer"]

    def shown(self, rates: Mapping[str, float]) -> str:
        return f"WER {100 * rates['wer']:.2f}"

    def sample(self, reference: str, hypothesis: str) -> str:
        return sample_lines(reference, hypothesis)

    def score(self, references: Mapping[str, str], hypotheses: Mapping[str, str]) -> Scored:
        found = score(references, hypotheses)
        return Scored(found.to_dict(), {"WER": 100 * found.word.rate, "CER": 100 * found.character.rate})


class Bleu(Measure):
    """BLEU and chrF in points, of cased and detokenised text."""

    falling = False

    def check_installed(self) -> None:
        check_installed()

    def rates(self, texts: Texts) -> dict[str, float]:
        references, hypotheses = zip(*texts, strict=True)
        return {name: value.score for name, value in score_translations(references, hypotheses).items()}

    def errors(self, rates: Mapping[str, float]) -> tuple[float, float]:
        return 1 - rates["bleu"] / 100, 1 - rates["chrf"] / 100

    def shown(self, rates: Mapping[str, float]) -> str:
        return f"BLEU {rates['bleu']:.2f}"

    def sample(self, reference: str, hypothesis: str) -> str:
        return f"ref  {reference}\nhyp  {hypothesis}"

    def score(self, references: Mapping[str, str], hypotheses: Mapping[str, str]) -> Scored:
        check_ids(references, hypotheses)
        found = score_translations(list(references.values()), [hypotheses[name] for name in references])
        return Scored(
            {"utterances": len(references), **{name: value.to_dict() for name, value in found.items()}},
            {NAMES[name]: value.score for name, value in found.items()},
        )
