"""Sound from anywhere, as one channel of float samples at one rate.

Resampling calls soxr, as librosa.resample(res_type="soxr_hq") does: the samples are the same, but librosa's own import
takes seconds.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soxr  # type: ignore[import-untyped]
import torch

from narspeech.data.sound_file import MAX_CHANNELS, Bytes, Part, Samples, Sound, check_channel, check_rate, mix
from narspeech.data.sound_reader import decode
from narspeech.errors import AudioError

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray[Any, Any] | torch.Tensor

# A file object is read whole; one that never ends must stop somewhere.
MAX_BYTES = 1 << 30
# Float recordings may pass full scale a little; beyond EXTREME (18 dB above it) a sample is damage or has another unit.
EXTREME = 8.0
# As damage, extreme samples are few: at most this share.
MAX_DAMAGED = 0.01
FULL_SCALE = 32768  # of 16-bit units
SHORT = 0.1
QUIET = 1e-5


@dataclass(frozen=True)
class Audio:
    """samples: (N,) float32 at `rate`, mono, nominally -1..1; duration: seconds of the part that was read, before
    resampling; warnings: sentences about what is doubtful in it."""

    samples: Samples
    rate: int
    duration: float
    warnings: tuple[str, ...] = ()


def load_audio(
    source: AudioSource,
    *,
    rate: int | None = None,
    target_rate: int = 16000,
    channel: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float = 12 * 3600,
) -> Audio:
    """Read a recording, mix it to mono and resample it to `target_rate`.

    source: path, bytes of a sound file, binary file object (read from where it stands to its end; it need not seek), or
    samples as array or tensor: floats in -1..1, or uint8, int8, int16, int32 at full scale; of shape (N,), or with two
    axes of which one is the channels: an axis of length 1, else the only axis of at most 64; where that leaves doubt,
    AudioError. rate: sampling rate of an array, required there; a file knows its own. channel: take this one, counted
    from 0, instead of the mean of all. start, duration: the part to read, in seconds; it may end sooner than asked.
    max_seconds: refuse to read more than that.

    Raises AudioError when nothing can be heard in it; lesser damage (a file that ends early, broken samples, silence)
    is told in `Audio.warnings`.
    """
    if not (math.isfinite(start) and start >= 0) or not (duration is None or duration > 0):
        raise AudioError(f"expected a start of 0 s or more and a duration above 0 s, received {start} and {duration}")
    check_rate(target_rate, "as target rate")
    part = Part(name=_name(source), channel=channel, start=start, duration=duration, max_seconds=max_seconds)
    if isinstance(source, np.ndarray | torch.Tensor):
        sound = _from_array(source, rate, part)
    elif isinstance(source, str | os.PathLike):
        sound = _from_path(Path(source), part)
    else:
        sound = decode(Bytes(_read_bytes(source, part.name)), part)
    if len(sound.samples) > max_seconds * sound.rate:
        raise AudioError(f"expected at most {max_seconds:g} s of sound, received more in {part.name}; read it in parts")
    if not len(sound.samples):
        raise AudioError(
            f"expected sound from {start:g} s on, received none in {part.name}; is it empty, cut short or damaged?"
        )
    samples, warnings = _examine(sound, part.name)
    seconds = len(samples) / sound.rate
    return Audio(_resample(samples, sound.rate, target_rate), target_rate, seconds, sound.warnings + warnings)


def _name(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)  # of a file object, <stdin> for one
    return name if isinstance(name, str) else f"the {type(source).__name__} given"


def _from_path(path: Path, part: Part) -> Sound:
    try:
        # Opening a pipe or a device could wait for ever.
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or device"
            raise AudioError(f"expected a sound file, received {kind}, {path}; name a regular file")
        with path.open("rb", buffering=0) as file:
            return decode(file, part)
    except AudioError:
        raise
    except FileNotFoundError as error:
        raise AudioError(f"expected a sound file, but {path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise AudioError(f"expected a readable sound file, received for {part.name}: {error}") from error


def _read_bytes(source: Any, name: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not hasattr(source, "read"):
        raise AudioError(f"expected a path, bytes, file object, array or tensor, received {type(source).__name__}")
    blocks: list[bytes] = []
    size = 0
    while size <= MAX_BYTES:
        try:
            block = source.read(1 << 20)
        except Exception as error:  # anything may stand behind a user's own file object
            raise AudioError(f"expected a readable file object, received from {name}: {error!r}") from error
        if not block:
            return b"".join(blocks)
        if not isinstance(block, bytes):
            raise AudioError(f"expected bytes from {name}, received {type(block).__name__}; open it in binary mode")
        blocks.append(block)
        size += len(block)
    raise AudioError(f"expected at most {MAX_BYTES} bytes from {name}, received more; pass a path instead")


def _from_array(source: np.ndarray[Any, Any] | torch.Tensor, rate: int | None, part: Part) -> Sound:
    if rate is None:
        raise AudioError(
            "expected the sampling rate of an array, received none; pass rate=16000 or whatever it was recorded at"
        )
    rate = check_rate(rate, "as rate of the array")
    if isinstance(source, torch.Tensor):
        tensor = source.detach().cpu()
        try:
            array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        except (TypeError, RuntimeError) as error:
            raise AudioError(f"expected a dense tensor of samples, received {tensor.dtype}, {tensor.layout}") from error
    else:
        array = source
    frames = _frames_first(np.asarray(array))
    check_channel(part, frames.shape[1])
    first = part.first(rate)
    mono, damaged = mix(_full_scale(frames[first : first + part.count(rate)]), part.channel)
    return Sound(mono, rate, damaged, len(mono) * (frames.shape[1] if part.channel is None else 1))


def _frames_first(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Samples of any accepted shape as (N, channels)."""
    if array.ndim == 1:
        return array[:, None]
    advice = "pass (N,), or (channels, N) with at most 64 channels and more than 64 samples"
    if array.ndim != 2:
        raise AudioError(
            f"expected samples of shape (N,), (channels, N) or (N, channels), received {array.shape}; {advice}"
        )
    rows, columns = array.shape
    if columns == 1 or (columns <= MAX_CHANNELS < rows):
        return array
    if rows == 1 or (rows <= MAX_CHANNELS < columns):
        return array.T
    raise AudioError(
        f"expected an array that shows which axis is the channels, received the shape {array.shape}; {advice}"
    )


