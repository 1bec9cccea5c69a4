"""Recordings of any length: cut where nobody speaks, heard section by section, stitched on the times of their words.

A section is an utterance like any other to the model. Its edges lie in silence; where nobody pauses for too long, two
sections overlap and are joined where no word of either begins. What is held in memory does not grow with the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from narspeech.align import Aligned
from narspeech.data.sound_file import Samples
from narspeech.data.voice import FRAMES_PER_SECOND, Detector, Energy
from narspeech.result import Segment, Word

SMOOTH = 2  # frames on either side over which the level is averaged: a click is no voice
QUIETEST = -65.0  # level in dB of full scale; what is quieter is silence like any other
# A word that stands on both sides of a cut is found by its beginning; times this fine are enough.
GRID = 0.01


@dataclass(frozen=True, kw_only=True)
class SectionConfig:
    """In seconds; a few words alone are heard worse, and so are several speakers in one section. pause: a silence so
    long ends a section, or, before it is `least` long, one of `long_pause`; longest: then it is cut in the longest
    silence of its second half, or else, with an overlap on either side, where it is quietest; margin: silence that is
    kept around the voice."""

    pause: float = 0.5
    long_pause: float = 0.8
    least: float = 5.0
    longest: float = 28.0
    overlap: float = 1.0
    margin: float = 0.3


class Section(NamedTuple):
    """Samples (N,) from sample `start` of the recording on; head, tail: how many of the first and last of them overlap
    the section before and after."""

    start: int
    samples: Samples
    head: int = 0
    tail: int = 0


class Sections:
    """The sections of a recording that comes in blocks of any size, which do not change what comes out.

    voice: what tells the frames that have voice; of this recording alone, for it remembers.
    """

    def __init__(self, rate: int, config: SectionConfig = SectionConfig(), voice: Detector | None = None) -> None:
        self.rate, self.hop, self.config = rate, rate // FRAMES_PER_SECOND, config
        self.voice = Energy() if voice is None else voice
        self.samples: Samples = np.zeros(0, np.float32)  # not given out yet
        self.powers = np.zeros(0)  # of whole frames, from `first` on
        self.levels, self.voiced = np.zeros(0), np.zeros(0, bool)  # the frames of `samples`, SMOOTH frames behind
        self.frame = 0  # at which `samples` begin
        self.head = 0  # frames of the next section that overlap the one before
        self.open = False  # whether a section has begun at `frame`

    def push(self, samples: Samples) -> list[Section]:
        """The sections that end in these samples (N,)."""
        self.samples = np.concatenate([self.samples, samples])
        return self._sections(last=False)

    def finish(self) -> list[Section]:
        """What is left when no more samples come."""
        found = self._sections(last=True)
        if self.open:
            found.append(self._cut(len(self.levels), len(self.levels), whole=True))
        return found

    def _sections(self, *, last: bool) -> list[Section]:
        self._listen(last=last)
        found: list[Section] = []
        while True:
            if not self.open and not self._begin():
                return found
            ends = self._end()
            if ends is None:
                return found
            found.append(self._cut(*ends))

    def _listen(self, *, last: bool) -> None:
        """Levels and voice of the frames that have become whole, but for SMOOTH whose right side is to come."""
        known = len(self.powers)
        new = self.samples[known * self.hop :]
        count = len(new) // self.hop
        if last and len(new) % self.hop:
            count, new = count + 1, np.pad(new, (0, -len(new) % self.hop))
        frames = new[: count * self.hop].reshape(count, self.hop).astype(np.float64)
        self.powers = np.concatenate([self.powers, np.square(frames).mean(1)])
        done, ready = len(self.levels), max(0, len(self.powers) - (0 if last else SMOOTH))
        sums = np.concatenate([[0.0], np.cumsum(self.powers)])
        index = np.arange(done, max(done, ready))
        low, high = np.maximum(index - SMOOTH, 0), np.minimum(index + SMOOTH + 1, len(self.powers))
        mean = np.maximum((sums[high] - sums[low]) / (high - low), 0)
        levels = np.maximum(10 * np.log10(mean + 1e-12), QUIETEST)
        self.levels = np.concatenate([self.levels, levels])
        self.voiced = np.concatenate([self.voiced, self.voice(new[: count * self.hop], levels)])

    def _frames(self, seconds: float) -> int:
        return round(seconds * FRAMES_PER_SECOND)

    def _begin(self) -> bool:
        """Drop the silence before the first voice, but for a margin."""
        margin = self._frames(self.config.margin)
        voices = np.flatnonzero(self.voiced)
        first = int(voices[0]) if len(voices) else len(self.voiced)
        self._drop(max(0, first - margin))
        self.open = len(voices) > 0
        return self.open

    def _end(self) -> tuple[int, int] | None:
        """The frame behind the open section and the one where the next begins, once they are known."""
        config, count = self.config, len(self.voiced)
        index = np.arange(count)
        quiet = index - np.maximum.accumulate(np.where(self.voiced, index, -1))
        pause = np.where(index < self._frames(config.least), config.long_pause, config.pause)
        spoken = np.maximum.accumulate(self.voiced)
        pauses = np.flatnonzero(spoken & (quiet >= np.round(pause * FRAMES_PER_SECOND)))
        longest = self._frames(config.longest)
        if len(pauses) and pauses[0] < longest:
            end = int(pauses[0] - quiet[pauses[0]]) + 1 + self._frames(config.margin)
            return end, end
        if count <= longest:
            return None
        overlap = self._frames(config.overlap)
        cut, silent = self._quietest(longest // 2, longest - overlap)
        return (cut, cut) if silent else (cut + overlap, cut - overlap)

    def _quietest(self, low: int, high: int) -> tuple[int, bool]:
        """The middle of the longest silence between two frames, and True; where none lasts a fifth of a second, the
        middle of the quietest fifth, and False."""
        width = FRAMES_PER_SECOND // 5
        index = np.arange(high - low)
        silence = index - np.maximum.accumulate(np.where(self.voiced[low:high], index, -1))
        if (length := int(silence.max())) >= width:
            return low + int(silence.argmax()) - length // 2, True
        means = sliding_window_view(self.levels[low:high], width).mean(1)
        return low + int(means.argmin()) + width // 2, False

    def _cut(self, end: int, following: int, *, whole: bool = False) -> Section:
        """The open section up to frame `end`; what follows begins at frame `following`."""
        samples = self.samples if whole else self.samples[: end * self.hop]
        tail = (end - following) * self.hop
        section = Section(self.frame * self.hop, samples.copy(), self.head * self.hop, tail)
        self._drop(following)
        # Behind an overlap the next section begins at once, whatever is heard there.
        self.head, self.open = end - following, tail > 0
        return section

    def _drop(self, count: int) -> None:
        self.samples = self.samples[count * self.hop :]
        self.powers, self.levels, self.voiced = self.powers[count:], self.levels[count:], self.voiced[count:]
        self.frame += count


def join(before: Sequence[Word], after: Sequence[Word], low: float, high: float) -> float:
    """The moment between `low` and `high` seconds that is farthest from the beginning of any word of two sections:
    words that begin earlier are the first one's, the others the second one's, and none is lost or doubled as long as
    both put its beginning on the same side."""
    grid = np.arange(low, high + GRID / 2, GRID)
    begins = np.array([word.start for word in (*before, *after)], np.float64)
    if not len(begins):
        return (low + high) / 2
    distance: NDArray[np.float64] = np.abs(grid[:, None] - begins).min(1)
    # Of equals the one nearest to the middle, where both sections have seen most of the sound around.
    return float(grid[np.lexsort((np.abs(grid - (low + high) / 2), -np.round(distance, 6)))[0]])


class Gate:
    """Whether a section is speech, by how sure the model is of its words.

    typical: the mean confidence of words in real speech. In music and noise, where CTC's blank does not win everywhere,
    the words that come out are unsure. A section counts as speech where the last words on average, MEMORY_WORDS or so,
    reach SPEECH of the typical, or where its own words do so clearly (SPREAD / sqrt(words) above).
    """

    SPEECH, SPREAD, MEMORY_WORDS, PRIOR_WORDS = 0.6, 0.25, 30.0, 5.0

    def __init__(self, typical: float) -> None:
        self.least = self.SPEECH * typical
        self.total, self.words = self.PRIOR_WORDS * typical, self.PRIOR_WORDS

    def is_speech(self, words: Sequence[Word]) -> bool:
        """To be asked once for each section, in order."""
        if not words:
            return False
        own = sum(word.confidence for word in words)
        kept = np.exp(-len(words) / self.MEMORY_WORDS)
        self.total, self.words = kept * self.total + own, kept * self.words + len(words)
        clearly = self.least + self.SPREAD / np.sqrt(len(words))
        return bool(self.total >= self.least * self.words or own / len(words) >= clearly)


Hear = Callable[[Sequence[Samples]], Sequence[Aligned]]


def segments(
    blocks: Iterable[Samples],
    rate: int,
    hear: Hear,
    *,
    typical: float = 0.0,
    together: int = 16,
    config: SectionConfig = SectionConfig(),
    voice: Detector | None = None,
) -> Iterator[Segment]:
    """The segments of a recording that comes in blocks of samples at `rate`, each as soon as it is known.

    hear: gives the words, with times, of some sections' samples; `together` of them are heard at a time; typical: see
    Gate; voice: see Sections. Segments are in order and share out the words; none is without words.
    """
    gate = Gate(typical)
    waiting: tuple[Section, Aligned] | None = None
    sections = cut(blocks, rate, config, voice)
    while group := list(islice(sections, together)):
        for section, heard in zip(group, hear([section.samples for section in group]), strict=True):
            found = located(heard, section, rate)
            if waiting is not None and waiting[0].tail:
                edge = (section.start + section.head / 2) / rate
                reach = section.head / rate / 4
                moment = join(waiting[1].words, found.words, edge - reach, edge + reach)
                earlier = tuple(word for word in waiting[1].words if begin(word) < moment)
                words = tuple(word for word in found.words if begin(word) >= moment)
                limit = min(map(begin, words), default=moment + reach)
                earlier = tuple(replace(word, end=min(word.end or limit, limit)) for word in earlier)
                waiting, found = (waiting[0], waiting[1]._replace(words=earlier)), found._replace(words=words)
            if waiting is not None and gate.is_speech(waiting[1].words):
                yield segment(waiting[1])
            waiting = section, found
    if waiting is not None and gate.is_speech(waiting[1].words):
        yield segment(waiting[1])


def cut(
    blocks: Iterable[Samples], rate: int, config: SectionConfig = SectionConfig(), voice: Detector | None = None
) -> Iterator[Section]:
    """The sections of a recording that comes in blocks."""
    sections = Sections(rate, config, voice)
    for block in blocks:
        yield from sections.push(block)
    yield from sections.finish()


def segment(heard: Aligned) -> Segment:
    """From the beginning of the first word to the end of the last."""
    found = Segment.of(heard.words, begin(heard.words[0]), heard.words[-1].end or 0.0)
    return replace(found, warnings=heard.warnings, steps=heard.steps)


def located(heard: Aligned, section: Section, rate: int) -> Aligned:
    """What was heard in a section, with the times of the recording; warnings say what part of it they are about."""
    start, end = section.start / rate, (section.start + len(section.samples)) / rate
    warnings = tuple(f"{start:.1f} to {end:.1f} s: {warning}" for warning in heard.warnings)
    return heard._replace(words=shifted(heard.words, start), warnings=warnings)


def begin(word: Word) -> float:
    assert word.start is not None, "words of a long recording have times"
    return word.start


def shifted(words: Iterable[Word], seconds: float) -> tuple[Word, ...]:
    """The same words later in time."""
    return tuple(replace(w, start=begin(w) + seconds, end=seconds + (w.end or 0.0)) for w in words)
