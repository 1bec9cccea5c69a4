"""Sound from anywhere, as one channel of float samples at one rate.

libsndfile (by soundfile) decodes wav, flac, ogg/opus, mp3 and their kin. It is handed a file descriptor or bytes, never
a name, so that nothing is guessed from a suffix, and is read block by block, so that memory follows the sound that is
really there and not what a header claims. Resampling calls soxr, as librosa.resample(res_type="soxr_hq") does: the
samples are the same, but librosa's own import takes seconds.
"""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr  # type: ignore[import-untyped]
import torch

from narspeech.errors import AudioError

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray[Any, Any] | torch.Tensor
Samples = np.ndarray[Any, np.dtype[np.float32]]

RATES = range(1000, 768001)
MAX_CHANNELS = 64
# A file object is read whole; one that never ends must stop somewhere.
MAX_BYTES = 1 << 30
BLOCK = 1 << 14
# Float recordings may pass full scale a little; beyond EXTREME (18 dB above it) a sample is damage or has another unit.
EXTREME = 8.0
# As damage, extreme samples are few: at most this share.
MAX_DAMAGED = 0.01
# No unit of sound reaches this; such values and NaN are dropped before channels are mixed.
IMPOSSIBLE = 1e10
SHORT = 0.1
QUIET = 1e-5
# libsndfile claims this many frames, or nearly, where a header does not know.
UNKNOWN_FRAMES = 1 << 62
# What libsndfile notes when a header promises more bytes of sound than the file holds.
CUT_SHORT = re.compile(
    r"(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)|^riff : (\d+) \(should be (\d+)\)", re.M
)
# Sizes that a writer to a pipe leaves in a header because it cannot go back: no promise at all.
STREAMED = 0x7FFFF000


@dataclass(frozen=True)
class Audio:
    """samples: (N,) float32 at `rate`, mono, nominally -1..1; duration: seconds of the part that was read, before
    resampling; warnings: sentences about what is doubtful in it."""

    samples: Samples
    rate: int
    duration: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Which part of which recording is asked for; `name` is for messages."""

    name: str
    channel: int | None
    start: float
    duration: float | None
    max_seconds: float

    def first(self, rate: int) -> int:
        return round(self.start * rate)

    def count(self, rate: int) -> int:
        """Frames to read: one more than allowed tells that there are too many."""
        most = int(self.max_seconds * rate) + 1
        return most if self.duration is None else min(most, round(self.duration * rate))


class _Sound(NamedTuple):
    """Mono samples at the source's rate, how many of how many values were no numbers, what was noticed on the way."""

    samples: Samples
    rate: int
    damaged: int
    values: int
    warnings: tuple[str, ...] = ()


