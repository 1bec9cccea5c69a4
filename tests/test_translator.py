"""From text to text, in Python and in the shell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import narspeech
from narspeech import checkpoint, cli, translator
from narspeech.batch import Padded
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import CheckpointError, ConfigError, NarspeechError
from narspeech.model import Model
from narspeech.result import Hypothesis, Translation
from narspeech.search.rescore import rescore
from narspeech.translator import Translator, translate
from tests import fakes

TEXTS = ["abad dab", "c", "", "da da bad cab", "dab", "  ", "cc a"]


@pytest.fixture(scope="module")
def model() -> Model:
    return fakes.tiny_model("mask_ctc", "text", decoding=DecodeOptions(steps=2, threshold=0.9))


@pytest.fixture(scope="module")
def lengths_model() -> Model:
    """Of a family with several candidates."""
    return fakes.tiny_model("cmlm", "text", decoding=DecodeOptions(steps=2))


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    translator.shared_translator.cache_clear()
    monkeypatch.setattr(translator, "BUNDLED", tmp_path / "none")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")


def alone(model: Model, text: str, **settings: Any) -> Translation:
    found = translate(text, model=model, **settings)
    assert isinstance(found, Translation)
    return found


def test_one_gives_one_and_many_give_many_in_order(model: Model) -> None:
    expected = [alone(model, text) for text in TEXTS]
    assert len({translation.text for translation in expected}) > 3
    assert expected[2] == expected[5] == Translation(text="")
    for many in (TEXTS, tuple(TEXTS)):
        for batch_size in (1, 2, 32):
            found = translate(many, model=model, batch_size=batch_size)
            assert [one.text for one in found] == [one.text for one in expected]
            assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)
    assert translate([], model=model) == []
    assert alone(model, " c\n").text == expected[1].text


def test_a_translation_tells_its_pieces_and_scores(model: Model) -> None:
    found = alone(model, TEXTS[0], trace=True)
    shown = "".join(found.tokens).replace("<unk>", "⁇")
    assert " ".join(shown.split()) == found.text
    assert len(found.scores) == len(found.tokens) > 0
    assert found.score == pytest.approx(sum(found.scores) / len(found.scores))
    assert len(found.trace) == found.steps + 1 > 1
    assert alone(model, TEXTS[0]).trace == ()
    assert Translation(text="").score == 0


def test_settings_reach_the_decoder(model: Model, lengths_model: Model) -> None:
    own = alone(model, TEXTS[3])
    assert own.steps == 2  # the model's own
    assert alone(model, TEXTS[3], steps=4, threshold=1.0).steps == 4
    assert alone(model, TEXTS[3], decoder="ctc").steps == 0
    assert alone(model, TEXTS[3], steps=0).text == alone(model, TEXTS[3], decoder="ctc").text
    assert alone(lengths_model, TEXTS[3]).alternatives == ()
    several = alone(lengths_model, TEXTS[3], candidates=3)
    assert len(several.alternatives) == 2
    assert several.score >= several.alternatives[0].score >= several.alternatives[1].score
    options = Translator(model).options(beam=7, candidates=2)
    assert options == DecodeOptions(steps=2, threshold=0.9, beam=7, candidates=2)


def test_like_lengths_share_a_batch(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[int]] = []
    decode = Model.decode

    def watched(self: Model, source: Padded, *rest: Any) -> list[Hypothesis]:
        batches.append(source.lengths.tolist())
        return decode(self, source, *rest)

    monkeypatch.setattr(Model, "decode", watched)
    Translator(model)(TEXTS, batch_size=2)
    assert batches == [[1, 3], [4, 8], [13]]
    batches.clear()
    monkeypatch.setattr(translator, "MOST", 16)
    Translator(model)(TEXTS)  # padding counts
    assert batches == [[1, 3, 4], [8], [13]]


def test_the_last_model_stays_loaded(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, original = [], checkpoint.load

    def load(*arguments: Any, **settings: Any) -> Model:
        loads.append(arguments)
        return original(*arguments, **settings)

    monkeypatch.setattr(checkpoint, "load", load)
    first = translate(TEXTS[0], model=folder, device="cpu")
    assert translate(TEXTS[0], model=str(folder), device="cpu") == first
    assert len(loads) == 1
    assert narspeech.translate(TEXTS[0], model=folder, device="cpu").text == alone(model, TEXTS[0]).text


def test_without_a_model_the_repositorys_is_taken_where_there_is_one(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"expected a model to translate with.*--model OUT/final"):
        translate("a")
    monkeypatch.setattr(translator, "BUNDLED", folder)
    assert translate(TEXTS[0], device="cpu").text == alone(model, TEXTS[0]).text


def test_the_repositorys_model_translates() -> None:
    folder = Path(narspeech.__file__).parents[1] / "models" / "en-de"
    found = Translator(folder, device="cpu")(["A dog runs across the beach.", ""])
    assert found[0].text.startswith("Ein Hund ")
    assert found[0].text.endswith(" Strand.")
    assert found[1].text == ""


def test_wrong_input_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="received one that hears sound: transcribe with it"):
        Translator(fakes.tiny_model())
    with pytest.raises(NarspeechError, match="batch size of at least 1"):
        translate("a", model=model, batch_size=0)
    with pytest.raises(NarspeechError, match="whole characters"):
        translate("a\udc80", model=model)
    for wrong in ("A dog.", b"a", None, {"a"}):  # a text alone would be read letter by letter
        with pytest.raises(NarspeechError, match=f"expected a list of texts, received {type(wrong).__name__}"):
            Translator(model)(wrong)  # type: ignore[arg-type]
    with pytest.raises(NarspeechError, match="expected texts, received bytes among them"):
        translate(["a", b"a"], model=model)  # type: ignore[list-item]
    with pytest.raises(NarspeechError, match="expected ctc or none as the decoder, received 'magic'"):
        translate("a", model=model, decoder="magic")  # type: ignore[call-overload]


def test_a_teacher_chooses_among_the_candidates(
    lengths_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = fakes.tiny_model("ar", "text", seed=1)
    checkpoint.save(tmp_path / "student", lengths_model)
    checkpoint.save(tmp_path / "teacher", teacher)
    plain = [alone(lengths_model, text, candidates=4) for text in TEXTS]
    chosen = [alone(lengths_model, text, candidates=4, teacher=teacher) for text in TEXTS]
    for text, one, other in zip(TEXTS, plain, chosen, strict=True):
        ids = lengths_model.tokenizer.encode(" ".join(text.split()))
        if not ids:
            assert other == Translation(text="")
            continue
        source = Padded.pack([torch.tensor(ids)])
        best = rescore(lengths_model.decode(source, DecodeOptions(steps=2, candidates=4)), teacher, source)[0]
        assert other.tokens == translator.pieces(best.tokens, teacher.tokenizer)
        everything = [sorted(h.tokens for h in (found, *found.alternatives)) for found in (one, other)]
        assert everything[0] == everything[1]
    assert [one.tokens for one in chosen] != [one.tokens for one in plain]
    folders = {"model": tmp_path / "student", "device": "cpu", "teacher": tmp_path / "teacher"}
    found = translate(TEXTS, candidates=4, **folders)
    assert [one.tokens for one in found] == [one.tokens for one in chosen]
    words = [word for name, value in folders.items() for word in (f"--{name}", str(value))]
    assert cli.main(["translate", *words, "--candidates", "4", *TEXTS]) == 0
    assert capsys.readouterr().out.split("\n") == [*(one.text for one in chosen), ""]
    assert cli.main(["translate", *words, *TEXTS]) == 2
    assert "candidates for the teacher to choose from, received one: raise candidates" in capsys.readouterr().err


def test_it_learns_the_cipher() -> None:
    """The whole way: sentences in cipher in, plain ones out."""
    found = fakes.tiny_model("ctc", "text", varied=False)
    fakes.train(found, fakes.batch(fakes.SENTENCES, "text"), updates=120)
    # In cipher, d is a space, which does not survive at the ends of a text.
    plain = [text for text in fakes.SENTENCES if not {"d", " "} & set(text)]
    secret = [found.tokenizer.decode(fakes.cipher(text)) for text in plain]
    assert len(plain) == 3
    assert [one.text for one in translate(secret, model=found)] == plain


# --- the command


@pytest.fixture
def arguments(folder: Path) -> list[str]:
    return ["translate", "--model", str(folder), "--device", "cpu"]


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def test_a_line_out_for_every_line_in(
    arguments: list[str],
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = [alone(model, text).text for text in TEXTS]
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode() + b"\n")
    assert cli.main([*arguments, "--input", str(path)]) == 0
    assert capsys.readouterr().out.split("\n") == [*expected, ""]
    type_in(monkeypatch, "\n".join(TEXTS).encode())  # without an end of the last line
    assert cli.main([*arguments, "--batch-size", "1"]) == 0
    assert capsys.readouterr().out.split("\n") == [*expected, ""]
    assert cli.main([*arguments, TEXTS[0], TEXTS[2], TEXTS[3]]) == 0
    output = capsys.readouterr()
    assert output.out.split("\n") == [expected[0], "", expected[3], ""]
    assert output.err == ""
    for name in (["-"], ["--input", "-"]):
        type_in(monkeypatch, TEXTS[0].encode())
        assert cli.main([*arguments, *name]) == 0
        assert capsys.readouterr().out == f"{expected[0]}\n"
    type_in(monkeypatch, b"")
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_only_a_newline_ends_a_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "ab\u2028cd\x0bad\n".encode())
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_many_lines_come_in_groups(
    arguments: list[str], model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [TEXTS[number % len(TEXTS)] for number in range(40)]
    type_in(monkeypatch, "\n".join(texts).encode())
    assert cli.main([*arguments, "--batch-size", "2", "--format", "jsonl"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["id"] for entry in entries] == [str(number) for number in range(1, 41)]
    assert [entry["source"] for entry in entries] == texts
    assert [entry["text"] for entry in entries] == [alone(model, text).text for text in texts]


def test_the_threshold_decides_what_is_refined(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    steps = []
    for threshold in ("0", "1"):
        assert cli.main([*arguments, "--format", "jsonl", "--threshold", threshold, TEXTS[3]]) == 0
        steps.append(json.loads(capsys.readouterr().out)["steps"])
    assert steps == [0, 2]


def test_jsonl(lengths_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path, lengths_model)
    given = ["translate", "--model", str(tmp_path), "--device", "cpu", "--format", "jsonl", TEXTS[3]]
    assert cli.main(given) == 0
    entry = json.loads(capsys.readouterr().out)
    assert list(entry) == ["id", "source", "text", "score", "steps", "tokens", "scores"]
    assert cli.main([*given, "--candidates", "3", "--steps", "1", "--trace"]) == 0
    entry = json.loads(capsys.readouterr().out)
    expected = alone(lengths_model, TEXTS[3], candidates=3, steps=1)
    assert entry["text"] == expected.text
    assert entry["score"] == pytest.approx(expected.score, abs=1e-3)
    assert [other["text"] for other in entry["alternatives"]] == [other.text for other in expected.alternatives]
    assert len(entry["trace"]) == 2
    assert set(entry["trace"][0]) == {"<mask>"}
    assert entry["trace"][1] == entry["tokens"] == list(expected.tokens)


@pytest.mark.parametrize(
    "flags",
    [
        ["--picture", "trace.png", "a"],
        ["--trace", "a"],
        ["--steps", "-1", "a"],
        ["--beam", "0", "a"],
        ["--batch-size", "0", "a"],
        ["--device", "toaster", "a"],
        ["--input", "nowhere.txt"],
        ["--input", "nowhere.txt", "a"],
    ],
)
def test_wrong_input_is_one_sentence(flags: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(cli.main(["translate", "--model", str(folder), *flags]), 2, capsys)


def test_a_model_that_cannot_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    refused(cli.main(["translate", "--model", "nowhere", "a"]), 3, capsys)


def refused(code: int, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert code == expected
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("narspeech: expected ")
    assert "received" in output.err


def test_what_is_no_text_names_the_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, b"ab\n\xff\n")
    assert cli.main(arguments) == 2
    assert "UTF-8 text on line 2 of stdin" in capsys.readouterr().err


def test_python_callers_do_not_pay_for_the_command() -> None:
    program = "import sys, narspeech.translator; sys.exit('tyro' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_draws_a_refinement(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "trace.svg"
    words = ["abad dab", "--model", str(folder), "--device", "cpu", "--picture", str(target)]
    assert translator.main(words) == 0
    expected = alone(checkpoint.load(folder), "abad dab", trace=True)
    assert capsys.readouterr().out == f"{expected.text}\n"
    assert target.read_text().count("step") == expected.steps > 0
    one_pass = alone(checkpoint.load(folder), "abad dab", decoder="ctc")
    assert "draft" in translator.picture(one_pass, checkpoint.load(folder).tokenizer)
    with pytest.raises(NarspeechError, match="one sentence as an argument for --picture"):
        translator.main(["another", *words])
