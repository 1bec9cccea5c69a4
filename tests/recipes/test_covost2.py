"""Speech translation from end to end: a recogniser to start from, a teacher on text, and students of sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from narspeech.checkpoint import read_weights
from narspeech.compare import Comparison, Entrant, compare
from narspeech.config import override
from narspeech.data.example import read_manifest
from narspeech.data.pairs import read_pairs
from narspeech.profile import load_file, load_profile
from narspeech.recipe import Run
from narspeech.run import dotted, main
from narspeech.tasks.base import settings
from narspeech.tokenizer import load as load_tokenizer
from narspeech.transcription import main as transcribe
from tests.fakes import sing, write_wav
from tests.train.songs import arguments, sentences

RECIPE = Path(__file__).parents[2] / "recipes" / "covost2" / "recipe.py"
LAYER = {"depth": 1, "width": 16, "heads": 2, "feed_forward": 32}
LETTERS = {"tokenizer__kind": "characters", "train__accumulate": 1, "train__workers": 0}
HEARING = arguments(**LETTERS)
DECODER = {f"model__decoder__{name}": value for name, value in LAYER.items()}
TEXT = {f"model.{part}.{name}": value for part in ("encoder", "decoder") for name, value in LAYER.items()}
READING = {
    **TEXT,
    "model.frontend.width": 16,
    "tokenizer.kind": "characters",
    "data.held_out": 4,
    "train.epochs": 1,
    "train.max_seconds": 200,
    "train.accumulate": 1,
    "train.threads": 1,
    "decode.beams": "1",
    "decode.teacher_beam": 2,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sung sentences in CoVoST 2's layout, which mean what they are backwards, in capitals and with a mark."""
    folder = tmp_path_factory.mktemp("corpus")
    spoken, meant = ["client_id\tpath\tsentence"], ["path\ttranslation\tsplit"]
    (folder / "en" / "clips").mkdir(parents=True)
    for split, count in (("train", 8), ("train_covost", 4), ("dev", 4), ("test", 4)):
        for number, text in enumerate(sentences(count, len(split))):
            name = f"clip_{split}_{number}"
            write_wav(folder / "en" / "clips" / f"{name}.wav", sing(text, seconds=0.1, seed=number))
            spoken.append(f"speaker{number}\t{name}.mp3\t{text.capitalize()}.")
            meant.append(f"{name}.mp3\t{text[::-1].title()}!\t{split}")
    (folder / "en" / "validated.tsv").write_text("\n".join(spoken) + "\n")
    (folder / "covost_v2.en_de.tsv").write_text("\n".join(meant) + "\n")
    return folder


def test_a_student_of_sound_starts_from_a_recogniser_and_a_translator_of_text(corpus, tmp_path, capsys):
    given = ["--data", str(corpus), "--stages"]
    asr, mt, out = (tmp_path / name for name in ("asr", "mt", "st"))
    assert main([f"{RECIPE}:asr", *given, "prepare,train,average", "--out", str(asr), *HEARING]) == 0
    assert load_tokenizer(asr / "final").decode(load_tokenizer(asr / "final").encode("bad.")) == "bad."
    reading = [word for name, value in READING.items() for word in (f"--{name}", str(value))]
    assert main([f"{RECIPE}:mt", *given, "prepare,train,average,distill", "--out", str(mt), *reading]) == 0
    written = read_pairs(mt / "distilled" / "covost2-en-de-train.jsonl")
    assert [pair.source[0] for pair in written] == [pair.source[0].upper() for pair in written]

    # A decoder does not know whether the states it reads came from text or from sound: the teacher goes on listening.
    still = arguments(**LETTERS, **DECODER, train__optim__learning_rate=0.0)
    starts = ["--init", str(asr / "final"), "--init-decoder", str(mt / "final")]
    ar = tmp_path / "ar"
    assert main([f"{RECIPE}:ar", *given, "prepare,train,average", "--out", str(ar), *still, *starts]) == 0
    weights = {folder: read_weights(folder / "final" / "model.safetensors") for folder in (asr, mt, ar)}
    for part, start in (("encoder.", asr), ("decoder.", mt)):
        same = {name for name in weights[ar] if name.startswith(part) and "batch_norm" not in name}
        assert [name for name in same if not torch.equal(weights[ar][name], weights[start][name])] == []
        assert len(same) > 9
    assert load_tokenizer(ar / "final") == load_tokenizer(mt / "final")

    student = [f"{RECIPE}:mask_ctc", *given, "prepare,train,average,decode,score", "--out", str(out)]
    start = ["--init", str(asr / "final"), "--distilled", str(mt / "distilled")]
    capsys.readouterr()
    assert main([*student, *arguments(**LETTERS, **DECODER), *start]) == 0
    said = capsys.readouterr().err
    # The encoder is the recogniser's; the words are learned anew, from cased targets.
    assert "weights start anew: ctc.condition.bias, ctc.condition.weight, ctc.output.bias, ctc.output.weight" in said
    assert {"A", "a", "!"} <= set(load_tokenizer(out / "final").pieces)
    assert "." not in load_tokenizer(out / "final").pieces
    scores = json.loads((out / "scores.json").read_text())["covost2-en-de-test"]
    assert list(scores) == ["ctc", "mask_ctc-1", "mask_ctc-2"]
    assert scores["ctc"].keys() == {"utterances", "bleu", "chrf"}
    plan = Comparison(part="covost2-en-de-test", baseline="st/ctc", batch_sizes=(2,), examples=2, rounds=1)
    rows = compare([Entrant(out)], plan).rows
    assert [(row.setting, row.distilled) for row in rows] == [(name, True) for name in scores]

    files = [example.audio for example in read_manifest(out / "manifests" / "covost2-en-de" / "test.jsonl")]
    decoded = (out / "decode" / "covost2-en-de-test.ctc.jsonl").read_text().splitlines()
    capsys.readouterr()
    assert transcribe([*files, "--model", str(out / "final"), "--decoder", "ctc", "--device", "cpu"]) == 0
    heard = capsys.readouterr().out.splitlines()
    assert heard == [json.loads(line)["text"] for line in decoded]


