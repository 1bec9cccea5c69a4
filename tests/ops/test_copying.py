from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from narspeech.ops.copying import (
    at_places,
    even_fertilities,
    fertile_copy,
    mean_fertilities,
    sampled_fertilities,
    uniform_copy,
)


def test_at_places_against_a_plain_loop() -> None:
    frames, places = torch.randn(3, 7, 4), torch.randint(0, 7, (3, 5))
    found = at_places(frames, places)
    assert all(torch.equal(found[r, u], frames[r, places[r, u]]) for r in range(3) for u in range(5))
    assert at_places(frames[:, :0], places).eq(0).all()


FERTILITIES = st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=4)


class TestUniformCopy:
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=4))
    def test_equals_the_formula(self, pairs: list[tuple[int, int]]) -> None:
        source, target = (torch.tensor(side) for side in zip(*pairs, strict=True))
        found = uniform_copy(source, target, 31)
        for row, (count, length) in enumerate(pairs):
            expected = [min(math.floor(u * count / length + 0.5), max(count - 1, 0)) for u in range(length)]
            assert found[row, :length].tolist() == expected

    def test_by_hand(self) -> None:
        assert uniform_copy(torch.tensor([4]), torch.tensor([4]), 4).tolist() == [[0, 1, 2, 3]]
        assert uniform_copy(torch.tensor([8]), torch.tensor([4]), 4).tolist() == [[0, 2, 4, 6]]
        assert uniform_copy(torch.tensor([2]), torch.tensor([5]), 5).tolist() == [[0, 0, 1, 1, 1]]  # never state 2


class TestFertileCopy:
    @given(FERTILITIES)
    def test_equals_a_plain_loop(self, rows: list[list[int]]) -> None:
        found = fertile_copy(torch.tensor(rows), 20)
        for row, fertilities in enumerate(rows):
            expected = [place for place, count in enumerate(fertilities) for _ in range(count)]
            assert found[row, : len(expected)].tolist() == expected
        assert found.max() < 5

    def test_nothing(self) -> None:
        assert fertile_copy(torch.zeros(2, 0, dtype=torch.long), 3).tolist() == [[0, 0, 0]] * 2


class TestEvenFertilities:
    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=4))
    def test_sums_and_differs_by_one_at_most(self, pairs: list[tuple[int, int]]) -> None:
        total, source = (torch.tensor(side) for side in zip(*pairs, strict=True))
        found = even_fertilities(total, source, 10)
        assert torch.equal(found.sum(-1), total)
        for row, count in zip(found, source.tolist(), strict=True):
            assert not row[count:].any()
            assert row[:count].max() - row[:count].min() <= 1

    def test_by_hand(self) -> None:
        found = even_fertilities(torch.tensor([2, 5, 3]), torch.tensor([4, 2, 0]), 4)
        assert found.tolist() == [[1, 0, 1, 0], [3, 2, 0, 0], [0, 0, 0, 0]]


class TestMeanFertilities:
    @given(st.lists(st.floats(0, 4), min_size=1, max_size=8))
    def test_follows_the_running_sum(self, expected: list[float]) -> None:
        found = mean_fertilities(torch.tensor([expected], dtype=torch.float64))[0]
        assert (found >= 0).all()
        running = torch.tensor(expected, dtype=torch.float64).cumsum(-1)
        assert ((found.cumsum(-1) - running).abs() <= 0.5 + 1e-9).all()

    def test_small_shares_add_up(self) -> None:
        assert mean_fertilities(torch.tensor([[0.2] * 10, [1.1, 0.9] * 5])).tolist() == [
            [0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
            [1] * 10,
        ]

    def test_padding_changes_nothing(self) -> None:
        expected = torch.rand(1, 999)
        longer = torch.cat([expected, torch.zeros(1, 500)], -1)
        assert torch.equal(mean_fertilities(longer)[:, :999], mean_fertilities(expected))


class TestSampledFertilities:
    def test_each_class_as_often_as_its_probability(self) -> None:
        probabilities = torch.tensor([0.2, 0.5, 0.0, 0.3])
        found = sampled_fertilities(probabilities.expand(1, 500, 4), 40).flatten()
        counts = found.bincount(minlength=4)
        assert counts[2] == 0
        deviation = (20_000 * probabilities * (1 - probabilities)) ** 0.5
        assert ((counts - 20_000 * probabilities).abs() <= 5 * deviation).all()

    def test_samples_differ_and_places_too(self) -> None:
        found = sampled_fertilities(torch.full((1, 100, 2), 0.5), 3)[0]
        assert all(0.3 < (found[a] == found[b]).float().mean() < 0.7 for a, b in ((0, 1), (0, 2), (1, 2)))
        assert 0.3 < (found[0, 1:] == found[0, :-1]).float().mean() < 0.7

    def test_neither_batch_mates_nor_padding_nor_what_was_drawn_before_matter(self) -> None:
        probabilities = torch.rand(3, 40, 5).softmax(-1)
        found = sampled_fertilities(probabilities, 4)
        torch.rand(7)
        for row in range(3):
            assert torch.equal(sampled_fertilities(probabilities[row : row + 1, :25], 4)[0], found[row, :, :25])

    def test_none(self) -> None:
        assert sampled_fertilities(torch.rand(2, 3, 4), 0).shape == (2, 0, 3)
        assert sampled_fertilities(torch.rand(2, 0, 4), 3).shape == (2, 3, 0)
