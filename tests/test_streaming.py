"""Partial texts come soon and cost little; the final one is what a file of the same samples gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from narspeech.batch import Padded
from narspeech.errors import AudioError, ConfigError
from narspeech.longform import shifted
from narspeech.model import Model
from narspeech.streaming import Heard, Streamer
from narspeech.transcriber import Transcriber, transcribe
from tests import fakes
from tests.test_longform import babble

RATE = fakes.RATE
PLAN = [(1.0, 0.0), (3.0, 0.2), (2.0, 0.0), (2.0, 0.2), (0.5, 0.0)]


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber(fakes.tiny_model())


def stream(streamer: Streamer, samples: np.ndarray, chunk: int) -> list[tuple[int, Heard]]:
    """Everything that is heard, with the number of samples that had come by then."""
    found = []
    for start in range(0, len(samples), chunk):
        found += [(start + chunk, heard) for heard in streamer.push(samples[start : start + chunk])]
    return found + [(len(samples), heard) for heard in streamer.finish()]


def test_a_final_text_is_that_of_the_same_samples_in_a_file(transcriber: Transcriber, tmp_path: Path) -> None:
    samples = babble(PLAN)
    finals = [heard for _, heard in stream(Streamer(transcriber, RATE), samples, 800) if heard.final]
    expected = transcriber.long([samples], transcriber.hearing())  # the same voice activity
    assert len(finals) == 2
    for heard, segment, (begin, end) in zip(finals, expected, ((0.7, 4.3), (5.7, 8.5)), strict=True):
        assert heard.text == segment.text != ""
        assert heard.start == pytest.approx(begin, abs=0.1)
        assert heard.end == pytest.approx(end, abs=0.2)
        path = tmp_path / "cut.wav"
        soundfile.write(path, samples[round(heard.start * RATE) : round(heard.end * RATE)], RATE, subtype="FLOAT")
        found = transcribe(path, model=transcriber.model)
        assert (heard.text, heard.words) == (found.text, shifted(found.words, heard.start))
        assert all(heard.start <= word.start < word.end for word in heard.words if word.start and word.end)
        assert " ".join(word.text for word in heard.words) == heard.text


@pytest.mark.parametrize("chunk", [160, 1111, 64000])
def test_chunks_do_not_change_the_final_texts(transcriber: Transcriber, chunk: int) -> None:
    samples = babble(PLAN)
    one, other = (
        [heard for _, heard in stream(Streamer(transcriber, RATE), samples, size) if heard.final]
        for size in (800, chunk)
    )
    assert one == other


def test_the_first_text_comes_within_600_ms_of_voice(transcriber: Transcriber) -> None:
    samples = babble(PLAN)
    at, heard = stream(Streamer(transcriber, RATE), samples, 400)[0]
    assert not heard.final
    assert heard.start < 1.0
    assert heard.end <= at / RATE
    assert heard.text
    assert at / RATE <= 1.0 + 0.6


def test_a_partial_text_never_costs_more_than_its_window(
    transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = Model.encode

    def watched(self: Model, source: Padded) -> object:
        sizes.append(source.data.shape[1])
        return encode(self, source)

    samples = babble([(0.5, 0.0), (12.0, 0.2)])
    monkeypatch.setattr(Model, "encode", watched)
    streamer = Streamer(transcriber, RATE, window=2.0)
    partial = [
        heard for start in range(0, len(samples), 1600) for heard in streamer.push(samples[start : start + 1600])
    ]
    assert len(sizes) > 40
    assert max(sizes) <= 1.5 * 2.0 * RATE + 1600 + RATE // 10
    assert max(map(len, (heard.text for heard in partial))) > 20
    monkeypatch.undo()
    whole = Streamer(transcriber, RATE, window=15.0)
    (*_, last) = whole.push(samples[: 12 * RATE])
    assert len(partial[-1].text) == pytest.approx(len(last.text), rel=0.3)


def test_rates_and_channels(transcriber: Transcriber) -> None:
    samples = babble(PLAN)
    stereo = np.repeat(np.repeat(samples, 2)[:, None], 2, axis=1)
    texts = [heard.text for _, heard in stream(Streamer(transcriber, 2 * RATE), stereo, 1000) if heard.final]
    assert len(texts) == 2
    with pytest.raises(AudioError, match="expected floats"):
        Streamer(transcriber, RATE).push(np.zeros(10, np.int16))


def test_silence_says_nothing(transcriber: Transcriber) -> None:
    assert stream(Streamer(transcriber, RATE), np.zeros(30 * RATE, np.float32), 800) == []


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ConfigError, match="CTC head to stream"):
        Streamer(Transcriber(fakes.tiny_model("cmlm", ctc=None)), RATE)
    with pytest.raises(ConfigError, match="0 < every <= window"):
        Streamer(Transcriber(fakes.tiny_model()), RATE, every=0.0)
