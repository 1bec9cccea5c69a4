"""Captions read by a stand-in for espeak-ng, which says the same whatever is written."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from narspeech.data.example import read_manifest
from narspeech.data.pairs import Pair
from narspeech.errors import ManifestError
from narspeech.profile import load_file
from tests.fakes import sing, write_wav

FOLDER = Path(__file__).parents[2] / "recipes" / "synthetic_st"
recipe = load_file(FOLDER / "prepare.py")


@pytest.fixture
def espeak(tmp_path, monkeypatch):
    """A program that writes down how it was called, and a sound."""
    write_wav(tmp_path / "said.wav", sing("abad"))
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\ncp "{tmp_path}/said.wav" "$8"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return tmp_path / "calls"


@pytest.fixture
def captions(tmp_path):
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for part, count in (("train", 20), ("val", 4)):
        for language, text in (("en", "A Man, {}."), ("de", "Ein Mann,  {}."), ("fr", "Un Homme, {}.")):
            lines = "".join(f"{text.format(number)}\n" for number in range(1, count + 1))
            (folder / f"{part}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def test_captions_are_read_and_their_translations_keep_their_case(espeak, captions, tmp_path):
    out = tmp_path / "out"
    paths = recipe.prepare(captions.parent, out, ["train-8", "val"])
    assert paths == {part: out / f"{part}.jsonl" for part in ("train-8", "val")}
    train, val = (read_manifest(path) for path in paths.values())
    assert [(one.id, one.text) for one in val] == [(f"val-0000{n}", f"Ein Mann, {n}.") for n in range(1, 5)]
    assert len(train) == 8
    assert all(one.text == f"Ein Mann, {int(one.id.removeprefix('train-'))}." for one in train)
    calls = espeak.read_text().splitlines()
    assert len(calls) == 12
    assert any(call.endswith(f"-- A Man, {int(train[0].id[-5:])}.") for call in calls)
    assert len({one.speaker for one in train + val}) > 3
    assert Path(val[0].audio) == out / "sound" / "val-00001.wav"


def test_a_larger_number_has_the_smaller_ones_sound(espeak, captions, tmp_path):
    few = read_manifest(recipe.prepare(captions, tmp_path / "out", ["train-5"])["train-5"])
    more = read_manifest(recipe.prepare(captions, tmp_path / "out", ["train-9"], language="fr")["train-9"])
    assert {one.id for one in few} < {one.id for one in more}
    assert {one.id: one.speaker for one in few}.items() <= {one.id: one.speaker for one in more}.items()
    assert more[0].text.startswith("Un Homme,")
    assert len(espeak.read_text().splitlines()) == 9
    everything = recipe.prepare(captions, tmp_path / "out", ["train"])["train"]
    assert len(read_manifest(everything)) == 20


@pytest.mark.usefixtures("espeak")
def test_what_was_prepared_serves_others_without_the_program(captions, tmp_path, monkeypatch):
    corpus = recipe.prepare(captions, tmp_path / "corpus", ["val"])["val"].parent
    shutil.rmtree(captions)
    monkeypatch.setenv("PATH", "")
    copy = recipe.prepare(corpus, tmp_path / "out" / "manifests", ["val"])["val"]
    assert read_manifest(copy) == read_manifest(corpus / "val.jsonl")
    with pytest.raises(ManifestError, match="expected test"):
        recipe.prepare(corpus, tmp_path / "out", ["test"])


def test_the_program_must_be_there(captions, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ManifestError, match=r"program espeak-ng.*apt install espeak-ng"):
        recipe.prepare(captions, tmp_path / "out", ["val"])


def test_a_caption_is_always_read_alike():
    pair = Pair(id="train-00001", source="A man.", target="Ein Mann.")
    assert recipe.read(pair) == recipe.read(pair)
    others = [recipe.read(Pair(id=f"train-{number:05d}", source="A man.", target="")) for number in range(100)]
    assert len({reading.speaker for reading in others}) > 20
    assert {reading.text for reading in others} == {"A man."}


def test_names_of_parts():
    assert recipe.split_name("train-8000") == ("train", 8000)
    assert recipe.split_name("test_2016_flickr") == ("test_2016_flickr", None)
    assert recipe.split_name("my-own") == ("my-own", None)


@pytest.mark.usefixtures("espeak")
def test_the_command(captions, tmp_path, capsys):
    recipe.main(captions, tmp_path / "out", parts="val, train-3")
    assert "3 utterances" in capsys.readouterr().out.splitlines()[1]


def test_profiles_start_from_the_bundled_model():
    profiles = load_file(FOLDER / "recipe.py").PROFILES
    english = load_file(FOLDER.parent / "librispeech" / "recipe.py").small_mask_ctc().config.model
    for profile in profiles.values():
        config = profile().config
        assert config.task == "speech_translation"
        assert config.model.frontend == english.frontend
        assert config.model.encoder.taps == english.encoder.taps
        assert config.model.ctc.guided == 0
        assert not config.tokenizer.inherit
    assert profiles["dag"]().config.model.decoder.graph_ratio == 1.0
    assert profiles["cmlm_full"]().sources[0].train == ("train",)
