from __future__ import annotations

from dataclasses import replace

import pytest

from narspeech.checkpoint import save
from narspeech.data.pairs import Pair
from narspeech.errors import ConfigError
from narspeech.model import CTCConfig
from narspeech.tasks.base import DataConfig, DecodeConfig, RecipeConfig, settings
from narspeech.tasks.translation import Text
from narspeech.translator import Translator
from tests.fakes import TOKENIZER, model_config, tiny_model

CONFIG = RecipeConfig(task="translation", model=model_config("mask_ctc", "text"))
PAIRS = [Pair(id="one", source="abad", target="dc"), Pair(id="two", source="b", target="bad cab")]


def test_what_is_known_of_a_pair(tmp_path):
    text = Text(CONFIG, tmp_path)
    text.write(tmp_path / "part.jsonl", PAIRS)
    assert text.read(tmp_path / "part.jsonl") == PAIRS
    assert [text.length(pair) for pair in PAIRS] == [4, 7]
    assert text.reference(PAIRS[0]) == "dc"
    assert text.with_reference(PAIRS[0], "aa") == Pair(id="one", source="abad", target="aa")
    assert text.texts(PAIRS) == ["abad", "dc", "b", "bad cab"]  # one vocabulary for both sides
    assert text.training_set(PAIRS, TOKENIZER, None)[0, 0].guide is None


def test_fertilities_count_what_each_source_token_gives(tmp_path):
    text = Text(replace(CONFIG, data=DataConfig(fertilities=True)), tmp_path)
    data = text.training_set(PAIRS, TOKENIZER, None)
    for index in range(2):
        item = data[0, index]
        assert len(item.guide) == len(item.source)
        assert item.guide.sum() == len(item.tokens)
    assert text.dataset(PAIRS, TOKENIZER, "held-out")[0, 0].guide is None


def test_text_cannot_be_guided_in_time(tmp_path):
    model = replace(CONFIG.model, ctc=CTCConfig(guided=0.5))
    with pytest.raises(ConfigError, match="only sound has times"):
        Text(replace(CONFIG, model=model), tmp_path).training_set(PAIRS, TOKENIZER, None)


def test_a_teacher_chooses(tmp_path):
    teacher, model = tiny_model("ar", "text", seed=1), tiny_model("cmlm", "text", seed=2)
    save(tmp_path / "ar", teacher)
    decode = DecodeConfig(steps=(2,), candidates=(4,), teacher=tmp_path / "ar")
    config = replace(CONFIG, model=model.config, decode=decode)
    pairs = [Pair(id=str(n), source=text, target="") for n, text in enumerate(["abad", "cab", "da da", "bad cab"])]
    ways = settings(config, model.config.decoding)
    found = {way.name: entries for way, entries in Text(config, tmp_path).decode(model, pairs, "test", ways)}
    assert list(found) == ["ctc", "cmlm-2-candidates4", "cmlm-2-candidates4-teacher"]
    _, plain, chosen = found.values()
    expected = Translator(model, teacher=teacher)([pair.source for pair in pairs], ways[-1].options)
    assert [entry["text"] for entry in chosen] == [one.text for one in expected]
    assert [entry["text"] for entry in chosen] != [entry["text"] for entry in plain]


def test_every_way_of_decoding_gives_a_record_a_pair(tmp_path):
    model = tiny_model("mask_ctc", "text")
    ways = settings(CONFIG, model.config.decoding)
    found = dict(Text(CONFIG, tmp_path).decode(model, PAIRS, "test", ways))
    assert [way.name for way in found] == ["ctc", "mask_ctc-1", "mask_ctc-5", "mask_ctc-10"]
    for entries in found.values():
        assert [entry["id"] for entry in entries] == ["one", "two"]
        assert all(isinstance(entry["text"], str) for entry in entries)
