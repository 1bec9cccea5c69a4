"""`narspeech transcribe`: every way to name sound, to stdout and into a tree of files, and what is said on stderr."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from narspeech import checkpoint, cli, outcomes, transcription
from narspeech.batch import Padded
from narspeech.data.example import Example, write_manifest
from narspeech.decoders.base import DecodeOptions
from narspeech.model import Model
from narspeech.result import Hypothesis, Transcript
from narspeech.transcriber import Transcriber, transcribe
from narspeech.writers import WRITERS
from tests import fakes


@pytest.fixture(scope="module")
def model() -> Model:
    # Nothing is refined: a text that fits its sound, so that there is nothing to warn of.
    return fakes.tiny_model(decoding=DecodeOptions(steps=2, threshold=0.0))


def alone(model: Model, path: Path, **settings: Any) -> Transcript:
    return transcribe(path, model=model, **settings)


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
    assert re.fullmatch(
        r"narspeech: 5 done, 0 skipped, 0 failed; 0\.001 hours of sound at \d+\.\d times real time\n", output.err
    )


def test_jsonl(arguments: list[str], model: Model, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, "--format", "jsonl", "--batch-size", "2", *map(str, files)]) == 0
    output = capsys.readouterr()
    entries = [json.loads(line) for line in output.out.splitlines()]
    for entry, path in zip(entries, files, strict=True):
        expected = alone(model, path)
        assert list(entry) == ["id", "path", *expected.to_dict()]
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
    assert messages[2].startswith("narspeech: 2 done, 0 skipped, 2 failed; ")
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
    assert output.err.count("\n") == 2


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
    assert cli.main([*arguments, "--threshold", "0.9", *flags, *map(str, files)]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found == [alone(model, path, **{"threshold": 0.9} | settings).text for path in files]
    # The defaults would have been told apart.
    default = [alone(model, path, threshold=0.9).text for path in files]
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
        ["--batch-size", "0", "a.wav"],
        ["--steps", "-1", "a.wav"],
        ["--threshold", "1.5", "a.wav"],
        ["--device", "toaster", "a.wav"],
        ["--format", "xml", "a.wav"],
        ["--format", "srt,vtt", "a.wav"],
        ["--format", "srt", "a.wav", "a.wav"],
        ["--overwrite", "a.wav"],
        ["--root", "/", "a.wav"],
        ["--null", "a.wav"],
        ["--lines", "0", "a.wav"],
        ["-", "-"],
        ["-", "--files-from", "-"],
        ["--files-from", os.devnull],
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


@pytest.mark.parametrize("flags", [["--nonsense", "1"], ["--steps", "many"], ["--decoder", "x"]])
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
    for name in transcription.TranscribeOptions.__dataclass_fields__:
        assert name == "files" or f"--{name.replace('_', '-')}" in text
    assert "Exit codes: 0" in text


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
    paths = [str(path) for path in (*files, bad)]
    assert cli.main([*arguments, *paths]) == 1
    plain = capsys.readouterr()
    assert "transcribing" not in plain.err
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main([*arguments, *paths]) == 1
    assert capsys.readouterr().out == plain.out
    shown = terminal.getvalue()
    assert "transcribing" in shown
    assert "5 done, 0 skipped, 1 failed" in shown
    assert shown.rindex("\x1b[2K") < shown.rindex("5 done")  # the bar was wiped off
    # On one terminal lines of text and a bar would mix.
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert cli.main([*arguments, *paths]) == 1
    assert "transcribing" not in sys.stderr.getvalue()


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


# --- into a tree


@pytest.fixture
def tree(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; in it a folder of sound with the same stem twice and an odd name."""
    monkeypatch.chdir(tmp_path)
    for name, source in zip(("in/a/x.wav", "in/b/x.wav", "in/-odd näme.wav"), files, strict=False):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(source.read_bytes())
    return tmp_path


