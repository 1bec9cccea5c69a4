from __future__ import annotations

import pytest
import torch

from narspeech.batch import Padded
from narspeech.encoders.subsampling import KINDS, Subsampling
from narspeech.errors import ConfigError


@pytest.fixture(scope="module", params=KINDS)
def subsampling(request: pytest.FixtureRequest) -> Subsampling:
    torch.manual_seed(0)
    return Subsampling(request.param, num_features=8, width=3, channels=1).eval()


@torch.no_grad()
def test_lengths_are_exact_for_every_input(subsampling: Subsampling) -> None:
    """The formula equals the shape that the convolutions give to a single row of that length without padding."""
    formula = subsampling.lengths(torch.arange(2001)).tolist()
    shortest = 2 ** (len(subsampling.stages) + 1) - 1  # below it a batch is lengthened, so that layers can follow
    for length in range(1, 2001):
        out = subsampling(Padded(torch.zeros(1, length, 8), torch.tensor([length])))
        assert out.lengths.item() == formula[length]
        assert out.data.shape[1] == formula[max(length, shortest)]
    for length in range(1, shortest):
        x = torch.zeros(1, 1, length, 8)
        for stage in subsampling.stages:
            if x.shape[2] + 2 * subsampling.padding < 3:  # the convolution would refuse it
                x = x[:, :, :0]
                break
            x = stage(x)
        assert x.shape[2] == formula[length]


def test_no_input_gives_no_output(subsampling: Subsampling) -> None:
    assert subsampling.lengths(torch.tensor([0])).tolist() == [0]
    out = subsampling(Padded(torch.zeros(2, 0, 8), torch.tensor([0, 0])))
    assert out.lengths.tolist() == [0, 0]
    assert out.data.shape[1] >= 1  # so that layers can follow


def test_too_short_for_a_frame() -> None:
    lengths = Subsampling("conv2d4", 8, 3, 2).lengths(torch.arange(12))
    assert lengths.tolist() == [0] * 7 + [1] * 4 + [2]  # two windows of 3 and stride 2 span 7 frames and move by 4


@torch.no_grad()
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30, -1.0])
def test_a_row_never_sees_padding(subsampling: Subsampling, garbage: float) -> None:
    lengths = [*range(34), 99, 100, 101, 102]
    features = torch.full((len(lengths), 105, 8), garbage)
    rows = [torch.randn(length, 8) for length in lengths]
    for row, frames in zip(features, rows, strict=True):
        row[: len(frames)] = frames
    out = subsampling(Padded(features, torch.tensor(lengths)))
    assert out.data.isfinite().all()
    for frames, together in zip(rows, out.unpack(), strict=True):
        (alone,) = subsampling(Padded(frames[None], torch.tensor([len(frames)]))).unpack()
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_real_frame_counts() -> None:
    """The last output frame of a full window reads the last input frame: nothing real is cut off."""
    for kind, rate in (("depthwise4", 4), ("depthwise8", 8)):
        subsampling = Subsampling(kind, 8, 3, 4)
        features = torch.randn(1, 5 * rate, 8)
        changed = features.clone()
        changed[:, -1] += 5
        first, second = (subsampling(Padded(x, torch.tensor([5 * rate]))).data for x in (features, changed))
        assert first.shape[1] == 5
        assert not torch.equal(first[:, -1], second[:, -1])


def test_unknown_kind() -> None:
    with pytest.raises(ConfigError, match=r"expected subsampling to be one of conv2d4, .* received 'conv2d6'"):
        Subsampling("conv2d6", 80, 4, 4)


@pytest.mark.parametrize("num_features", [0, 6])
def test_too_few_features(num_features: int) -> None:
    with pytest.raises(ConfigError, match="expected enough features for conv2d4"):
        Subsampling("conv2d4", num_features, 4, 4)
