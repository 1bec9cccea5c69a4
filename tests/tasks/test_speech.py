from __future__ import annotations

from pathlib import Path

import pytest

from narspeech.data.example import Example
from narspeech.errors import ConfigError
from narspeech.tasks.base import DataConfig, RecipeConfig
from narspeech.tasks.speech import Speech
from tests.fakes import TOKENIZER, model_config


def test_what_is_known_of_an_example(tmp_path):
    speech = Speech(RecipeConfig(), tmp_path)
    example = Example(id="u", audio=str(tmp_path / "u.wav"), text="hello", duration=2.5, speaker="s")
    speech.write(tmp_path / "part.jsonl", [example])
    assert speech.read(tmp_path / "part.jsonl") == [example]
    assert (speech.length(example), speech.reference(example), speech.texts([example])) == (2.5, "hello", ["hello"])
    other = speech.with_reference(example, "hallo")
    assert (other.text, other.id, other.audio, other.duration) == ("hallo", "u", example.audio, 2.5)


def test_sound_has_no_fertilities():
    speech = Speech(RecipeConfig(model=model_config(), data=DataConfig(fertilities=True)), Path("none"))
    with pytest.raises(ConfigError, match="only text is aligned"):
        speech.training_set([], TOKENIZER, None)