def written(folder: str | Path = "out") -> dict[str, bytes]:
    """Everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.usefixtures("tree")
def test_a_tree_mirrors_the_folder_in_every_format(
    arguments: list[str], model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "-r", "in", "--out", "out", "--format", "srt, JSON,textgrid"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("narspeech: 3 done, 0 skipped, 0 failed; ")
    found = written()
    assert set(found) == {
        f"{place}.{form}" for place in ("a/x", "b/x", "-odd näme") for form in ("srt", "json", "TextGrid")
    }
    expected = alone(model, Path("in/b/x.wav"))
    assert found["b/x.srt"].decode() == WRITERS["srt"](expected)
    entry = json.loads(found["b/x.json"])
    assert (entry["id"], entry["path"], entry["text"]) == ("x", "in/b/x.wav", expected.text)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["in/a/x.wav", "in/b/x.wav"], ["in/a/x.txt", "in/b/x.txt"]),
        (["in/*/x.wav"], ["in/a/x.txt", "in/b/x.txt"]),
        (["in/*/x.wav", "--root", "in"], ["a/x.txt", "b/x.txt"]),
        (["--files-from", "list"], ["in/-odd näme.txt", "in/a/x.txt"]),
        (["m.jsonl"], ["u/1.txt"]),
        (["--", "-odd.wav"], ["-odd.txt"]),
    ],
)
def test_every_way_to_name_files(given: list[str], expected: list[str], arguments: list[str]) -> None:
    Path("list").write_text("in/-odd näme.wav\n\nin/a/x.wav\n")
    Path("-odd.wav").write_bytes(Path("in/a/x.wav").read_bytes())
    write_manifest("m.jsonl", [Example(id="u/1", audio="in/a/x.wav", text="", duration=0.5, start=0.25)])
    assert cli.main([*arguments, "--out", "out", *given]) == 0
    assert sorted(written()) == expected


@pytest.mark.usefixtures("tree")
def test_sound_and_lists_from_stdin(
    arguments: list[str], model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    stdin(Path("in/a/x.wav").read_bytes())
    assert cli.main([*arguments, "-"]) == 0
    text = alone(model, Path("in/a/x.wav")).text
    assert capsys.readouterr().out == f"{text}\n"
    stdin(b"in/a/x.wav\0in/-odd n\xc3\xa4me.wav\0")
    assert cli.main([*arguments, "--files-from", "-", "--null", "--format", "trn"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{text} (x)"


@pytest.mark.usefixtures("tree")
def test_what_is_there_is_skipped_and_kept(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*arguments, "-r", "in", "--out", "out", "--format"]
    assert cli.main([*arguments, "in/a/x.wav", "--root", "in", "--out", "out"]) == 0
    Path("out/a/x.txt").write_text("mended by hand")
    capsys.readouterr()
    assert cli.main([*command, "txt"]) == 0
    assert "2 done, 1 skipped, 0 failed" in capsys.readouterr().err
    assert cli.main([*command, "txt,trn"]) == 0  # what lacks one of its formats is done, and what it has is kept
    assert "3 done, 0 skipped, 0 failed" in capsys.readouterr().err
    assert Path("out/a/x.txt").read_text() == "mended by hand"
    assert Path("out/a/x.trn").exists()
    before = written()
    assert cli.main([*command, "txt,trn", "--model", "nowhere"]) == 0  # nothing to do needs no model
    assert "0 done, 3 skipped, 0 failed" in capsys.readouterr().err
    assert written() == before
    assert cli.main([*command, "txt", "--overwrite"]) == 0
    assert "3 done, 0 skipped, 0 failed" in capsys.readouterr().err
    assert Path("out/a/x.txt").read_text() != "mended by hand"


@pytest.mark.usefixtures("tree")
def test_a_bad_file_is_told_and_tried_again(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/a/bad.wav").write_text("no sound")
    command = [*arguments, "-r", "in", "--out", "out"]
    for counts in ("3 done, 0 skipped, 1 failed", "0 done, 3 skipped, 1 failed"):
        assert cli.main(command) == 1
        messages = capsys.readouterr().err
        assert "in/a/bad.wav" in messages
        assert counts in messages
    assert "a/bad.txt" not in written()


@pytest.mark.usefixtures("tree")
def test_a_place_that_is_taken_is_a_failure_of_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/a/x.txt").mkdir(parents=True)
    Path("out/b").write_text("in the way")
    assert cli.main([*arguments, "-r", "in", "--out", "out"]) == 1
    messages = capsys.readouterr().err
    assert "in/a/x.wav: expected to write out/a/x.txt, received" in messages
    assert "in/b/x.wav: expected to write out/b/x.txt, received" in messages
    assert "1 done, 0 skipped, 2 failed" in messages
    assert set(written()) == {"-odd näme.txt", "b"}


@pytest.mark.usefixtures("tree")
def test_names_too_long_to_look_up_are_failures_of_their_own(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    long = f"{'x' * 251}.wav"  # with .json it is too long
    Path("in/a/x.wav").rename(long)
    given = [long, f"{'y' * 300}.wav", "in/b/x.wav"]
    assert cli.main([*arguments, "--out", "out", "--format", "json", *given]) == 1
    messages = capsys.readouterr().err
    assert messages.count("File name too long") == 2
    assert "1 done, 0 skipped, 2 failed" in messages
    assert set(written()) == {"in/b/x.json"}


@pytest.mark.usefixtures("tree")
def test_a_full_disk_ends_the_run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, _: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(transcription, "write_atomic", full)
    assert cli.main([*arguments, "-r", "in", "--out", "out"]) == 1
    summary, message = capsys.readouterr().err.splitlines()
    assert "0 done" in summary
    assert "No space left" in message


@pytest.mark.usefixtures("tree")
def test_two_that_would_write_the_same_are_refused_before_any_is_decoded(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in/a/x.flac").touch()
    for given in (["-r", "in"], ["in/a/x.wav", "./in/a/x.wav"], ["-r", "in", "in/a"]):
        assert cli.main([*arguments, *given, "--out", "out"]) == 2
        message = capsys.readouterr().err
        assert re.match(r"narspeech: expected an output of its own .* which would both write out/", message)
        assert message.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.usefixtures("tree")
def test_a_recording_is_never_written_over(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/x.txt").write_bytes(Path("in/a/x.wav").read_bytes())  # sound by another name
    Path("in/x.wav").write_bytes(b"")
    for given in (["in/x.wav", "in/x.txt"], ["in/x.txt", "in/x.wav", "--overwrite"]):
        assert cli.main([*arguments, *given, "--out", "."]) == 2
        assert "expected to write beside the recordings" in capsys.readouterr().err


@pytest.mark.usefixtures("tree")
def test_times_that_a_format_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without CTC, hence without word times: nothing is half written, and stdout holds nothing false."""
    checkpoint.save(tmp_path / "untimed", fakes.tiny_model("cmlm", ctc=None))
    arguments = ["transcribe", "--model", str(tmp_path / "untimed"), "--device", "cpu"]
    assert cli.main([*arguments, "in/a/x.wav", "--out", "out", "--format", "txt,ctm"]) == 1
    assert "in/a/x.wav: expected words with times" in capsys.readouterr().err
    assert not Path("out").exists()
    assert cli.main([*arguments, "in/a/x.wav", "--format", "ctm"]) == 1
    assert capsys.readouterr().out == ""


