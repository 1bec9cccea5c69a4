"""What a user gets: frozen records, plain Python values only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Step:
    """One moment of a refinement: token ids (MASK where undecided) and their log-probabilities."""

    tokens: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A decoded token sequence; scores are log-probabilities, one a token; steps counts the refinements it took;
    alternatives: the other candidates or beams, best first."""

    tokens: tuple[int, ...]
    scores: tuple[float, ...]
    steps: int = 0
    trace: tuple[Step, ...] = ()
    alternatives: tuple[Hypothesis, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word, when it is said (seconds from the beginning of the recording, None where nothing tells) and its
    confidence in 0..1: how likely it is right, of a model that was calibrated."""

    text: str
    start: float | None = None
    end: float | None = None
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The words between two moments of a recording, in seconds; confidence: the mean of its words', 0 without any."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...]
    confidence: float

    @classmethod
    def of(cls, words: tuple[Word, ...], start: float, end: float) -> Segment:
        confidence = sum(word.confidence for word in words) / max(len(words), 1)
        text = " ".join(word.text for word in words)
        return cls(start=start, end=end, text=text, words=words, confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The words heard in one recording; duration in seconds; confidence: the mean of its words', 0 without any."""

    text: str
    words: tuple[Word, ...]
    duration: float
    confidence: float
    steps: int = 0
    trace: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A text in another language, the pieces it was written in ("▁" is a space) and their log-probabilities;
    alternatives: the other candidates or beams, best first."""

    text: str
    tokens: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    steps: int = 0
    trace: tuple[Step, ...] = ()
    alternatives: tuple[Translation, ...] = ()

    @property
    def score(self) -> float:
        """The mean log-probability of a token, 0 without any."""
        return sum(self.scores) / max(len(self.scores), 1)
