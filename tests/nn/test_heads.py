from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narspeech.batch import Padded
from narspeech.nn.heads import NEVER, CTCHead, LengthHead, TokenHead, forbid
from narspeech.ops.cross_entropy import smoothed_cross_entropy
from narspeech.tokenizer import BLANK, BOS, EOS, MASK, PAD

INSIDE = (PAD, MASK, BOS, EOS)


def test_forbid() -> None:
    assert forbid(4, [1, 3]).tolist() == [0, NEVER, 0, NEVER]
    assert forbid(2, ()).tolist() == [0, 0]


@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_never_emits_what_stays_inside(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    head = CTCHead(4, 9)
    log_probs = head(torch.randn(3, 5, 4) * scale)
    assert not torch.isin(log_probs.argmax(-1), torch.tensor(INSIDE)).any()
    assert (log_probs[..., list(INSIDE)].exp() == 0).all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 5))
    assert log_probs.isfinite().all()


def test_it_can_emit_everything_else() -> None:
    head = CTCHead(9, 9)
    with torch.no_grad():
        head.output.weight.copy_(torch.eye(9))
    best = head(20 * torch.eye(9)[None]).argmax(-1)[0]
    assert best[[BLANK, 5, 6, 7, 8]].tolist() == [BLANK, 5, 6, 7, 8]


def test_float32_whatever_comes_in() -> None:
    head, states = CTCHead(4, 9, condition=True), torch.randn(1, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(states).dtype == torch.float32
    head = head.bfloat16()
    assert head(states.bfloat16()).dtype == torch.float32
    assert head.feedback(states.bfloat16()).dtype == torch.bfloat16


def test_feedback_is_a_map_of_the_posteriors() -> None:
    head, states = CTCHead(4, 9, condition=True), torch.randn(2, 3, 4)
    assert head.condition is not None
    logits = head.output(states)
    logits[..., list(INSIDE)] = -torch.inf
    wanted = logits.softmax(-1) @ head.condition.weight.T + head.condition.bias
    torch.testing.assert_close(head.feedback(states), wanted)


@pytest.mark.parametrize("condition", [False, True])
def test_the_forbidden_list_is_no_weight(condition: bool) -> None:
    names = {"output.weight", "output.bias"} | ({"condition.weight", "condition.bias"} if condition else set())
    assert set(CTCHead(4, 9, condition=condition).state_dict()) == names


class TestLengthHead:
    def test_a_distribution_that_does_not_depend_on_padding(self) -> None:
        torch.manual_seed(0)
        head, rows = LengthHead(8, 20), [torch.randn(5, 8), torch.randn(2, 8)]
        batch = Padded.pack(rows, 7.0)
        found = head(batch)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(2))
        for row, alone in enumerate(rows):
            torch.testing.assert_close(head(Padded.pack([alone]))[0], found[row])

    def test_the_loss_is_that_of_the_clamped_lengths(self) -> None:
        head, states = LengthHead(8, 20), Padded.pack([torch.randn(5, 8), torch.randn(2, 8)])
        found = head.loss(states, torch.tensor([3, 99]))
        torch.testing.assert_close(found, -(head(states)[0, 3] + head(states)[1, 20]))

    def test_the_likeliest_come_first_and_nothing_has_no_token(self) -> None:
        head, states = LengthHead(8, 20), Padded(torch.randn(2, 5, 8), torch.tensor([5, 0]))
        found, log_probs = head.likeliest(states, 4), head(states)
        assert found[0].tolist() == log_probs[0].topk(4).indices.tolist()
        assert found[1].tolist() == [0, 0, 0, 0]
        assert log_probs[1, 0] > -1e-6
        assert head.likeliest(states, 99).shape == (2, 21)


def test_token_head_loss_is_that_of_its_logits() -> None:
    torch.manual_seed(0)
    head, states, truth = TokenHead(9, 6, (0, 1)), torch.randn(5, 6), torch.tensor([2, 8, 3, 4, 5])
    with torch.no_grad():
        head.bias.normal_()
    logits = head(states)
    loss, right = head.loss(states, truth, 0.1)
    torch.testing.assert_close(loss, smoothed_cross_entropy(logits, truth, 0.1, head.allowed))
    assert right == (logits.argmax(-1) == truth).sum()
    _, right = head.loss(states, logits.argmax(-1), 0.1)
    assert right == 5
    assert logits.argmax(-1).min() > 1
    loss, right = head.loss(states[:0], truth[:0], 0.1)
    assert (loss, right) == (0, 0)
