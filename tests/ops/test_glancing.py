from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from narspeech.batch import Padded
from narspeech.ops.glancing import annealed, glance, rehearsal, reveal
from narspeech.tokenizer import PAD


def target(rows: int = 6, width: int = 12) -> Padded:
    lengths = torch.tensor([width, 7, 1, 0, 5, width])[:rows]
    tokens = torch.randint(6, 9, (rows, width))
    return Padded(tokens.masked_fill(~Padded(tokens, lengths).mask, PAD), lengths)


def wrong(truth: Padded, guess: Tensor) -> Padded:
    return truth._replace(data=truth.data != guess)


def test_annealed() -> None:
    assert [annealed(0.5, 0.3, progress) for progress in (0, 0.5, 1)] == pytest.approx([0.5, 0.4, 0.3])


class TestReveal:
    @given(st.integers(0, 10_000), st.floats(0, 1))
    @example(0, 0.9999999999999999)
    def test_as_many_as_the_ratio_of_the_errors(self, seed: int, ratio: float) -> None:
        torch.manual_seed(seed)
        truth, guess = target(), torch.randint(6, 9, (6, 12))
        shown = reveal(wrong(truth, guess), ratio, torch.rand(6, 12))
        for row, length in enumerate(truth.lengths.tolist()):
            errors = sum(
                a != b for a, b in zip(guess[row].tolist()[:length], truth.data[row].tolist()[:length], strict=True)
            )
            assert shown[row].sum() == math.floor(ratio * errors)
            assert not shown[row, length:].any()

    def test_what_is_right_is_not_counted_and_a_single_error_stays_hidden(self) -> None:
        truth = target()
        draw = torch.rand(6, 12)
        assert not reveal(wrong(truth, truth.data), 1.0, draw).any()
        guess = truth.data.clone()
        guess[:, 0] += 1
        assert not reveal(wrong(truth, guess), 0.5, draw).any()
        assert reveal(wrong(truth, guess), 1.0, draw).sum(-1).tolist() == [1, 1, 1, 0, 1, 1]

    def test_right_places_are_as_likely_as_wrong_ones(self) -> None:
        trials = 20_000
        truth = Padded(torch.full((trials, 4), 6), torch.full((trials,), 4))
        guess = truth.data.clone()
        guess[:, :2] = 7
        counts = reveal(wrong(truth, guess), 0.5, torch.rand(trials, 4)).sum(0)
        assert counts.sum() == trials
        assert (counts - trials / 4).abs().max() < 5 * (trials * 3 / 16) ** 0.5


class TestRehearsal:
    def test_the_next_pass_has_the_same_dropout(self) -> None:
        drop = nn.Dropout(0.5)
        with rehearsal(torch.device("cpu")):
            first = drop(torch.ones(100))
        second, third = drop(torch.ones(100)), drop(torch.ones(100))
        assert torch.equal(first, second)
        assert not torch.equal(second, third)

    def test_no_gradient_inside_and_all_of_it_afterwards(self) -> None:
        layer, x = nn.Linear(3, 3), torch.randn(2, 3)
        # Under autocast too, where a weight cast without gradient must not be kept for the pass that wants one.
        with torch.autocast("cpu", torch.bfloat16):
            with rehearsal(torch.device("cpu")):
                assert not layer(x).requires_grad
            layer(x).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()


class TestGlance:
    def test_is_drawn_before_the_rehearsal(self) -> None:
        """A draw after it would move the random numbers on, and the second pass would drop other units."""
        truth, drop, passes = target(), nn.Dropout(0.5), []

        def rehearse() -> Tensor:
            passes.append(drop(torch.ones(200)))
            return torch.zeros_like(truth.data)

        shown = [glance(truth, 0.5, rehearse) for _ in range(2)]
        assert torch.equal(passes[-1], drop(torch.ones(200)))
        assert not torch.equal(*passes)
        assert not torch.equal(*shown)
        assert [one.sum(-1).tolist() for one in shown] == [[6, 3, 0, 0, 2, 6]] * 2

    def test_the_same_generator_reveals_the_same(self) -> None:
        truth = target()
        first, again = (glance(truth, 0.5, lambda: truth.data + 1, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, again)
