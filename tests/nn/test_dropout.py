from __future__ import annotations

import pytest
import torch

from narspeech.nn.dropout import Dropout, keep_mask


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.999])
def test_about_so_many_are_dropped_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    layer, x = Dropout(p), torch.ones(200_003)
    y = layer(x)
    share = layer.dropped / 256
    assert abs(share - p) <= 1 / 256
    assert (y == 0).float().mean() == pytest.approx(share, abs=4e-3)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)])


def test_every_place_of_eight_is_drawn_alike_and_for_itself() -> None:
    torch.manual_seed(0)
    kept = keep_mask(torch.empty(40_000, 8), 128) > 0
    assert torch.allclose(kept.double().mean(0), torch.full((8,), 0.5, dtype=torch.float64), atol=0.015)
    together = torch.corrcoef(kept.double().T) - torch.eye(8, dtype=torch.float64)
    assert together.abs().max() < 0.03


def test_gradients_go_where_values_went() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / x.detach())


def test_evaluation_and_the_ends() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)
    assert Dropout(0.5)(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="expected a dropout between 0 and 1"):
        Dropout(1.5)


def test_a_seed_decides() -> None:
    layer, x = Dropout(0.5), torch.ones(100)
    torch.manual_seed(3)
    first = layer(x)
    assert not torch.equal(layer(x), first)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
