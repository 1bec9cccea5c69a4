"""What a user gets: frozen records, plain Python values only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


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

    def to_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "start": _rounded(self.start, 3),
            "end": _rounded(self.end, 3),
            "confidence": _rounded(self.confidence, 4),
        }


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The words between two moments of a recording, in seconds; confidence: the mean of its words', 0 without any;
    warnings: sentences about what is doubtful; steps: refinements that a section of a long recording took."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...]
    confidence: float
    warnings: tuple[str, ...] = ()
    steps: int = 0

    @classmethod
    def of(cls, words: tuple[Word, ...], start: float, end: float) -> Segment:
        return cls(start=start, end=end, text=_joined(words), words=words, confidence=_mean_confidence(words))

    def to_dict(self) -> dict[str, Any]:
        """The words and warnings themselves stand in the transcript's."""
        return {
            "start": _rounded(self.start, 3),
            "end": _rounded(self.end, 3),
            "text": self.text,
            "num_words": len(self.words),
            "confidence": _rounded(self.confidence, 4),
        }


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The words heard in one recording.

    segments: its parts in order, which share out the words; language: a code such as "en", None where the model does
    not name it; duration in seconds; confidence in 0..1: the mean of the words', 0 without any; speed: seconds of sound
    a second of decoding, of the whole batch, which is no part of what was heard and left out when transcripts are
    compared; model: the name of the checkpoint, "" where there is none; steps, trace: of the refinement, of several
    sections the most steps, and no trace; warnings: sentences about what is doubtful.
    """

    text: str
    segments: tuple[Segment, ...]
    words: tuple[Word, ...]
    language: str | None = None
    duration: float
    confidence: float
    speed: float | None = field(default=None, compare=False)
    model: str = ""
    warnings: tuple[str, ...] = ()
    steps: int = 0
    trace: tuple[Step, ...] = ()

    @classmethod
    def of(cls, segments: tuple[Segment, ...], **rest: Any) -> Transcript:
        """The whole of segments in order; rest: the fields that they do not tell."""
        words = tuple(word for segment in segments for word in segment.words)
        return cls(text=_joined(words), segments=segments, words=words, confidence=_mean_confidence(words), **rest)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, always in this order: text, language, duration, confidence, speed, model, steps, segments
        (start, end, text, num_words, confidence), words (text, start, end, confidence), warnings; and trace (tokens,
        scores), if one was asked for. Seconds to 3 places, confidences and scores to 4. The words stand there once:
        each segment holds the next num_words of them."""
        entry = {
            "text": self.text,
            "language": self.language,
            "duration": _rounded(self.duration, 3),
            "confidence": _rounded(self.confidence, 4),
            "speed": _rounded(self.speed, 1),
            "model": self.model,
            "steps": self.steps,
            "segments": [segment.to_dict() for segment in self.segments],
            "words": [word.to_dict() for word in self.words],
            "warnings": list(self.warnings),
        }
        if self.trace:
            entry["trace"] = [
                {"tokens": list(step.tokens), "scores": [_rounded(score, 4) for score in step.scores]}
                for step in self.trace
            ]
        return entry


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A recording without a transcript: its path, None for one that has none, and the reason in a sentence."""

    path: str | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """path, error."""
        return {"path": self.path, "error": self.reason}


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


def _joined(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _mean_confidence(words: Sequence[Word]) -> float:
    return sum(word.confidence for word in words) / len(words) if words else 0.0


def _rounded(value: float | None, places: int) -> float | None:
    """JSON has neither infinity nor NaN."""
    return None if value is None or not math.isfinite(value) else round(value, places)
