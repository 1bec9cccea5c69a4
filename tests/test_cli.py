"""The command dispatches, explains itself, and turns failures into one line and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

import narspeech
from narspeech import cli
from narspeech.errors import AudioError


class Feature:
    """Stands in for a feature's module: remembers its arguments, then does what it was told to."""

    def __init__(self, outcome: int | BaseException) -> None:
        self.outcome = outcome
        self.received: list[str] | None = None

    def main(self, argv: list[str]) -> int:
        self.received = argv
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture(autouse=True)
def _malloc_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test process keeps its allocator's settings."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")


def install(monkeypatch: pytest.MonkeyPatch, outcome: int | BaseException) -> Feature:
    feature = Feature(outcome)
    monkeypatch.setitem(sys.modules, cli.COMMANDS["transcribe"].module, feature)
    return feature


def run(*arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in output.out
        assert command.summary in output.out


def test_help_loads_nothing_heavy() -> None:
    done = run(
        "-c",
        "import sys; from narspeech.cli import main; main(['--help'])\n"
        "sys.exit(' '.join({'torch', 'numpy', 'tyro', 'rich'} & set(sys.modules)) or None)",
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    assert capsys.readouterr().out == f"narspeech {narspeech.__version__}\n"


def test_nothing_asked_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == cli.help_text()


@pytest.mark.parametrize(("word", "hint"), [("transcribed", "did you mean 'transcribe'?"), ("xyz", "narspeech --help")])
def test_unknown_command(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert repr(word) in message
    assert hint in message


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_feature_gets_the_rest_and_gives_the_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    feature = install(monkeypatch, code)
    assert cli.main(["transcribe", "--steps", "3", "a.wav"]) == code
    assert feature.received == ["--steps", "3", "a.wav"]


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (AudioError("expected sound,\nreceived none"), 2, "narspeech: expected sound, received none\n"),
        (OSError(28, "No space left on device", "out.txt"), 1, "[Errno 28] No space left on device: 'out.txt'\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (
            UnicodeEncodeError("ascii", "Mädchen", 1, 2, "ordinal not in range(128)"),
            1,
            "received one of ascii, which lacks '\\xe4': set PYTHONIOENCODING=utf-8\n",
        ),
    ],
)
def test_failures_become_codes(
    outcome: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch, outcome)
    assert cli.main(["transcribe"]) == code
    error = capsys.readouterr().err
    assert error.endswith(message)
    assert error.count("\n") == (1 if message else 0)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["transcribe"])
    install(monkeypatch, UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"))
    with pytest.raises(UnicodeEncodeError):
        cli.main(["transcribe"])


def test_the_usage_error_of_a_feature_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, SystemExit(2))
    with pytest.raises(SystemExit) as caught:
        cli.main(["transcribe", "--nonsense"])
    assert caught.value.code == 2


@pytest.mark.skipif(os.name == "nt", reason="pipes end differently")
def test_a_reader_that_went_away_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run("-m", "narspeech", "--help", stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = run("-m", "narspeech", "--help", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "narspeech: [Errno 28] No space left on device\n"


def test_the_face_is_lazy_and_complete() -> None:
    assert {"load", "transcribe"} <= set(dir(narspeech))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        narspeech.nonsense  # noqa: B018
    done = run("-c", "import sys, narspeech; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["load", "transcribe"])
def test_the_face_leads_to_its_functions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = object()
    monkeypatch.setitem(sys.modules, narspeech._LAZY[name], SimpleNamespace(**{name: function}))
    monkeypatch.delitem(vars(narspeech), name, raising=False)
    assert getattr(narspeech, name) is function
    del vars(narspeech)[name]  # else undoing would leave the stand-in behind, where nothing stood before
