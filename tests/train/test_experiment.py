from __future__ import annotations

import pytest

from narspeech.errors import ConfigError
from narspeech.train.experiment import differences, read_settings, refuse_changes, write_settings

SETTINGS = {"format": 1, "recipe": {"train": {"epochs": 3, "seed": 0}, "decode": {"steps": [1]}}, "init": None}


def test_differences_are_named_with_dots():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == ["a.c", "d", "e"]
    assert differences(SETTINGS, SETTINGS) == []
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a"]


def test_settings_come_back(tmp_path):
    folder = tmp_path / "out"
    assert read_settings(folder) == {}
    write_settings(folder, SETTINGS)
    assert read_settings(folder) == SETTINGS


def test_changes_are_refused_unless_free(tmp_path):
    changed = {**SETTINGS, "recipe": {"train": {"epochs": 4, "seed": 0}, "decode": {"steps": [2]}}}
    refuse_changes(tmp_path, SETTINGS, SETTINGS, lambda _: False)
    refuse_changes(tmp_path, SETTINGS, changed, lambda _: True)
    with pytest.raises(ConfigError, match=r"received other train\.epochs: give the same"):
        refuse_changes(tmp_path, SETTINGS, changed, lambda name: name.startswith("recipe.decode"))


@pytest.mark.parametrize("content", ["{", "[1]", '{"format": 2}', '{"recipe": {}}'])
def test_what_is_no_settings_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_settings(tmp_path)
