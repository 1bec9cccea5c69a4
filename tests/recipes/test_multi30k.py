"""Text and speech translation from end to end: the recipe's stages, distillation, and students of it."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import narspeech
from narspeech.config import from_dict, override
from narspeech.data.example import Example, read_manifest, write_manifest
from narspeech.data.pairs import PairDataset, read_pairs, write_pairs
from narspeech.errors import ConfigError, ManifestError, NarspeechError
from narspeech.frontends.text import TextConfig
from narspeech.model import DECODERS, CTCConfig
from narspeech.profile import Recipe, Source, load_file, load_profile
from narspeech.recipe import Run
from narspeech.run import main
from narspeech.tasks.base import DecodeConfig, RecipeConfig, settings
from narspeech.tokenizer import load as load_tokenizer
from narspeech.train.metrics import read_metrics
from tests.fakes import model_config, sing, write_wav
from tests.recipes.tiny import LAYER, TINY, words
from tests.train.songs import config as train_config
from tests.train.songs import sentences

RECIPE = Path(__file__).parents[2] / "recipes" / "multi30k" / "recipe.py"
PART = "multi30k-en-de-test_2016_flickr"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sentences, and the same backwards in capitals."""
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (part, count) in enumerate({"train": 30, "val": 6, "test_2016_flickr": 5}.items()):
        texts = sentences(count, seed)
        for language, lines in (("en", texts), ("de", [text[::-1].title() for text in texts])):
            (folder / f"{part}.{language}.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    stages = "prepare,train,average,decode,score,distill"
    assert main([f"{RECIPE}:ar", "--data", str(corpus), "--out", str(out), "--stages", stages, *words()]) == 0
    return out


def test_a_run_leaves_translations_and_their_scores(teacher):
    scores = json.loads((teacher / "scores.json").read_text())
    assert {part: list(found) for part, found in scores.items()} == {PART: ["ar-2", "ar-2-beam2"]}
    assert scores[PART]["ar-2"]["utterances"] == 5
    assert {"score", "signature"} == scores[PART]["ar-2"]["bleu"].keys()
    references = read_pairs(teacher / "manifests" / "multi30k-en-de" / "test_2016_flickr.jsonl")
    entries = [json.loads(line) for line in (teacher / "decode" / f"{PART}.ar-2.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["source"]) for entry in entries] == [(pair.id, pair.source) for pair in references]
    found = [entry for entry in read_metrics(teacher) if entry["kind"] == "scores"]
    assert {"ar_bleu", "ar_chrf", "score"} <= found[0].keys()
    assert found[0]["score"] == pytest.approx(
        1 - found[0]["ar_bleu"] / 100 + 1e-3 * (1 - found[0]["ar_chrf"] / 100), abs=1e-9
    )
    stored_settings = json.loads((teacher / "config.json").read_text())
    assert stored_settings["sources"]["multi30k-en-de"]["dev"] == ["val"]
    assert (teacher / "curves.png").exists()


def test_the_final_model_translates_from_a_shared_vocabulary(teacher):
    found = narspeech.translate("bad cab", model=teacher / "final", device="cpu")
    assert isinstance(found.text, str)
    letters = {letter for piece in load_tokenizer(teacher / "final").pieces[6:] for letter in piece}
    assert {"a", "A", "b", "B"} <= letters


def test_the_dev_part_is_what_is_held_out(teacher):
    run = Run(load_profile(f"{RECIPE}:ar")._replace(config=stored(teacher)), None, teacher)
    train, held_out = run._training_examples()
    assert len(train) == 30
    assert [pair.id for pair in held_out] == ["val-00001", "val-00002", "val-00004", "val-00005"]


def stored(out: Path) -> RecipeConfig:
    return from_dict(RecipeConfig, json.loads((out / "config.json").read_text())["recipe"])


def test_a_student_learns_what_its_teacher_wrote(teacher, corpus, tmp_path, monkeypatch):
    raw = read_pairs(teacher / "manifests" / "multi30k-en-de" / "train.jsonl")
    written = read_pairs(teacher / "distilled" / "multi30k-en-de-train.jsonl")
    assert [(pair.id, pair.source) for pair in written] == [(pair.id, pair.source) for pair in raw]
    assert [pair.target for pair in written] != [pair.target for pair in raw]
    seen = []

    def noted(pairs, *rest, **given):
        seen.append(list(pairs))
        return PairDataset(pairs, *rest, **given)

    monkeypatch.setattr("narspeech.tasks.translation.PairDataset", noted)
    given = [f"{RECIPE}:cmlm", "--data", str(corpus), "--stages", "prepare,train,average"]
    tiny = words()
    out = tmp_path / "out"
    assert main([*given, "--out", str(out), *tiny, "--distilled", str(teacher / "distilled")]) == 0
    assert seen[0] == written
    assert [pair.id for pair in seen[1]] == ["val-00001", "val-00002", "val-00004", "val-00005"]
    # The vocabulary is the teacher's all the same, and the run remembers.
    assert load_tokenizer(out / "final").pieces == load_tokenizer(teacher / "final").pieces
    assert json.loads((out / "config.json").read_text())["distilled"] == str(teacher / "distilled")
    assert main([*given, "--out", str(out), *tiny]) == 0
    # The teacher chooses among what the student writes, too.
    decoding = words(decode__beams="1", decode__candidates="1,3", decode__teacher=teacher / "final")
    assert main([given[0], "--out", str(out), "--stages", "decode,score", *decoding]) == 0
    ways = ["cmlm-2", "cmlm-2-candidates3", "cmlm-2-candidates3-teacher"]
    assert list(json.loads((out / "scores.json").read_text())[PART]) == ways
    with pytest.raises(ConfigError, match="other distilled"):
        main([*given, "--out", str(out), *tiny, "--distilled", str(tmp_path)])


def test_a_missing_sacrebleu_is_told_before_anything_is_prepared(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    out = tmp_path / "out"
    given = [f"{RECIPE}:ar", "--data", str(corpus), "--out", str(out), *words()]
    with pytest.raises(NarspeechError, match="expected sacrebleu to score translations"):
        main(given)
    assert not (out / "manifests").exists()
    assert main([*given, "--stages", "prepare"]) == 0  # it judges nothing


def test_a_distilled_folder_that_no_teacher_wrote_shows_at_once(corpus, tmp_path):
    given = [f"{RECIPE}:ar", "--data", str(corpus), "--out", str(tmp_path / "out"), *words()]
    with pytest.raises(ConfigError, match=r"--distilled, received .*nope without manifest\.json: correct the path"):
        main([*given, "--distilled", str(tmp_path / "nope")])
    assert not (tmp_path / "out").exists()


def test_a_distilled_folder_must_hold_every_example(teacher, corpus, tmp_path):
    distilled = tmp_path / "distilled"
    written = read_pairs(teacher / "distilled" / "multi30k-en-de-train.jsonl")
    write_pairs(distilled / "multi30k-en-de-train.jsonl", written[:-1])
    (distilled / "manifest.json").write_text("{}")
    given = [f"{RECIPE}:ar", "--data", str(corpus), "--out", str(tmp_path / "out"), "--stages", "prepare,train"]
    with pytest.raises(ManifestError, match="received 1 that are not there: train-00030"):
        main([*given, *words(), "--distilled", str(distilled)])


def test_there_is_a_profile_for_every_decoder_in_both_languages():
    profiles = load_file(RECIPE).PROFILES
    assert {profile().config.model.decoder.kind for profile in profiles.values()} == set(DECODERS)
    for name, profile in profiles.items():
        recipe = profile()
        assert recipe.config.task == "translation"
        assert recipe.sources[0].name == ("multi30k-en-fr" if name.endswith("_fr") else "multi30k-en-de")
        needs_ctc = recipe.config.model.decoder.kind in ("ctc", "mask_ctc", "align_refine")
        assert (recipe.config.model.ctc is not None) == needs_ctc
        assert recipe.config.model.frontend.width == recipe.config.model.encoder.width
    assert profiles["cmlm_fr"]().config == profiles["cmlm"]().config


GERMAN = [name for name in load_file(RECIPE).PROFILES if not name.endswith("_fr")]


@pytest.mark.parametrize("name", GERMAN)
def test_every_profile_runs_from_end_to_end(name, corpus, tmp_path):
    recipe = load_profile(f"{RECIPE}:{name}")
    model = recipe.config.model
    encoder = replace(model.encoder, depth=2, upsample_at=min(model.encoder.upsample_at, 2), **LAYER)
    layer = LAYER if hasattr(model.decoder, "depth") else {}
    decoder = replace(model.decoder, **layer, **({"depth": 1} if layer else {}))
    shrunk = override(
        replace(
            recipe.config,
            model=replace(model, frontend=TextConfig(width=16), encoder=encoder, decoder=decoder),
            decode=replace(recipe.config.decode, thresholds=recipe.config.decode.thresholds[:1]),
        ),
        {key: value for key, value in TINY.items() if key.partition(".")[0] in ("tokenizer", "data", "train")},
    )
    Run(recipe._replace(config=shrunk), corpus, tmp_path).stages(["prepare", "train", "average", "decode", "score"])
    scores = json.loads((tmp_path / "scores.json").read_text())[PART]
    assert list(scores) == [way.name for way in settings(shrunk, model.decoding)]
    assert all(0 <= found["chrf"]["score"] <= 100 for found in scores.values())


# --- speech translation: sound in, text of another language out


def say(data: Path, out: Path, parts: tuple[str, ...], *, download: bool) -> dict[str, Path]:  # noqa: ARG001
    """Sung sentences whose text is what they are backwards."""
    manifests = {}
    for part in parts:
        examples = []
        for number, text in enumerate(sentences(12 if part == "train" else 4, len(part))):
            path = data / f"{part}-{number}.wav"
            samples = sing(text, seconds=0.1, seed=number)
            write_wav(path, samples)
            examples.append(
                Example(id=path.stem, audio=str(path), text=text[::-1].title(), duration=len(samples) / 8000)
            )
        manifests[part] = out / f"{part}.jsonl"
        write_manifest(manifests[part], examples)
    return manifests


def test_speech_is_translated_and_distilled(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    config = RecipeConfig(
        task="speech_translation",
        tokenizer=replace(RecipeConfig().tokenizer, kind="characters"),
        model=model_config("mask_ctc", ctc=CTCConfig(weight=0.5, intermediate=0.0)),
        train=train_config(epochs=1, max_seconds=6.0),
        decode=DecodeConfig(steps=(2,), thresholds=(0.5, 0.9)),
    )
    recipe = Recipe((Source("songs", say, train=("train",), test=("test",)),), config)
    out = tmp_path / "out"
    Run(recipe, tmp_path / "data", out).stages(["prepare", "train", "average", "decode", "score", "distill"])
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["songs-test"]) == ["ctc", "mask_ctc-2"]
    assert scores["songs-test"]["ctc"].keys() == {"utterances", "bleu", "chrf"}
    assert "threshold 0.9 BLEU" in capsys.readouterr().err
    raw, written = (
        read_manifest(path) for path in (out / "manifests/songs/train.jsonl", out / "distilled/songs-train.jsonl")
    )
    assert [(one.id, one.audio, one.duration) for one in written] == [(one.id, one.audio, one.duration) for one in raw]
    entry = json.loads((out / "decode" / "songs-test.ctc.jsonl").read_text().splitlines()[0])
    assert list(entry) == ["id", "path", "text", "duration", "confidence", "steps"]
