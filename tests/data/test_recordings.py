"""The decoded recordings are built once, rebuilt when they must be, and never half there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import narspeech.data.recordings
from narspeech.data.example import Example
from narspeech.data.recordings import open_recordings
from narspeech.errors import AudioError

RATE = 16000


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    (tmp_path / "sound").mkdir()
    made = []
    for number in range(20):
        samples = np.random.default_rng(number).normal(0, 0.2, 4000 + 100 * number)
        soundfile.write(tmp_path / "sound" / f"{number}.flac", samples, RATE)
        seconds = len(samples) / RATE
        made.append(
            Example(id=f"u{number}", audio=str(tmp_path / "sound" / f"{number}.flac"), text="", duration=seconds)
        )
    return made


def no_decoding(*_: object, **__: object) -> None:
    raise AssertionError("decoded again")


def test_holds_every_recording_in_order(examples: list[Example], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    recordings = open_recordings(
        examples, tmp_path / "cache", progress=lambda done, total: calls.append((done, total)), workers=3
    )
    for index, example in enumerate(examples):
        expected, _ = soundfile.read(example.audio, dtype="float32")
        np.testing.assert_array_equal(recordings.at(index), expected)
    assert calls == [(done, 20) for done in range(1, 21)]
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".i16", ".json"]
    index_file = json.loads((tmp_path / "cache" / "index.json").read_text())
    assert index_file["recordings"][1] == {"id": "u1", "offset": 4000, "length": 4100}


def test_is_decoded_once(examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_recordings(examples, tmp_path / "cache")
    monkeypatch.setattr(narspeech.data.recordings, "load_audio", no_decoding)
    # A corrected text changes no sound.
    again = open_recordings([dataclasses.replace(one, text="new") for one in examples], tmp_path / "cache")
    np.testing.assert_array_equal(first.samples, again.samples)


@pytest.mark.parametrize("change", ["fewer", "start", "order", "rate", "cut", "index"])
def test_is_rebuilt_when_it_does_not_fit(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = tmp_path / "cache"
    open_recordings(examples, folder)
    changed, rate = list(examples), RATE
    (samples,) = folder.glob("*.i16")
    match change:
        case "fewer":
            changed = changed[:-1]
        case "start":
            changed[3] = dataclasses.replace(changed[3], start=0.1, duration=0.1)
        case "order":
            changed.reverse()
        case "rate":
            rate = 8000
        case "cut":
            samples.write_bytes(samples.read_bytes()[:-2])
        case "index":
            (folder / "index.json").write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr(narspeech.data.recordings, "load_audio", no_decoding)
        with pytest.raises(AssertionError, match="decoded again"):
            open_recordings(changed, folder, rate=rate)
    recordings = open_recordings(changed, folder, rate=rate)
    expected = [round(one.duration * rate) for one in changed]
    assert np.diff(recordings.offsets).tolist() == expected
    assert len(list(folder.iterdir())) == 2


def test_every_failure_is_told_and_nothing_is_left(examples: list[Example], tmp_path: Path) -> None:
    for number in (2, 5):
        Path(examples[number].audio).write_bytes(b"no sound")
    Path(examples[7].audio).unlink()
    with pytest.raises(AudioError, match=r"20 readable recordings, received 3 .*2\.flac.*5\.flac.*7\.flac"):
        open_recordings(examples, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_shorter_than_the_manifest_says(examples: list[Example], tmp_path: Path) -> None:
    examples[0] = dataclasses.replace(examples[0], duration=3.0)
    with pytest.raises(AudioError, match=r"expected 3\.00 s from 0\.00 s on in .*0\.flac \(u0\), received 0\.25 s"):
        open_recordings(examples, tmp_path / "cache")


def test_loud_floats_are_clipped_not_wrapped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.array([1.5, -1.5] * 2000), RATE, subtype="FLOAT")
    example = Example(id="loud", audio=str(tmp_path / "loud.wav"), text="", duration=0.25)
    samples = open_recordings([example], tmp_path / "cache").at(0)
    assert samples.max() == pytest.approx(1, abs=1e-4)
    assert samples.min() == -1


def test_no_examples(tmp_path: Path) -> None:
    assert len(open_recordings([], tmp_path / "cache").samples) == 0
