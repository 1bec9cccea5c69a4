from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import narspeech
from narspeech.cli import main as narspeech_main
from narspeech.data.example import Example, read_manifest, write_manifest
from narspeech.errors import CheckpointError, ConfigError, NarspeechError
from narspeech.frontends.fbank import Fbank
from narspeech.profile import command, load_file, load_profile
from narspeech.recipe import Run, spread
from narspeech.run import dotted, main
from narspeech.tasks.base import RecipeConfig
from narspeech.train.metrics import read_metrics
from tests.train.songs import REFINING, arguments, write_librispeech

RECIPE = Path(__file__).parents[1] / "recipes" / "librispeech" / "recipe.py"
PROFILE = f"{RECIPE}:mini_mask_ctc"
TINY = arguments(**REFINING)
PARTS = ["librispeech-dev-clean-2"]
SETTINGS = ["ctc", "mask_ctc-1", "mask_ctc-2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_librispeech(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main([PROFILE, "--data", str(corpus), "--out", str(out), "--no-download", *TINY]) == 0
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_everything_that_is_promised(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "checkpoints", "final", "decode", "scores.json", "curves.png"}
    settings = json.loads((finished / "config.json").read_text())
    assert settings["format"] == 1
    assert settings["recipe"]["train"]["epochs"] == 1
    assert settings["sources"] == {"librispeech": {"train": ["train-clean-5"], "test": ["dev-clean-2"]}}
    kinds = [entry["kind"] for entry in read_metrics(finished)]
    assert kinds.count("scores") == 1
    assert kinds.count("train") > 3
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (finished / "checkpoints").glob("epoch-*")] == ["epoch-0001.safetensors"]


def test_the_final_model_loads_and_transcribes(finished, corpus):
    model = narspeech.load(finished / "final")
    assert not model.training
    assert model.config.decoding.steps == 2
    assert model.config.decoding.threshold in (0.5, 0.9)
    sound = next(corpus.rglob("dev-clean-2/**/*.wav"))
    assert isinstance(narspeech.transcribe(sound, model=finished / "final").text, str)


