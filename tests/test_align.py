"""Words with times and confidence: exact on paths that are known, in bounds whatever comes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narspeech.align import SHORTEST, UNALIGNED, Aligned, align, frame_seconds, in_order, rows, untimed
from narspeech.batch import Padded
from narspeech.calibration import EVIDENCE, Calibration
from narspeech.decoders.base import DecodeOptions
from narspeech.model import Model
from narspeech.result import Hypothesis, Word
from narspeech.tokenizer import BLANK
from tests import fakes


@pytest.fixture(scope="module")
def model() -> Model:
    return fakes.tiny_model()


def calibrated(model: Model, calibration: Calibration | None) -> Model:
    changed = fakes.tiny_model()
    changed.config = replace(model.config, calibration=calibration)
    return changed


def posteriors(path: str, sure: float = 0.9) -> Padded:
    """(1, T, V) in which a path of letters, "-" a blank, is likely."""
    size = fakes.TOKENIZER.size
    labels = [BLANK if letter == "-" else fakes.TOKENIZER.encode(letter)[0] for letter in path]
    data = torch.full((1, len(path), size), (1 - sure) / (size - 1))
    data[0, range(len(path)), labels] = sure
    return Padded(data.log(), torch.tensor([len(path)]))


def hypothesis(text: str, score: float = -0.1) -> Hypothesis:
    tokens = tuple(fakes.TOKENIZER.encode(text))
    return Hypothesis(tokens=tokens, scores=(score,) * len(tokens))


def check(words: tuple[Word, ...], duration: float) -> None:
    times = [time for word in words for time in (word.start, word.end)]
    assert all(isinstance(time, float) and 0 <= time <= duration for time in times)
    assert all(word.start < word.end for word in words if word.start is not None and word.end is not None)
    assert all(before.end <= after.start for before, after in pairwise(words))  # type: ignore[operator]


def test_words_begin_before_their_first_token_and_end_behind_their_last(model: Model) -> None:
    model = calibrated(model, Calibration(lead=0.03, hold=0.1))
    step = frame_seconds(model)
    assert step == pytest.approx(0.04)
    path = "---aab-- -c----------dd-"
    ((words, warnings, _),) = align(model, [hypothesis("ab cd")], posteriors(path), [len(path) * step])
    assert warnings == ()
    assert [word.text for word in words] == ["ab", "cd"]
    assert words[0].start == pytest.approx(3 * step - 0.03)
    assert words[0].end == pytest.approx(6 * step + 0.1)  # a pause follows
    assert words[1].start == pytest.approx(10 * step - 0.03)
    assert words[1].end == pytest.approx(24 * step)  # the recording ends
    ((words, *_),) = align(model, [hypothesis("ab cd")], posteriors("ab cd---"), [8 * step])
    assert words[0].end == words[1].start  # no pause


def test_the_final_text_is_aligned_not_what_ctc_heard(model: Model) -> None:
    path = "--aa--bb----"
    ((words, *_),) = align(model, [hypothesis("ab d")], posteriors(path), [12 * frame_seconds(model)])
    assert [word.text for word in words] == ["ab", "d"]
    check(words, 12 * frame_seconds(model))


def test_batch_mates_change_nothing(model: Model) -> None:
    source = fakes.noise([8000, 4000, 300, 6000])
    durations = [length / fakes.RATE for length in source.lengths.tolist()]
    options = DecodeOptions(steps=2, threshold=0.9)
    with torch.inference_mode():
        encoded = model.encode(source)
    together = align(model, model.decode(source, options, encoded=encoded), encoded.ctc, durations)
    for row, duration in enumerate(durations):
        single = Padded(source.data[row : row + 1, : int(source.lengths[row])], source.lengths[row : row + 1])
        with torch.inference_mode():
            alone = model.encode(single)
        ((words, *_),) = align(model, model.decode(single, options, encoded=alone), alone.ctc, [duration])
        check(words, duration)
        assert [(w.text, w.start, w.end) for w in words] == [(w.text, w.start, w.end) for w in together[row].words]
        assert [w.confidence for w in words] == pytest.approx([w.confidence for w in together[row].words], abs=1e-4)
    assert sum(len(found.words) for found in together) > 3


@pytest.mark.parametrize("broken", ["too long", "not a number"])
def test_what_cannot_be_aligned_is_spread_evenly_with_a_warning(model: Model, broken: str) -> None:
    ctc, text = posteriors("ab-"), "a b c d"
    if broken == "not a number":
        ctc, text = Padded(posteriors("a b c d").data * float("nan"), torch.tensor([7])), "a b c d"
    ((words, warnings, _),) = align(model, [hypothesis(text)], ctc, [1.0])
    assert warnings == (UNALIGNED,)
    assert [word.start for word in words] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert [word.end for word in words] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert all(0 < word.confidence < 1 for word in words)


def test_no_words_are_no_words(model: Model) -> None:
    assert align(model, [hypothesis("")], posteriors("--"), [0.1]) == [Aligned(())]
    assert align(model, [hypothesis("  ")], posteriors(" - "), [0.1]) == [Aligned(())]


def test_without_ctc_there_are_no_times(model: Model) -> None:
    one = Hypothesis(tokens=tuple(fakes.TOKENIZER.encode("ab c")), scores=(-0.1, -0.5, -2.0, -0.2))
    ((words, warnings, _),) = align(model, [one], None, [1.0])
    assert [(word.text, word.start, word.end) for word in words] == [("ab", None, None), ("c", None, None)]
    assert [word.confidence for word in words] == pytest.approx(np.exp([-0.5, -0.2]).tolist())
    assert warnings == ()
    assert untimed(model.tokenizer, one) == words


def test_confidence_weighs_decoder_and_ctc(model: Model) -> None:
    one = Hypothesis(tokens=tuple(fakes.TOKENIZER.encode("ab c")), scores=(-0.1, -0.5, -2.0, -0.2))
    ctc = posteriors("ab-- c", sure=0.7)
    (row,) = rows(model, [one], ctc)
    heard = np.log(0.7)
    assert row.evidence == pytest.approx(
        np.array([[-0.5, -0.3, heard, heard, np.log(2), np.log(2)], [-0.2, -0.2, heard, heard, 0, 0]]), abs=1e-5
    )
    weights = (0.5, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0)
    ((words, *_),) = align(calibrated(model, Calibration(weights=weights)), [one], ctc, [0.24])
    expected = [1 / (1 + np.exp(-(0.5 + weakest + 2 * heard))) for weakest in (-0.5, -0.2)]
    assert [word.confidence for word in words] == pytest.approx(expected, abs=1e-5)
    assert len(EVIDENCE) + 1 == len(weights)


@given(
    st.lists(st.tuples(st.floats(-1, 12), st.floats(-1, 12)), max_size=12),
    st.one_of(st.floats(0.001, 0.1), st.floats(0.1, 10)),
)
def test_any_times_come_into_order(times: list[tuple[float, float]], duration: float) -> None:
    starts, ends = (np.array([pair[side] for pair in times], np.float64) for side in (0, 1))
    first, last = in_order(np.sort(starts), ends, duration)
    fields = zip(first.tolist(), last.tolist(), strict=True)
    check(tuple(Word(text="a", start=a, end=b, confidence=1.0) for a, b in fields), duration)
    fine = len(times) == 0 or (np.diff(np.sort(starts), append=duration) >= SHORTEST).all()
    if fine and (starts >= 0).all():
        assert first == pytest.approx(np.sort(starts))
