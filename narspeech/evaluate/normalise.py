"""Text as it is compared: normalisers with a name and a version each, so that a score says how it came about."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any, Literal

from narspeech.errors import ConfigError, NarspeechError

Normalisation = Literal["none", "basic", "whisper-english"]

# To be raised whenever `basic` gives another text than before.
_BASIC_VERSION = 1


def normalised(text: str, how: Normalisation = "basic") -> str:
    """`text` as it is compared, by one of three normalisers.

    none: as it is. basic: NFKC, lower case, no punctuation, single spaces, for any language. Punctuation (Unicode's P
    categories) separates words, as a hyphen does; an apostrophe stays inside a word (don't, o'clock) and goes at its
    ends. Typographic apostrophes become the plain one. Symbols that are spoken ($, +) and combining marks, which Indic
    scripts need, stay. whisper-english: OpenAI Whisper's for English (Radford et al. 2022, appendix C), which also
    writes out contractions, makes numbers digits and spells the American way; it comes with the extra `eval`.

    Raises ConfigError on another `how` and on a text that whisper-english would mutilate, NarspeechError without the
    extra.
    """
    if how not in _NORMALISERS:
        raise ConfigError(f"expected a normalisation among {', '.join(_NORMALISERS)}, received {how!r}: choose one")
    return _NORMALISERS[how](text)


def signature(how: Normalisation) -> str:
    """The name and version of a normaliser: what one must know to get the same text again."""
    if how == "basic":
        return f"basic.v{_BASIC_VERSION}-unicode{unicodedata.unidata_version}"
    return f"{how}-{metadata.version('whisper-normalizer')}" if how == "whisper-english" else how


def _none(text: str) -> str:
    return text


def _basic(text: str) -> str:
    # Apostrophes first, for NFKC would turn the acute accent into a space. NFKC again: lower-casing may undo it.
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    text = unicodedata.normalize("NFKC", text).translate(_PUNCTUATION)
    words = (word.strip("'") for word in text.split())
    return " ".join(word for word in words if word)


def _whisper_english(text: str) -> str:
    normaliser = _whisper()
    # It drops every combining mark: fine for a cafe, but in Indic scripts the vowels are marks.
    if not text.isascii() and any(each >= "\u0900" and unicodedata.category(each) in ("Mn", "Mc") for each in text):
        raise ConfigError(
            f"expected English for the normaliser whisper-english, received {text[:40]!r}, whose vowel signs it would "
            "drop: choose --normalise basic"
        )
    return str(normaliser(text)).strip()


@cache
def _whisper() -> Callable[[str], Any]:
    try:
        with warnings.catch_warnings():  # Python warns of escapes in its docstrings when it first compiles them
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)  # what it is called before Python 3.12
            from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise NarspeechError(
            "expected whisper-normalizer for the normaliser whisper-english, received an environment without it: "
            'pip install "narspeech[eval]"'
        ) from None
    normaliser: Callable[[str], Any] = EnglishTextNormalizer()
    return normaliser


class _Punctuation(dict[int, str]):
    """A table for `str.translate` that learns a character when it first meets it: scanning all of Unicode is slow."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_punctuation = unicodedata.category(character).startswith("P") and character != "'"
        return self.setdefault(code, " " if is_punctuation else character)


_PUNCTUATION = _Punctuation()
_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u201b\u02bc\u00b4`"), "'")
_NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": _none,
    "basic": _basic,
    "whisper-english": _whisper_english,
}
