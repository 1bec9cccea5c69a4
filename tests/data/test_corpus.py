from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from narspeech.data import corpus
from narspeech.data.corpus import (
    Utterance,
    describe,
    language_pair,
    measure,
    names_in,
    refuse,
    sounds_by_stem,
    write_part,
)
from narspeech.data.example import read_manifest
from narspeech.errors import AudioError, ManifestError


def sound(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(16000 * seconds), np.float32), 16000)
    return path


def age(path: Path) -> None:
    """Make a file look written a minute ahead, as if the sounds had long been there."""
    later = path.stat().st_mtime + 60
    os.utime(path, (later, later))


def test_a_part_is_written_in_lower_case_with_measured_durations(tmp_path):
    utterances = [Utterance("a", sound(tmp_path / "a.flac", 0.25), "ONE  TWO ", "s")]
    (example,) = read_manifest(write_part(tmp_path / "out" / "part.jsonl", utterances))
    assert (example.id, example.text, example.duration, example.start) == ("a", "one two", 0.25, 0.0)
    assert example.speaker == "s"
    assert Path(example.audio) == tmp_path / "a.flac"
    assert describe(tmp_path / "out" / "part.jsonl").endswith("1 utterances, 0.00 hours, 1 speakers")


def test_translations_keep_their_case(tmp_path):
    utterances = [Utterance("a", sound(tmp_path / "a.flac"), " Die Katze,  sie schläft. ", None)]
    (example,) = read_manifest(write_part(tmp_path / "part.jsonl", utterances, lower=False))
    assert example.text == "Die Katze, sie schläft."


def test_a_second_run_measures_only_what_changed(tmp_path, monkeypatch):
    manifest = tmp_path / "part.jsonl"
    utterances = [Utterance(name, sound(tmp_path / f"{name}.wav"), "x", None) for name in "ab"]
    write_part(manifest, utterances)
    age(manifest)
    before = manifest.stat().st_mtime_ns
    measured: list[Path] = []
    real = corpus.measure
    monkeypatch.setattr(corpus, "measure", lambda sounds: measured.extend(sounds) or real(sounds))
    write_part(manifest, utterances)
    assert measured == []
    assert manifest.stat().st_mtime_ns == before
    later = manifest.stat().st_mtime + 60
    os.utime(sound(tmp_path / "b.wav", 0.5), (later, later))
    write_part(manifest, utterances)
    assert measured == [tmp_path / "b.wav"]
    assert [example.duration for example in read_manifest(manifest)] == [0.1, 0.5]


def test_a_sound_that_vanished_or_became_empty_is_noticed_in_a_second_run(tmp_path):
    utterances = [Utterance("a", sound(tmp_path / "a.wav"), "x", None)]
    write_part(tmp_path / "part.jsonl", utterances)
    age(tmp_path / "part.jsonl")
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"a\.wav \(the file is empty\)"):
        write_part(tmp_path / "part.jsonl", utterances)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AudioError, match="No such file"):
        write_part(tmp_path / "part.jsonl", utterances)


def test_a_damaged_manifest_is_made_again(tmp_path):
    (tmp_path / "part.jsonl").write_text("half a li")
    write_part(tmp_path / "part.jsonl", [Utterance("a", sound(tmp_path / "a.wav"), "x", None)])
    assert len(read_manifest(tmp_path / "part.jsonl")) == 1


def test_sounds_that_cannot_be_read_are_counted_and_five_are_named(tmp_path):
    bad = [tmp_path / f"{n}.wav" for n in range(7)]
    for path in bad:
        path.write_bytes(b"no sound")
    with pytest.raises(AudioError, match=r"expected 8 sounds that can be read, received 7 that cannot: ") as caught:
        measure([sound(tmp_path / "good.wav"), *bad])
    assert [str(path) in str(caught.value) for path in bad] == [True] * 5 + [False] * 2
    with pytest.raises(AudioError, match="0 frames"):
        measure([sound(tmp_path / "none.wav", 0.0)])


def test_texts_and_ids_are_checked(tmp_path):
    path = sound(tmp_path / "a.wav")
    with pytest.raises(ManifestError, match="without one: a in"):
        write_part(tmp_path / "part.jsonl", [Utterance("a", path, " \n", None)])
    with pytest.raises(ManifestError, match="'a' twice"):
        write_part(tmp_path / "part.jsonl", [Utterance("a", path, "x", None)] * 2)
    with pytest.raises(ManifestError, match="received none"):
        write_part(tmp_path / "part.jsonl", [])
    assert not (tmp_path / "part.jsonl").exists()
    refuse([], "anything", "wrong")


def test_sounds_are_found_by_stem_whatever_the_suffix(tmp_path):
    for name in ("a.FLAC", "b.opus", "c.txt", ".d.wav"):
        (tmp_path / name).touch()
    assert sounds_by_stem(tmp_path) == {"a": tmp_path / "a.FLAC", "b": tmp_path / "b.opus"}
    (tmp_path / "b.mp3").touch()
    with pytest.raises(ManifestError, match=r"b\.mp3 and b\.opus"):
        sounds_by_stem(tmp_path)


def test_names_and_languages_of_a_command():
    assert names_in(" train, dev,,") == ["train", "dev"]
    with pytest.raises(ManifestError, match="expected names with commas between, received ' ,'"):
        names_in(" ,")
    assert language_pair("en, de") == ("en", "de")
    for words in ("en", "en,", "en,de,fr", "en,en"):
        with pytest.raises(ManifestError, match="expected two languages such as en,de, received"):
            language_pair(words)
