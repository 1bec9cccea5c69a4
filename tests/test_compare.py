"""Finished runs side by side: tiny models that learnt nothing, with everything else as after `narspeech run`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from narspeech import checkpoint
from narspeech.compare import Comparison, Entrant, compare, main, table
from narspeech.data.pairs import Pair, write_pairs
from narspeech.errors import ConfigError
from narspeech.profile import Recipe, Source, load_file
from narspeech.recipe import Run
from narspeech.tasks.base import DecodeConfig, RecipeConfig
from tests.fakes import model_config, tiny_model

prepare = load_file(Path(__file__).parents[1] / "recipes" / "multi30k" / "prepare.py").prepare
# A line separator in a text ends no line of a file.
PAIRS = [Pair(id=str(number), source="abad\u2028cab"[number % 4 :], target="dc ab") for number in range(6)]


def plan(baseline: str) -> Comparison:
    return Comparison(part="tiny-test", baseline=baseline, batch_sizes=(1, 4), examples=4, rounds=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One of each kind: raw and refined, and as if it had been trained on what a teacher wrote."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "ar" / "distilled").mkdir(parents=True)
    (folder / "ar" / "distilled" / "manifest.json").write_text("{}")
    for kind, distilled in (("ar", None), ("mask_ctc", folder / "ar" / "distilled")):
        config = RecipeConfig(
            task="translation", model=model_config(kind, "text"), decode=DecodeConfig(steps=(2,), beams=(1, 2))
        )
        run = Run(Recipe((Source("tiny", prepare, test=("test",)),), config), None, folder / kind, distilled=distilled)
        (run.out / "manifests" / "tiny").mkdir(parents=True)
        write_pairs(run.out / "manifests" / "tiny" / "test.jsonl", PAIRS)
        checkpoint.save(run.final, tiny_model(kind, "text"))
        run.stages(["decode", "score"])
    return [folder / "ar", folder / "mask_ctc"]


def test_every_setting_of_every_run_is_a_row(runs):
    comparison = compare([Entrant(run) for run in runs], plan("ar/ar-2-beam2"))
    rows = comparison.rows
    assert [(row.run, row.setting, row.distilled) for row in rows] == [
        ("ar", "ctc", False),
        ("ar", "ar-2", False),
        ("ar", "ar-2-beam2", False),
        ("mask_ctc", "ctc", True),
        ("mask_ctc", "mask_ctc-2", True),
        ("mask_ctc", "mask_ctc-2-beam2", True),
    ]
    scores = {run.name: json.loads((run / "scores.json").read_text())["tiny-test"] for run in runs}
    for row in rows:
        stored = scores[row.run][row.setting]
        assert row.figures == {"BLEU": stored["bleu"]["score"], "chrF": stored["chrf"]["score"]}
        assert row.parameters == sum(weight.numel() for weight in tiny_model(row.run, "text").parameters())
        assert min(row.speeds.values()) > 0
    assert rows[2].ratios == {1: 1.0, 4: 1.0}
    assert rows[3].steps == 0
    assert 0 < rows[4].steps <= 2
    *lines, _, note = table(comparison).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({line.count("|") for line in lines}) == 1
    assert note.startswith("tiny-test. Speeds: medians of 2 rounds over 4 examples; machine 1: ")


def test_the_command_writes_table_and_picture(runs, tmp_path, capsys):
    words = [*map(str, runs), "--out", str(tmp_path / "new"), "--baseline", "ar/ar-2"]
    few = ["--batch-sizes", "2", "--examples", "3", "--rounds", "1", "--threads", "1"]
    assert main([*words, *few]) == 0
    content = Comparison.read(tmp_path / "new" / "comparison.json")
    assert len(content.rows) == 6
    assert capsys.readouterr().out == (tmp_path / "new" / "comparison.md").read_text()
    assert (tmp_path / "new" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_other_runs_stay(runs, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--baseline", "ar/ar-2", "--batch-sizes", "2", "--rounds", "1", "--threads", "1"]
    assert main([*map(str, runs), *words, "--examples", "3"]) == 0
    target = tmp_path / "comparison.json"
    before = Comparison.read(target)
    elsewhere = json.loads(target.read_text())
    for row in elsewhere["rows"]:
        row["machine"] = "another one"
    target.write_text(json.dumps(elsewhere))
    assert main([str(runs[0]), *words, "--examples", "3"]) == 0
    after = Comparison.read(target)
    assert [(row.run, row.machine == "another one") for row in after.rows] == [("ar", False)] * 3 + [
        ("mask_ctc", True)
    ] * 3
    assert [row.ratios for row in after.rows[3:]] == [row.ratios for row in before.rows[3:]]
    assert "; 2: another one." in capsys.readouterr().out
    long = replace(before, rows=tuple(replace(row, run=f"{row.run}-long") for row in before.rows[2:4]))
    together = [row.run for row in long.with_rows_of(after).rows]
    assert together == ["ar"] * 3 + ["ar-long"] + ["mask_ctc"] * 3 + ["mask_ctc-long"]
    content = target.read_bytes()
    with pytest.raises(ConfigError, match=r"that stands in --out, examples 3, received examples 2: give"):
        main([str(runs[0]), *words, "--examples", "2"])
    assert target.read_bytes() == content
    target.write_text("{}")
    with pytest.raises(ConfigError, match="expected a comparison in"):
        main([str(runs[0]), *words])


def test_what_is_not_there_is_named(runs):
    with pytest.raises(ConfigError, match="expected a baseline among ar/ctc, ar/ar-2, "):
        compare([Entrant(run) for run in runs], plan("ar/greedy"))
    with pytest.raises(ConfigError, match=r"expected a part of .*ar \(tiny-test\), received other"):
        Entrant(runs[0], "other")


@pytest.mark.parametrize("words", [["--threads", "0"], ["--batch-sizes", "2", "0"], ["--examples", "0"]])
def test_less_than_one_is_refused(runs, tmp_path, words):
    with pytest.raises(ConfigError, match="threads of at least 1, received less"):
        main([*map(str, runs), "--out", str(tmp_path), "--baseline", "ar/ar-2", *words])


def test_runs_that_are_not_finished_or_cannot_be_compared_are_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="expected the folder of a run"):
        Entrant(tmp_path)
    one, other = Entrant(runs[0]), Entrant(runs[1])
    with pytest.raises(ConfigError, match="one name twice"):
        compare([one, one], plan("ar/ar-2"))
    other.part = "tiny-dev"
    with pytest.raises(ConfigError, match="expected runs tested on tiny-test, received tiny-dev, tiny-test"):
        compare([one, other], plan("ar/ar-2"))
    missing = runs[0] / "decode" / "tiny-test.ar-2.jsonl"
    content = missing.read_bytes()
    missing.unlink()
    try:
        with pytest.raises(ConfigError, match="run the stage decode"):
            compare([one], plan("ar/ar-2"))
    finally:
        missing.write_bytes(content)
