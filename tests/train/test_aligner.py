"""The word aligner against sums over all alignments, and where the truth is known."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narspeech.errors import TrainingError
from narspeech.train import aligner
from narspeech.train.aligner import BITS, Aligner, learn

TOKENS = st.lists(st.integers(6, 8), min_size=1, max_size=3)
CORPUS = st.lists(st.tuples(TOKENS, st.lists(st.integers(6, 9), max_size=3)), min_size=1, max_size=4)
Pairs = list[tuple[list[int], list[int]]]


def prior(place: int, target: int, n: int, m: int, tension: float) -> float:
    """p(source place | target place), straight from its definition."""
    weights = [math.exp(-tension * abs((i + 0.5) / n - (target + 0.5) / m)) for i in range(n)]
    return weights[place] / sum(weights)


def joint(alignment: tuple[int, ...], pair: tuple[list[int], list[int]], table: dict, tension: float) -> float:  # type: ignore[type-arg]
    source, target = pair
    factors = (
        prior(i, j, len(source), len(target), tension) * table[source[i], target[j]] for j, i in enumerate(alignment)
    )
    return math.prod(factors)


def by_enumeration(corpus: Pairs, iterations: int, tension: float) -> tuple[dict, list[float]]:  # type: ignore[type-arg]
    """Expectation maximisation in which every alignment of every sentence is weighed on its own."""
    met = {(e, f) for source, target in corpus for e in source for f in target}
    table = dict.fromkeys(met, 1 / max(1, len({f for _, f in met})))
    losses = []
    for _ in range(iterations):
        counts: dict[tuple[int, int], float] = defaultdict(float)
        loss = 0.0
        for pair in corpus:
            source, target = pair
            alignments = list(itertools.product(range(len(source)), repeat=len(target)))
            weights = [joint(alignment, pair, table, tension) for alignment in alignments]
            loss -= math.log(sum(weights))
            for alignment, weight in zip(alignments, weights, strict=True):
                for j, i in enumerate(alignment):
                    counts[source[i], target[j]] += weight / sum(weights)
        losses.append(loss)
        totals: dict[int, float] = defaultdict(float)
        for (e, _), count in counts.items():
            totals[e] += count
        table = {(e, f): counts[e, f] / totals[e] for e, f in met}
    return table, losses


def sides(corpus: Pairs) -> tuple[list[list[int]], list[list[int]]]:
    return [source for source, _ in corpus], [target for _, target in corpus]


def as_table(found: Aligner) -> dict[tuple[int, int], float]:
    return {(int(k) >> BITS, int(k) & (2**BITS - 1)): p for k, p in zip(found.keys, found.table.tolist(), strict=True)}


class TestAgainstEnumeration:
    @given(CORPUS, st.sampled_from([0.0, 1.0, 4.0]), st.integers(0, 3))
    def test_the_table_and_the_likelihood(self, corpus: Pairs, tension: float, iterations: int) -> None:
        found = learn(*sides(corpus), iterations=iterations, tension=tension)
        table, losses = by_enumeration(corpus, iterations, tension)
        assert as_table(found) == pytest.approx(table, abs=1e-5)
        assert found.losses == pytest.approx(losses, abs=1e-4)

    @given(CORPUS)
    def test_the_best_alignment(self, corpus: Pairs) -> None:
        found = learn(*sides(corpus), iterations=2)
        table = as_table(found)
        for pair, places in zip(corpus, found.align(*sides(corpus)), strict=True):
            source, target = pair
            assert len(places) == len(target)
            alignments = itertools.product(range(len(source)), repeat=len(target))
            best = max(joint(alignment, pair, table, found.tension) for alignment in alignments)
            assert joint(tuple(places.tolist()), pair, table, found.tension) == pytest.approx(best)


class TestCipher:
    """A made-up language: token e becomes 100 + e, as often as its fertility says, and neighbours may swap."""

    FERTILITY = (1, 2, 0, 1, 3, 1, 1, 1)

    def corpus(self, *, swap: float) -> tuple[Pairs, list[list[int]]]:
        """Pairs and the source place of each target token."""
        generator, pairs, truth = random.Random(0), [], []
        for _ in range(400):
            source = generator.sample(range(6, 30), generator.randint(4, 8))
            links = [(place, token) for place, token in enumerate(source) for _ in range(self.FERTILITY[token % 8])]
            for j in range(len(links) - 1):
                if generator.random() < swap:
                    links[j], links[j + 1] = links[j + 1], links[j]
            pairs.append((source, [100 + token for _, token in links]))
            truth.append([place for place, _ in links])
        return pairs, truth

    @pytest.mark.parametrize("swap", [0.0, 0.3])
    def test_the_truth_is_found(self, swap: float) -> None:
        pairs, truth = self.corpus(swap=swap)
        by_words_alone = learn(*sides(pairs), tension=0.0)
        assert [places.tolist() for places in by_words_alone.align(*sides(pairs))] == truth
        # With a diagonal, tokens that give nothing now and then attract their neighbours'.
        found = learn(*sides(pairs))
        assert self.errors(found, pairs, truth) < 0.01
        by_place_alone = learn([], [])
        assert self.errors(by_place_alone, pairs, truth) > 0.3
        # Sentences it has not learnt from are aligned by the same table.
        source = [7, 13, 6, 20, 9]
        (fertilities,) = found.fertilities([source], [[100 + e for e in source for _ in range(self.FERTILITY[e % 8])]])
        assert fertilities.tolist() == [self.FERTILITY[e % 8] for e in source]

    @staticmethod
    def errors(found: Aligner, pairs: Pairs, truth: list[list[int]]) -> float:
        """The share of target tokens that are aligned wrongly."""
        wrong = [
            a != b for a, b in zip(np.concatenate(found.align(*sides(pairs))), itertools.chain(*truth), strict=True)
        ]
        return sum(wrong) / len(wrong)

    def test_the_likelihood_rises(self) -> None:
        pairs, _ = self.corpus(swap=0.3)
        losses = learn(*sides(pairs), iterations=8).losses
        assert all(after < before for before, after in itertools.pairwise(losses))

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pairs, _ = self.corpus(swap=0.3)
        pairs = [([6], []), ([], []), *pairs[:50], ([7, 8], []), *pairs[50:90], ([], [])]
        whole = learn(*sides(pairs))
        aligned = whole.align(*sides(pairs))
        for size in (1, 100, 1000):
            monkeypatch.setattr(aligner, "CHUNK", size)
            parts = learn(*sides(pairs))
            assert np.array_equal(parts.keys, whole.keys)
            np.testing.assert_allclose(parts.table, whole.table, atol=1e-12)
            for one, other in zip(parts.align(*sides(pairs)), aligned, strict=True):
                assert np.array_equal(one, other)


class TestFertilities:
    @given(CORPUS)
    def test_one_a_source_token_and_they_sum_to_the_target(self, corpus: Pairs) -> None:
        found = learn(*sides(corpus)).fertilities(*sides(corpus))
        assert [len(row) for row in found] == [len(source) for source, _ in corpus]
        assert [row.sum() for row in found] == [len(target) for _, target in corpus]

    def test_unknown_tokens_follow_the_diagonal(self) -> None:
        found = learn([[6, 7]], [[8, 9]])
        assert found.align([[50, 51, 52]], [[90, 91, 92]])[0].tolist() == [0, 1, 2]
        assert found.fertilities([[50, 51]], [[90, 91, 92, 93]])[0].tolist() == [2, 2]
        nothing = learn([], [])
        assert nothing.align([[50, 51]], [[90, 91]])[0].tolist() == [0, 1]

    def test_empty_sentences(self) -> None:
        found = learn([[6], [], [6]], [[7], [], []])
        assert [row.tolist() for row in found.fertilities([[6], [], [6]], [[7], [], []])] == [[1], [], [0]]
        assert found.fertilities([], []) == []
        assert [row.tolist() for row in found.fertilities([[], [6]], [[], []])] == [[], [0]]


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [([[6]], [], "received 1 and 0"), ([[6], []], [[7], [7]], "none for sentence 1")],
)
def test_what_cannot_be_aligned(sources: list[list[int]], targets: list[list[int]], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        learn(sources, targets)
