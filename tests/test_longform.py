"""Cut in silence, stitched without a seam: nothing lost, nothing doubled, nothing invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narspeech.align import Aligned
from narspeech.data.sound_file import Samples
from narspeech.longform import Gate, Section, SectionConfig, cut, join, segments
from narspeech.result import Segment, Word

RATE = 8000


def babble(plan: Sequence[tuple[float, float]], hiss: float = 1e-3, seed: int = 0) -> Samples:
    """Noise that rises and falls four times a second, as syllables do: (seconds, loudness) after one another."""
    generator = np.random.default_rng(seed)
    parts = []
    for seconds, loudness in plan:
        time = np.arange(round(seconds * RATE)) / RATE
        parts.append(loudness * np.abs(np.sin(2 * np.pi * 2 * time)) * generator.standard_normal(len(time)))
    whole = np.concatenate(parts)
    return (whole + hiss * generator.standard_normal(len(whole))).astype(np.float32)


DEFAULT = SectionConfig(pause=0.6, long_pause=1.0, least=5.0, longest=20.0)


def sections(samples: Samples, config: SectionConfig = DEFAULT, block: int = 7919) -> list[Section]:
    return list(cut((samples[start : start + block] for start in range(0, len(samples), block)), RATE, config))


def seconds(section: Section) -> tuple[float, float]:
    return section.start / RATE, (section.start + len(section.samples)) / RATE


def word(text: str, start: float, end: float | None = None, confidence: float = 0.9) -> Word:
    return Word(text=text, start=start, end=start + 0.1 if end is None else end, confidence=confidence)


# --- voice activity


def test_sections_begin_and_end_in_the_silence_around_voice() -> None:
    samples = babble([(2, 0), (6, 0.2), (2, 0), (3, 0.05), (1.5, 0)])
    first, second = sections(samples)
    assert seconds(first) == pytest.approx((1.7, 8.3), abs=0.1)
    assert seconds(second)[0] == pytest.approx(9.7, abs=0.1)
    assert 13.1 < seconds(second)[1] < 14
    for section in (first, second):
        assert np.array_equal(section.samples, samples[section.start : section.start + len(section.samples)])
        assert section.head == section.tail == 0


def test_a_short_pause_ends_only_a_section_that_is_long_enough() -> None:
    plan = [(1, 0), (2, 0.2), (0.8, 0), (4, 0.2), (0.8, 0), (2, 0.2), (1, 0)]
    first, second = sections(babble(plan))
    assert seconds(first)[1] == pytest.approx(1 + 2 + 0.8 + 4 + 0.3, abs=0.1)
    assert seconds(second)[0] == pytest.approx(1 + 2 + 0.8 + 4 + 0.8 - 0.3, abs=0.1)


@pytest.mark.parametrize("loudness", [0.0, 1e-3, 0.3])
def test_steady_noise_and_tones_are_silence_however_loud(loudness: float) -> None:
    noise = (loudness * np.random.default_rng(0).standard_normal(60 * RATE)).astype(np.float32)
    assert sections(noise) == []
    tone = loudness * np.sin(2 * np.pi * 440 * np.arange(60 * RATE) / RATE)
    assert sections(tone.astype(np.float32)) == []


def test_quiet_speech_after_loud_noise_is_heard() -> None:
    found = sections(babble([(12, 0.5), (2, 0), (4, 0.02), (2, 0)], hiss=1e-4))
    assert any(seconds(one)[0] < 14.2 and seconds(one)[1] > 18 for one in found)


def test_without_a_pause_sections_overlap_and_cover_everything() -> None:
    samples = babble([(1, 0), (70, 0.2), (1, 0)])
    found = sections(samples)
    assert len(found) >= 4
    assert all(len(one.samples) <= (DEFAULT.longest + 0.2) * RATE for one in found)
    for before, after in pairwise(found):
        assert before.start + len(before.samples) - before.tail == after.start
        assert before.tail == after.head == 2 * RATE
    assert found[-1].tail == 0


def test_silence_that_is_too_short_for_a_pause_is_still_the_place_to_cut() -> None:
    found = sections(babble([(1, 0), (15, 0.2), (0.4, 0), (15, 0.2), (1, 0)]))
    assert [one.tail for one in found] == [0, 0]
    assert 16 < seconds(found[0])[1] < 16.4


@given(
    # What is shorter than a tenth of a second is a click, and may be lost.
    st.lists(st.tuples(st.floats(0.1, 9), st.sampled_from([0.0, 0.0, 0.02, 0.2])), min_size=1, max_size=6),
    st.lists(st.integers(1, 40000), min_size=1, max_size=8),
    st.integers(0, 100),
)
@settings(max_examples=12)
def test_blocks_do_not_matter_and_no_voice_is_lost(
    plan: list[tuple[float, float]], sizes: list[int], seed: int
) -> None:
    samples = babble(plan, seed=seed)
    config = SectionConfig(longest=6.0, least=2.0)
    expected = sections(samples, config, block=len(samples))
    edges = np.cumsum(sizes * (1 + len(samples) // sum(sizes)))
    found = list(cut(np.split(samples, edges[edges < len(samples)]), RATE, config))
    assert [(one.start, one.head, one.tail) for one in found] == [(one.start, one.head, one.tail) for one in expected]
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(found, expected, strict=True))
    left = np.ones(len(samples), bool)
    for one in found:
        assert np.array_equal(one.samples, samples[one.start : one.start + len(one.samples)])
        left[one.start : one.start + len(one.samples)] = False
    assert all(after.start - after.head <= after.start for after in found)
    if found:  # what was left out is quiet
        assert np.square(samples[left]).sum() <= 0.05 * np.square(samples).sum() + 1e-6 * len(samples)


# --- stitching


def test_a_join_lies_far_from_every_beginning() -> None:
    before, after = [word("a", 9.4), word("b", 9.8), word("c", 10.35)], [word("b", 9.82), word("c", 10.3)]
    assert join(before, after, 9.5, 10.5) == pytest.approx((9.82 + 10.3) / 2, abs=0.01)
    assert join([], [], 9.5, 10.5) == 10.0
    assert join([word("a", 9.5)], [], 9.5, 10.5) == pytest.approx(10.5)


class Ear:
    """Hears true words whose beginning and end lie in a section, with times that are a little off."""

    def __init__(self, truth: Sequence[Word], rate: int, samples: Samples, seed: int = 0) -> None:
        self.truth, self.rate, self.samples = truth, rate, samples
        self.generator = np.random.default_rng(seed)
        self.sizes: list[int] = []
        self.warnings: tuple[str, ...] = ()

    def __call__(self, sounds: Sequence[Samples]) -> list[Aligned]:
        self.sizes += [len(sound) for sound in sounds]
        return [Aligned(self.hear(sound), self.warnings) for sound in sounds]

    def hear(self, sound: Samples) -> tuple[Word, ...]:
        start = (
            next(  # noise never repeats itself
                place for place in np.flatnonzero(self.samples == sound[0]) if self.samples[place + 1] == sound[1]
            )
            / self.rate
        )
        end, found = start + len(sound) / self.rate, []
        for one in self.truth:
            assert one.start is not None
            assert one.end is not None
            if start <= one.start and one.end <= end:
                begin = max(0.0, one.start - start + self.generator.uniform(-0.06, 0.06))
                found.append(replace(one, start=begin, end=begin + 0.1))
        return tuple(found)


@pytest.mark.parametrize("seed", range(5))
def test_no_word_is_lost_or_doubled_where_nobody_pauses(seed: int) -> None:
    samples = babble([(1, 0), (90, 0.2), (1, 0)], seed=seed)
    truth = [word(f"w{index}", 1.1 + 0.3 * index) for index in range(299)]
    ear = Ear(truth, RATE, samples, seed)
    found = list(segments(np.split(samples, range(RATE, len(samples), RATE)), RATE, ear, together=2, config=DEFAULT))
    words = [one for segment in found for one in segment.words]
    assert [one.text for one in words] == [one.text for one in truth]
    for before, after in pairwise(words):
        assert before.start is not None
        assert before.end is not None
        assert after.start is not None
        assert before.start < before.end <= after.start
    assert max(ear.sizes) <= 20.2 * RATE
    assert all(isinstance(segment, Segment) and segment.words for segment in found)
    assert found[0].start == words[0].start
    assert found[-1].end == words[-1].end


def test_segments_come_as_soon_as_they_are_known() -> None:
    samples = babble([(1, 0), (6, 0.2), (1, 0), (6, 0.2), (1, 0), (6, 0.2), (1, 0)])
    truth = [word(f"w{index}", 1.5 + 7 * index) for index in range(3)]
    read = []

    def blocks() -> list[Samples]:
        for block in np.split(samples, range(RATE, len(samples), RATE)):
            read.append(len(block))
            yield block

    stream = segments(blocks(), RATE, Ear(truth, RATE, samples), together=1, config=DEFAULT)
    assert next(stream).text == "w0"
    assert len(read) < 18
    assert [one.text for one in stream] == ["w1", "w2"]


def test_a_warning_says_which_part_it_is_about() -> None:
    samples = babble([(1, 0), (6, 0.2), (2, 0), (6, 0.2), (2, 0), (6, 0.2), (1, 0)])
    ear = Ear([word("one", 2.0), word("three", 18.0)], RATE, samples)
    ear.warnings = ("doubtful",)
    first, last = segments([samples], RATE, ear, config=DEFAULT)  # nothing is heard in the second section
    for segment, (start, end) in ((first, (0.7, 7.3)), (last, (16.7, 23.3))):
        (warning,) = segment.warnings
        place, _, rest = warning.partition(" s: ")
        assert rest == "doubtful"
        assert tuple(map(float, place.split(" to "))) == pytest.approx((start, end), abs=0.2)


# --- what is no speech


def unsure(count: int, confidence: float) -> list[Word]:
    return [word("a", 0.3 * index, confidence=confidence) for index in range(count)]


def test_music_is_shut_out_soon_and_speech_let_in_at_once() -> None:
    gate = Gate(0.5)
    music = [gate.is_speech(unsure(10, 0.25)) for _ in range(60)]
    assert sum(music) <= 2
    assert gate.is_speech(unsure(8, 0.5))
    assert not gate.is_speech(())


def test_a_poor_section_amid_speech_stays() -> None:
    gate = Gate(0.5)
    assert all(gate.is_speech(unsure(12, confidence)) for confidence in (0.5, 0.4, 0.5, 0.2, 0.45))


def test_without_a_calibration_everything_is_speech() -> None:
    gate = Gate(0.0)
    assert all(gate.is_speech(unsure(5, 0.01)) for _ in range(20))


def test_what_the_gate_shuts_out_has_no_segment() -> None:
    samples = babble([(1, 0), *[(6, 0.2), (1, 0)] * 20])
    truth = [word(f"w{index}", 1.2 + 0.5 * index, confidence=0.1 if index > 60 else 0.6) for index in range(270)]
    found = list(segments([samples], RATE, Ear(truth, RATE, samples), typical=0.6, config=DEFAULT))
    heard = [one.text for segment in found for one in segment.words]
    assert heard[:50] == [f"w{index}" for index in range(50)]
    assert len(heard) < 100
