"""From sound to text, in Python and in the shell."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import narspeech
from narspeech import checkpoint, cli, transcriber
from narspeech.align import Aligned, untimed
from narspeech.batch import Padded
from narspeech.data.audio import Audio, load_audio
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import AudioError, CheckpointError, ConfigError, NarspeechError
from narspeech.model import Model
from narspeech.result import Hypothesis, Transcript, Word
from narspeech.search.rescore import rescore
from narspeech.tokenizer import CharacterTokenizer
from narspeech.transcriber import Transcriber, transcribe
from tests import fakes

SENTENCES = ("abad", "cab", "da da", "bad cab", "dab")


@pytest.fixture(scope="module")
def model() -> Model:
    return fakes.tiny_model(decoding=DecodeOptions(steps=2, threshold=0.9))


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(folder, model)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Noises of falling and rising length, so that sorting by length must be undone; 16 bits, so that text is as heard
    from the file."""
    folder = tmp_path_factory.mktemp("sound")
    noise = fakes.noise([9000, 2000, 6000, 4000, 8000])
    return [
        fakes.write_wav(folder / f"{name}.wav", 0.1 * samples)
        for name, samples in zip("edcba", noise.unpack(), strict=True)
    ]


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
    assert [t.text for t in transcribe([files[1]], model=model)] == [expected[1].text]


def test_more_than_is_loaded_at_once(model: Model, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcriber, "group_size", lambda _: 2)
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
    with pytest.raises(NarspeechError, match=r"\(ctc\), received 'mask_ctc'"):
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


def test_a_translation_keeps_its_case() -> None:
    tokenizer = CharacterTokenizer("Katze! wo")
    hypothesis = Hypothesis(tokens=tuple(tokenizer.encode("Katze! Katze wo")), scores=(0.0,) * 15)
    audio = Audio(np.zeros(10, np.float32), 8000, 1.25, ())
    assert (
        transcriber.to_transcript(hypothesis, audio, Aligned(untimed(tokenizer, hypothesis))).text == "Katze! Katze wo"
    )


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
    streamed = list(Transcriber(model).stream(recordings, batch_size=2))
    assert [index for index, _ in streamed] == [0, 4, 2, 3, 1]
    assert [transcript for _, transcript in sorted(streamed, key=lambda pair: pair[0])] == found


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


# --- the command


@pytest.fixture
def arguments(folder: Path) -> list[str]:
    return ["transcribe", "--model", str(folder), "--device", "cpu"]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.wav"
    path.write_bytes(b"this is no sound\nat all")
    return path


@pytest.fixture(autouse=True)
def _malloc_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")


def test_text_is_a_line_a_file(
    arguments: list[str], model: Model, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, *map(str, files)]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [alone(model, path).text for path in files]
    assert output.err == ""


def test_jsonl(arguments: list[str], model: Model, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, "--format", "jsonl", "--batch-size", "2", *map(str, files)]) == 0
    output = capsys.readouterr()
    entries = [json.loads(line) for line in output.out.splitlines()]
    for entry, path in zip(entries, files, strict=True):
        expected = alone(model, path)
        assert list(entry) == ["id", "path", "text", "duration", "confidence", "steps"]
        assert (entry["id"], entry["path"], entry["text"]) == (path.stem, str(path), expected.text)
        assert (entry["duration"], entry["steps"]) == (expected.duration, expected.steps)
        assert entry["confidence"] == pytest.approx(expected.confidence, abs=2e-4)


def test_failed_files_do_not_stop_the_others(
    arguments: list[str], files: list[Path], bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [files[0], bad, files[1], tmp_path / "missing.wav"]
    assert cli.main([*arguments, *map(str, paths)]) == 1
    text = capsys.readouterr()
    lines = text.out.splitlines()
    assert len(lines) == 4  # lines still match files
    assert lines[0]
    assert lines[2]
    assert lines[1] == lines[3] == ""
    messages = text.err.splitlines()
    assert len(messages) == 3
    assert all(message.startswith("narspeech: ") for message in messages)
    assert str(bad) in messages[0]
    assert "missing.wav" in messages[1]
    assert messages[2] == "narspeech: 2 of 4 files failed"
    assert cli.main([*arguments, "--format", "jsonl", *map(str, paths)]) == 1
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["id"] for entry in entries] == [path.stem for path in paths]
    assert [entry.get("text") for entry in entries] == [lines[0], None, lines[2], None]
    assert list(entries[1]) == ["id", "path", "error"]
    assert "expected" in entries[1]["error"]


