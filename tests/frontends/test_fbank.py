from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchaudio.compliance.kaldi
from torch import Tensor

from narspeech.batch import Padded
from narspeech.errors import ConfigError, TrainingError
from narspeech.frontends import fbank
from narspeech.frontends.augment import SpecAugmentConfig
from narspeech.frontends.fbank import Fbank, FbankConfig

PLAIN = FbankConfig(normalise="none")


def kaldi(samples: Tensor, config: FbankConfig = PLAIN) -> Tensor:
    """Kaldi's features in double precision."""
    features: Tensor = torchaudio.compliance.kaldi.fbank(
        samples[None].double() * 32768,
        num_mel_bins=config.num_mels,
        sample_frequency=float(config.rate),
        frame_length=config.window_ms,
        frame_shift=config.hop_ms,
        low_freq=config.low_hz,
        high_freq=config.high_hz or 0.0,
    )
    return features.float()


def voice(length: int, seed: int = 0, rate: int = 16000) -> Tensor:
    """Harmonics with an offset under a slow swell, and a little noise."""
    noise = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    time = torch.arange(length) / rate
    tones = sum(torch.sin(2 * math.pi * 130 * k * time) / k for k in range(1, 20))
    return (0.2 * tones * (1.2 + torch.sin(9 * time)) + 0.02 * noise + 0.05).clamp(-1, 1)


def signals() -> dict[str, Tensor]:
    noise = torch.randn(24000, generator=torch.Generator().manual_seed(1))
    return {"noise": noise * 0.1, "faint": noise * 1e-3, "voice": voice(24000), "offset": noise * 0.01 + 0.5}


@pytest.mark.parametrize("name", ["noise", "faint", "voice", "offset"])
def test_equals_kaldi(name: str) -> None:
    samples = signals()[name]
    features = Fbank(PLAIN)(Padded.pack([samples]))
    torch.testing.assert_close(features.data[0], kaldi(samples), atol=1e-3, rtol=0)


@pytest.mark.parametrize("length", [400, 401, 559, 560, 561, 8000, 15999])
def test_equals_kaldi_at_any_length(length: int) -> None:
    samples = voice(length, seed=length)
    features = Fbank(PLAIN)(Padded.pack([samples]))
    assert features.lengths.tolist() == [1 + (length - 400) // 160]
    torch.testing.assert_close(features.data[0], kaldi(samples), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 8000, "num_mels": 40},
        {"window_ms": 32.0, "hop_ms": 8.0},
        {"low_hz": 60.0, "high_hz": 7000.0},
        {"rate": 22050},
        {"window_ms": 20.0, "hop_ms": 12.5},
        {"window_ms": 10.0, "hop_ms": 15.0},
    ],
)
def test_equals_kaldi_with_other_settings(changes: dict[str, Any]) -> None:
    config = replace(PLAIN, **changes)
    samples = voice(config.rate, rate=config.rate)
    features = Fbank(config)(Padded.pack([samples]))
    torch.testing.assert_close(features.data[0], kaldi(samples, config), atol=1e-3, rtol=0)


