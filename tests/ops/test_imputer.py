"""The constrained dynamic programme against a list of all paths, gradients included."""

from __future__ import annotations

from itertools import groupby, product

import pytest
import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.ctc import ctc_loss
from narspeech.ops.imputer import imputer_loss
from narspeech.tokenizer import BLANK

HIDDEN = -1


def spelled(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in groupby(path) if label != BLANK]


def packed(rows: list[list[int]]) -> Padded:
    return Padded.pack([torch.tensor(row, dtype=torch.long) for row in rows])


def summed_paths(log_probs: Tensor, target: list[int], known: tuple[int, ...]) -> Tensor:
    """-log of the sum over every path that spells `target` and agrees with `known`, of its hidden labels' product."""
    frames, size = log_probs.shape
    scores = [
        sum((log_probs[t, label] for t, label in enumerate(path) if known[t] == HIDDEN), log_probs.new_zeros(()))
        for path in product(range(size), repeat=frames)
        if spelled(path) == target and all(k in (HIDDEN, label) for k, label in zip(known, path, strict=True))
    ]
    return -torch.stack(scores).logsumexp(0) if scores else log_probs.new_tensor(float("inf"))


@pytest.mark.parametrize(("target", "frames"), [([1], 3), ([1, 2], 4), ([1, 1], 4), ([2, 1, 2], 4), ([], 3)])
def test_equals_the_sum_over_all_paths_that_agree(target: list[int], frames: int) -> None:
    """Loss and gradient for everything that may be known, of paths that spell the target and of others."""
    size = 3
    cases = list(product((HIDDEN, *range(size)), repeat=frames))
    known = torch.tensor(cases)
    logits = torch.randn(len(cases), frames, size, dtype=torch.float64, requires_grad=True)
    log_probs = logits.log_softmax(-1)
    spare = torch.full((len(cases), 2, size), 3.0, dtype=torch.float64)
    path = torch.cat([known.clamp(min=0), torch.ones(len(cases), 2, dtype=torch.long)], 1)
    revealed = torch.cat([known != HIDDEN, torch.ones(len(cases), 2, dtype=torch.bool)], 1)
    given = Padded(torch.cat([log_probs, spare], 1), torch.full((len(cases),), frames))
    losses, fits = imputer_loss(given, packed([target] * len(cases)), path, revealed)
    expected = torch.stack([summed_paths(log_probs[row], target, case) for row, case in enumerate(cases)])
    assert fits.tolist() == expected.isfinite().tolist()
    assert 1 < fits.sum() < len(cases)
    assert losses.dtype == torch.float32
    assert (losses[~fits] == 0).all()
    torch.testing.assert_close(losses[fits].double(), expected[fits], atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected[fits].sum(), logits)
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)
    assert (gradient[known != HIDDEN] == 0).all()
    assert (gradient[~fits] == 0).all()


def test_with_nothing_known_it_is_ctc() -> None:
    logits = torch.randn(3, 40, 7, requires_grad=True)
    log_probs = Padded(logits.log_softmax(-1), torch.tensor([40, 22, 6]))
    target = packed([[1, 2, 2, 6], [3, 3, 3], [1, 2, 3, 4, 5, 5]])
    anything = torch.randint(7, (3, 40))
    outcomes = []
    for losses, fits in (
        ctc_loss(log_probs, target),
        imputer_loss(log_probs, target, anything, torch.zeros_like(anything).bool()),
    ):
        (gradient,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
        outcomes.append((losses, fits, gradient))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)
    assert outcomes[0][1].tolist() == [True, True, False]


def test_with_everything_known_it_is_certain() -> None:
    logits = torch.randn(2, 5, 4, requires_grad=True)
    log_probs = Padded(logits.log_softmax(-1), torch.tensor([5, 5]))
    path = torch.tensor([[1, 1, 0, 2, 0], [1, 1, 0, 2, 0]])
    losses, fits = imputer_loss(log_probs, packed([[1, 2], [2, 1]]), path, torch.ones(2, 5).bool())
    assert losses.tolist() == [0, 0]
    assert fits.tolist() == [True, False]
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert (gradient == 0).all()


def test_long_utterances_stay_exact() -> None:
    """Knowing every second frame of a path of 600 leaves few others: the log-probabilities do not drown."""
    logits = (4 * torch.randn(1, 600, 9, dtype=torch.float64)).requires_grad_()
    log_probs = logits.log_softmax(-1)
    path = torch.tensor([([1, 1, 0, 3, 0, 5] * 100)])
    target = packed([[1, 3, 5] * 100])
    revealed = (torch.arange(600) % 2 == 0)[None]
    losses, fits = imputer_loss(Padded(log_probs, torch.tensor([600])), target, path, revealed)
    assert fits.all()
    # 1 a 0 b 0 c, 1 a 0 b 0 c, ...: what the hidden frames of every six may say, each six for itself.
    a, b, c = (log_probs[0, place::6] for place in (1, 3, 5))
    ways = [(1, 3, 5), (0, 3, 5), (3, 0, 5), (3, 5, 0), (3, 5, 1)]
    scores = torch.stack([a[:, first] + b[:, second] + c[:, third] for first, second, third in ways], 1)
    expected = -(scores[:-1].logsumexp(1).sum() + scores[-1, :-1].logsumexp(0))  # after the last six comes no 1
    torch.testing.assert_close(losses[0].double(), expected, rtol=1e-5, atol=1e-3)
    (gradient,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_padding_is_never_read(garbage: float) -> None:
    clean = torch.randn(2, 4, 5).log_softmax(-1)
    dirty = clean.clone()
    dirty[1, 2:] = garbage
    target = Padded(torch.tensor([[1, 2, 2], [3, -100, 10**9]]), torch.tensor([3, 1]))
    path, revealed = torch.tensor([[1, 2, 0, 2], [3, 3, 4, 4]]), torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1]]).bool()
    outcomes = []
    for data in (clean, dirty):
        leaf = data.clone().requires_grad_()
        losses, fits = imputer_loss(Padded(leaf, torch.tensor([4, 2])), target, path, revealed)
        assert fits.all()
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        assert (gradient[1, 2:] == 0).all()
        outcomes.append(torch.cat([losses.detach(), gradient.flatten()]))
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5)])
def test_no_frame_at_all(shape: tuple[int, int, int]) -> None:
    none = torch.zeros(shape[0], dtype=torch.long)
    path = torch.zeros(shape[:2], dtype=torch.long)
    log_probs = torch.zeros(shape, requires_grad=True)
    losses, fits = imputer_loss(Padded(log_probs, none), Padded(path[:, :1], none), path, path.bool())
    assert fits.all()
    assert losses.tolist() == [0.0] * shape[0]
    losses.sum().backward()  # type: ignore[no-untyped-call]
