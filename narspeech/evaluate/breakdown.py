"""Where the errors are: by speaker, by length, and which words are confused, inserted and deleted most."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from narspeech.errors import ConfigError
from narspeech.evaluate.scores import Corpus, Scores, columns

# LibriSpeech's speaker-chapter-utterance, and sclite's rule for speaker-utterance and speaker_utterance.
SPEAKER = r"([^-]+)-|([^-_]+)_"
# The longest reference of each row of the table by length, in words.
_LONGEST = (0, 5, 10, 20, 40)

Key = TypeVar("Key", str, tuple[str, str])


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """How often a word was heard for another (reference, hypothesis), heard without being said, or not heard."""

    substitutions: Counter[tuple[str, str]]
    insertions: Counter[str]
    deletions: Counter[str]

    def to_dict(self, most: int) -> dict[str, Any]:
        """The `most` frequent of each, by count and then by the alphabet."""
        return {
            "substitutions": [
                {"reference": before, "hypothesis": after, "count": count}
                for (before, after), count in _top(self.substitutions, most)
            ],
            "insertions": [{"word": word, "count": count} for word, count in _top(self.insertions, most)],
            "deletions": [{"word": word, "count": count} for word, count in _top(self.deletions, most)],
        }


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """speakers: None where the ids name none."""

    speakers: Mapping[str, Scores] | None
    lengths: Mapping[str, Scores]
    confusions: Confusions

    @staticmethod
    def of(corpus: Corpus, speaker: str | None = None) -> Breakdown:
        """speaker: see `by_speaker`."""
        return Breakdown(speakers=by_speaker(corpus, speaker), lengths=by_length(corpus), confusions=confusions(corpus))

    def to_dict(self, most: int = 100) -> dict[str, Any]:
        return {
            "speakers": None if self.speakers is None else {k: each.to_dict() for k, each in self.speakers.items()},
            "lengths": {name: each.to_dict() for name, each in self.lengths.items()},
            "confusions": self.confusions.to_dict(most),
        }

    def table(self, most: int = 10) -> str:
        """All of it for people, the `most` frequent confusions."""
        parts = [] if self.speakers is None else [group_table("speaker", self.speakers)]
        parts.append(group_table("words", self.lengths))
        pairs = {f"{before} > {after}": count for (before, after), count in self.confusions.substitutions.items()}
        named = (("confused", pairs), ("inserted", self.confusions.insertions), ("deleted", self.confusions.deletions))
        for name, counted in named:
            rows = [(word, str(count)) for word, count in _top(Counter(counted), most)]
            parts.append(columns([(name, "times"), *rows]))
        return "\n\n".join(parts)


def by_speaker(corpus: Corpus, rule: str | None = None) -> dict[str, Scores] | None:
    """Scores by speaker, whom the first group of the regular expression `rule` finds at the start of an id.

    Without a rule it is what stands before the first hyphen, else the first underscore; None if an id has neither.
    Raises ConfigError if the rule is no expression with a group, or does not fit an id.
    """
    try:
        pattern = re.compile(rule or SPEAKER)
    except re.error as error:
        raise ConfigError(f"expected a regular expression for the speaker, received {rule!r}: {error}") from error
    if not pattern.groups:
        raise ConfigError(f"expected a group (...) around the speaker in the expression, received {rule!r}: add one")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(corpus.ids):
        match = pattern.match(name)
        speaker = match and next((group for group in match.groups() if group), None)
        if not speaker and rule is None:
            return None
        if not speaker:
            raise ConfigError(f"expected a speaker in every id by {rule!r}, received {name!r}: correct the expression")
        rows.setdefault(speaker, []).append(row)
    return {speaker: corpus.total(rows[speaker]) for speaker in sorted(rows)}


def by_length(corpus: Corpus) -> dict[str, Scores]:
    """Scores by the number of words in the reference; rows without utterances are left out."""
    bins = np.searchsorted(_LONGEST, corpus.words[:, 3])
    names = ["0", *(f"{low + 1}-{high}" for low, high in pairwise(_LONGEST)), f">{_LONGEST[-1]}"]
    rows = [np.flatnonzero(bins == index).tolist() for index in range(len(names))]
    return {name: corpus.total(part) for name, part in zip(names, rows, strict=True) if part}


def confusions(corpus: Corpus) -> Confusions:
    """The word errors of a whole corpus, counted by word."""
    substitutions: Counter[tuple[str, str]] = Counter()
    insertions: Counter[str] = Counter()
    deletions: Counter[str] = Counter()
    for edits in corpus.aligned(np.flatnonzero(corpus.errors).tolist()):
        for before, after in edits:
            if before is None and after is not None:
                insertions[after] += 1
            elif after is None and before is not None:
                deletions[before] += 1
            elif before is not None and after is not None and before != after:
                substitutions[before, after] += 1
    return Confusions(substitutions=substitutions, insertions=insertions, deletions=deletions)


def group_table(name: str, groups: Mapping[str, Scores]) -> str:
    """A row a group: rates in per cent, and the word errors by kind."""
    return columns(group_rows(name, groups))


def group_rows(name: str, groups: Mapping[str, Scores]) -> list[tuple[str, ...]]:
    """The cells of `group_table`, header first."""
    rows: list[tuple[str, ...]] = [(name, "utterances", "WER %", "sub", "del", "ins", "reference", "CER %", "SER %")]
    for group, scores in groups.items():
        word = scores.word
        figures = map(str, (word.substitutions, word.deletions, word.insertions, word.reference))
        rates = [f"{100 * rate:.2f}" for rate in (word.rate, scores.character.rate, scores.sentence_rate)]
        rows.append((group, str(scores.utterances), rates[0], *figures, *rates[1:]))
    return rows


def _top(counted: Counter[Key], most: int) -> list[tuple[Key, int]]:
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most]