def test_all_files_failed(arguments: list[str], bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, str(bad)]) == 1
    assert capsys.readouterr().out == "\n"


def test_warnings_go_to_stderr(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fakes.write_wav(tmp_path / "short.wav", 0.1 * fakes.noise([100]).data[0])
    assert cli.main([*arguments, str(path)]) == 0
    output = capsys.readouterr()
    assert output.out == "\n"
    assert output.err.startswith(f"narspeech: {path}: ")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--decoder", "ctc"], {"decoder": "ctc"}),
        (["--decoder", "mask_ctc"], {"decoder": "mask_ctc"}),
        (["--steps", "0"], {"steps": 0}),
        (["--steps", "5", "--threshold", "1"], {"steps": 5, "threshold": 1.0}),
        (["--threshold", "0.5"], {"threshold": 0.5}),
    ],
)
def test_flags_reach_the_decoder(
    flags: list[str],
    settings: dict[str, Any],
    arguments: list[str],
    model: Model,
    files: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*arguments, *flags, *map(str, files)]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found == [alone(model, path, **settings).text for path in files]
    # The defaults would have been told apart.
    default = [alone(model, path).text for path in files]
    assert (found == default) == (settings == {"decoder": "mask_ctc"})


def test_batch_size_is_honoured(arguments: list[str], files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    decode = Model.decode

    def watched(self: Model, source: Padded, *rest: Any) -> list[Hypothesis]:
        sizes.append(len(source.lengths))
        return decode(self, source, *rest)

    monkeypatch.setattr(Model, "decode", watched)
    assert cli.main([*arguments, "--batch-size", "3", *map(str, files)]) == 0
    assert sizes == [3, 2]


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "nowhere", "a.wav"],
        ["--batch-size", "0", "a.wav"],
        ["--steps", "-1", "a.wav"],
        ["--threshold", "1.5", "a.wav"],
        ["--device", "toaster", "a.wav"],
        [],
    ],
)
def test_wrong_input_is_one_sentence(
    flags: list[str], folder: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(files[0]) if flag == "a.wav" else flag for flag in flags]
    if "--model" not in flags:
        flags = ["--model", str(folder), *flags]
    assert cli.main(["transcribe", *flags]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert re.match("narspeech: expected .*received", output.err)


@pytest.mark.parametrize("flags", [["--nonsense", "1"], ["--format", "xml"], ["--steps", "many"], ["--decoder", "x"]])
def test_wrong_usage(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["transcribe", *flags, "a.wav"])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_help_shows_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["transcribe", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--model", "--decoder", "--steps", "--threshold", "--format", "--batch-size", "--device"):
        assert flag in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_alone(
    arguments: list[str],
    files: list[Path],
    bad: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(transcriber, "group_size", lambda _: 2)  # several groups: the bar comes and goes
    paths = [str(path) for path in (*files, bad)]
    assert cli.main([*arguments, *paths]) == 1
    plain = capsys.readouterr()
    assert "transcribing" not in plain.err
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main([*arguments, *paths]) == 1
    shown = capsys.readouterr()
    assert shown.out == plain.out
    assert "transcribing" in terminal.getvalue()
    assert "1 of 6 files failed" in terminal.getvalue()
    assert terminal.getvalue().rindex("\x1b[2K") < terminal.getvalue().rindex("files failed")  # the bar was wiped off


@pytest.mark.skipif(os.name == "nt", reason="names are no bytes there")
def test_file_names_that_are_no_text(
    arguments: list[str],
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As Python's own stderr; pytest's stand-in for it is stricter.
    messages = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(messages, encoding="utf-8", errors="backslashreplace"))
    name = os.fsdecode(b"caf\xe9\nbar.wav")
    path = tmp_path / name
    path.write_bytes(files[0].read_bytes())
    with_accent = tmp_path / "café.wav"
    missing = tmp_path / f"no-{name}"
    with_accent.write_bytes(files[0].read_bytes())
    assert cli.main([*arguments, "--format", "jsonl", str(path), str(with_accent), str(missing)]) == 1
    lines = capsys.readouterr().out.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["path"] for entry in entries] == [str(path), str(with_accent), str(missing)]
    assert "café" in lines[1]
    assert all(line.encode() for line in lines)  # UTF-8, hence every terminal and file
    sys.stderr.flush()
    assert messages.getvalue().count(b"\n") == 2


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
