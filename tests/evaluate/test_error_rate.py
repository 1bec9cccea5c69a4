"""Error rates against brute force, jiwer's functions and kaldialign; the bootstrap against an exact enumeration."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import jiwer
import kaldialign
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narspeech.errors import ConfigError, NarspeechError
from narspeech.evaluate.error_rate import ErrorRate, character_errors, corpus, paired_bootstrap, word_errors

# Few words, so that alignments are ambiguous; one of a single character, non-ASCII ones, and case.
VOCABULARY = ("a", "b", "ab", "ba", "I", "i", "don't", "naïve", "\u0928\u092e\u0938\u094d\u0924\u0947", "你", "😀")
TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join)
SHORT_TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=6).map(" ".join)


def brute_force(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, set[tuple[int, int, int]]]:
    """The least number of errors and every (substitutions, deletions, insertions) that attains it."""

    @cache
    def best(i: int, j: int) -> tuple[int, frozenset[tuple[int, int, int]]]:
        if i == 0 and j == 0:
            return 0, frozenset({(0, 0, 0)})
        options: list[tuple[int, tuple[int, int, int]]] = []
        for di, dj, step in ((1, 1, (1, 0, 0)), (1, 0, (0, 1, 0)), (0, 1, (0, 0, 1))):
            if di > i or dj > j:
                continue
            if di and dj and reference[i - 1] == hypothesis[j - 1]:
                step = (0, 0, 0)
            cost, splits = best(i - di, j - dj)
            options += [(cost + sum(step), (s + step[0], d + step[1], n + step[2])) for s, d, n in splits]
        least = min(cost for cost, _ in options)
        return least, frozenset(split for cost, split in options if cost == least)

    least, splits = best(len(reference), len(hypothesis))
    return least, set(splits)


def random_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Half of them unrelated, half a reference with its noisy copy; empty ones too."""
    generator = random.Random(seed)
    pairs = []
    for index in range(count):
        reference = generator.choices(VOCABULARY, k=generator.randrange(15))
        if index % 2:
            hypothesis = generator.choices(VOCABULARY, k=generator.randrange(15))
        else:
            hypothesis = [
                generator.choice(VOCABULARY) if generator.random() < 0.2 else word
                for word in reference
                for _ in range(generator.choices((0, 1, 2), (1, 8, 1))[0])
            ]
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def split(rate: ErrorRate) -> tuple[int, int, int]:
    return rate.substitutions, rate.deletions, rate.insertions


@settings(deadline=None)
@given(SHORT_TEXTS, SHORT_TEXTS)
def test_counts_are_least_and_attainable(reference: str, hypothesis: str) -> None:
    for rate, before, after in (
        (word_errors(reference, hypothesis), reference.split(), hypothesis.split()),
        (character_errors(reference, hypothesis), reference, hypothesis),
    ):
        least, splits = brute_force(before, after)
        assert rate.errors == least
        assert split(rate) in splits
        assert rate.reference == len(before)


def test_equal_to_jiwer_on_random_pairs() -> None:
    pairs = random_pairs(2000, seed=1)
    for reference, hypothesis in pairs:
        for ours, theirs, rate in (
            (word_errors(reference, hypothesis), *_jiwer_words(reference, hypothesis)),
            (character_errors(reference, hypothesis), *_jiwer_characters(reference, hypothesis)),
        ):
            assert split(ours) == theirs
            assert ours.rate == pytest.approx(rate, abs=1e-12)
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assert corpus(pairs).rate == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert corpus(pairs, unit="character").rate == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)


def _jiwer_words(reference: str, hypothesis: str) -> tuple[tuple[int, int, int], float]:
    output = jiwer.process_words(reference, hypothesis)
    return (output.substitutions, output.deletions, output.insertions), output.wer


def _jiwer_characters(reference: str, hypothesis: str) -> tuple[tuple[int, int, int], float]:
    output = jiwer.process_characters(reference, hypothesis)
    return (output.substitutions, output.deletions, output.insertions), output.cer


def test_totals_equal_kaldialign() -> None:
    # Only totals: where alignments tie, kaldialign may split them otherwise.
    for reference, hypothesis in random_pairs(500, seed=2):
        words = kaldialign.edit_distance(reference.split(), hypothesis.split())
        assert word_errors(reference, hypothesis).errors == words["total"]
        characters = kaldialign.edit_distance(list(reference), list(hypothesis))
        assert character_errors(reference, hypothesis).errors == characters["total"]


def test_corpus_is_the_sum_of_its_utterances() -> None:
    pairs = random_pairs(50, seed=3)
    assert corpus(pairs) == sum((word_errors(*pair) for pair in pairs), ErrorRate())
    assert corpus(iter(pairs), unit="character") == sum((character_errors(*pair) for pair in pairs), ErrorRate())
    assert corpus([]) == ErrorRate()


def test_long_and_short_utterances_weigh_by_their_words() -> None:
    assert corpus([("a b c d e f g h i", "a b c d e f g h i"), ("j", "k")]).rate == 0.1


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [("", "", 0.0), ("", "a b", 2.0), ("a b", "", 1.0), (" \t", "\n", 0.0), ("a", "a a a", 2.0)],
)
def test_empty_texts_as_jiwer(reference: str, hypothesis: str, expected: float) -> None:
    assert word_errors(reference, hypothesis).rate == expected
    assert jiwer.wer(reference.strip(), hypothesis.strip()) == expected