# --- stopped


def test_a_model_that_cannot_be_loaded(folder: Path, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    reads_text = folder.parent / "text"
    if not reads_text.exists():
        reads_text.mkdir()
        checkpoint.save(reads_text, fakes.tiny_model("ctc", "text"))
    for path in ("nowhere", str(reads_text)):
        assert cli.main(["transcribe", "--model", path, str(files[0])]) == 3
        output = capsys.readouterr()
        assert output.out == ""
        assert re.fullmatch(r"narspeech: expected .*received.*\n", output.err)


def interrupted(after: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, until Ctrl-C is pressed while it runs."""
    calls = 0

    def call(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return function(*arguments, **settings)

    return call


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Transcriber, "batch")])
def test_ctrl_c_leaves_whole_files_and_the_next_run_goes_on(
    owner: Any, name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*arguments, "-r", "in", "--batch-size", "1", "--out"]
    assert cli.main([*command, "whole"]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        # Two calls of fsync a file: the third is before the second file has its name.
        patch.setattr(owner, name, interrupted({"fsync": 2, "batch": 1}[name], getattr(owner, name)))
        patch.setattr(outcomes, "group_size", lambda _: 1)
        assert cli.main([*command, "out"]) == 130
    assert capsys.readouterr().err.startswith("narspeech: 1 done, 0 skipped, 0 failed")
    assert len(written()) == 1
    assert cli.main([*command, "out"]) == 0
    assert "2 done, 1 skipped, 0 failed" in capsys.readouterr().err
    assert written() == written("whole")


@pytest.mark.skipif(os.name == "nt", reason="pipes end differently")
def test_a_reader_that_went_away(
    arguments: list[str], files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, os.fdopen(writing, "w") as pipe:
        patch.setattr(sys, "stdout", pipe)
        assert cli.main([*arguments, str(files[0])]) == 141
    assert capsys.readouterr().err.startswith("narspeech: 0 done, 0 skipped, 0 failed")
