"""Errors by speaker, by length and by word."""

from __future__ import annotations

import pytest

from narspeech.errors import ConfigError
from narspeech.evaluate.breakdown import Breakdown, by_length, by_speaker, confusions
from narspeech.evaluate.scores import Corpus, score_each


def corpus(references: dict[str, str], hypotheses: dict[str, str] | None = None) -> Corpus:
    return score_each(references, hypotheses or dict.fromkeys(references, ""))


@pytest.mark.parametrize(
    ("ids", "rule", "speakers"),
    [
        (["1272-128104-0000", "84-1-2", "84-1-3"], None, ["1272", "84"]),
        (["ann_1", "bob_2"], None, ["ann", "bob"]),
        (
            ["ann_b-1", "bob-2_3"],
            None,
            ["ann_b", "bob"],
        ),  # sclite: the first hyphen, and only without one an underscore
        (["ann-1", "bob"], None, None),
        (["-1"], None, None),
        (["part/ann/1", "part/bob/2"], "[^/]+/([^/]+)/", ["ann", "bob"]),
    ],
)
def test_speakers_by_rule(ids: list[str], rule: str | None, speakers: list[str] | None) -> None:
    found = by_speaker(corpus(dict.fromkeys(ids, "a")), rule)
    assert found == speakers or list(found or ()) == speakers
    if found:
        assert sum(scores.word.deletions for scores in found.values()) == len(ids)


@pytest.mark.parametrize(
    ("rule", "message"),
    [("(", "expected a regular expression"), ("a", "expected a group"), ("(x)", "expected a speaker in every id")],
)
def test_bad_rules_are_refused(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        by_speaker(corpus({"a-1": "a"}), rule)


def test_lengths_hold_every_utterance_once() -> None:
    lengths = [0, 1, 5, 6, 10, 11, 20, 21, 40, 41, 500]
    found = by_length(corpus({f"u{n}": "a " * n for n in lengths}))
    assert {name: scores.utterances for name, scores in found.items()} == {
        "0": 1, "1-5": 2, "6-10": 2, "11-20": 2, "21-40": 2, ">40": 2,
    }  # fmt: skip
    assert sum(scores.word.reference for scores in found.values()) == sum(lengths)


def test_confusions_are_counted_and_ordered() -> None:
    references = {"1": "the cat sat", "2": "the cat", "3": "a b", "4": "x"}
    hypotheses = {"1": "the bat sat uh", "2": "uh the bat", "3": "b", "4": "z"}
    found = confusions(corpus(references, hypotheses))
    assert found.substitutions == {("cat", "bat"): 2, ("x", "z"): 1}
    assert found.insertions == {"uh": 2}
    assert found.deletions == {"a": 1}
    assert found.to_dict(1)["substitutions"] == [{"reference": "cat", "hypothesis": "bat", "count": 2}]


def test_the_parts_of_a_breakdown_sum_to_the_whole() -> None:
    each = corpus({"a-1": "x y", "b-1": "z", "b-2": "x"}, {"a-1": "x", "b-1": "z w", "b-2": "y"})
    found, whole = Breakdown.of(each), each.total()
    assert found.speakers is not None
    for groups in (found.speakers, found.lengths):
        assert sum(scores.word.errors for scores in groups.values()) == whole.word.errors
        assert sum(scores.sentence_errors for scores in groups.values()) == whole.sentence_errors
    for counted, count in (
        (found.confusions.substitutions, whole.word.substitutions),
        (found.confusions.deletions, whole.word.deletions),
        (found.confusions.insertions, whole.word.insertions),
    ):
        assert sum(counted.values()) == count
    assert "x > y" in found.table()
