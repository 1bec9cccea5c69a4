"""Sound files decoded by libsndfile: wav, flac, ogg/opus, mp3 and their kin, as mono samples at their own rate.

libsndfile is handed a file descriptor or bytes, never a name, so that nothing is guessed from a suffix, and is read
block by block, so that memory follows the sound that is really there and not what a header claims.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import soundfile

from narspeech.errors import AudioError

Samples = np.ndarray[Any, np.dtype[np.float32]]

RATES = range(1000, 768001)
MAX_CHANNELS = 64
BLOCK = 1 << 14
# No unit of sound reaches this; such values and NaN are dropped before channels are mixed.
IMPOSSIBLE = 1e10
# libsndfile claims this many frames, or nearly, where a header does not know.
UNKNOWN_FRAMES = 1 << 62
# What libsndfile notes when a header promises more bytes of sound than the file holds.
CUT_SHORT = re.compile(
    r"(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)|^riff : (\d+) \(should be (\d+)\)", re.M
)
# Sizes that a writer to a pipe leaves in a header because it cannot go back: no promise at all.
STREAMED = 0x7FFFF000


@dataclass(frozen=True, kw_only=True)
class Part:
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


class Sound(NamedTuple):
    """Mono samples at the source's rate, how many of how many values were no numbers, what was noticed on the way."""

    samples: Samples
    rate: int
    damaged: int
    values: int
    warnings: tuple[str, ...] = ()


def decode(file: io.BytesIO | io.FileIO, handle: io.BytesIO | int, part: Part) -> Sound:
    """The part of a sound file that is asked for; `handle` is `file` as libsndfile takes it.

    Raises AudioError where there is no sound in it; damage further on is told in the warnings.
    """
    tail = _tail(file)
    if not tail:
        raise AudioError(f"expected a sound file, received 0 bytes in {part.name}; record or copy it again")
    try:
        with Reader(handle, closefd=False) as reader:
            return _read(reader, tail, part)
    except soundfile.SoundFileError as error:
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise AudioError(
            f"expected sound as wav, flac, ogg, opus or mp3, received {part.name}: {reason} Convert it to one of those."
        ) from error


def check_rate(rate: Any, where: str) -> int:
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer | float) or rate not in RATES:
        raise AudioError(f"expected a sampling rate of {RATES[0]} to {RATES[-1]} Hz, received {rate!r} {where}")
    return int(rate)


def check_channel(part: Part, channels: int) -> None:
    if part.channel is not None and part.channel not in range(channels):
        raise AudioError(f"expected a channel from 0 to {channels - 1} of {part.name}, received {part.channel}")


def mix(frames: Samples, channel: int | None) -> tuple[Samples, int]:
    """(N, channels) to mono (N,), and how many values were no sound; those are zero in the mix."""
    chosen = frames if channel is None else frames[:, channel : channel + 1]
    bad = ~(np.abs(chosen) < IMPOSSIBLE)
    damaged = int(bad.sum())
    if damaged:
        chosen = np.where(bad, np.float32(0), chosen)
    return (chosen.mean(1) if chosen.shape[1] > 1 else chosen[:, 0].copy()), damaged


class Reader(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read from front to back: soundfile would trust the header's length and seek after every block."""

    def seekable(self) -> bool:
        return False


def _tail(file: io.BytesIO | io.FileIO) -> bytes:
    """The last bytes of a file, enough to hold the start of the last page of an Ogg stream."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 512))
    tail = file.read()
    file.seek(0)
    return tail or b""


def _read(reader: Reader, tail: bytes, part: Part) -> Sound:
    rate, channels = reader.samplerate, reader.channels
    check_rate(rate, f"in the header of {part.name}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"expected 1 to {MAX_CHANNELS} channels, received {channels} in the header of {part.name}; is it damaged?"
        )
    check_channel(part, channels)
    first, count = part.first(rate), part.count(rate)
    if first and not _skip(reader, first):
        return Sound(np.zeros(0, np.float32), rate, 0, 0)
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
        mono, bad = mix(block, part.channel)
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
    return Sound(samples, rate, damaged, values, warnings)


def _skip(reader: Reader, first: int) -> bool:
    """Go to frame `first`; False if there is no such frame."""
    if first >= reader.frames:
        return False
    # A decoder of mp3 or opus leans on what came before: it lands a second early and is heard out.
    early: int = max(0, first - reader.samplerate)
    if early and reader.seek(early) != early:
        return False
    lead: Samples = reader.read(first - early, dtype="float32", always_2d=True)
    return len(lead) == first - early


def _cut_short(reader: Reader, end: int, tail: bytes) -> bool:
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
