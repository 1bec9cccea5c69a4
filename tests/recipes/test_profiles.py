from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import narspeech
from narspeech.config import from_dict, to_dict
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.profile import load_file, load_profile
from narspeech.run import main
from narspeech.tasks.base import RecipeConfig
from narspeech.tokenizer import load as load_tokenizer
from tests.fakes import sing, write_wav
from tests.train.songs import REFINING, arguments, sentences

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*/recipe.py"))
NAMES = [(path, name) for path in FILES for name in load_file(path).PROFILES]
TINY = arguments(**REFINING)


@pytest.mark.parametrize(("path", "name"), NAMES, ids=[f"{path.parent.name}-{name}" for path, name in NAMES])
def test_every_profile_is_a_recipe_that_survives_json(path, name):
    recipe = load_profile(f"{path}:{name}")
    assert load_file(path).PROFILES[name].__doc__
    plain = json.loads(json.dumps(to_dict(recipe.config)))
    assert from_dict(RecipeConfig, plain) == recipe.config
    assert all(source.train for source in recipe.sources)
    encoder = recipe.config.model.encoder
    assert encoder.width % encoder.heads == 0
    assert all(1 <= tap < encoder.depth for tap in encoder.taps)


def test_derived_profiles_follow_librispeech():
    librispeech = load_file(RECIPES / "librispeech" / "recipe.py")
    speechocean = load_file(RECIPES / "speechocean762" / "recipe.py")
    own = load_file(RECIPES / "manifest" / "recipe.py")
    assert speechocean.small_mask_ctc().config == librispeech.mini_mask_ctc().config
    assert own.small().config == librispeech.small_mask_ctc().config
    model = own.small().config.model
    assert own.tune().config.model == replace(model, ctc=replace(model.ctc, guided=0.0))
    assert own.tune().config.train.epochs == 10  # as the README has it
    assert own.tune().config.tokenizer == own.small().config.tokenizer
    assert own.warm().config == speechocean.warm().config == librispeech.warm().config


@pytest.mark.parametrize("path", FILES, ids=[path.parent.name for path in FILES])
def test_a_recipe_started_itself_is_the_command(path, monkeypatch, capsys):
    for profile in load_file(path).PROFILES:
        monkeypatch.setattr(sys, "argv", [str(path), profile, "--print-config", "--train.epochs", "3"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        assert end.value.code == 0
        assert json.loads(capsys.readouterr().out)["train"]["epochs"] == 3
    monkeypatch.setattr(sys, "argv", [str(path), "nonsense"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 2
    assert "expected a profile" in capsys.readouterr().err


def speechocean(folder: Path) -> Path:
    for part, first in (("train", 1), ("test", 50)):
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for speaker in range(first, first + 6):
            for number, text in enumerate(sentences(3, speaker)):
                name = f"{speaker:05d}{number:04d}"
                listed = f"WAVE/SPEAKER{speaker:04d}/{name}.WAV"
                (folder / listed).parent.mkdir(parents=True, exist_ok=True)
                write_wav(folder / listed, sing(text, seconds=0.1, seed=speaker))
                for table, value in zip(tables, (listed, text.upper(), f"{speaker:04d}"), strict=True):
                    tables[table].append(f"{name}\t{value}\n")
        (folder / part).mkdir()
        for table, lines in tables.items():
            (folder / part / table).write_text("".join(lines))
    # A sentence that is not in train: the unseen part of the test is never empty.
    path = folder / "test" / "text"
    path.write_text(path.read_text().replace(path.read_text().splitlines()[0].split("\t")[1], "CAD CAD CAD CAD", 1))
    return folder


def listing(folder: Path) -> Path:
    """A stereo recording of several sentences, listed by their times, and single ones, of one speaker."""
    folder.mkdir()
    lines = ["audio,text,start,duration"]
    texts = sentences(24, 1)
    songs = [sing(text, seconds=0.1).numpy() for text in texts]
    write_wav(folder / "long.wav", np.stack([np.concatenate(songs[:6])] * 2, 1))
    start = 0.0
    for text, song in zip(texts[:6], songs, strict=False):
        lines.append(f"long.wav,{text},{start},{len(song) / 8000}")
        start += len(song) / 8000
    for number, text in enumerate(texts[6:]):
        write_wav(folder / f"{number}.wav", songs[6 + number])
        lines.append(f'{number}.wav,"{text}",,')
    path = folder / "my.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def check(out: Path, parts: set[str]) -> None:
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores) == parts
    assert all(set(settings) == {"ctc", "mask_ctc-1", "mask_ctc-2"} for settings in scores.values())
    narspeech.load(out / "final")


def test_speechocean762_runs_from_end_to_end(tmp_path):
    recipe = RECIPES / "speechocean762" / "recipe.py"
    data, out = speechocean(tmp_path / "data"), tmp_path / "out"
    assert main([f"{recipe}:small_mask_ctc", "--data", str(data), "--out", str(out), *TINY]) == 0
    check(out, {"speechocean762-test", "speechocean762-test-unseen"})


def test_own_recordings_run_from_a_listing_or_a_folder_and_tune_what_came_out(tmp_path, capsys):
    recipe = RECIPES / "manifest" / "recipe.py"
    data, out, tuned = listing(tmp_path / "own"), tmp_path / "out", tmp_path / "tuned"
    assert main([f"{recipe}:small", "--data", str(data), "--out", str(out), *TINY]) == 0
    check(out, {"own-dev"})
    folder = tmp_path / "own"
    (folder / "train.csv").write_text(data.read_text())
    (folder / "dev.csv").write_text("\n".join(data.read_text().splitlines()[:4]))
    data.unlink()
    given = ["--data", str(folder), "--out", str(tuned), "--init", str(out / "final"), *TINY]
    assert main([f"{recipe}:tune", *given]) == 0
    check(tuned, {"own-dev"})
    assert "is kept" in capsys.readouterr().err
    assert len((tuned / "decode" / "own-dev.ctc.jsonl").read_text().splitlines()) == 3


def test_tuning_needs_a_model_to_start_from(tmp_path):
    data, out = listing(tmp_path / "own"), tmp_path / "out"
    given = [f"{RECIPES / 'manifest' / 'recipe.py'}:tune", "--data", str(data), "--out", str(out), *TINY]
    with pytest.raises(
        ConfigError, match="expected --init CHECKPOINT for a profile that only fine-tunes, received none"
    ):
        main(given)
    assert not out.exists()


@pytest.mark.parametrize(
    ("recipe", "profile", "millions"),
    [("manifest", "small", 7), ("librispeech", "mini_ctc", 5), ("librispeech", "mini_mask_ctc", 7)],
)
def test_the_pages_tell_the_size_of_a_model(recipe, profile, millions):
    model = Model(load_profile(f"{RECIPES / recipe / 'recipe.py'}:{profile}").config.model, pieces())
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6) == millions
    page = (RECIPES / recipe / "README.md").read_text().splitlines()
    row = next(line for line in page if line.startswith(f"| `{profile}` |"))
    assert f"{millions} million parameters" in row


def pieces():
    """Of 256 pieces, as the profiles have."""
    return load_tokenizer(RECIPES.parent / "narspeech" / "models" / "english")
