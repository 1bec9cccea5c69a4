from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from narspeech.batch import Padded
from narspeech.errors import ConfigError
from narspeech.nn.convolution import ConvolutionModule, MaskedBatchNorm

LENGTHS = (7, 4, 0, 1)
NORMS: list[Literal["layer", "batch"]] = ["layer", "batch"]


def batch(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(len(LENGTHS), 9, width) * 3 + 5
    return x, Padded(x, torch.tensor(LENGTHS)).mask.unsqueeze(-1)


class TestMaskedBatchNorm:
    def test_equals_torch_on_the_real_frames(self) -> None:
        norm = MaskedBatchNorm(5, momentum=0.3)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        mean, variance = torch.zeros(5), torch.ones(5)
        for training in (True, True, False):
            norm.train(training)
            x, mask = batch(5)
            leaf, real = x.clone().requires_grad_(), x[mask[..., 0]].requires_grad_()
            out = norm(leaf, mask)
            wanted = F.batch_norm(real, mean, variance, norm.weight, norm.bias, training, 0.3)
            torch.testing.assert_close(out[mask[..., 0]], wanted, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(norm.mean, mean)
            torch.testing.assert_close(norm.variance, variance)
            slope = torch.randn_like(wanted)
            (gradient,) = torch.autograd.grad((out[mask[..., 0]] * slope).sum(), leaf)
            (expected,) = torch.autograd.grad((wanted * slope).sum(), real)
            torch.testing.assert_close(gradient[mask[..., 0]], expected, atol=1e-4, rtol=1e-4)
            assert (gradient[~mask[..., 0]] == 0).all()

    def test_padding_is_never_counted(self) -> None:
        x, mask = batch(5)
        first, second = MaskedBatchNorm(5), MaskedBatchNorm(5)
        out = first(x, mask)
        other = second(x.masked_fill(~mask, 1e6), mask)
        assert torch.equal(out[mask[..., 0]], other[mask[..., 0]])
        assert torch.equal(first.variance, second.variance)

    @pytest.mark.parametrize("frames", [0, 1])
    def test_too_few_frames_leave_the_running_statistics(self, frames: int) -> None:
        norm = MaskedBatchNorm(5)
        mask = torch.zeros(2, 4, 1, dtype=torch.bool)
        mask[0, :frames] = True
        assert norm(torch.randn(2, 4, 5), mask).isfinite().all()
        assert norm.mean.tolist() == [0] * 5
        assert norm.variance.tolist() == [1] * 5

    def test_half_precision(self) -> None:
        norm = MaskedBatchNorm(5).bfloat16()
        x, mask = batch(5)
        assert norm(x.bfloat16(), mask).dtype == torch.bfloat16
        assert norm.mean.abs().sum() > 0


class TestConvolutionModule:
    @pytest.mark.parametrize("kernel", [1, 3, 15])
    @pytest.mark.parametrize("norm", NORMS)
    def test_equals_the_paper_row_by_row(self, norm: Literal["layer", "batch"], kernel: int) -> None:
        """Gulati et al. 2020, figure 2, on every row alone and without padding, whatever the batch is padded with."""
        module = ConvolutionModule(6, kernel, norm).eval()
        x, mask = batch(6)
        for garbage in (0.0, 1e30, float("nan"), float("inf")):
            out = module(x.masked_fill(~mask, garbage), mask)
            assert out.isfinite().all()  # so that attention can give padded values a weight of zero
            for row, length in enumerate(LENGTHS):
                single = F.glu(module.gate(x[row : row + 1, :length]), -1).transpose(1, 2)
                if length:
                    single = module.depthwise(single)
                single = single.transpose(1, 2)
                if module.layer_norm is not None:
                    single = module.layer_norm(single)
                else:
                    single = single / (1 + 1e-5) ** 0.5
                wanted = module.output(F.silu(single))
                torch.testing.assert_close(out[row : row + 1, :length], wanted, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("norm", NORMS)
    def test_gradient_ignores_padding(self, norm: Literal["layer", "batch"]) -> None:
        module = ConvolutionModule(6, 5, norm)
        x, mask = batch(6)
        gradients = []
        for garbage in (0.0, 1e4):
            out = module(x.masked_fill(~mask, garbage), mask)
            gradients.append(torch.autograd.grad(out[mask[..., 0]].square().sum(), list(module.parameters())))
        for clean, dirty in zip(*gradients, strict=True):
            torch.testing.assert_close(dirty, clean)
            assert (clean != 0).any()

    def test_even_kernel(self) -> None:
        with pytest.raises(ConfigError, match="odd convolution kernel"):
            ConvolutionModule(6, 4, "layer")