def test_what_is_learned_is_what_the_teacher_wrote(corpus, tmp_path):
    """By id, whatever its corpus is called, and with nothing of the example but the text."""
    recipe = load_profile(f"{RECIPE}:ctc")
    Run(recipe, corpus, tmp_path / "out").stages(["prepare"])
    raw = read_manifest(tmp_path / "out" / "manifests" / "covost2-en-de" / "train.jsonl")
    distilled = tmp_path / "distilled"
    distilled.mkdir()
    lines = [json.dumps({"id": one.id, "source": "x", "target": f"Neu {one.text}"}) + "\n" for one in raw]
    (distilled / "manifest.json").write_text("{}")
    (distilled / "other-corpus.jsonl").write_text("".join(lines))
    run = Run(recipe, None, tmp_path / "student", distilled=distilled)
    found = run._rewritten(raw)
    assert [one.text for one in found] == [f"Neu {one.text}" for one in raw]
    assert [(one.id, one.audio, one.duration) for one in found] == [(one.id, one.audio, one.duration) for one in raw]


@pytest.mark.parametrize("name", load_file(RECIPE).FAMILIES)
def test_every_family_runs_from_end_to_end(name, corpus, tmp_path):
    recipe = load_profile(f"{RECIPE}:{name}")
    decoder = {} if name == "ctc" else DECODER
    changes, _ = dotted(arguments(**LETTERS, **decoder))
    if not recipe.config.decode.steps:
        del changes["decode.steps"]
    if not recipe.config.decode.thresholds:
        del changes["decode.thresholds"]
    shrunk = override(recipe.config, changes)
    Run(recipe._replace(config=shrunk), corpus, tmp_path).stages(["prepare", "train", "average", "decode", "score"])
    scores = json.loads((tmp_path / "scores.json").read_text())["covost2-en-de-test"]
    assert list(scores) == [way.name for way in settings(shrunk, shrunk.model.decoding)]
    assert all(0 <= found["chrf"]["score"] <= 100 for found in scores.values())


def test_profiles_of_every_pair():
    module = load_file(RECIPE)
    assert len(module.PROFILES) == len(module.PAIRS) * (2 + len(module.FAMILIES))
    for suffix, pair in (("", "en-de"), ("_fr_en", "fr-en")):
        assert module.PROFILES[f"dag{suffix}"]().sources[0].name == f"covost2-{pair}"
        # One name for all three, by which a teacher's texts are found.
        assert module.PROFILES[f"mt{suffix}"]().sources[0].name == f"covost2-{pair}"
        assert module.PROFILES[f"asr{suffix}"]().sources[0].name == f"covost2-{pair}"
    assert module.PROFILES["asr"]().config.task == "recognition"
    assert module.PROFILES["dag"]().config.model.decoder.graph_ratio == 0.5
    assert not any(module.PROFILES[name]().config.tokenizer.inherit for name in module.FAMILIES)
    assert list(module.pair_profiles(("en", "tr"), "_en_tr")) == [
        f"{name}_en_tr" for name in ("asr", "mt", *module.FAMILIES)
    ]
