"""Voice activity, by how loud it is and by Silero's network: blocks do not matter, music and noise are no voice."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narspeech.data import voice
from narspeech.data.audio import load_audio
from narspeech.data.voice import Detector, Energy, Silero, detector
from narspeech.errors import ConfigError
from narspeech.longform import Section, Sections, cut

RATE = 16000
SPEECH = Path(__file__).parents[2] / "samples" / "demo.flac"
needs_silero = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None, reason="the vad extra is not installed: pip install narspeech[vad]"
)


class FakeSilero:
    """A network that finds voice as likely as a window's mean; it notes what it hears."""

    def __init__(self) -> None:
        self.windows: list[torch.Tensor] = []

    def __call__(self, window: torch.Tensor, rate: int) -> torch.Tensor:
        assert len(window) == 512 * rate // 16000
        self.windows.append(window)
        return window.mean().reshape(1, 1)


class Frames(Sections):
    """Keeps all frames, and cuts no sections."""

    def _sections(self, *, last: bool) -> list[Section]:
        self._listen(last=last)
        return []


def voiced(detect: Detector, samples: np.ndarray, sizes: Sequence[int], rate: int = RATE) -> np.ndarray:
    """What a detector says of all frames where the samples come in blocks of some sizes, again and again."""
    frames, start = Frames(rate, voice=detect), 0
    for size in itertools.cycle(sizes):
        if start >= len(samples):
            break
        frames.push(samples[start : start + size])
        start += size
    frames.finish()
    assert len(frames.voiced) == -(-len(samples) // (rate // 50))
    return frames.voiced


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "load_silero", FakeSilero)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=6), st.integers(1, 20000), st.integers(0, 99))
@settings(max_examples=20)
def test_blocks_do_not_matter(sizes: list[int], count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    samples = np.repeat(generator.uniform(0, 1, count // 700 + 1), 700)[:count].astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voice, "load_silero", FakeSilero)
        for rate in (8000, 16000):
            expected = voiced(Silero(rate), samples, [count], rate)
            assert np.array_equal(voiced(Silero(rate), samples, sizes, rate), expected)
    assert np.array_equal(voiced(Energy(), samples, sizes), voiced(Energy(), samples, [count]))


@pytest.mark.usefixtures("fake")
def test_a_frame_is_told_by_the_window_around_its_middle() -> None:
    samples = np.zeros(20 * 512, np.float32)
    samples[5 * 512 : 9 * 512] = 1.0
    found = voiced(Silero(RATE), samples, [1000])
    middles = (np.arange(len(found)) * 320 + 160) // 512
    assert found.tolist() == [5 <= window < 9 for window in middles.tolist()]


@pytest.mark.usefixtures("fake")
def test_a_voice_that_has_begun_stays_at_a_lower_probability() -> None:
    detect = Silero(RATE)
    samples = np.repeat(np.array([0.4, 0.6, 0.4, 0.3, 0.4], np.float32), 512)
    assert voiced(detect, samples, [512])[[0, 2, 4, 5, 7]].tolist() == [False, True, True, False, False]
    assert all(len(window) == 512 for window in detect.model.windows)
    assert len(detect.voiced) <= 2  # what has been told is forgotten


def test_what_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'energy' or 'silero', received 'loud'"):
        detector("loud", RATE)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="8000 or 16000 Hz for Silero VAD, received 22050"):
        detector("silero", 22050)
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ConfigError, match=r"pip install narspeech\[vad\]"):
        detector("silero", RATE)
    assert isinstance(detector("energy", RATE), Energy)


@needs_silero
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, in which Silero's network is stored
def test_silero_hears_speech_and_neither_noise_nor_a_chord() -> None:
    threads = torch.get_num_threads()
    speech = load_audio(SPEECH).samples
    time = np.arange(4 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * tone * time) for tone in (220, 277, 330)) * (0.55 + 0.45 * np.sin(2 * np.pi * time))
    noise = np.random.default_rng(0).standard_normal(4 * RATE) * (0.06 + 0.05 * np.sin(2 * np.pi * 2 * time))
    samples = np.concatenate([0.1 * chord, noise, speech]).astype(np.float32)
    found = voiced(detector("silero", RATE), samples, [5000])
    assert found[:400].mean() < 0.05
    assert found[400:].mean() > 0.5
    assert torch.get_num_threads() == threads
    # The chord swells as speech does, and passes for it by its level.
    assert voiced(Energy(), samples, [5000])[:200].mean() > 0.3
    (section,) = cut([samples], RATE, voice=detector("silero", RATE))
    assert section.start > 7 * RATE
