"""Normalisers: what each one does to a text, and that none harms a script."""

from __future__ import annotations

import sys
import unicodedata
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narspeech.errors import ConfigError, NarspeechError
from narspeech.evaluate import normalise
from narspeech.evaluate.normalise import normalised, signature

needs_extra = pytest.mark.skipif(find_spec("whisper_normalizer") is None, reason="needs narspeech[eval]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("Don\u2019t  DON'T don\u02bct", "don't don't don't"),
        ("'tis the dogs' \u2018quoted\u2019 rock'n'roll", "tis the dogs quoted rock'n'roll"),
        ("well-known \u2014 e.g. snake_case", "well known e g snake case"),
        ("\uff26\uff55\uff4c\uff4c \ufb01ne", "full fine"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947\u0964", "\u0928\u092e\u0938\u094d\u0924\u0947"),
        ("$5 + 3", "$5 + 3"),
        ("' -- ...", ""),
        ("", ""),
    ],
)
def test_basic_normalisation(text: str, expected: str) -> None:
    assert normalised(text, "basic") == expected
    assert normalised(text, "none") == text


@settings(deadline=None)
@given(st.text())
def test_basic_normalisation_is_stable(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once
    assert once == " ".join(once.split())
    kinds = {unicodedata.category(character)[0] for character in once if character != "'"}
    assert "P" not in kinds
    assert all(word.strip("'") == word for word in once.split())


@pytest.mark.parametrize(
    "text",
    [
        "\u0939\u093f\u0928\u094d\u0926\u0940",  # Hindi
        "\u09ac\u09be\u0982\u09b2\u09be",  # Bengali
        "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd",  # Tamil
        "\u0c24\u0c46\u0c32\u0c41\u0c17\u0c41",  # Telugu
        "\u0d2e\u0d32\u0d2f\u0d3e\u0d33\u0d02",  # Malayalam
        "\u0e44\u0e17\u0e22",  # Thai
    ],
)
def test_basic_keeps_scripts_whole(text: str) -> None:
    assert normalised(f"\u201c{text}\u201d, {text}!") == f"{text} {text}"


def test_unknown_normaliser_is_named() -> None:
    with pytest.raises(ConfigError, match="'whisper'"):
        normalised("a", "whisper")  # type: ignore[arg-type]


def test_signatures_name_versions() -> None:
    assert signature("none") == "none"
    assert signature("basic") == f"basic.v1-unicode{unicodedata.unidata_version}"


@needs_extra
def test_whisper_english() -> None:
    assert normalised("Mr. Park won't pay twenty-five dollars, colour!", "whisper-english") == (
        "mister park will not pay $25 color"
    )
    assert normalised("A caf\u00e9", "whisper-english") == "a cafe"
    assert normalised("", "whisper-english") == ""
    assert signature("whisper-english") == "whisper-english-0.1.15"
    with pytest.raises(ConfigError, match="choose --normalise basic"):
        normalised("\u0939\u093f\u0928\u094d\u0926\u0940", "whisper-english")


def test_whisper_english_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    normalise._whisper.cache_clear()
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(NarspeechError, match=r"narspeech\[eval\]"):
        normalised("a", "whisper-english")
