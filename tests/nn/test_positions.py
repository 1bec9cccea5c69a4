from __future__ import annotations

import math

import pytest
import torch

from narspeech.nn.positions import placed, relative, rotary, rotate, sinusoids

CPU = torch.device("cpu")


def test_places_are_numbers_where_none_are_given() -> None:
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(placed(x) - x, sinusoids(torch.arange(5), 6).expand(2, -1, -1))
    places = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    torch.testing.assert_close(placed(x, places) - x, sinusoids(places, 6))
    assert placed(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("width", [2, 4, 10])
def test_rotation_is_a_complex_product(width: int) -> None:
    """RoFormer, eq. 14: pair n of position m is multiplied by exp(i m 10000^(-2 n / D))."""
    x = torch.randn(2, 3, 7, width)
    real, imaginary = x.double().chunk(2, -1)
    rate = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(7, dtype=torch.float64)[:, None] * rate
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
    wanted = torch.cat([turned.real, turned.imag], -1).float()
    torch.testing.assert_close(rotate(x, rotary(7, width, CPU)), wanted, atol=1e-5, rtol=1e-5)


def test_rotary_scores_tell_distance_only() -> None:
    q, k = torch.randn(2, 8).double()
    positions = rotary(40, 8, CPU).double()
    turned_q, turned_k = (rotate(x.expand(40, 8), positions) for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in (-30, -1, 0, 5, 39):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert scores[0].std() > 0.05  # and it does tell distances apart


def test_rotation_keeps_lengths_and_the_first_place() -> None:
    x = torch.randn(9, 6)
    turned = rotate(x, rotary(9, 6, CPU))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[0], x[0])


def test_rotation_keeps_the_type() -> None:
    assert rotate(torch.zeros(3, 4, dtype=torch.bfloat16), rotary(3, 4, CPU)).dtype == torch.bfloat16


@pytest.mark.parametrize("length", [1, 2, 5])
def test_relative_distances(length: int) -> None:
    table = relative(length, 6, CPU)
    assert table.shape == (2 * length - 1, 6)
    for row, distance in enumerate(range(length - 1, -length, -1)):
        for column in range(6):
            angle = distance * 10000.0 ** (-(column - column % 2) / 6)
            wanted = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[row, column].item() == pytest.approx(wanted, abs=1e-5)
