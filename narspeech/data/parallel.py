"""Parallel text as it is published: two files with a sentence a line, or with segments of XML or SGML; its cleaning."""

from __future__ import annotations

import gzip
import html
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from narspeech.errors import ManifestError

# About what Moses' tokenizer makes of English: words with the hyphens and dots inside them, numbers, what follows an
# apostrophe together with it, runs of dots or dashes, and every other mark by itself.
TOKEN = re.compile(r"'?\w+(?:(?:-+|\.|(?<=\d),(?=\d))\w+)*|\.+|-+|[^\w\s]")
SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg>", re.DOTALL | re.IGNORECASE)
# Control and format characters, and those of private use, which Moses' remove-non-printing-char.perl replaces as well.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ue000-\uf8ff]")

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}

Texts = tuple[str, str]


class Limits(NamedTuple):
    """Tokens that each side of a pair has at least and at most, and how many times more than the other at most."""

    shortest: int = 1
    longest: int = 175
    ratio: float = 1.5


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text, packed by gzip or xz where its name ends in .gz or .xz, one after the other; runs of white
    space become one space. Raises ManifestError."""
    try:
        # Only "\n" ends a line: crawled text has carriage returns and the like inside of sentences.
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                yield " ".join(line.split())
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected lines of UTF-8 text in {path}, received: {error}; fetch it anew") from error


def read_segments(path: Path) -> list[str]:
    """The texts of all <seg> of an XML or SGML file in order, entities resolved. Raises ManifestError."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected segments of UTF-8 text in {path}, received: {error}; fetch it anew") from error
    return [" ".join(html.unescape(text).split()) for text in SEGMENT.findall(content)]


def aligned(sources: Iterable[str], targets: Iterable[str], name: str) -> Iterator[Texts]:
    """The texts of both sides together. Raises ManifestError at the end of the shorter side of `name`, and where
    there is none at all."""
    count = 0
    for source, target in zip_longest(sources, targets):
        if source is None or target is None:
            raise ManifestError(
                f"expected as many texts of {name} on both sides, received {count} on one and more on the other: "
                "fetch the files anew"
            )
        count += 1
        yield source, target
    if not count:
        raise ManifestError(f"expected texts in {name}, received none: fetch the files anew")


def cleaned(pairs: Iterable[Texts], name: str, limits: Limits) -> Iterator[Texts]:
    """The pairs within the limits, as Moses' clean-corpus-n.perl keeps them; tells on stderr how many these were.

    Tokens are counted about as Moses' tokenizer makes them; the texts themselves stay as they are.
    """
    kept = total = 0
    for pair in pairs:
        total += 1
        if fits(*pair, limits):
            kept += 1
            yield pair
    print(f"{name}: {kept} of {total} pairs are kept, the others are too long or too unequal", file=sys.stderr)


def fits(source: str, target: str, limits: Limits) -> bool:
    """Whether both sides are within the limits."""
    fewer, more = sorted(sum(1 for _ in TOKEN.finditer(text)) for text in (source, target))
    return limits.shortest <= fewer and more <= min(limits.longest, limits.ratio * fewer)


def printable(text: str) -> str:
    """The text with a space for every character that cannot be seen."""
    return " ".join(UNPRINTABLE.sub(" ", text).split())