def test_words_of_one_character_count() -> None:
    # Lines of one character, which a scorer's command line is known to drop.
    pairs = [("a", "b"), ("i", "i"), ("x y", "x y")]
    assert corpus(pairs) == ErrorRate(substitutions=1, reference=4)
    assert corpus(pairs).rate == 0.25


def test_white_space_is_collapsed_and_case_matters() -> None:
    assert word_errors("  a \t b\n", "a b").errors == 0
    assert character_errors("  a \t b\n", "a b") == ErrorRate(reference=3)
    assert word_errors("A b", "a b").substitutions == 1
    # Composed and decomposed are different text until normalised.
    assert character_errors("\u00e9", "e\u0301").errors == 2


def test_to_dict() -> None:
    rate = ErrorRate(substitutions=1, deletions=2, insertions=3, reference=12)
    assert rate.to_dict() == {
        "rate": 0.5,
        "errors": 6,
        "substitutions": 1,
        "deletions": 2,
        "insertions": 3,
        "reference": 12,
    }


def test_bootstrap_equals_enumeration_of_two_utterances() -> None:
    # Drawing two of two: both the first (1/4): 1/1; one each (1/2): 1/4; both the second (1/4): 0/3.
    result = paired_bootstrap(["x", "p q r"], ["y", "p q r"], ["x", "p q r"], samples=20_000)
    assert (result.delta, result.low, result.high) == (0.25, 0.0, 1.0)
    # P(delta <= 0) = 1/4, twice that; one standard error of it is 0.006.
    assert result.p == pytest.approx(0.5, abs=0.03)


def test_bootstrap_interval_equals_the_loop() -> None:
    pairs = random_pairs(60, seed=4)
    reference, first = map(list, zip(*pairs, strict=True))
    second = reference[:40] + [text for _, text in random_pairs(20, seed=5)]
    result = paired_bootstrap(reference, first, second, samples=4000, seed=7)
    generator = random.Random(8)
    deltas = []
    counts = [
        (word_errors(r, a).errors - word_errors(r, b).errors, len(r.split()))
        for r, a, b in zip(reference, first, second, strict=True)
    ]
    for _ in range(4000):
        drawn = generator.choices(counts, k=len(counts))
        deltas.append(sum(each[0] for each in drawn) / sum(each[1] for each in drawn))
    deltas.sort()
    width = deltas[3899] - deltas[99]
    assert result.low == pytest.approx(deltas[99], abs=0.1 * width)
    assert result.high == pytest.approx(deltas[3899], abs=0.1 * width)
    assert result.low < result.delta < result.high


def test_bootstrap_tells_a_real_difference_from_none() -> None:
    reference = ["a b c d"] * 200
    better, worse = ["a b c d"] * 150 + ["a b c x"] * 50, ["a b c x"] * 200
    result = paired_bootstrap(reference, better, worse, samples=1000)
    assert result.delta == pytest.approx(-150 / 800)
    assert result.high < 0
    assert result.p == pytest.approx(2 / 1001)
    same = paired_bootstrap(reference, worse, worse, samples=1000)
    assert (same.delta, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_bootstrap_is_seeded_antisymmetric_and_knows_characters() -> None:
    reference, first = map(list, zip(*random_pairs(30, seed=6), strict=True))
    second = reference[::-1]
    once = paired_bootstrap(reference, first, second, samples=500, seed=1)
    assert once == paired_bootstrap(reference, first, second, samples=500, seed=1)
    assert once != paired_bootstrap(reference, first, second, samples=500, seed=2)
    back = paired_bootstrap(reference, second, first, samples=500, seed=1)
    assert (back.delta, back.low, back.high) == pytest.approx((-once.delta, -once.high, -once.low))
    assert back.p == once.p
    characters = paired_bootstrap(reference, first, second, samples=500, unit="character")
    rates = [corpus(zip(reference, system, strict=True), "character").rate for system in (first, second)]
    assert characters.delta == pytest.approx(rates[0] - rates[1])


def test_bootstrap_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, first = map(list, zip(*random_pairs(30, seed=9), strict=True))
    whole = paired_bootstrap(reference, first, reference, samples=100)
    monkeypatch.setattr("narspeech.evaluate.error_rate._DRAWN_AT_ONCE", 10 * 30)
    assert paired_bootstrap(reference, first, reference, samples=100) == whole


def test_bootstrap_of_empty_references_stays_finite() -> None:
    result = paired_bootstrap(["", ""], ["a", ""], ["", ""], samples=200)
    assert (result.low, result.high) == (0.0, 2.0)


@pytest.mark.parametrize(("samples", "seed"), [(0, 0), (1, -1)])
def test_bootstrap_refuses_bad_options(samples: int, seed: int) -> None:
    with pytest.raises(NarspeechError, match="expected at least"):
        paired_bootstrap(["a"], ["a"], ["a"], samples=samples, seed=seed)


def test_bad_input_is_named() -> None:
    with pytest.raises(NarspeechError, match="2 references, 1 and 2 texts"):
        paired_bootstrap(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(NarspeechError, match="0 utterances"):
        paired_bootstrap([], [], [])
    with pytest.raises(ConfigError, match="'phone'"):
        corpus([("a", "b")], unit="phone")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'kaldi'"):
        corpus([("a", "b")], alignment="kaldi")  # type: ignore[arg-type]
