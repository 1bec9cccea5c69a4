"""Which decodings a recipe asks for, and their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from narspeech.decoders.base import DecodeOptions
from narspeech.errors import ConfigError
from narspeech.tasks.base import DecodeConfig, RecipeConfig, settings
from tests.fakes import model_config

OWN = DecodeOptions(steps=7, threshold=0.5)


def names(kind: str, *, ctc: bool = True, **decode: object) -> list[str]:
    model = model_config(kind) if ctc else model_config(kind, ctc=None)
    config = RecipeConfig(model=model, decode=DecodeConfig(**decode))  # type: ignore[arg-type]
    return [way.name for way in settings(config, OWN)]


def test_names_tell_what_was_asked_for() -> None:
    assert names("mask_ctc", steps=(1, 5)) == ["ctc", "mask_ctc-1", "mask_ctc-5"]
    assert names("ctc") == ["ctc"]
    assert names("cmlm", ctc=False, steps=(4,), candidates=(1, 5)) == ["cmlm-4", "cmlm-4-candidates5"]
    assert names("ar", ctc=False, steps=(), beams=(1, 5)) == ["ar", "ar-beam5"]


def test_a_teacher_chooses_where_there_is_a_choice() -> None:
    teacher = Path("ar/final")
    config = RecipeConfig(model=model_config("nat"), decode=DecodeConfig(steps=(), candidates=(1, 9), teacher=teacher))
    ways = {way.name: way for way in settings(config, OWN)}
    assert list(ways) == ["ctc", "nat", "nat-candidates9", "nat-candidates9-teacher"]
    assert [way.teacher for way in ways.values()] == [None, None, None, teacher]
    assert ways["nat-candidates9-teacher"].options == ways["nat-candidates9"].options
    assert "cmlm-candidates4-teacher" in names("cmlm", steps=(), candidates=(4,), beams=(1, 5), teacher=teacher)
    assert "cmlm-beam5-teacher" not in names("cmlm", steps=(), candidates=(1, 4), beams=(1, 5), teacher=teacher)
    for kind, setting in (("nat", "candidates"), ("ar", "beam")):
        with pytest.raises(ConfigError, match=f"received one: raise {setting}"):
            names(kind, steps=(), teacher=teacher)
    for kind in ("ctc", "glat_ctc"):
        with pytest.raises(ConfigError, match=f"received {kind}, which has one: leave the teacher out"):
            names(kind, steps=(), candidates=(1, 9), beams=(1, 5), teacher=teacher)


def test_a_beam_is_that_of_the_models_own_decoder() -> None:
    wide = OWN.but(beam=5)
    head, own = settings(RecipeConfig(model=model_config("ar"), decode=DecodeConfig(steps=(), beams=(5,))), wide)
    assert (head.options.beam, own.options.beam) == (1, 5)
    assert settings(RecipeConfig(model=model_config("ctc")), wide)[0].options.beam == 5


def test_options_are_the_models_own_but_for_the_budget() -> None:
    config = RecipeConfig(model=model_config("cmlm"), decode=DecodeConfig(steps=(1, 4), beams=(1, 3), candidates=(2,)))
    ways = settings(config, OWN.but(beam=5))
    assert (ways[0].decoder, ways[0].options) == ("ctc", OWN)
    assert [way.options for way in ways[1:]] == [
        DecodeOptions(steps=steps, threshold=0.5, beam=beam, candidates=2) for steps in (1, 4) for beam in (1, 3)
    ]
    assert all(way.decoder is None for way in ways[1:])
    once = RecipeConfig(model=model_config("cmlm", ctc=None), decode=DecodeConfig(steps=()))
    assert settings(once, OWN)[0].options.steps == 7
