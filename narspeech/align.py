"""From tokens to words with times and confidence, however the text was refined.

The final tokens are aligned to the posteriors of the model's own CTC head, so that a word which refinement changed has
a place in time as any other. What CTC does to times (it emits late and briefly) and how much its scores are worth is
the model's `Calibration`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from narspeech.batch import Padded
from narspeech.calibration import Calibration, Values
from narspeech.model import Model
from narspeech.ops.ctc import token_spans
from narspeech.result import Hypothesis, Word
from narspeech.tokenizer import PAD, Tokenizer

# No word is shorter than this, where the recording has room.
SHORTEST = 0.02
UNALIGNED = "the text does not fit the sound: its words are spread evenly over it"


class Aligned(NamedTuple):
    """The words of one hypothesis, what is doubtful about their times, and the refinement steps that it took."""

    words: tuple[Word, ...]
    warnings: tuple[str, ...] = ()
    steps: int = 0


class Row(NamedTuple):
    """The words of one hypothesis before their times are corrected: texts; evidence (W, 6); starts, ends (W,) in
    seconds, of the first frame of the first token and of the one after the last; fits: whether CTC can spell them."""

    texts: list[str]
    evidence: Values
    starts: Values
    ends: Values
    fits: bool


def align(
    model: Model, hypotheses: Sequence[Hypothesis], ctc: Padded | None, durations: Sequence[float]
) -> list[Aligned]:
    """The words of every hypothesis, in order: 0 <= start < end <= duration, none beginning before another has ended.

    ctc: (B, T, V) log-probabilities that the model gave for the same recordings, whose durations are in seconds. A text
    that CTC cannot spell in its frames, or posteriors that are not finite, give evenly spread times and a warning.
    Without CTC there are no times, and a word's confidence is the probability of its weakest token.
    """
    if ctc is None:
        return [Aligned(untimed(model.tokenizer, hypothesis), steps=hypothesis.steps) for hypothesis in hypotheses]
    calibration = model.config.calibration or Calibration()
    found = []
    for hypothesis, row, duration in zip(hypotheses, rows(model, hypotheses, ctc), durations, strict=True):
        count = len(row.texts)
        if row.fits:
            starts, ends = row.starts - calibration.lead, row.ends + calibration.hold
        else:
            edges: Values = np.linspace(0.0, duration, count + 1, dtype=np.float64)
            starts, ends = edges[:-1], edges[1:]
        starts, ends = in_order(starts, ends, duration)
        confidence = calibration.confidence(row.evidence)
        fields = zip(row.texts, starts.tolist(), ends.tolist(), confidence.tolist(), strict=True)
        words = tuple(Word(text=text, start=a, end=b, confidence=c) for text, a, b, c in fields)
        found.append(Aligned(words, () if row.fits else (UNALIGNED,), hypothesis.steps))
    return found


def untimed(tokenizer: Tokenizer, hypothesis: Hypothesis) -> tuple[Word, ...]:
    """Words without times, as confident as their weakest tokens."""
    confidence = np.exp(hypothesis.scores).tolist()
    words = tokenizer.words(hypothesis.tokens)
    return tuple(Word(text=text, confidence=min(confidence[place])) for text, place in words)


def frame_seconds(model: Model) -> float:
    """How long a frame of the encoder is."""
    return model.encoder.reduction / model.frontend.frames_per_second


def rows(model: Model, hypotheses: Sequence[Hypothesis], ctc: Padded) -> list[Row]:
    """The words of every hypothesis with what CTC says about them."""
    packed = [torch.tensor(hypothesis.tokens, dtype=torch.long) for hypothesis in hypotheses]
    spans = token_spans(ctc, Padded.pack(packed, PAD).to(ctc.data.device))
    starts, ends, scores, fits = (x.cpu().numpy() for x in spans)
    found, seconds = [], frame_seconds(model)
    for index, hypothesis in enumerate(hypotheses):
        words = model.tokenizer.words(hypothesis.tokens)
        heard = np.array(hypothesis.scores, np.float64)
        seen = scores[index, : len(heard)].astype(np.float64) if fits[index] else heard
        places = [place for _, place in words]
        found.append(
            Row(
                [text for text, _ in words],
                np.array([_evidence(text, heard[place], seen[place]) for text, place in words]).reshape(-1, 6),
                seconds * starts[index, [place.start for place in places]],
                seconds * ends[index, [place.stop - 1 for place in places]],
                bool(fits[index]),
            )
        )
    return found


def _evidence(text: str, decoder: Values, ctc: Values) -> tuple[float, ...]:
    """What EVIDENCE names, of the log-probabilities of one word's tokens."""
    count, letters = np.log([len(decoder), len(text)])
    return (decoder.min(), decoder.mean(), ctc.min(), ctc.mean(), count, letters)


def in_order(starts: Values, ends: Values, duration: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The nearest times with 0 <= start < end <= duration in which words follow one another, moved as little as that
    takes: starts (W,) rise by SHORTEST at least, or by the W-th part of a duration that is too short for it."""
    count = len(starts)
    least = min(SHORTEST, 0.99 * duration / max(count, 1))  # a little less than all of it, for rounding
    room = least * np.arange(count)
    starts = np.maximum.accumulate(np.clip(starts - room, 0, duration - least * count)) + room
    limits = np.append(starts[1:], duration)
    return starts, np.minimum(np.maximum(ends, starts + least), limits)
