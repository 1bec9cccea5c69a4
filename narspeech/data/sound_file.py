"""Sound files decoded by libsndfile: wav, flac, ogg/opus, mp3 and their kin.

libsndfile is handed a file descriptor or bytes, never a name, so that nothing is guessed from a suffix, and is read
block by block, so that memory follows the sound that is really there and not what a header claims.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
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


class Bytes(io.BytesIO):
    """A file in memory. Like one on disk it stays where it is when a damaged header leads before its beginning: an
    error could not get through libsndfile, and would only be printed."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with suppress(ValueError):
            return super().seek(offset, whence)
        return self.tell()


class Reader(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read from front to back by libsndfile.

    file: as libsndfile is to have it, `handle`, and for reading its end; broken: whether it could not be read to its
    end.
    """

    def __init__(self, file: io.BytesIO | io.FileIO, handle: io.BytesIO | int) -> None:
        self.file, self.broken = file, False
        super().__init__(handle, closefd=False)

    def seekable(self) -> bool:
        """soundfile would trust the header's length and seek after every block."""
        return False

    def block(self, wanted: int) -> Samples:
        """(n, channels): the next `wanted` frames, fewer at the end."""
        try:
            samples: Samples = self.read(wanted, dtype="float32", always_2d=True)
            return samples
        except soundfile.LibsndfileError:
            self.broken = True
            return np.zeros((0, self.channels), np.float32)

    def skip(self, first: int) -> bool:
        """Go to frame `first`; False if there is no such frame."""
        if first >= self.frames:
            return False
        # A decoder of mp3 or opus leans on what came before: it lands a second early and is heard out.
        early: int = max(0, first - self.samplerate)
        try:
            if early and self.seek(early) != early:
                return False
        except soundfile.LibsndfileError:
            return False
        return len(self.block(first - early)) == first - early

    def cut_short(self, end: int) -> bool:
        """Whether the header promised more than the `end` frames that were found. Nothing can be read after this."""
        if end < self.frames < UNKNOWN_FRAMES:
            return True
        if self.format == "OGG":
            # The last page of a whole stream is marked (RFC 3533: bit 3 of the byte after the version).
            tail = _tail(self.file)
            page = tail.rfind(b"OggS")
            return page < 0 or len(tail) < page + 6 or not tail[page + 5] & 4
        promised = CUT_SHORT.search(self.extra_info)
        if promised is None:
            return False
        claimed, found = (int(size) for size in promised.groups() if size)
        return found < claimed < STREAMED


def _tail(file: io.BytesIO | io.FileIO) -> bytes:
    """The last bytes of a file, enough to hold the start of the last page of an Ogg stream."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 512))
    return file.read() or b""
