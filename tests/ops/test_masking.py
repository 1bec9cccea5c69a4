from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.masking import fill, mask_uniform, quota, top
from narspeech.tokenizer import MASK

PLACES = st.tuples(st.sampled_from([-float("inf"), -2.0, -1.0, -0.5, 0.0]), st.booleans())


def chosen_by_hand(scores: list[float], eligible: list[bool], count: int) -> list[bool]:
    places = sorted((i for i, real in enumerate(eligible) if real), key=lambda i: (-scores[i], i))[: max(0, count)]
    return [i in places for i in range(len(scores))]


class TestTop:
    @given(st.lists(st.tuples(st.lists(PLACES, min_size=6, max_size=6), st.integers(0, 8)), min_size=1, max_size=4))
    def test_equals_a_plain_loop(self, rows: list[tuple[list[tuple[float, bool]], int]]) -> None:
        scores = torch.tensor([[score for score, _ in places] for places, _ in rows])
        eligible = torch.tensor([[real for _, real in places] for places, _ in rows])
        chosen = top(scores, eligible, torch.tensor([count for _, count in rows]))
        assert chosen.tolist() == [
            chosen_by_hand(s, e, count)
            for s, e, (_, count) in zip(scores.tolist(), eligible.tolist(), rows, strict=True)
        ]

    def test_ties_go_to_the_earlier_place(self) -> None:
        # Wide enough that an unstable sort would shuffle equal scores.
        chosen = top(torch.zeros(1, 500), torch.ones(1, 500, dtype=torch.bool), torch.tensor([7]))
        assert chosen[0].nonzero().flatten().tolist() == list(range(7))

    def test_padding_may_hold_anything(self) -> None:
        scores = torch.tensor([[float("nan"), -1.0, float("inf"), -2.0]])
        chosen = top(scores, torch.tensor([[False, True, False, True]]), torch.tensor([1]))
        assert chosen.tolist() == [[False, True, False, False]]

    @pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
    def test_nothing(self, shape: tuple[int, int]) -> None:
        assert top(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), torch.ones(shape[0])).shape == shape


class TestMaskUniform:
    def test_masks_real_positions_only(self) -> None:
        lengths = torch.tensor([5, 1, 0, 3] * 200)
        target = Padded(torch.zeros(800, 6, dtype=torch.long), lengths)
        hidden = mask_uniform(target, torch.Generator().manual_seed(1))
        assert not (hidden & ~target.mask).any()
        assert (hidden.sum(-1) >= lengths.clamp(max=1)).all()
        assert (hidden.sum(-1)[lengths == 1] == 1).all()

    @pytest.mark.parametrize("length", [1, 2, 3, 7])
    def test_number_and_places_are_uniform(self, length: int) -> None:
        trials = 100_000
        target = Padded(torch.zeros(trials, length + 2, dtype=torch.long), torch.full((trials,), length))
        hidden = mask_uniform(target, torch.Generator().manual_seed(3))
        counts = hidden.sum(-1)
        # n is uniform on 1..length: five standard deviations of a binomial count.
        for n in range(1, length + 1):
            share = 1 / length
            assert abs(int((counts == n).sum()) - trials * share) <= 5 * (trials * share * (1 - share)) ** 0.5
        # Given n, every set of n places is as likely: chi-square over the sets, at most five sigma above its mean.
        codes = (hidden * 2 ** torch.arange(length + 2)).sum(-1)
        for n in range(1, length):
            seen = codes[counts == n].bincount()
            seen = seen[seen > 0]
            cells = math.comb(length, n)
            expected = float(seen.sum()) / cells
            statistic = float(((seen - expected) ** 2 / expected).sum()) + expected * (cells - len(seen))
            assert statistic <= (cells - 1) + 5 * (2 * (cells - 1)) ** 0.5

    def test_same_seed_same_mask(self) -> None:
        target = Padded(torch.zeros(4, 9, dtype=torch.long), torch.tensor([9, 3, 0, 5]))
        first, again = (mask_uniform(target, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, again)

    @pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
    def test_nothing(self, shape: tuple[int, int]) -> None:
        target = Padded(torch.zeros(shape, dtype=torch.long), torch.zeros(shape[0], dtype=torch.long))
        assert mask_uniform(target).shape == shape


def filling(undecided: int, steps: int) -> list[int]:
    """How many tokens each step decides, run as the engine runs it: until no MASK is left or the steps are used up."""
    tokens = torch.full((1, undecided), MASK)
    scores, proposal = torch.zeros(1, undecided), torch.full((1, undecided), 9)
    decided: list[int] = []
    for index in range(steps):
        before = int((tokens == MASK).sum())
        if not before:
            break
        confidence = -torch.rand(1, undecided)
        tokens, scores = fill(tokens, scores, proposal, confidence, quota(torch.tensor([undecided]), index, steps))
        decided.append(before - int((tokens == MASK).sum()))
    assert not (tokens == MASK).any()
    return decided


class TestSchedule:
    @given(st.integers(0, 40), st.integers(1, 12))
    def test_even_steps_and_the_rest_in_the_last(self, undecided: int, steps: int) -> None:
        if undecided < steps:
            assert filling(undecided, steps) == [1] * undecided
        else:
            each = undecided // steps
            assert filling(undecided, steps) == [each] * (steps - 1) + [undecided - each * (steps - 1)]

    def test_rows_keep_their_own_schedule(self) -> None:
        undecided = torch.tensor([0, 3, 10, 25])
        assert quota(undecided, 0, 10).tolist()[1:] == [1, 1, 2]
        assert quota(undecided, 9, 10).tolist() == undecided.tolist()
        assert quota(undecided, 0, 1).tolist() == undecided.tolist()

    def test_fill_decides_the_most_confident_masks(self) -> None:
        tokens = torch.tensor([[MASK, 8, MASK, MASK], [MASK, MASK, 7, 6]])
        scores = torch.full((2, 4), -9.0)
        confidence = torch.tensor([[-3.0, 0.0, -1.0, -2.0], [-1.0, -1.0, 0.0, 0.0]])
        before: tuple[Tensor, ...] = (tokens.clone(), scores.clone())
        new, new_scores = fill(tokens, scores, torch.full((2, 4), 9), confidence, torch.tensor([2, 1]))
        assert new.tolist() == [[MASK, 8, 9, 9], [9, MASK, 7, 6]]
        assert new_scores.tolist() == [[-9, -9, -1, -2], [-1, -9, -9, -9]]
        assert torch.equal(tokens, before[0])  # arguments stay as they were
        assert torch.equal(scores, before[1])
