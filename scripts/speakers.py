"""Which speakers of a manifest, and how many of their utterances, a measurement takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from narspeech.data.example import Example


def first_half(examples: Iterable[Example]) -> set[str]:
    """Every second speaker."""
    return set(sorted({str(example.speaker) for example in examples})[::2])


def chosen(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """About `limit` utterances, as many of every speaker, in the order in which they stand; None: all."""
    of: dict[str, list[Example]] = {}
    for example in examples:
        of.setdefault(str(example.speaker), []).append(example)
    each = None if limit is None else max(1, limit // len(of))
    return [example for speaker in sorted(of) for example in of[speaker][:each]]
