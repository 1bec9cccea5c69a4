"""From sound to text, in Python."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import narspeech
from narspeech import checkpoint, outcomes, transcriber
from narspeech.align import Aligned, untimed
from narspeech.batch import Padded
from narspeech.data.audio import Audio, load_audio
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import AudioError, CheckpointError, ConfigError, NarspeechError
from narspeech.model import Model
from narspeech.result import Failure, Hypothesis, Transcript, Word
from narspeech.search.rescore import rescore
from narspeech.tokenizer import CharacterTokenizer
from narspeech.transcriber import Transcriber, iter_transcribe, transcribe
from tests import fakes
from tests.test_longform import babble

SENTENCES = ("abad", "cab", "da da", "bad cab", "dab")


@pytest.fixture(scope="module")
def model() -> Model:
    return fakes.tiny_model(decoding=DecodeOptions(steps=2, threshold=0.9))


@pytest.fixture(autouse=True)
def _forget() -> None:
    transcriber.shared_transcriber.cache_clear()


def alone(model: Model, path: Path, **settings: Any) -> Transcript:
    found = transcribe(path, model=model, **settings)
    assert isinstance(found, Transcript)
    return found


def same(found: Transcript, expected: Transcript) -> None:
    assert (found.text, found.steps, found.duration) == (expected.text, expected.steps, expected.duration)
    assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)


# --- Python


def test_one_gives_one_and_many_give_many_in_order(model: Model, files: list[Path]) -> None:
    expected = [alone(model, path) for path in files]
    assert len({transcript.text for transcript in expected}) == len(files)
    for many in (files, tuple(files), [str(path) for path in files], [path.read_bytes() for path in files]):
        for batch_size in (1, 2, 8):
            found = transcribe(many, model=model, batch_size=batch_size)
            assert isinstance(found, list)
            for one, other in zip(found, expected, strict=True):
                same(one, other)
    for single in (str(files[0]), files[0].read_bytes(), io.BytesIO(files[0].read_bytes())):
        transcript = transcribe(single, model=model)
        assert isinstance(transcript, Transcript)
        same(transcript, expected[0])
    assert transcribe([], model=model) == []
    streamed = iter_transcribe(iter(files), model=model, batch_size=2)
    for one, other in zip(streamed, expected, strict=True):
        same(one, other)
    assert [t.text for t in transcribe([files[1]], model=model)] == [expected[1].text]


def test_more_than_is_loaded_at_once(model: Model, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "group_size", lambda _: 2)
    found = transcribe(files, model=model)
    assert [t.text for t in found] == [alone(model, path).text for path in files]


def test_arrays_and_tensors_have_a_rate(model: Model) -> None:
    samples = fakes.noise([8000]).data[0] * 0.1
    expected = transcribe(samples, rate=fakes.RATE, model=model)
    assert expected.text
    assert expected.duration == 1.0
    assert transcribe(samples.numpy(), rate=fakes.RATE, model=model) == expected
    assert transcribe([samples.numpy()], rate=fakes.RATE, model=model) == [expected]
    stereo = np.stack([samples.numpy(), 0 * samples.numpy()])
    assert transcribe(stereo, rate=fakes.RATE, channel=0, model=model) == expected
    assert transcribe(samples, rate=2 * fakes.RATE, model=model).duration == 0.5
    with pytest.raises(AudioError):
        transcribe(samples, model=model)


def test_settings_that_do_not_fit_are_told_at_once(model: Model) -> None:
    def never() -> Iterator[Path]:
        raise AssertionError
        yield

    deaf, blind = fakes.tiny_model("cmlm"), fakes.tiny_model("cmlm", ctc=None)
    for one, settings, message in (
        (model, {"decoder": "cmlm"}, "the decoder of this model"),
        (deaf, {"hotwords": ["ab"]}, "hears a language model or hotwords, received cmlm"),
        (blind, {"decoder": "ctc"}, "a model with a CTC head for the decoder ctc"),
    ):
        with pytest.raises(NarspeechError, match=message):
            iter_transcribe(never(), model=one, on_error="record", **settings)


def test_the_beam_of_a_models_own_decoder_is_not_that_of_its_head() -> None:
    found = Transcriber(fakes.tiny_model("ar", decoding=DecodeOptions(beam=5)))
    assert (found.options().beam, found.options(decoder="ctc").beam, found.options(decoder="ctc", beam=3).beam) == (
        5,
        1,
        3,
    )
    assert found.hearing(None, "ctc").options.beam == 1


def test_settings_reach_the_decoder(model: Model, files: list[Path]) -> None:
    own = alone(model, files[0])
    assert own.steps == 2  # the model's own
    assert alone(model, files[0], steps=4, threshold=1.0).steps == 4
    ctc = alone(model, files[0], decoder="ctc")
    assert ctc.steps == 0
    assert alone(model, files[0], steps=0).text == alone(model, files[0], threshold=0.0).text == ctc.text != own.text
    assert alone(model, files[0], decoder="mask_ctc") == own
    traced = alone(model, files[0], trace=True)
    assert len(traced.trace) == 3
    assert own.trace == ()
    assert model.config.decoding == DecodeOptions(steps=2, threshold=0.9)


def test_a_model_of_text_hears_nothing() -> None:
    with pytest.raises(ConfigError, match="hears sound"):
        Transcriber(fakes.tiny_model("ctc", "text"))


def test_wrong_settings_are_told(model: Model, files: list[Path]) -> None:
    for settings, error in (
        ({"steps": -1}, ConfigError),
        ({"threshold": 2.0}, ConfigError),
        ({"batch_size": 0}, NarspeechError),
        ({"decoder": "magic"}, NarspeechError),
        ({"device": "toaster"}, NarspeechError),
        ({"device": "cuda:99"}, NarspeechError),
    ):
        with pytest.raises(error, match=r"expected .* received .*: "):
            transcribe(files[:1], model=model, **settings)  # type: ignore[arg-type]
    with pytest.raises(NarspeechError, match=r"\(ctc or flashlight\), received 'mask_ctc'"):
        transcribe(files[0], model=fakes.tiny_model("ctc"), decoder="mask_ctc")
    with pytest.raises(CheckpointError):
        transcribe(files[0], model="nowhere")
    with pytest.raises(CheckpointError):
        transcribe(files[0], model="")
    with pytest.raises(AudioError, match="missing"):
        transcribe([files[0], Path("missing.wav")], model=model)


@pytest.mark.parametrize("length", [1, 150, 199, 200, 400])
def test_too_short_for_a_frame_is_empty_text(model: Model, length: int) -> None:
    found = transcribe(0.1 * fakes.noise([length]).data[0], rate=fakes.RATE, model=model)
    if length < model.frontend.config.window:
        assert (found.text, found.words, found.confidence, found.steps) == ("", (), 0.0, 0)
    assert found.duration == length / fakes.RATE
    assert found.warnings  # it is doubtful that this is a recording


def test_confidences() -> None:
    """Token: exp(score); word: the least of its tokens'; utterance: the mean of the words'."""
    tokens = fakes.TOKENIZER.encode("ab  c")
    scores = tuple(math.log(p) for p in (0.9, 0.5, 0.1, 0.2, 0.7))
    audio = Audio(np.zeros(10, np.float32), 8000, 1.25, ("odd",))
    hypothesis = Hypothesis(tokens=tuple(tokens), scores=scores, steps=3)
    found = transcriber.to_transcript(hypothesis, audio, Aligned(untimed(fakes.TOKENIZER, hypothesis)))
    assert found.text == "ab c"
    assert [word.text for word in found.words] == ["ab", "c"]
    assert [word.confidence for word in found.words] == pytest.approx([0.5, 0.7])
    assert found.confidence == pytest.approx(0.6)
    assert (found.steps, found.duration, found.warnings) == (3, 1.25, ("odd",))
    empty = transcriber.to_transcript(Hypothesis(tokens=(), scores=()), audio, Aligned(()))
    assert (empty.text, empty.words, empty.confidence) == ("", (), 0.0)
    assert isinstance(found.words[0], Word)
    (segment,) = found.segments
    assert (segment.start, segment.end, segment.text, segment.words) == (0, 1.25, found.text, found.words)
    assert segment.confidence == found.confidence


def test_a_transcript_tells_where_it_is_from(model: Model, folder: Path, files: list[Path]) -> None:
    found = alone(model, files[0])
    assert (found.model, found.language) == ("", None)
    assert found.speed is not None
    assert found.speed > 0
    assert narspeech.transcribe(files[0], model=folder).model == str(folder)
    german = fakes.tiny_model(language="de")
    assert alone(german, files[0]).language == "de"


@pytest.fixture
def mixed(files: list[Path], tmp_path: Path) -> list[Any]:
    """Good ones among a missing file, a damaged one and bytes that are no sound."""
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF")
    return [files[0], tmp_path / "missing.wav", files[1], str(damaged), files[2], b"no sound"]


def test_a_bad_recording_loses_none_of_the_others(model: Model, files: list[Path], mixed: list[Any]) -> None:
    expected = [alone(model, path).text for path in files[:3]]
    for batch_size in (1, 2, 8):
        found = transcribe(mixed, model=model, on_error="record", batch_size=batch_size)
        assert [one.text for one in found if isinstance(one, Transcript)] == expected
        assert [isinstance(one, Failure) for one in found] == [False, True] * 3
        failures = [one for one in found if isinstance(one, Failure)]
        assert [one.path for one in failures] == [str(mixed[1]), mixed[3], None]
        assert all(one.reason.startswith("expected ") for one in failures)
        streamed = list(iter_transcribe(mixed, model=model, on_error="record", batch_size=batch_size))
        assert [one for one in streamed if isinstance(one, Failure)] == failures
        assert [one.text for one in streamed if isinstance(one, Transcript)] == expected
    single = transcribe(mixed[1], model=model, on_error="record")
    assert isinstance(single, Failure)
    with pytest.raises(AudioError, match="missing"):
        transcribe(mixed, model=model)
    with pytest.raises(NarspeechError, match="'raise' or 'record', received 'ignore'"):
        transcribe(mixed, model=model, on_error="ignore")  # type: ignore[call-overload]


def test_results_come_before_all_is_read(model: Model, files: list[Path]) -> None:
    """A stream that never ends: of it, no more than a group is read ahead."""
    read = 0

    def endless() -> Iterator[Path]:
        nonlocal read
        while True:
            read += 1
            yield files[read % 5]

    found = iter_transcribe(endless(), model=model, batch_size=1)
    first = [next(found) for _ in range(6)]
    assert read == 8
    assert [one.text for one in first] == [alone(model, files[place % 5]).text for place in range(1, 7)]


@pytest.mark.parametrize("one", ["a.wav", b"", Path("a.wav"), np.zeros(9), torch.zeros(2, 9)])
def test_one_recording_is_no_stream(one: Any, model: Model) -> None:
    with pytest.raises(NarspeechError, match="received one: give a list"):
        iter_transcribe(one, model=model)


def test_settings_of_a_stream_are_checked_at_once(model: Model) -> None:
    for settings in ({"batch_size": 0}, {"steps": -1}, {"decoder": "magic"}):
        with pytest.raises(NarspeechError, match="expected"):
            iter_transcribe([], model=model, **settings)  # type: ignore[arg-type]


def test_progress(model: Model, mixed: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int | None]] = []
    transcribe(mixed, model=model, on_error="record", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]
    told.clear()
    list(iter_transcribe(iter(mixed[:1]), model=model, progress=lambda done, total: told.append((done, total))))
    assert told == [(1, None)]
    assert capsys.readouterr().err == ""
    transcribe(mixed[:1], model=model, progress=True)
    output = capsys.readouterr()
    assert output.out == ""


def test_a_long_recording_is_the_same_from_disk_and_tells_what_is_doubtful(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = babble([(1, 0), (20, 0.2), (2, 0), (30, 0.2), (2, 0), (20, 0.2), (1, 0)])
    soundfile.write(tmp_path / "long.wav", samples, fakes.RATE, subtype="FLOAT")
    align = transcriber.align
    together: list[float] = []

    def doubtful(*given: Any) -> list[Aligned]:
        durations = given[3]
        together.append(max(durations) * len(durations))
        return [aligned._replace(warnings=("doubtful",)) for aligned in align(*given)]

    monkeypatch.setattr(transcriber, "align", doubtful)
    found = transcribe(tmp_path / "long.wav", model=model)
    other = transcribe(samples, rate=fakes.RATE, model=model)
    assert other.text == found.text
    assert [segment.end for segment in other.segments] == pytest.approx([segment.end for segment in found.segments])
    assert len(found.segments) > 2
    assert 30 < max(together) <= transcriber.CPU_SECONDS
    assert len(found.warnings) == len(found.segments)
    assert all(warning.endswith(" s: doubtful") for warning in found.warnings)
    assert found.steps == max(segment.steps for segment in found.segments) > 0
    traced = transcribe(samples, rate=fakes.RATE, model=model, trace=True, word_times=False)
    assert traced.text == found.text  # cut in the same way
    assert "no trace of a recording of more than 60 s" in traced.warnings[-1]
    times = [time for word in found.words for time in (word.start, word.end) if time is not None]
    assert times == sorted(times)
    assert len(times) == 2 * len(found.words) == 2 * len(found.text.split())
    assert times[-1] <= found.duration == pytest.approx(76)


def test_a_translation_keeps_its_case() -> None:
    tokenizer = CharacterTokenizer("Katze! wo")
    hypothesis = Hypothesis(tokens=tuple(tokenizer.encode("Katze! Katze wo")), scores=(0.0,) * 15)
    audio = Audio(np.zeros(10, np.float32), 8000, 1.25, ())
    aligned = Aligned(untimed(tokenizer, hypothesis))
    assert transcriber.to_transcript(hypothesis, audio, aligned).text == "Katze! Katze wo"


def test_batches_hold_like_lengths(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [900, 8000, 1000, 7900, 950]
    batches: list[list[int]] = []
    decode = Model.decode

    def watched(self: Model, source: Padded, *rest: Any) -> list[Hypothesis]:
        batches.append(source.lengths.tolist())
        return decode(self, source, *rest)

    monkeypatch.setattr(Model, "decode", watched)
    recordings = [Audio(row.numpy(), fakes.RATE, len(row) / fakes.RATE) for row in fakes.noise(lengths).unpack()]
    found = Transcriber(model)(recordings, batch_size=2)
    assert batches == [[900, 950], [1000, 7900], [8000]]
    assert [transcript.duration for transcript in found] == [length / fakes.RATE for length in lengths]


def test_a_transcriber_wants_its_rate(model: Model) -> None:
    with pytest.raises(NarspeechError, match="8000 Hz, received 16000 Hz"):
        Transcriber(model)([Audio(np.zeros(8000, np.float32), 16000, 0.5)])


def test_a_given_model_stays_where_it_is(model: Model) -> None:
    assert Transcriber(model).model is model
    assert Transcriber(model).device == model.device
    fresh = fakes.tiny_model().train()
    assert not Transcriber(fresh).model.training


def test_a_teacher_chooses_among_the_candidates(files: list[Path]) -> None:
    student, teacher = fakes.tiny_model("cmlm"), fakes.tiny_model("ar", seed=1)
    options = DecodeOptions(steps=2, candidates=6)
    audio = [load_audio(path, target_rate=fakes.RATE) for path in files]
    found = Transcriber(student, teacher=teacher)(audio, options)
    for one, transcript in zip(audio, found, strict=True):
        source = Padded.pack([torch.from_numpy(one.samples)])
        best = rescore(student.decode(source, options), teacher, source)[0]
        assert transcript.text == " ".join(word for word, _ in student.tokenizer.words(best.tokens))
    assert [one.text for one in found] != [one.text for one in Transcriber(student)(audio, options)]
    with pytest.raises(ConfigError, match="scores a given text, received cmlm"):
        Transcriber(student, teacher=student)


def test_the_last_model_stays_loaded(folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    loads, original = [], checkpoint.load

    def load(*arguments: Any, **settings: Any) -> Model:
        loads.append(arguments)
        return original(*arguments, **settings)

    monkeypatch.setattr(checkpoint, "load", load)
    first = transcribe(files[0], model=folder)
    assert transcribe(files[0], model=str(folder)) == first
    assert len(loads) == 1
    assert narspeech.transcribe(files[0], model=folder).text == first.text


def test_without_a_model_the_bundled_one_is_taken(
    folder: Path, model: Model, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriber, "BUNDLED", folder)
    same(transcribe(files[0]), alone(model, files[0]))


def test_it_learns_to_hear() -> None:
    """The whole way: sung sentences in, their letters out."""
    model = fakes.tiny_model("ctc", varied=False)
    fakes.train(model, fakes.batch(SENTENCES), updates=100)
    sung = [fakes.sing(text, seed=number) for number, text in enumerate(SENTENCES)]
    found = transcribe(sung, rate=fakes.RATE, model=model)
    assert [transcript.text for transcript in found] == list(SENTENCES)
    assert [[word.text for word in transcript.words] for transcript in found] == [text.split() for text in SENTENCES]
    assert all(0.5 < transcript.confidence <= 1 for transcript in found)


def test_python_callers_do_not_pay_for_the_command() -> None:
    program = (
        "import sys, narspeech.transcriber; sys.exit(' '.join({'tyro', 'rich.progress'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_samples_are_not_changed(model: Model) -> None:
    samples = 0.1 * fakes.noise([5000]).data[0]
    before = samples.clone()
    transcribe(samples, rate=fakes.RATE, model=model)
    assert torch.equal(samples, before)
