from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from narspeech.errors import ConfigError
from narspeech.nn.attention import Cache, CrossAttention, SelfAttention, key_mask
from narspeech.nn.positions import relative, rotary, rotate

CPU = torch.device("cpu")
WIDTH, HEADS = 8, 2


def spread(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that make a difference, biases included."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


def attention(relative: bool) -> SelfAttention:
    module = spread(SelfAttention(WIDTH, HEADS, relative=relative))
    assert isinstance(module, SelfAttention)
    return module


def positions(kind: str, length: int) -> Tensor:
    return relative(length, WIDTH, CPU) if kind == "relative" else rotary(length, WIDTH // HEADS, CPU)


def sinusoid(distance: int) -> Tensor:
    rates = [10000.0 ** (-n / WIDTH) for n in range(0, WIDTH, 2)]
    return torch.tensor([f(distance * rate) for rate in rates for f in (math.sin, math.cos)])


class TestKeyMask:
    @given(
        st.lists(st.integers(0, 6), min_size=1, max_size=4),
        st.integers(0, 3),
        st.none() | st.tuples(st.integers(0, 7), st.integers(0, 7)),
    )
    def test_equals_a_plain_loop(self, lengths: list[int], extra: int, window: tuple[int, int] | None) -> None:
        size = max(lengths) + extra
        mask = key_mask(torch.tensor(lengths), size, window).expand(len(lengths), 1, size, size)
        for row, length in enumerate(lengths):
            for query in range(size):
                for key in range(size):
                    near = window is None or -window[0] <= key - query <= window[1]
                    real = key < max(1, length)
                    wanted = (real and near) or (window is not None and key == query)
                    assert bool(mask[row, 0, query, key]) == wanted

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.tuples(st.integers(0, 7), st.integers(0, 7)))
    def test_no_query_looks_at_nothing_and_no_real_one_at_padding(
        self, lengths: list[int], window: tuple[int, int]
    ) -> None:
        size = max(1, *lengths) + 2
        for limit in (None, window):
            mask = key_mask(torch.tensor(lengths), size, limit).expand(len(lengths), 1, size, size)[:, 0]
            assert mask.any(-1).all()
            for row, length in enumerate(lengths):
                assert not mask[row, :length, length:].any()

    def test_the_whole_context_costs_no_square(self) -> None:
        assert key_mask(torch.tensor([3, 2]), 4).shape == (2, 1, 1, 4)
        assert key_mask(torch.tensor([3, 2]), 0).shape == (2, 1, 1, 0)


class TestSelfAttention:
    @pytest.mark.parametrize("window", [None, (1, 2), (0, 0)])
    @pytest.mark.parametrize("length", [1, 2, 6])
    @pytest.mark.parametrize("kind", ["rotary", "relative"])
    def test_equals_a_naive_loop(self, kind: str, length: int, window: tuple[int, int] | None) -> None:
        """Relative scores by Transformer-XL's eq. 5, one pair of query and key at a time."""
        module = attention(kind == "relative")
        x, lengths = torch.randn(2, length, WIDTH), [length, max(1, length - 2)]
        mask = key_mask(torch.tensor(lengths), length, window)
        out = module(x, positions(kind, length), mask)
        head = WIDTH // HEADS
        for row in range(2):
            q, k, v = (part.view(length, HEADS, head) for part in module.qkv(x[row]).chunk(3, -1))
            for i in range(lengths[row]):
                context = []
                for h in range(HEADS):
                    keys = [
                        j for j in range(lengths[row]) if window is None or -window[0] <= j - i <= window[1]
                    ]  # fmt: skip
                    scores = []
                    for j in keys:
                        if kind == "relative":
                            r = module.position(sinusoid(i - j)).view(HEADS, head)[h]
                            score = (q[i, h] + module.content_bias[h, 0]) @ k[j, h]
                            score = score + (q[i, h] + module.position_bias[h, 0]) @ r
                        else:
                            angles = rotary(length, head, CPU)
                            score = rotate(q[:, h], angles)[i] @ rotate(k[:, h], angles)[j]
                        scores.append(score / math.sqrt(head))
                    weights = torch.stack(scores).softmax(0)
                    context.append(sum(w * v[j, h] for w, j in zip(weights, keys, strict=True)))
                wanted = module.output(torch.cat(context))
                torch.testing.assert_close(out[row, i], wanted, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("window", [None, (1, 1)])
    @pytest.mark.parametrize("kind", ["rotary", "relative"])
    def test_rows_without_frames_stay_finite(self, kind: str, window: tuple[int, int] | None) -> None:
        module = attention(kind == "relative")
        x = torch.randn(3, 5, WIDTH, requires_grad=True)
        out = module(x, positions(kind, 5), key_mask(torch.tensor([0, 5, 1]), 5, window))
        assert out.isfinite().all()
        out.square().sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())

    @pytest.mark.parametrize("kind", ["rotary", "relative"])
    def test_nothing(self, kind: str) -> None:
        module = attention(kind == "relative")
        if kind == "rotary":  # tokens of an empty draft; an encoder always has a frame
            assert module(torch.zeros(2, 0, WIDTH), positions(kind, 0), key_mask(torch.tensor([0, 0]), 0)).shape == (
                2,
                0,
                WIDTH,
            )
        assert module(torch.zeros(0, 3, WIDTH), positions(kind, 3), key_mask(torch.zeros(0), 3)).shape == (0, 3, WIDTH)

    @pytest.mark.parametrize("kind", ["rotary", "relative"])
    def test_order_of_frames_matters(self, kind: str) -> None:
        module, x = attention(kind == "relative"), torch.randn(1, 6, WIDTH)
        mask = key_mask(torch.tensor([6]), 6)
        out, flipped = (module(y, positions(kind, 6), mask) for y in (x, x.flip(1)))
        assert (out - flipped.flip(1)).abs().max() > 1e-2

    @pytest.mark.parametrize("kind", ["rotary", "relative"])
    def test_half_precision(self, kind: str) -> None:
        module, x = attention(kind == "relative"), torch.randn(2, 6, WIDTH)
        mask = key_mask(torch.tensor([6, 3]), 6)
        wanted = module(x, positions(kind, 6), mask)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = module(x, positions(kind, 6), mask)
        pure = module.bfloat16()(x.bfloat16(), positions(kind, 6), mask)
        for out in (mixed, pure):
            assert out.dtype == torch.bfloat16
            torch.testing.assert_close(out.float(), wanted, atol=0.15, rtol=0.05)

    def test_dropout_only_in_training(self) -> None:
        module = SelfAttention(WIDTH, HEADS, dropout=0.5)
        x, mask = torch.randn(1, 6, WIDTH), key_mask(torch.tensor([6]), 6)
        assert not torch.equal(module(x, positions("rotary", 6), mask), module(x, positions("rotary", 6), mask))
        module.eval()
        assert torch.equal(module(x, positions("rotary", 6), mask), module(x, positions("rotary", 6), mask))

    @pytest.mark.parametrize(("width", "heads"), [(8, 3), (6, 2)])
    def test_impossible_heads(self, width: int, heads: int) -> None:
        with pytest.raises(ConfigError, match="heads times an even number"):
            SelfAttention(width, heads)


class TestCache:
    @pytest.mark.parametrize("pieces", [[1] * 40, [3, 1, 5], [20, 1, 19]])
    def test_pieces_equal_the_whole(self, pieces: list[int]) -> None:
        """Also when rows leave on the way, and where the room has to grow."""
        module, length = attention(relative=False), sum(pieces)
        x, angles = torch.randn(3, length, WIDTH), rotary(length, WIDTH // HEADS, CPU)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        whole = module(x, angles, causal)
        cache, rows, start = Cache(), torch.arange(3), 0
        for number, piece in enumerate(pieces):
            here = slice(start, start + piece)
            out = module(x[rows, here], angles[:, here], causal[here, : start + piece], cache)
            torch.testing.assert_close(out, whole[rows, here], atol=1e-5, rtol=1e-5)
            start += piece
            if number == 1:
                rows = rows[[2, 0]]
                cache.keep(torch.tensor([2, 0]))
        assert cache.length == length


class TestCrossAttention:
    def test_equals_a_naive_loop(self) -> None:
        module = spread(CrossAttention(WIDTH, HEADS, memory_width=6))
        assert isinstance(module, CrossAttention)
        x, states, lengths = torch.randn(2, 3, WIDTH), torch.randn(2, 5, 6), [5, 2]
        keys, values = module.project(states)
        assert keys.shape == values.shape == (2, HEADS, 5, WIDTH // HEADS)
        out = module(x, keys, values, key_mask(torch.tensor(lengths), 5))
        for row, length in enumerate(lengths):
            k, v = module.key_value(states[row, :length]).view(length, 2, HEADS, -1).unbind(1)
            for i in range(3):
                q = module.query(x[row, i]).view(HEADS, -1)
                weights = [(k[:, h] @ q[h] / math.sqrt(WIDTH // HEADS)).softmax(0) for h in range(HEADS)]
                wanted = module.output(torch.cat([weights[h] @ v[:, h] for h in range(HEADS)]))
                torch.testing.assert_close(out[row, i], wanted, atol=1e-5, rtol=1e-5)

    def test_a_memory_without_frames_stays_finite(self) -> None:
        module = CrossAttention(WIDTH, HEADS, WIDTH)
        keys, values = module.project(torch.randn(1, 2, WIDTH))
        assert module(torch.randn(1, 3, WIDTH), keys, values, key_mask(torch.tensor([0]), 2)).isfinite().all()