class _Reader(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read from front to back: soundfile would trust the header's length and seek after every block."""

    def seekable(self) -> bool:
        return False


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
    _check_rate(target_rate, "as target rate")
    part = _Part(name=_name(source), channel=channel, start=start, duration=duration, max_seconds=max_seconds)
    if isinstance(source, np.ndarray | torch.Tensor):
        sound = _from_array(source, rate, part)
    elif isinstance(source, str | os.PathLike):
        sound = _from_path(Path(source), part)
    else:
        sound = _from_bytes(_read_bytes(source, part.name), part)
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
    return f"the {type(source).__name__} given"


def _from_path(path: Path, part: _Part) -> _Sound:
    try:
        # Opening a pipe or a device could wait for ever.
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or device"
            raise AudioError(f"expected a sound file, received {kind}, {path}; name a regular file")
        with path.open("rb", buffering=0) as file:
            return _from_file(file, file.fileno(), part)
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


def _from_bytes(data: bytes, part: _Part) -> _Sound:
    file = io.BytesIO(data)
    return _from_file(file, file, part)


def _from_file(file: io.BytesIO | io.FileIO, handle: io.BytesIO | int, part: _Part) -> _Sound:
    """Decode `handle`, which is `file` as libsndfile takes it."""
    tail = _tail(file)
    if not tail:
        raise AudioError(f"expected a sound file, received 0 bytes in {part.name}; record or copy it again")
    try:
        with _Reader(handle, closefd=False) as reader:
            return _read(reader, tail, part)
    except soundfile.SoundFileError as error:
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise AudioError(
            f"expected sound as wav, flac, ogg, opus or mp3, received {part.name}: {reason} Convert it to one of those."
        ) from error


def _tail(file: io.BytesIO | io.FileIO) -> bytes:
    """The last bytes of a file, enough to hold the start of the last page of an Ogg stream."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 512))
    tail = file.read()
    file.seek(0)
    return tail or b""


def _read(reader: _Reader, tail: bytes, part: _Part) -> _Sound:
    rate, channels = reader.samplerate, reader.channels
    _check_rate(rate, f"in the header of {part.name}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"expected 1 to {MAX_CHANNELS} channels, received {channels} in the header of {part.name}; is it damaged?"
        )
    _check_channel(part, channels)
    first, count = part.first(rate), part.count(rate)
    if first and not _skip(reader, first):
        return _Sound(np.zeros(0, np.float32), rate, 0, 0)
    blocks: list[Samples] = []
    read = damaged = 0
    broken = False
    while read < count and not broken:
        wanted = min(BLOCK, count - read)
        try:
            block = reader.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            broken = True
            continue
        mono, bad = _mix(block, part.channel)
        blocks.append(mono)
        read += len(mono)
        damaged += bad
        if len(mono) < wanted:
            break
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    values = read * (channels if part.channel is None else 1)
    warnings: tuple[str, ...] = ()
    if read < count and (broken or _cut_short(reader, first + read, tail)):
        warnings = (f"{part.name} is damaged or ends early: only {read / rate:.2f} s could be read",)
    return _Sound(samples, rate, damaged, values, warnings)


def _skip(reader: _Reader, first: int) -> bool:
    """Go to frame `first`; False if there is no such frame."""
    if first >= reader.frames:
        return False
    # A decoder of mp3 or opus leans on what came before: it lands a second early and is heard out.
    early: int = max(0, first - reader.samplerate)
    if early and reader.seek(early) != early:
        return False
    lead: Samples = reader.read(first - early, dtype="float32", always_2d=True)
    return len(lead) == first - early


def _cut_short(reader: _Reader, end: int, tail: bytes) -> bool:
    """Whether the header promised more than the `end` frames that were found."""
    if end < reader.frames < UNKNOWN_FRAMES:
        return True
    if reader.format == "OGG":
        # The last page of a whole stream is marked (RFC 3533: bit 3 of the byte after the version).
        page = tail.rfind(b"OggS")
        return page < 0 or len(tail) < page + 6 or not tail[page + 5] & 4
    promised = CUT_SHORT.search(reader.extra_info)
    if promised is None:
        return False
    claimed, found = (int(size) for size in promised.groups() if size)
    return found < claimed < STREAMED


def _from_array(source: np.ndarray[Any, Any] | torch.Tensor, rate: int | None, part: _Part) -> _Sound:
    if rate is None:
        raise AudioError(
            "expected the sampling rate of an array, received none; pass rate=16000 or whatever it was recorded at"
        )
    rate = _check_rate(rate, "as rate of the array")
    if isinstance(source, torch.Tensor):
        tensor = source.detach().cpu()
        try:
            array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        except (TypeError, RuntimeError) as error:
            raise AudioError(f"expected a dense tensor of samples, received {tensor.dtype}, {tensor.layout}") from error
    else:
        array = source
    frames = _frames_first(np.asarray(array))
    _check_channel(part, frames.shape[1])
    first = part.first(rate)
    mono, damaged = _mix(_full_scale(frames[first : first + part.count(rate)]), part.channel)
    return _Sound(mono, rate, damaged, len(mono) * (frames.shape[1] if part.channel is None else 1))


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


def _check_rate(rate: Any, where: str) -> int:
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer | float) or rate not in RATES:
        raise AudioError(f"expected a sampling rate of {RATES[0]} to {RATES[-1]} Hz, received {rate!r} {where}")
    return int(rate)


def _check_channel(part: _Part, channels: int) -> None:
    if part.channel is not None and part.channel not in range(channels):
        raise AudioError(f"expected a channel from 0 to {channels - 1} of {part.name}, received {part.channel}")


def _mix(frames: Samples, channel: int | None) -> tuple[Samples, int]:
    """(N, channels) to mono (N,), and how many values were no sound; those are zero in the mix."""
    chosen = frames if channel is None else frames[:, channel : channel + 1]
    bad = ~(np.abs(chosen) < IMPOSSIBLE)
    damaged = int(bad.sum())
    if damaged:
        chosen = np.where(bad, np.float32(0), chosen)
    return (chosen.mean(1) if chosen.shape[1] > 1 else chosen[:, 0].copy()), damaged


def _examine(sound: _Sound, name: str) -> tuple[Samples, tuple[str, ...]]:
    """The samples, mended where that is honest, and what was wrong with them."""
    samples, warnings = sound.samples, []
    damaged = sound.damaged
    if damaged == sound.values:
        raise AudioError(f"expected sound, received only samples that are no numbers in {name}; export it again")
    extreme = np.abs(samples) > EXTREME
    share = extreme.mean()
    if share > MAX_DAMAGED:
        peak = float(np.abs(samples).max())
        if peak > 32768:
            raise AudioError(
                f"expected float samples in -1..1, received up to {peak:.3g} in {name}; divide them by their full scale"
            )
        samples = samples / np.float32(32768)
        warnings.append(f"{name} holds floats up to {peak:.0f}, read as 16-bit units where -1..1 is usual")
    elif share:
        samples = np.where(extreme, np.float32(0), samples)
        damaged += int(extreme.sum())
    if damaged:
        warnings.append(f"{name} holds {damaged} samples that are no numbers or impossibly large, read as silence")
    if float(np.ptp(samples)) < QUIET:
        warnings.append(f"{name} holds only silence")
    if len(samples) < SHORT * sound.rate:
        warnings.append(f"{name} lasts only {len(samples) / sound.rate:.3f} s")
    return samples, tuple(warnings)


def _resample(samples: Samples, rate: int, target_rate: int) -> Samples:
    """(N,) to (ceil(N * target_rate / rate),), the length that librosa gives."""
    if rate == target_rate:
        return np.ascontiguousarray(samples, np.float32)
    length = -(-len(samples) * target_rate // rate)
    resampled = soxr.resample(samples, rate, target_rate, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled))).astype(np.float32, copy=False)