def test_silence_is_the_floor() -> None:
    features = Fbank(PLAIN)(Padded.pack([torch.zeros(1600)]))
    assert torch.equal(features.data, torch.full_like(features.data, math.log(torch.finfo(torch.float32).eps)))


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Padded.pack([voice(9000), voice(12000, seed=1), voice(500, seed=2)])
    whole = Fbank(PLAIN)(source)
    monkeypatch.setattr(fbank, "CPU_BLOCK", block)
    torch.testing.assert_close(Fbank(PLAIN)(source).data, whole.data, atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalise", ["none", "global", "utterance"])
@pytest.mark.parametrize("junk", [0.0, 0.7, 1e30, float("nan")])
def test_padding_and_batch_mates_change_nothing(normalise: Any, junk: float) -> None:
    frontend = Fbank(replace(PLAIN, normalise=normalise)).eval()
    frontend.fit([Padded.pack([voice(16000, seed=9)])])
    rows = [voice(length, seed=length) for length in (16000, 399, 0, 5000, 400)]
    source = Padded.pack(rows)
    padded = torch.nn.functional.pad(source.data, (0, 3000))
    mask = torch.arange(padded.shape[1]) < source.lengths[:, None]
    together = frontend(Padded(torch.where(mask, padded, torch.full_like(padded, junk)), source.lengths))
    assert together.lengths.tolist() == [98, 0, 0, 29, 1]
    for row, samples in enumerate(rows):
        alone = frontend(Padded.pack([samples]))
        length = int(alone.lengths[0])
        torch.testing.assert_close(together.data[row, :length], alone.data[0, :length], atol=1e-4, rtol=0)
        assert (together.data[row, length:] == 0).all()


@pytest.mark.parametrize("normalise", ["none", "global", "utterance"])
def test_no_row_has_a_frame(normalise: Any) -> None:
    frontend = Fbank(replace(PLAIN, normalise=normalise, augment=SpecAugmentConfig()))
    for source in (Padded.pack([torch.zeros(399), torch.zeros(0)]), Padded.pack([torch.zeros(0)])):
        for views in (False, True):
            features = frontend(source, views=views)
            assert features.lengths.sum() == 0
            assert features.data.shape[1:] == (1, 80)
            assert (features.data == 0).all()


def test_global_statistics_match_a_plain_concatenation() -> None:
    frontend = Fbank(FbankConfig())
    batches = [Padded.pack([voice(9000), voice(3000, seed=1)]), Padded.pack([voice(4000, seed=2), voice(100)])]
    frames = torch.cat([kaldi(row) for batch in batches for row in batch.unpack() if len(row) >= 400]).double()
    frontend.fit(iter(batches))
    torch.testing.assert_close(frontend.mean, frames.mean(0).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(frontend.scale, (1 / frames.std(0, correction=0)).float(), atol=1e-3, rtol=1e-3)
    real = torch.cat([row for batch in batches for row in frontend(batch).unpack()])
    torch.testing.assert_close(real.mean(0), torch.zeros(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(80), atol=1e-3, rtol=0)


def test_fitting_leaves_the_mode_and_ignores_dither() -> None:
    """Statistics are of the clean signal, whichever mode the frontend is in."""
    batches = [Padded.pack([voice(9000)])]
    noisy, clean = Fbank(FbankConfig(dither=100.0)).train(), Fbank(FbankConfig()).eval()
    noisy.fit(batches)
    clean.fit(batches)
    assert noisy.training
    assert not clean.training
    assert torch.equal(noisy.mean, clean.mean)


def test_constant_feature_is_not_blown_up() -> None:
    frontend = Fbank(FbankConfig())
    frontend.fit([Padded.pack([torch.zeros(8000)])])
    assert torch.isfinite(frontend.scale).all()
    assert torch.isfinite(frontend(Padded.pack([voice(8000)])).data).all()


def test_nothing_to_fit_on() -> None:
    with pytest.raises(TrainingError, match="at least one frame"):
        Fbank(FbankConfig()).fit([Padded.pack([torch.zeros(10)])])


def test_utterance_statistics_are_of_the_row() -> None:
    features = Fbank(FbankConfig(normalise="utterance"))(Padded.pack([voice(16000), 0.01 * voice(9000, seed=1)]))
    for row in features.unpack():
        torch.testing.assert_close(row.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
        torch.testing.assert_close(row.std(0, correction=0), torch.ones(80), atol=1e-3, rtol=0)


def test_statistics_are_saved_and_constants_are_not() -> None:
    frontend, other = Fbank(FbankConfig()), Fbank(FbankConfig())
    frontend.fit([Padded.pack([voice(9000)])])
    assert sorted(frontend.state_dict()) == ["mean", "scale"]
    other.load_state_dict(frontend.state_dict())
    source = Padded.pack([voice(4000, seed=4)])
    assert torch.equal(frontend(source).data, other(source).data)
    assert list(frontend.parameters()) == []


def test_low_precision_models_keep_exact_features() -> None:
    source = Padded.pack([voice(9000)])
    frontend = Fbank(FbankConfig())
    frontend.fit([source])
    expected = frontend(source).data
    assert torch.equal(copy.deepcopy(frontend).bfloat16()(source).data, expected)
    assert torch.equal(copy.deepcopy(frontend).half()(source).data, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(frontend(source).data, expected)
    assert expected.dtype == torch.float32


def test_dither_and_augment_are_for_training() -> None:
    source = Padded.pack([voice(16000)])
    for changes in ({"dither": 1.0}, {"augment": SpecAugmentConfig()}):
        frontend = Fbank(replace(PLAIN, **changes))
        assert not torch.equal(frontend.train()(source).data, frontend(source).data)
        assert torch.equal(frontend.eval()(source).data, Fbank(PLAIN)(source).data)


def test_dither_is_in_sixteen_bit_steps() -> None:
    """On digital silence only the dither is heard: it must equal Kaldi's features of noise of that size."""
    frontend = Fbank(replace(PLAIN, dither=2.0)).train()
    heard = frontend(Padded.pack([torch.zeros(160000)])).data[0].mean()
    noise = torch.randn(160000, generator=torch.Generator().manual_seed(0)) * 2 / 32768
    assert float(heard) == pytest.approx(float(kaldi(noise).mean()), abs=0.1)


@pytest.mark.parametrize("augment", [None, SpecAugmentConfig()])
def test_views(augment: SpecAugmentConfig | None) -> None:
    source = Padded.pack([voice(16000), voice(9000, seed=1)])
    frontend = Fbank(FbankConfig(augment=augment))
    features = frontend(source, views=True)
    assert features.lengths.tolist() == [98, 54, 98, 54]
    assert torch.equal(features.data[:2], features.data[2:]) == (augment is None)
    assert (features.data[1, 54:] == 0).all()
    frontend.eval()
    features = frontend(source, views=True)
    assert torch.equal(features.data[:2], features.data[2:])


def test_half_precision_samples() -> None:
    samples = voice(4000).half()
    features = Fbank(PLAIN)(Padded.pack([samples]))
    torch.testing.assert_close(features.data[0], kaldi(samples.float()), atol=1e-3, rtol=0)


@pytest.mark.parametrize("samples", [torch.zeros(1, 2, 500), torch.zeros(1, 500, dtype=torch.int16), torch.zeros(500)])
def test_wrong_samples(samples: Tensor) -> None:
    with pytest.raises(ValueError, match="floating-point samples"):
        Fbank(PLAIN)(Padded(samples, torch.tensor([500])))


@pytest.mark.parametrize(
    "changes",
    [
        {"hop_ms": 0.0},
        {"window_ms": 0.05},
        {"num_mels": 0},
        {"low_hz": 9000.0},
        {"high_hz": 9000.0},
        {"low_hz": -1.0},
        {"normalise": "batch"},
    ],
)
def test_impossible_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        FbankConfig(**changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees() -> None:
    source = Padded.pack([voice(16000), voice(300), voice(9000, seed=1)])
    frontend = Fbank(FbankConfig())
    frontend.fit([source])
    expected = frontend(source)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        features = frontend.to("cuda")(source.to("cuda"))
    assert features.data.dtype == torch.float32
    assert torch.equal(features.lengths.cpu(), expected.lengths)
    torch.testing.assert_close(features.data.cpu(), expected.data, atol=1e-2, rtol=0)


@pytest.mark.parametrize("normalise", ["global", "utterance"])
def test_what_a_codec_cut_away_is_no_deeper_than_the_floor(normalise):
    samples = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(samples[1])
    spectrum[6000:] = 0  # nothing above 6 kHz
    source = Padded(torch.stack([samples[0], torch.fft.irfft(spectrum)]), torch.tensor([16000, 12000]))
    plain, floored = (Fbank(FbankConfig(normalise=normalise, floor=floor)) for floor in (None, -1.5))
    for frontend in (plain, floored):
        frontend.fit([Padded(samples[:1], torch.tensor([16000]))])
        frontend.eval()
    before, after = plain(source), floored(source)
    assert before.data.min() < -1.6
    torch.testing.assert_close(after.data, Padded(before.data.clamp(min=-1.5), before.lengths).zeroed().data)


@pytest.mark.parametrize("settings", [{"floor": 0.5}, {"floor": -1.5, "normalise": "none"}])
def test_a_floor_must_lie_below_the_mean_of_normalised_features(settings):
    with pytest.raises(ConfigError, match="expected a floor below 0 for normalised features"):
        FbankConfig(**settings)
