from __future__ import annotations

import pytest
import torch

from narspeech.errors import ConfigError
from narspeech.nn.attention import key_mask
from narspeech.nn.layers import DecoderLayer, FeedForward, StackConfig, StochasticDepth
from narspeech.nn.positions import rotary

CPU = torch.device("cpu")


def test_feed_forward() -> None:
    layer, x = FeedForward(4, 6, 0.0), torch.randn(2, 3, 4)
    hidden = x @ layer.inner.weight.T + layer.inner.bias
    wanted = (hidden * hidden.sigmoid()) @ layer.outer.weight.T + layer.outer.bias
    torch.testing.assert_close(layer(x), wanted)


class TestStochasticDepth:
    def test_drops_whole_rows_and_keeps_the_mean(self) -> None:
        x = torch.ones(20_000, 2, 3)
        out = StochasticDepth(0.25)(x)
        kept = out[:, 0, 0] != 0
        assert torch.equal(out, kept[:, None, None] * x / 0.75)
        assert kept.float().mean().item() == pytest.approx(0.75, abs=5 * (0.25 * 0.75 / 20_000) ** 0.5)

    @pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.9, False)])
    def test_idle(self, rate: float, training: bool) -> None:
        x = torch.randn(4, 2, 3)
        assert torch.equal(StochasticDepth(rate).train(training)(x), x)

    def test_a_dropped_branch_still_has_gradients(self) -> None:
        branch = torch.nn.Linear(3, 3)
        out = StochasticDepth(0.999)(branch(torch.randn(2, 4, 3)))
        assert (out == 0).all()
        out.sum().backward()
        assert all(p.grad is not None and (p.grad == 0).all() for p in branch.parameters())

    @pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
    def test_impossible_rate(self, rate: float) -> None:
        with pytest.raises(ConfigError, match="stochastic depth rate"):
            StochasticDepth(rate)


class TestDecoderLayer:
    def run(self, layer: DecoderLayer, x: torch.Tensor, tokens: int, states: torch.Tensor, frames: int) -> torch.Tensor:
        keys, values = layer.cross_attention.project(states)
        length = x.shape[1]
        mask, memory_mask = key_mask(torch.tensor([tokens]), length), key_mask(torch.tensor([frames]), states.shape[1])
        out: torch.Tensor = layer(x, rotary(length, 4, CPU), mask, keys, values, memory_mask)
        return out

    def test_padding_changes_nothing(self) -> None:
        layer = DecoderLayer(8, 2, 16, 6, 0.1).eval()
        x, states = torch.randn(1, 5, 8), torch.randn(1, 7, 6)
        padded, noise = torch.cat([x, torch.full((1, 3, 8), 50.0)], 1), torch.full((1, 4, 6), -50.0)
        alone = self.run(layer, x, 5, states, 7)
        together = self.run(layer, padded, 5, torch.cat([states, noise], 1), 7)
        torch.testing.assert_close(together[:, :5], alone, atol=1e-5, rtol=1e-5)

    def test_every_token_sees_every_token_and_frame(self) -> None:
        layer = DecoderLayer(8, 2, 16, 6, 0.0)
        x, states = torch.randn(1, 5, 8, requires_grad=True), torch.randn(1, 7, 6, requires_grad=True)
        out = self.run(layer, x, 5, states, 7)
        for place in range(5):
            tokens, frames = torch.autograd.grad(out[0, place].square().sum(), (x, states), retain_graph=True)
            assert (tokens.abs().sum(-1) > 0).all()
            assert (frames.abs().sum(-1) > 0).all()

    def test_no_token(self) -> None:
        layer = DecoderLayer(8, 2, 16, 6, 0.0)
        assert self.run(layer, torch.zeros(1, 0, 8), 0, torch.randn(1, 2, 6), 2).shape == (1, 0, 8)


@pytest.mark.parametrize("settings", [{"depth": 0}, {"feed_forward": 0}, {"heads": -1}, {"dropout": 1.0}])
def test_impossible_sizes_of_a_stack(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"expected .*{next(iter(settings))} .*, received .*[:;] "):
        StackConfig(**settings)  # type: ignore[arg-type]
