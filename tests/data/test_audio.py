"""Sound from every kind of source, and one clear sentence for every kind of damage."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from narspeech.data.audio import load_audio
from narspeech.data.sound_file import Bytes
from narspeech.errors import AudioError

RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray[Any, Any]:
    """(N, channels) float64, a different tone in every channel."""
    times = np.arange(round(seconds * rate))[:, None] / rate
    return 0.5 * np.sin(2 * np.pi * 300 * (1 + np.arange(channels)) * times)


def encoded(samples: np.ndarray[Any, Any], kind: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=kind, subtype=subtype)
    return target.getvalue()


class Pipe(io.RawIOBase):
    """A file object that gives a few bytes at a time and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002
        taken, self.data = self.data[:1000], self.data[1000:]
        return taken


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 0.01),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_formats(tmp_path: Path, kind: str, subtype: str, tolerance: float) -> None:
    samples = tone(2.0)
    data = encoded(samples, kind, subtype)
    # The name's suffix is no hint: .raw would make a guessing reader ask for more.
    path = tmp_path / "sound.raw"
    path.write_bytes(data)
    results = [load_audio(source) for source in (path, str(path), data, bytearray(data), io.BytesIO(data), Pipe(data))]
    for audio in results:
        assert audio.samples.dtype == np.float32
        assert audio.rate == RATE
        assert audio.warnings == ()
        assert audio.duration == pytest.approx(2.0, abs=0.05)
        np.testing.assert_array_equal(audio.samples, results[0].samples)
    middle = slice(8000, 24000)
    np.testing.assert_allclose(results[0].samples[middle], samples[middle, 0], atol=tolerance)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_is_librosas(rate: int) -> None:
    librosa = pytest.importorskip("librosa")
    samples = tone(0.7, rate)[:, 0].astype(np.float32)
    audio = load_audio(samples, rate=rate)
    np.testing.assert_array_equal(
        audio.samples, librosa.resample(samples, orig_sr=rate, target_sr=RATE, res_type="soxr_hq")
    )
    assert len(audio.samples) == -(-len(samples) * RATE // rate)
    assert audio.duration == pytest.approx(len(samples) / rate)
    np.testing.assert_allclose(audio.samples[2000:9000], tone(0.7)[2000:9000, 0], atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("rate", [1000, 8000, 768000])
def test_a_few_samples_survive_resampling(length: int, rate: int) -> None:
    audio = load_audio(np.full(length, 0.5), rate=rate)
    assert len(audio.samples) == max(1, -(-length * RATE // rate))
    assert any("lasts only" in warning for warning in audio.warnings)


def test_channels_are_mixed_or_chosen() -> None:
    samples = tone(channels=3)
    data = encoded(samples, subtype="FLOAT")
    for source, rate in ((data, None), (samples, RATE), (samples.T, RATE), (torch.from_numpy(samples), RATE)):
        np.testing.assert_allclose(load_audio(source, rate=rate).samples, samples.mean(1), atol=1e-6)
        np.testing.assert_allclose(load_audio(source, rate=rate, channel=2).samples, samples[:, 2], atol=1e-6)
        with pytest.raises(AudioError, match="channel from 0 to 2"):
            load_audio(source, rate=rate, channel=3)
        with pytest.raises(AudioError, match="channel from 0 to 2"):
            load_audio(source, rate=rate, channel=-1)


@pytest.mark.parametrize(
    ("dtype", "full_scale", "offset"),
    [(np.uint8, 128, 128), (np.int8, 128, 0), (np.int16, 32768, 0), (np.int32, 2**31, 0), (">i2", 32768, 0)],
)
def test_integer_arrays_are_scaled(dtype: Any, full_scale: int, offset: int) -> None:
    samples = tone()[:, 0]
    integers = (np.rint(samples * full_scale) + offset).astype(dtype)
    sources: list[Any] = [integers]
    if dtype != ">i2":
        sources.append(torch.from_numpy(integers))
    for source in sources:
        np.testing.assert_allclose(load_audio(source, rate=RATE).samples, samples, atol=0.6 / full_scale + 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_tensors(dtype: torch.dtype) -> None:
    samples = torch.from_numpy(tone()[:, 0])
    source = samples.to(dtype, copy=True).requires_grad_()
    np.testing.assert_allclose(load_audio(source, rate=RATE).samples, samples.numpy(), atol=4e-3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((100, 100)), "which axis is the channels"),
        (np.zeros((20, 30)), "which axis is the channels"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.array(0.5), "shape"),
        (np.zeros(100, np.int64), "received int64"),
        (np.zeros(100, np.uint16), "received uint16"),
        (np.zeros(100, complex), "received complex128"),
        (np.zeros(100, bool), "received bool"),
        (np.array(["a"]), "received <U1"),
        (np.zeros(0), "received none"),
        (np.zeros((0, 2)), "which axis"),
        (torch.zeros(100).to_sparse(), "dense tensor"),
    ],
)
def test_unclear_arrays_are_refused(source: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(source, rate=RATE)


@pytest.mark.parametrize("rate", [None, 0, -16000, 999, 768001, float("nan"), 16000.5, "16000", True])
def test_rates_are_checked(rate: Any) -> None:
    with pytest.raises(AudioError, match="sampling rate"):
        load_audio(tone(), rate=rate)


@pytest.mark.parametrize("part", [{"start": -1}, {"start": float("nan")}, {"duration": 0}, {"duration": float("nan")}])
def test_parts_are_checked(part: dict[str, float]) -> None:
    with pytest.raises(AudioError, match="start of 0 s or more"):
        load_audio(tone(), rate=RATE, **part)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")]
)
def test_part_of_a_recording(kind: str, subtype: str) -> None:
    data = encoded(tone(5.0), kind, subtype)
    whole = load_audio(data)
    for start in (0.25, 1.25, 2.137):
        part = load_audio(data, start=start, duration=2.5)
        first = round(start * RATE)
        np.testing.assert_allclose(part.samples, whole.samples[first : first + 40000], atol=1e-3)
        assert part.duration == 2.5
        assert part.warnings == ()
    assert load_audio(data, start=4.0, duration=100).duration == pytest.approx(1.0, abs=0.1)
    with pytest.raises(AudioError, match="received none"):
        load_audio(data, start=50)


def test_too_long_is_refused_but_its_parts_are_not() -> None:
    data = encoded(tone(3.0))
    assert load_audio(data, max_seconds=3.0).duration == 3.0
    with pytest.raises(AudioError, match=r"at most 2\.5 s"):
        load_audio(data, max_seconds=2.5)
    assert load_audio(data, max_seconds=2.5, start=1.0, duration=2.0).duration == 2.0


def test_missing_and_strange_paths(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        load_audio(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="a folder"):
        load_audio(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AudioError, match="a pipe or device"):
        load_audio(tmp_path / "pipe")
    for name in ("nul\0byte.wav", "x" * 5000):
        with pytest.raises(AudioError):
            load_audio(name)
    empty = tmp_path / "empty.wav"
    empty.touch()
    with pytest.raises(AudioError, match=r"0 bytes in .*empty\.wav"):
        load_audio(empty)


@pytest.mark.parametrize(
    "data", [b"RIFF", b"hello, I am no sound at all\n" * 100, b"\0" * 5000, b"<html></html>", b"\x1a\x45\xdf\xa3" * 50]
)
def test_not_audio(data: bytes) -> None:
    with pytest.raises(AudioError, match="expected sound"):
        load_audio(data)


def test_file_objects_that_misbehave() -> None:
    class Failing(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise RuntimeError(f"connection lost ({size})")

    with pytest.raises(AudioError, match="connection lost"):
        load_audio(Failing())  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="binary mode"):
        load_audio(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="received int"):
        load_audio(7)  # type: ignore[arg-type]


def test_no_samples() -> None:
    with pytest.raises(AudioError, match="received none"):
        load_audio(encoded(np.zeros((0, 1))))
    # A recorder that was killed before it filled in the size of the data.
    with pytest.raises(AudioError, match="received none"):
        load_audio(wav_header(encoded(tone()), offset=40, layout="<I", value=0))


def wav_header(data: bytes, *, offset: int, layout: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "layout", "value"), [(24, "<I", 0), (24, "<I", 5), (24, "<I", 2**31 - 1), (22, "<H", 500)]
)
def test_absurd_headers(offset: int, layout: str, value: int) -> None:
    with pytest.raises(AudioError):
        load_audio(wav_header(encoded(tone()), offset=offset, layout=layout, value=value))


def test_a_header_that_claims_hours_costs_no_memory() -> None:
    # 2^31 frames in the header of a FLAC file (36 bits of STREAMINFO) that holds one second.
    data = bytearray(encoded(tone(), "FLAC"))
    data[8 + 13] = (data[8 + 13] & 0xF0) | 0
    data[8 + 14 : 8 + 18] = (2**31 - 1).to_bytes(4, "big")
    audio = load_audio(bytes(data))
    assert audio.duration == pytest.approx(1.0)
    assert any("ends early" in warning for warning in audio.warnings)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("W64", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "OPUS"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_truncated_files_are_read_with_a_warning(kind: str, subtype: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * RATE)
    data = encoded(noise, kind, subtype)
    audio = load_audio(data[: len(data) * 6 // 10])
    assert 6 < audio.duration < 14
    assert any("ends early" in warning for warning in audio.warnings)
    if kind != "OGG":
        # A part that is all there is no reason to warn.
        assert load_audio(data[: len(data) * 6 // 10], start=1, duration=2).warnings == ()


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024])
def test_streamed_wav_is_no_truncated_wav(size: int) -> None:
    # A writer to a pipe cannot go back and fill in the size of the data (offset 40).
    audio = load_audio(wav_header(encoded(tone()), offset=40, layout="<I", value=size))
    assert audio.duration == pytest.approx(1.0, abs=0.01)
    assert audio.warnings == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e8, 100.0])
def test_a_few_broken_samples_become_silence(value: float) -> None:
    samples = tone(channels=2).astype(np.float32)
    samples[1000:1010] = value
    expected = samples.mean(1)
    expected[1000:1010] = 0
    for source in (encoded(samples, subtype="FLOAT"), samples):
        audio = load_audio(source, rate=RATE)
        np.testing.assert_allclose(audio.samples, expected, atol=1e-6)
        assert any("impossibly large, read as silence" in warning for warning in audio.warnings)


def test_nothing_but_broken_samples() -> None:
    with pytest.raises(AudioError, match="no numbers"):
        load_audio(np.full(1000, np.nan), rate=RATE)


def test_floats_in_another_unit() -> None:
    samples = tone()[:, 0]
    audio = load_audio(samples * 32768, rate=RATE)
    np.testing.assert_allclose(audio.samples, samples, atol=1e-6)
    assert any("16-bit units" in warning for warning in audio.warnings)
    with pytest.raises(AudioError, match="divide them"):
        load_audio(samples * 2**31, rate=RATE)


def test_slight_overshoot_is_kept() -> None:
    samples = tone()[:, 0] * 3
    audio = load_audio(samples, rate=RATE)
    np.testing.assert_allclose(audio.samples, samples, atol=1e-6)
    assert audio.warnings == ()


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_is_told(level: float) -> None:
    audio = load_audio(np.full(RATE, level), rate=RATE)
    assert any("only silence" in warning for warning in audio.warnings)


def test_the_source_is_left_alone() -> None:
    samples = tone()[:, 0].astype(np.float32)
    samples[5] = np.nan
    before = samples.copy()
    audio = load_audio(samples, rate=RATE)
    audio.samples[:] = 0
    np.testing.assert_array_equal(samples, before)


def test_a_midi_sample_dump_is_refused_for_libsndfile_prints_about_its_damage() -> None:
    target = io.BytesIO()
    soundfile.write(target, np.zeros(1000), 8000, format="SDS", subtype="PCM_16")
    with pytest.raises(AudioError, match="received a MIDI sample dump"):
        load_audio(target.getvalue())


def test_bytes_stay_where_they_are_when_a_header_leads_before_them() -> None:
    file = Bytes(b"abcdef")
    assert file.seek(4) == 4
    assert file.seek(-1) == 4
    assert file.seek(-2, os.SEEK_CUR) == 2
    assert file.read() == b"cdef"
