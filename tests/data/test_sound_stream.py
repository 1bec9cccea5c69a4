"""Blocks of a sound file are what reading it whole gives, to the last sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from narspeech.data.audio import load_audio
from narspeech.data.sound_stream import Resampler, SoundStream, header_seconds
from narspeech.errors import AudioError


def noise(count: int, channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((count, channels))).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_blocks_are_the_whole(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, noise(rate + 12345, 2), rate, subtype="FLOAT")
    for channel in (None, 1):
        sound = SoundStream(path, target_rate=16000, channel=channel, seconds=0.3)
        found, expected = np.concatenate(list(sound)), load_audio(path, channel=channel)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected.samples)
        assert sound.duration == expected.duration
        assert sound.warnings == ()
    assert header_seconds(path) == pytest.approx(sound.duration)


def test_a_resampler_does_not_see_its_blocks() -> None:
    samples = noise(30000)[:, 0]
    once = Resampler(44100, 16000).push(samples, last=True)
    resampler = Resampler(44100, 16000)
    pieces = [resampler.push(piece) for piece in np.split(samples, [1, 50, 7000])]
    assert np.array_equal(np.concatenate([*pieces, resampler.push(samples[:0], last=True)]), once)
    with pytest.raises(AudioError, match="sampling rate"):
        Resampler(10, 16000)


def test_damage_is_silence_and_told(tmp_path: Path) -> None:
    samples = noise(16000)[:, 0]
    samples[100], samples[200] = np.nan, 100.0
    path = tmp_path / "sound.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    sound = SoundStream(path, target_rate=16000)
    (found,) = (block for block in sound if len(block))
    assert found[100] == found[200] == 0
    assert "2 samples that are no sound" in sound.warnings[0]


def test_another_unit_is_read_as_in_a_short_file(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(16000, np.float32), 20000 * noise(32000)[:, 0]])
    path = tmp_path / "sound.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    sound = SoundStream(path, target_rate=16000, seconds=1.0)
    whole = load_audio(path)
    np.testing.assert_allclose(np.concatenate(list(sound)), whole.samples, rtol=1e-6)
    (told,), (expected,) = sound.warnings, whole.warnings  # how high they go is known only at the end
    assert "read as 16-bit units" in told
    assert "read as 16-bit units" in expected
    for damaged, message in ((1e6 * samples, "divide them by"), (np.nan * samples, "no numbers")):
        soundfile.write(path, damaged, 16000, subtype="FLOAT")
        with pytest.raises(AudioError, match=message):
            list(SoundStream(path, target_rate=16000))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "received 0 bytes"), (b"this is no sound at all", "expected sound as wav")]
)
def test_what_cannot_be_read_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(content)
    assert header_seconds(path) == 0
    with pytest.raises(AudioError, match=message):
        list(SoundStream(path, target_rate=16000))
    with pytest.raises(AudioError, match="expected a readable sound file"):
        list(SoundStream(tmp_path / "missing.wav", target_rate=16000))


def test_a_recording_that_ends_early_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, noise(16000), 16000)
    path.write_bytes(path.read_bytes()[:20000])
    sound = SoundStream(path, target_rate=16000)
    assert sum(map(len, sound)) == len(load_audio(path).samples)
    assert sound.warnings == load_audio(path).warnings
    assert "ends early" in sound.warnings[0]


def test_an_empty_recording_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.zeros(0, np.float32), 16000)
    with pytest.raises(AudioError, match="received none"):
        list(SoundStream(path, target_rate=16000))
    with pytest.raises(AudioError, match="channel from 0 to 0"):
        list(SoundStream(path, target_rate=16000, channel=3))
