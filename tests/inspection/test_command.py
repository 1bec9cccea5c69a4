"""From the shell and from Python: files, stretches, exit codes."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch

import narspeech
from narspeech import cli
from narspeech.data.audio import load_audio
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import AudioError, NarspeechError
from narspeech.inspection import inspector
from narspeech.inspection.inspector import check_stretch, load_stretch
from narspeech.model import Model
from narspeech.transcriber import transcribe
from tests import fakes
from tests.inspection.test_page import Page


@pytest.fixture(scope="module")
def model() -> Model:
    return fakes.tiny_model(decoding=DecodeOptions(steps=2, threshold=0.9))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.write_wav(tmp_path_factory.mktemp("sound") / "talk.wav", 0.1 * fakes.noise([16000]).data[0])


@pytest.fixture
def arguments(folder: Path) -> list[str]:
    return ["inspect", "--model", str(folder), "--device", "cpu"]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.chdir(tmp_path)


def words(html: str) -> list[str]:
    return [text for _, text in Page(html).all("button", "word")]


def settings(html: str) -> dict[str, str]:
    cells = [text for _, text in Page(html).all("td")]
    place = cells.index("decoder") - 2
    return dict(zip(cells[place::2], cells[place + 1 :: 2], strict=True))


def test_the_page_lies_in_the_working_directory(
    arguments: list[str], model: Model, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, str(sound)]) == 0
    output = capsys.readouterr()
    assert output.out == "talk.html\n"
    html = Path("talk.html").read_text("utf-8")
    expected = transcribe(sound, model=model)
    assert words(html) == [word.text for word in expected.words]
    assert Page(html).all("h1")[0][1] == str(sound)
    for warning in expected.warnings:
        assert warning in html
        assert f"narspeech: {warning}" in output.err
    assert [path.name for path in Path().iterdir()] == ["talk.html"]


def test_nothing_is_replaced_unasked(arguments: list[str], sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path("page.html")
    out.write_text("old")
    assert cli.main([*arguments, str(sound), "--out", str(out)]) == 2
    assert "expected a file that is not there yet, received page.html: give --overwrite" in capsys.readouterr().err
    assert out.read_text() == "old"
    assert cli.main([*arguments, str(sound), "--out", str(out), "--overwrite"]) == 0
    assert "<!DOCTYPE html>" in out.read_text("utf-8")
    Path("folder").mkdir()
    assert cli.main([*arguments, str(sound), "--out", "folder", "--overwrite"]) == 2
    before = sound.read_bytes()
    assert cli.main([*arguments, str(sound), "--out", str(sound), "--overwrite"]) == 2
    assert cli.main([*arguments, str(sound), "--out", "both.svg", "--picture", "./both.svg"]) == 2
    assert sound.read_bytes() == before


def test_the_picture_is_an_svg(arguments: list[str], sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*arguments, str(sound), "--out", "new/page.html", "--picture", "new/panel.svg"]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == "new/page.html\nnew/panel.svg\n"
    assert cli.main([*arguments, str(sound), "--picture", "panel.png"]) == 2
    assert "expected --picture to end in .svg" in capsys.readouterr().err
    content = Path("new/panel.svg").read_text("utf-8")
    assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in content
    assert cli.main(argv) == 2


def test_the_sound_can_be_played(arguments: list[str], sound: Path) -> None:
    assert cli.main([*arguments, str(sound)]) == 0
    ((given, _),) = Page(Path("talk.html").read_text("utf-8")).all("audio")
    head, _, data = given["src"].partition(",")
    assert head == "data:audio/flac;base64"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")
    assert rate == fakes.RATE
    assert np.abs(samples - load_audio(sound, target_rate=fakes.RATE).samples).max() < 2 / 32768


def test_the_sound_can_be_left_out(
    arguments: list[str], sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, str(sound), "--no-sound"]) == 0
    html = Path("talk.html").read_text("utf-8")
    assert Page(html).all("audio") == []
    monkeypatch.setattr(inspector, "MAX_SOUND", 1000)
    capsys.readouterr()
    assert cli.main([*arguments, str(sound), "--overwrite"]) == 0
    html = Path("talk.html").read_text("utf-8")
    assert Page(html).all("audio") == []
    told = "The sound is left out: it has 0.0 MB, and a page holds at most 0.0 MB; choose a shorter stretch"
    assert told in html
    assert f"narspeech: {told}" in capsys.readouterr().err


def test_a_stretch(arguments: list[str], model: Model, sound: Path) -> None:
    assert cli.main([*arguments, str(sound), "--start", "0.5", "--end", "1.5"]) == 0
    html = Path("talk.html").read_text("utf-8")
    part = load_audio(sound, target_rate=fakes.RATE, start=0.5, duration=1.0)
    expected = transcribe(part.samples, rate=fakes.RATE, model=model)
    assert words(html) == [word.text for word in expected.words]
    assert "<p>0.50 to 1.50 s</p>" in html
    for (given, _), word in zip(Page(html).all("button", "word"), expected.words, strict=True):
        assert f": {0.5 + word.start:.2f} to {0.5 + word.end:.2f} s, " in given["aria-label"]


def test_of_a_long_recording_the_first_minute_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = torch.linspace(-0.5, 0.5, round(62.5 * fakes.RATE))
    stretch = load_stretch(samples, fakes.RATE, 0.0, None, rate=fakes.RATE)
    assert (len(stretch.audio.samples), stretch.audio.duration, stretch.more) == (60 * fakes.RATE, 60.0, True)
    rest = load_stretch(samples, fakes.RATE, 60.0, None, rate=fakes.RATE)
    assert (rest.audio.duration, rest.start, rest.more) == (2.5, 60.0, False)
    asked = load_stretch(samples, fakes.RATE, 1.0, 3.0, rate=fakes.RATE)
    assert (asked.audio.duration, asked.start, asked.more) == (2.0, 1.0, False)
    assert np.array_equal(asked.audio.samples, samples[fakes.RATE : 3 * fakes.RATE].numpy())
    # A short minute makes a page that says so, in little time.
    monkeypatch.setattr(inspector, "LONG", 1.0)
    html = narspeech.inspect(samples, rate=fakes.RATE, model=fakes.tiny_model("ctc"), start=2.0)
    assert "The recording goes on: this is 1 s of it from 2 s on" in html
    assert "<p>2.00 to 3.00 s</p>" in html


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (-1.0, None, "received -1 and 59"),
        (float("nan"), None, "expected a start of 0 s or more"),
        (2.0, 2.0, "an end behind it, received 2 and 2"),
        (0.0, float("inf"), "received 0 and inf"),
        (0.0, 61.0, "at most 60 s, received 61 s"),
    ],
)
def test_a_stretch_must_make_sense(start: float, end: float | None, message: str) -> None:
    with pytest.raises(NarspeechError, match=message):
        check_stretch(start, end)
    check_stretch(30.0, 90.0)


def test_exit_codes(arguments: list[str], sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"this is no sound\nat all")
    for path in (bad, tmp_path / "missing.wav", tmp_path):
        assert cli.main([*arguments, str(path), "--out", "page.html"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert cli.main([*arguments, str(sound), "--start", "9"]) == 1
    for flags in (["--start", "-1"], ["--end", "90"], ["--steps", "-1"], ["--decoder", "ctc", "--hotword", "xyz"]):
        assert cli.main([*arguments, str(sound), *flags]) == 2
        assert capsys.readouterr().err.startswith("narspeech: expected ")
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments])
    assert stopped.value.code == 2
    capsys.readouterr()
    assert cli.main(["inspect", str(sound), "--model", str(tmp_path / "none")]) == 3
    assert cli.main([*arguments, str(sound), "--lm", "bundled"]) == 3
    assert not Path("page.html").exists()
    assert not Path("talk.html").exists()


def test_stdin(arguments: list[str], sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(sound.read_bytes())))
    assert cli.main([*arguments, "-"]) == 0
    assert Page(Path("stdin.html").read_text("utf-8")).all("h1")[0][1] == "stdin"


def test_an_odd_name_is_no_html(arguments: list[str], tmp_path: Path, sound: Path) -> None:
    odd = tmp_path / "<img src=x onerror=alert(1)>&\"'.wav"
    odd.write_bytes(sound.read_bytes())
    assert cli.main([*arguments, str(odd)]) == 0
    shown = Page(Path(f"{odd.stem}.html").read_text("utf-8"))
    assert shown.all("img") == []
    assert shown.all("h1")[0][1] == str(odd)


def test_a_silent_file(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fakes.write_wav(tmp_path / "quiet.wav", torch.zeros(8000))
    assert cli.main([*arguments, str(path)]) == 0
    assert "holds only silence" in Path("quiet.html").read_text("utf-8")
    assert "holds only silence" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--decoder", "ctc", "--beam", "3"], {"decoder": "ctc", "beam": "3"}),
        (["--steps", "1", "--threshold", "0.25"], {"steps": "1 at most", "threshold": "0.25"}),
        (["--decoder", "ctc", "--hotword", "ab", "--hotword", "cd"], {"hotwords": "ab, cd", "beam": "16"}),
        ([], {"decoder": "mask_ctc", "steps": "2 at most", "language model": "none", "hotwords": "none"}),
    ],
)
def test_settings_are_told(arguments: list[str], sound: Path, flags: list[str], told: dict[str, str]) -> None:
    assert cli.main([*arguments, str(sound), *flags]) == 0
    found = settings(Path("talk.html").read_text("utf-8"))
    assert {name: found[name] for name in told} == told


def test_python_gives_the_same_page(arguments: list[str], folder: Path, sound: Path) -> None:
    assert cli.main([*arguments, str(sound), "--steps", "1"]) == 0
    html = narspeech.inspect(sound, model=folder, device="cpu", steps=1)
    assert html == Path("talk.html").read_text("utf-8")
    assert "<audio" not in narspeech.inspect(sound, model=folder, sound=False)


def test_python_is_told_what_does_not_fit(model: Model, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        narspeech.inspect(tmp_path / "missing.wav", model=model)
    problems: list[dict[str, Any]] = [{"start": -1.0}, {"end": 61.0}, {"steps": -1}, {"decoder": "magic"}]
    for problem in problems:
        with pytest.raises(NarspeechError, match="expected"):
            narspeech.inspect(np.zeros(8000, np.float32), rate=8000, model=model, **problem)
