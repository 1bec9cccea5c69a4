from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.encoders.conformer import Conformer, ConformerConfig
from narspeech.encoders.subsampling import KINDS
from narspeech.errors import ConfigError
from narspeech.nn.heads import CTCHead

TINY = ConformerConfig(depth=2, width=16, heads=2, feed_forward=32, kernel=5, channels=4, dropout=0.0)
NUM_FEATURES = 10
LENGTHS = (61, 0, 1, 17, 40, 5)


def conformer(**changes: Any) -> Conformer:
    """In evaluation mode, with weights and batch statistics far from their starting points."""
    encoder = Conformer(replace(TINY, **changes), NUM_FEATURES).eval()
    for name, parameter in encoder.named_parameters():
        if parameter.dim() == 1 or "bias" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
        else:
            parameter.data.mul_(1.5)
    for name, buffer in encoder.named_buffers():
        buffer.copy_(torch.rand_like(buffer) + (0.5 if "variance" in name else 0.0))
    return encoder


def utterances(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    return [torch.randn(length, NUM_FEATURES) * 3 for length in lengths]


def together(rows: list[Tensor], extra: int, garbage: float) -> Padded:
    data = torch.full((len(rows), max(map(len, rows)) + extra, NUM_FEATURES), garbage)
    for target, row in zip(data, rows, strict=True):
        target[: len(row)] = row
    return Padded(data, torch.tensor([len(row) for row in rows]))


@torch.no_grad()
@pytest.mark.parametrize("subsampling", KINDS)
@pytest.mark.parametrize("window", [None, (3, 1)])
@pytest.mark.parametrize(("positions", "norm"), list(product(("rotary", "relative"), ("layer", "batch"))))
def test_a_row_never_depends_on_its_batch(
    positions: str, norm: str, window: tuple[int, int] | None, subsampling: str
) -> None:
    head = CTCHead(16, 9, condition=True).eval()
    encoder = conformer(positions=positions, norm=norm, window=window, subsampling=subsampling, taps=(1,))
    rows = utterances()
    singles = [encoder(together([row], 0, 0.0), head.feedback) for row in rows]
    orders = ([0, 1, 2, 3, 4, 5], [3, 1, 5, 2], [4, 0, 0])
    for order, extra, garbage in zip(orders, (0, 9, 70), (float("nan"), float("-inf"), 1e30), strict=True):
        encoded = encoder(together([rows[i] for i in order], extra, garbage), head.feedback)
        assert encoded.states.data.isfinite().all()
        states, taps = encoded.states.unpack(), Padded(encoded.taps[0], encoded.states.lengths).unpack()
        for place, i in enumerate(order):
            (alone,) = singles[i].states.unpack()
            assert len(alone) == int(encoder.lengths(torch.tensor([LENGTHS[i]])))
            torch.testing.assert_close(states[place], alone, atol=1e-4, rtol=0)
            torch.testing.assert_close(taps[place], singles[i].taps[0][0, : len(alone)], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_frame_reaches_as_far_as_the_window_and_the_kernels_allow() -> None:
    """Two layers of window (3, 1) and kernel 5 look 10 frames back and 6 ahead; whole context looks everywhere."""
    for window, left, right in (((3, 1), 10, 6), (None, 99, 99)):
        encoder = conformer(window=window, subsampling="depthwise4")
        features = torch.randn(1, 120, NUM_FEATURES)  # 30 frames of states
        changed = features.clone()
        changed[:, 60:64] += 1  # read by states 14 (barely), 15 and 16
        first, second = (encoder(Padded(x, torch.tensor([120]))).states.data[0] for x in (features, changed))
        touched = (first - second).abs().amax(-1) > 0
        seen = touched.nonzero().flatten()
        assert seen.min() >= 15 - 1 - right
        assert seen.max() <= 16 + left
        assert seen.min() < 13
        if window is None:
            assert touched.all()
        else:
            assert not touched.all()


def test_taps_are_the_states_of_their_layers() -> None:
    encoder = conformer(depth=3, taps=(1, 2))
    features = together(utterances((50, 20)), 0, 0.0)
    encoded = encoder(features)
    assert len(encoded.taps) == 2
    assert encoded.inputs is features
    outputs: list[Tensor] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    again = encoder(features)
    assert torch.equal(encoded.taps[0], outputs[0])
    assert torch.equal(encoded.taps[1], outputs[1])
    assert torch.equal(again.states.data, outputs[2])


@torch.no_grad()
def test_feedback_is_added_behind_every_tap() -> None:
    encoder = conformer(depth=3, taps=(1, 2))
    features = together(utterances((50, 20)), 0, 0.0)
    seen: list[Tensor] = []
    entered: list[Tensor] = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _module, inputs: entered.append(inputs[0]))

    def feedback(states: Tensor) -> Tensor:
        seen.append(states)
        return 2 * states + 1

    encoded = encoder(features, feedback)
    assert all(torch.equal(a, b) for a, b in zip(seen, encoded.taps, strict=True))
    for tap, stream in zip(encoded.taps, entered[1:], strict=True):
        torch.testing.assert_close(stream, tap + (2 * tap + 1))
    assert not torch.allclose(encoder(features).states.data, encoded.states.data)


@pytest.mark.parametrize("subsampling", KINDS)
@pytest.mark.parametrize(("positions", "norm"), [("rotary", "layer"), ("relative", "batch")])
def test_gradient_reaches_every_parameter(positions: str, norm: str, subsampling: str) -> None:
    config = replace(TINY, positions=positions, norm=norm, subsampling=subsampling, taps=(1,))  # type: ignore[arg-type]
    encoder, head = (
        Conformer(replace(config, stochastic_depth=0.3, dropout=0.1), NUM_FEATURES),
        CTCHead(16, 9, condition=True),
    )
    assert head.condition is not None
    torch.nn.init.normal_(head.condition.weight)  # it starts at zero, where nothing before it has a gradient
    encoded = encoder(together(utterances(LENGTHS * 4), 3, float("nan")), head.feedback)
    states = torch.cat(encoded.states.unpack())
    (states * torch.randn_like(states)).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in [*encoder.named_parameters(), *head.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_training_gradient_ignores_padding() -> None:
    encoder = conformer(norm="batch", subsampling="depthwise4").train()
    rows = utterances()
    gradients = []
    for extra, garbage in ((0, 0.0), (31, float("nan"))):
        states = torch.cat(encoder(together(rows, extra, garbage)).states.unpack())
        loss = (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum()
        gradients.append(torch.autograd.grad(loss, list(encoder.parameters())))
    for clean, dirty in zip(*gradients, strict=True):
        torch.testing.assert_close(dirty, clean, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_half_precision(positions: str, norm: str) -> None:
    encoder = conformer(positions=positions, norm=norm, taps=(1,))
    features = together(utterances(), 5, float("nan"))
    mask = Padded(encoder(features).states.data, encoder.lengths(features.lengths)).mask
    wanted = encoder(features).states.data[mask]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(features).states.data
    pure = encoder.bfloat16()(features).states.data  # features stay in float32
    assert pure.dtype == torch.bfloat16
    for states in (mixed, pure):
        assert states.isfinite().all()
        error = (states[mask].float() - wanted).square().mean() / wanted.var()
        assert error < 0.01


@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_half_precision_training(positions: str) -> None:
    encoder = conformer(positions=positions, norm="batch").train()
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(together(utterances(), 5, float("nan"))).states.data
    states.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@torch.no_grad()
@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_no_frame_at_all(positions: str) -> None:
    encoder = conformer(positions=positions)
    for features in (torch.zeros(2, 0, NUM_FEATURES), torch.full((2, 30, NUM_FEATURES), float("nan"))):
        states = encoder(Padded(features, torch.tensor([0, 0]))).states
        assert states.lengths.tolist() == [0, 0]
        assert states.data.isfinite().all()


def test_stochastic_depth_rises_from_zero() -> None:
    encoder = Conformer(replace(TINY, depth=4, stochastic_depth=0.3), NUM_FEATURES)
    rates = [layer.drop[1].rate for layer in encoder.layers]  # type: ignore[union-attr,index]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth of at least 1"),
        ({"window": (-1, 2)}, "window of 0 or more"),
        ({"taps": (0,)}, r"taps from 1 to depth - 1 = 1, received \[0\]"),
        ({"taps": (1, 2)}, r"received \[2\]"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)
