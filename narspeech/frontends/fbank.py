"""Log-mel filter banks as Kaldi computes them, for a padded batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from narspeech.batch import Padded
from narspeech.errors import ConfigError, TrainingError
from narspeech.frontends.augment import SpecAugment, SpecAugmentConfig
from narspeech.frontends.base import Frontend

FULL_SCALE = 32768.0  # Kaldi reads 16-bit samples as they are
PRE_EMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps  # Kaldi's floor under a logarithm
# A feature that hardly moves is not blown up to unit variance: of digital silence that would be rounding alone.
STD_FLOOR = 0.1
# Frames computed at a time. A few megabytes stay in the processor's cache and in the allocator's reach: twice as fast
# as one pass over a long batch. On an accelerator the bound only keeps hours of audio from filling the memory.
CPU_BLOCK, DEVICE_BLOCK = 1024, 1 << 17


@dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """rate in Hz; high_hz None is the Nyquist frequency; dither in 16-bit steps, in training only.

    normalise: "global" by the statistics that `Fbank.fit` gathers, "utterance" by each row's own, or "none".
    floor: normalised features are raised to at least this many standard deviations, so that what a codec or a telephone
    cut away looks like quiet and not like nothing ever heard; None for no bound.
    """

    kind: ClassVar[str] = "fbank"
    rate: int = 16000
    num_mels: int = 80
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float | None = None
    dither: float = 0.0
    normalise: Literal["global", "utterance", "none"] = "global"
    floor: float | None = None
    augment: SpecAugmentConfig | None = None

    def __post_init__(self) -> None:
        if self.window < 2 or self.hop < 1:
            raise ConfigError(
                f"expected a window of at least 2 samples and a hop of at least 1, received {self.window} and "
                f"{self.hop} at {self.rate} Hz; raise window_ms or hop_ms"
            )
        if self.num_mels < 1:
            raise ConfigError(f"expected at least one mel band, received {self.num_mels}; 80 is usual")
        if not 0 <= self.low_hz < self.top_hz <= self.rate / 2:
            raise ConfigError(
                f"expected 0 <= low_hz < high_hz <= {self.rate / 2:g} (half the rate), received low_hz {self.low_hz} "
                f"and high_hz {self.high_hz}; leave high_hz at None for half the rate"
            )
        if self.normalise not in ("global", "utterance", "none"):
            raise ConfigError(f'expected normalise to be "global", "utterance" or "none", received {self.normalise!r}')
        if self.floor is not None and (self.normalise == "none" or not self.floor < 0):
            raise ConfigError(
                f"expected a floor below 0 for normalised features, received {self.floor} with normalise "
                f"{self.normalise!r}; -1.5 is usual"
            )

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return int(self.rate * self.window_ms * 0.001)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(self.rate * self.hop_ms * 0.001)

    @property
    def top_hz(self) -> float:
        return self.rate / 2 if self.high_hz is None else self.high_hz


class Fbank(Frontend):
    """Samples (B, N) in [-1, 1] -> normalised log-mel features (B, T, num_mels), float32, without gradient.

    A row of n samples has 1 + (n - window) // hop frames, and none if it is shorter than one window.
    """

    window: Tensor
    mel: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: FbankConfig, size: int = 0) -> None:  # noqa: ARG002 - size: of a vocabulary, for text
        super().__init__()
        self.config = config
        self.num_features = config.num_mels
        self.frames_per_second = config.rate / config.hop
        self.augment = None if config.augment is None else SpecAugment(config.augment)
        self.size = 1 << (config.window - 1).bit_length()
        povey = torch.hann_window(config.window, periodic=False, dtype=torch.float64).pow(0.85)
        self.register_buffer("window", (povey * FULL_SCALE).float(), persistent=False)
        self.register_buffer("mel", _mel_bands(config, self.size).float(), persistent=False)
        self.register_buffer("mean", torch.zeros(config.num_mels))
        self.register_buffer("scale", torch.ones(config.num_mels))

    def forward(self, source: Padded, views: bool = False) -> Padded:
        """Log-mel, normalised, and augmented in training mode; see `Frontend.forward` for `views`.

        Without an `augment` config, and in evaluation mode, the two views of an utterance are equal.
        """
        features = self._normalised(self._unmasked(source))
        if self.augment is not None:
            return self.augment.views(features) if views else self.augment(features)
        return features.twice() if views else features

    def log_mel(self, source: Padded) -> Padded:
        """Features before normalisation, zero beyond each row's length. T is at least 1, so that layers can follow."""
        return self._unmasked(source).zeroed()

    @torch.no_grad()
    def _unmasked(self, source: Padded) -> Padded:
        """Features before normalisation, with whatever the padding gave beyond each row's length."""
        samples, lengths = source
        if samples.dim() != 2 or not samples.is_floating_point():
            raise ValueError(
                f"expected floating-point samples (B, N) in [-1, 1], received {samples.dtype} {tuple(samples.shape)}; "
                "mix down to one channel, and divide 16-bit integers by 32768"
            )
        window, hop = self.config.window, self.config.hop
        with torch.autocast(samples.device.type, enabled=False):
            samples = samples.float()
            if samples.shape[1] < window:
                samples = nn.functional.pad(samples, (0, window - samples.shape[1]))
            if self.training and self.config.dither > 0:
                samples = samples + torch.randn_like(samples) * (self.config.dither / FULL_SCALE)
            data = self._log_energies(samples)
        frames = torch.div(lengths - window, hop, rounding_mode="floor").add_(1).clamp_(min=0)
        return Padded(data, frames)

    def _log_energies(self, samples: Tensor) -> Tensor:
        """(B, N) -> (B, T, num_mels), block by block.

        Kaldi takes the mean m off a frame x and then sets x[j] to x[j] - .97 x[j-1]. That is x[j] - .97 x[j-1] of the
        whole signal, less .03 m. The frame's first sample, the exception, meets a window of zero: it is left out, which
        turns the phase of the spectrum and not its power.
        """
        window, hop = self.config.window, self.config.hop
        # x[j] - .97 x[j-1] as a difference and a small rest, which loses no digits to a DC offset.
        emphasised = (samples[:, 1:] - samples[:, :-1]).add_(samples[:, :-1], alpha=1 - PRE_EMPHASIS)
        frames = emphasised.unfold(1, window - 1, hop)
        offsets = _frame_means(samples, window, hop).mul_(1 - PRE_EMPHASIS)
        step = max(1, (CPU_BLOCK if samples.device.type == "cpu" else DEVICE_BLOCK) // max(1, len(samples)))
        # One padded buffer for every block; asking the transform itself to pad would copy each of them once more.
        padded = samples.new_zeros(len(samples), min(step, frames.shape[1]), self.size)
        blocks = []
        for part, offset in zip(torch.split(frames, step, 1), torch.split(offsets, step, 1), strict=True):
            block = padded[:, : part.shape[1]]
            torch.sub(part, offset, out=block[..., : window - 1]).mul_(self.window[1:])
            real, imaginary = torch.view_as_real(torch.fft.rfft(block)).unbind(-1)
            power = (real * real).addcmul_(imaginary, imaginary)
            blocks.append(power @ self.mel)
        return torch.cat(blocks, 1).clamp_(min=FLOOR).log_()

    def _normalised(self, features: Padded) -> Padded:
        """Mean and variance normalisation and floor as configured, with zeros beyond each row's length."""
        data, lengths = features
        if self.config.normalise == "none":
            return features.zeroed()
        if self.config.normalise == "global":
            data = (data - self.mean).mul_(self.scale)
        else:
            count = lengths.clamp(min=1)[:, None, None]
            mean = features.zeroed().data.sum(1, keepdim=True) / count
            data = Padded(data - mean, lengths).zeroed().data
            deviation = (data.square().sum(1, keepdim=True) / count).sqrt()
            data = data / deviation.clamp(min=STD_FLOOR)
        return Padded(data if self.config.floor is None else data.clamp_(min=self.config.floor), lengths).zeroed()

    @torch.no_grad()
    def fit(self, batches: Iterable[Padded]) -> None:
        """Set the global mean and scale from the real frames of `batches` (samples); reads them only if configured so.

        Raises TrainingError if there is not a single frame.
        """
        if self.config.normalise != "global":
            return
        training, count = self.training, 0
        total = torch.zeros(self.num_features, dtype=torch.float64, device=self.mean.device)
        squares = torch.zeros_like(total)
        self.eval()
        try:
            for batch in batches:
                features = self.log_mel(batch.to(self.mean.device))
                data = features.data.double()  # zero beyond the lengths: padding adds nothing to either sum
                count += int(features.lengths.sum())
                total += data.sum((0, 1))
                squares += data.square().sum((0, 1))
        finally:
            self.train(training)
        if not count:
            raise TrainingError(
                f"expected at least one frame to take statistics from, received none; give recordings of at least "
                f"{self.config.window_ms:g} ms"
            )
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(1 / deviation.clamp(min=STD_FLOOR))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fbank:
        """`model.bfloat16()` moves the constants but must not round them: a log-mel in 8 bits of mantissa is noise."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != kept.dtype:
                self._buffers[name] = kept.to(moved.device)
        return self


def _frame_means(samples: Tensor, window: int, hop: int) -> Tensor:
    """(B, T, 1) means of the frames, from sums over pieces that overlapping frames share."""
    piece = math.gcd(window, hop)
    sums = samples.unfold(1, piece, piece).sum(-1)
    return sums.unfold(1, window // piece, hop // piece).sum(-1, keepdim=True).div_(window)


def mel(hz: Tensor) -> Tensor:
    """Kaldi's mel scale, 1127 ln(1 + f / 700)."""
    return 1127.0 * torch.log1p(hz / 700.0)


def _mel_bands(config: FbankConfig, size: int) -> Tensor:
    """(size // 2 + 1, num_mels) triangles, evenly spaced on the mel scale."""
    ends = mel(torch.tensor([config.low_hz, config.top_hz], dtype=torch.float64))
    edges = ends[0] + (ends[1] - ends[0]) / (config.num_mels + 1) * torch.arange(config.num_mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(torch.arange(size // 2 + 1, dtype=torch.float64) * config.rate / size)[:, None]
    return torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