def _full_scale(frames: np.ndarray[Any, Any]) -> Samples:
    kind, size = frames.dtype.kind, frames.dtype.itemsize
    scaled: np.ndarray[Any, Any] | None = None
    if kind == "f":
        scaled = frames
    elif kind == "i" and size in (1, 2, 4):
        scaled = frames / 2.0 ** (8 * size - 1)
    elif kind == "u" and size == 1:
        scaled = (frames - 128.0) / 128
    if scaled is not None:
        with np.errstate(over="ignore"):  # too large for 32 bits becomes infinite, which is counted as damage
            return np.asarray(scaled, np.float32)
    raise AudioError(
        f"expected float, uint8, int8, int16 or int32 samples, received {frames.dtype}; convert them to float in -1..1"
    )


def _examine(sound: Sound, name: str) -> tuple[Samples, tuple[str, ...]]:
    """The samples, mended where that is honest, and what was wrong with them."""
    samples, warnings = sound.samples, []
    damaged = sound.damaged
    if damaged == sound.values:
        raise AudioError(f"expected sound, received only samples that are no numbers in {name}; export it again")
    extreme = np.abs(samples) > EXTREME
    if unit := other_unit(samples, name):
        samples = samples / np.float32(FULL_SCALE)
        warnings.append(unit)
    elif extreme.any():
        samples = np.where(extreme, np.float32(0), samples)
        damaged += int(extreme.sum())
    if damaged:
        warnings.append(f"{name} holds {damaged} samples that are no numbers or impossibly large, read as silence")
    if float(np.ptp(samples)) < QUIET:
        warnings.append(f"{name} holds only silence")
    if len(samples) < SHORT * sound.rate:
        warnings.append(f"{name} lasts only {len(samples) / sound.rate:.3f} s")
    return samples, tuple(warnings)


def other_unit(samples: Samples, name: str) -> str:
    """A sentence that tells that samples (N,) are in 16-bit units, empty where they are in -1..1. Raises AudioError
    where they are in neither."""
    if (np.abs(samples) > EXTREME).mean() <= MAX_DAMAGED:
        return ""
    peak = float(np.abs(samples).max())
    if peak > FULL_SCALE:
        raise AudioError(
            f"expected float samples in -1..1, received up to {peak:.3g} in {name}; divide them by their full scale"
        )
    return f"{name} holds floats up to {peak:.0f}, read as 16-bit units where -1..1 is usual"


def _resample(samples: Samples, rate: int, target_rate: int) -> Samples:
    """(N,) to (ceil(N * target_rate / rate),), the length that librosa gives."""
    if rate == target_rate:
        return np.ascontiguousarray(samples, np.float32)
    length = -(-len(samples) * target_rate // rate)
    resampled = soxr.resample(samples, rate, target_rate, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled))).astype(np.float32, copy=False)