def test_decoded_parts_and_scores_cover_the_test(finished):
    expected = [example.id for example in read_manifest(finished / "manifests" / "librispeech" / "dev-clean-2.jsonl")]
    assert len(expected) == 8
    scores = json.loads((finished / "scores.json").read_text())
    assert list(scores) == PARTS
    assert list(scores[PARTS[0]]) == SETTINGS
    for setting in SETTINGS:
        lines = (finished / "decode" / f"{PARTS[0]}.{setting}.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert [entry["id"] for entry in entries] == expected
        assert {"text", "confidence", "duration", "path"} <= entries[0].keys()
        assert scores[PARTS[0]][setting]["utterances"] == 8


def test_held_out_speakers_are_not_trained_on(finished):
    config = RecipeConfig(data=load_profile(PROFILE).config.data)
    run = Run.__new__(Run)
    run.config, run.out, run.rank, run.sources = config, finished, 0, load_profile(PROFILE).sources
    train, held_out = run._training_examples()
    assert len(train) + len(held_out) == 24
    assert 1 <= len(held_out) <= 24 // 5 + 1
    assert not {example.speaker for example in train} & {example.speaker for example in held_out}


def test_one_speaker_alone_spares_utterances(tmp_path):
    run = Run.__new__(Run)
    run.config, run.out, run.rank, run.sources = RecipeConfig(), tmp_path, 0, load_profile(PROFILE).sources
    examples = [
        Example(id=str(n), audio=str(tmp_path / "a.wav"), text="a", duration=1.0, speaker="s") for n in range(50)
    ]
    write_manifest(tmp_path / "manifests" / "librispeech" / "train-clean-5.jsonl", examples)
    train, held_out = run._training_examples()
    assert (len(train), len(held_out)) == (40, 10)


def test_every_stage_runs_alone_and_again(copy, corpus, capsys):
    before = files(copy)
    given = [PROFILE, "--out", str(copy), *TINY]
    stamp = (copy / "config.json").stat().st_mtime_ns
    shutil.rmtree(copy / "decode")
    shutil.rmtree(copy / "final")
    (copy / "scores.json").unlink()
    for stage in ("average", "decode", "score"):
        assert main([*given, "--stages", stage]) == 0
    assert main([*given, "--stages", "prepare", "--data", str(corpus)]) == 0
    assert main([*given, "--stages", "train"]) == 0
    after = files(copy)
    assert (copy / "config.json").stat().st_mtime_ns == stamp
    different = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert different <= {"curves.png"}
    out = capsys.readouterr().out
    assert "WER" in out


def test_a_finished_training_is_neither_initialised_nor_measured_again(copy, monkeypatch):
    monkeypatch.setattr(Fbank, "fit", lambda *_: pytest.fail("measured again"))
    assert main([PROFILE, "--out", str(copy), "--stages", "train", *TINY]) == 0


def test_a_run_without_matplotlib_goes_on(copy, monkeypatch, capsys):
    def fail(*_):
        raise NarspeechError("expected matplotlib")

    monkeypatch.setattr("narspeech.recipe.draw_curves", fail)
    assert main([PROFILE, "--out", str(copy), "--stages", "train", *TINY]) == 0
    assert "no curves.png: expected matplotlib" in capsys.readouterr().err


def test_other_settings_in_the_same_folder_are_refused(copy, corpus):
    given = [PROFILE, "--data", str(corpus), "--out", str(copy)]
    for stage in ("prepare", "train", "score"):
        with pytest.raises(ConfigError, match=r"other train\.epochs, train\.seed: give the same"):
            main([*given, "--stages", stage, *TINY, "--train.epochs", "2", "--train.seed=7"])
    with pytest.raises(ConfigError, match=r"other sources\.librispeech\.train"):
        main([f"{RECIPE}:small_mask_ctc", *given[1:], *TINY])
    with pytest.raises(ConfigError, match="other init"):
        main([*given, *TINY, "--init", str(copy / "final")])


def test_how_is_decoded_may_change(copy):
    given = [PROFILE, "--out", str(copy), *TINY, "--decode.steps", "1"]
    assert main([*given, "--stages", "decode,score"]) == 0
    scores = json.loads((copy / "scores.json").read_text())
    assert list(scores[PARTS[0]]) == ["ctc", "mask_ctc-1"]
    assert json.loads((copy / "config.json").read_text())["recipe"]["decode"]["steps"] == [1]


def test_settings_of_before_a_field_existed_still_stand(copy):
    settings = json.loads((copy / "config.json").read_text())
    del settings["init"], settings["sources"], settings["recipe"]["tokenizer"]["inherit"]
    (copy / "config.json").write_text(json.dumps(settings))
    assert main([PROFILE, "--out", str(copy), "--stages", "score", *TINY]) == 0


def test_fine_tuning_starts_from_the_weights_and_keeps_the_tokenizer(finished, corpus, tmp_path, capsys):
    out = tmp_path / "tuned"
    given = [PROFILE, "--data", str(corpus), "--out", str(out), *TINY, "--train.optim.learning_rate", "0.0"]
    stages = ["--stages", "prepare,train,average"]
    assert main([*given, *stages, "--init", str(finished / "final")]) == 0
    said = capsys.readouterr().err
    assert "(sentencepiece, 16 tokens) is kept" in said
    assert "\n0 weights start anew" in said
    before, after = (narspeech.load(folder / "final").state_dict() for folder in (finished, out))
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert json.loads((out / "config.json").read_text())["init"] == str(finished / "final")
    # Started again without it, the run still knows where it began.
    shutil.rmtree(out / "checkpoints")
    assert main([*given, *stages]) == 0
    assert "initialised from" in capsys.readouterr().err


def test_pieces_after_letters_train_their_own_tokenizer(corpus, tmp_path, capsys):
    common = ["--data", str(corpus), "--stages", "prepare,train,average"]
    warm = arguments(**REFINING, tokenizer__kind="characters")
    assert main([PROFILE, "--out", str(tmp_path / "warm"), *common, *warm]) == 0
    start = ["--init", str(tmp_path / "warm" / "final")]
    assert main([PROFILE, "--out", str(tmp_path / "out"), *common, *TINY, *start]) == 0
    said = capsys.readouterr().err
    assert "is not of the profile's kind and size" in said
    assert "ctc.output.bias" in said
    first, second = (narspeech.load(tmp_path / name / "final") for name in ("warm", "out"))
    assert (first.tokenizer.kind, second.tokenizer.kind) == ("characters", "sentencepiece")
    assert torch.equal(first.frontend.mean, second.frontend.mean)


def test_a_guided_training_learns_where_its_start_heard_each_letter(finished, corpus, tmp_path):
    out, given = tmp_path / "out", [PROFILE, "--data", str(corpus), *TINY, "--model.ctc.guided=0.5"]
    with pytest.raises(ConfigError, match="expected --init CHECKPOINT for a guided training"):
        main([*given, "--out", str(tmp_path / "none"), "--stages", "prepare,train"])
    assert main([*given, "--out", str(out), "--stages", "prepare,train", "--init", str(finished / "final")]) == 0
    starts = json.loads((out / "starts.json").read_text())
    texts = {example.id: example.text for example in read_manifest(out / "manifests/librispeech/train-clean-5.jsonl")}
    assert starts
    assert all(len(row) == len(texts[name]) for name, row in starts.items())


def test_what_cannot_end_well_shows_at_once(corpus, tmp_path):
    given = [PROFILE, "--data", str(corpus), "--out", str(tmp_path / "out"), *TINY]
    with pytest.raises(CheckpointError, match="expected a model folder"):
        main([*given, "--init", str(tmp_path)])
    with pytest.raises(ConfigError, match="for the teacher to choose from, received mask_ctc, which has one"):
        main([*given, "--decode.teacher", str(tmp_path)])
    assert not (tmp_path / "out").exists()


def test_long_utterances_are_left_out_and_counted(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    short = arguments(**REFINING, data__longest=0.8)
    assert main([PROFILE, "--data", str(corpus), "--out", str(out), "--stages", "prepare,train", *short]) == 0
    assert "utterances longer than 0.8 s" in capsys.readouterr().err


def test_print_config_needs_neither_data_nor_out(capsys):
    assert main([PROFILE, "--print-config", "--train.epochs", "7", "--decode.steps=3,4"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["train"]["epochs"] == 7
    assert config["decode"]["steps"] == [3, 4]
    assert config["model"]["decoder"]["kind"] == "mask_ctc"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trian.epochs", "3"], "trian"),
        (["--train.epoch", "3"], "epoch"),
        (["--train.epochs", "many"], "many"),
        (["--train.epochs"], "a value after --train.epochs"),
        (["--train.epochs", "0"], "epochs of at least 1"),
        (["--stages", "train,sleep"], "received sleep"),
        (["--stages", ""], "expected stages among"),
        ([], "expected --out"),
        (["--out", "somewhere"], "expected --data"),
    ],
)
def test_bad_usage_is_a_clear_error(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        main([PROFILE, *words])
    assert list(tmp_path.iterdir()) == []


def test_the_command_turns_errors_into_code_2(capsys):
    assert narspeech_main(["run", PROFILE, "--trian.epochs", "3"]) == 2
    assert capsys.readouterr().err.startswith("narspeech: ")
    with pytest.raises(SystemExit) as refused:
        narspeech_main(["run", PROFILE, "--oops", "3"])
    assert refused.value.code == 2


def test_settings_may_stand_anywhere():
    words = ["--train.epochs", "3", "recipe.py:x", "--data=a.b", "--data.seed=1", "--out", "o", "--a.b", "-1"]
    assert dotted(words) == (
        {"train.epochs": "3", "data.seed": "1", "a.b": "-1"},
        ["recipe.py:x", "--data=a.b", "--out", "o"],
    )


def test_profiles_are_named_when_one_is_unknown(tmp_path):
    for wrong in (f"{RECIPE}:tiny", str(RECIPE)):
        with pytest.raises(ConfigError, match=r"expected a profile of .*mini_ctc, mini_mask_ctc"):
            load_profile(wrong)
    with pytest.raises(ConfigError, match="expected a recipe file"):
        load_profile(str(tmp_path / "none.py:a"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match="expected a profile"):
        load_profile(f"{tmp_path / 'empty.py'}:a")
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(ConfigError, match=r"ending in \.py"):
        load_file(tmp_path / "text.txt")


def test_a_recipe_that_fails_is_run_again_when_it_is_mended(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text("raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"):
        load_file(path)
    path.write_text("PROFILES = {}\nlonger = 'than before, so that no cached code is taken'")
    assert load_file(path).PROFILES == {}
    assert load_file(path) is load_file(path)


def test_a_started_recipe_asks_the_command():
    assert command("r.py", ["small", "--out", "o"]) == ["run", "r.py:small", "--out", "o"]
    assert command("r.py", []) == ["run", "--help"]


def test_statistics_come_from_all_over_the_data():
    assert [i for chunk in spread(20) for i in chunk] == list(range(20))
    chosen = [i for chunk in spread(5000, total=100) for i in chunk]
    assert len(chosen) == 100
    assert chosen[-1] > 4900
    assert all(len(chunk) <= 16 for chunk in spread(1000))
