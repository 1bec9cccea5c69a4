"""A sound file as blocks of samples, mono and at one rate, so that memory does not grow with its length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soxr  # type: ignore[import-untyped]

from narspeech.data.audio import EXTREME, FULL_SCALE, QUIET, other_unit
from narspeech.data.media import MediaReader
from narspeech.data.sound_file import UNKNOWN_FRAMES, Part, Reader, Samples, check_channel, check_rate, mix
from narspeech.data.sound_reader import open_reader, short_warning
from narspeech.errors import AudioError


class Resampler:
    """Blocks of samples (N,) at one rate to blocks at another: the same samples, whatever the blocks, as all at once.

    Raises AudioError on a rate that nobody records at.
    """

    def __init__(self, rate: int, target_rate: int) -> None:
        self.rate, self.target_rate = check_rate(rate, "of the samples"), check_rate(target_rate, "as target rate")
        self.stream = None if rate == target_rate else soxr.ResampleStream(rate, target_rate, 1, "float32", "HQ")
        self.received = self.given = 0

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        """What is ready; with `last` also what had to wait, so that (ceil(N * target_rate / rate),) come in all."""
        self.received += len(samples)
        if self.stream is None:
            return samples
        block: Samples = np.asarray(self.stream.resample_chunk(np.ascontiguousarray(samples, np.float32), last))
        if last:
            room = -(-self.received * self.target_rate // self.rate) - self.given
            block = np.pad(block[:room], (0, max(0, room - len(block))))
        self.given += len(block)
        return block


class SoundStream:
    """The samples of a sound file, of whatever kind `load_audio` reads, in blocks of about `seconds`, as it reads them.

    To be gone through once; then `duration` (seconds) is known, and `warnings` tell what was damaged. channel: take
    this one, counted from 0, instead of the mean of all. Raises AudioError when nothing can be heard in the file;
    damage further on ends it with a warning.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, target_rate: int, channel: int | None = None, seconds: float = 10.0
    ) -> None:
        self.path, self.target_rate, self.channel, self.seconds = Path(path), target_rate, channel, seconds
        self.duration = 0.0
        self.warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Samples]:
        try:
            with self.path.open("rb", buffering=0) as file, open_reader(file, str(self.path)) as reader:
                yield from self._blocks(reader)
        except OSError as error:
            raise AudioError(f"expected a readable sound file, received for {self.path}: {error}") from error

    def _blocks(self, reader: Reader | MediaReader) -> Iterator[Samples]:
        rate = reader.samplerate
        part = Part(name=str(self.path), channel=self.channel, start=0.0, duration=None, max_seconds=0.0)
        check_channel(part, reader.channels)
        resampler, read, damaged, values = Resampler(rate, self.target_rate), 0, 0, 0
        full_scale: float | None = None  # of all samples, as the first block with sound tells it
        wanted = max(1, round(self.seconds * rate))
        more = True
        while more:
            frames = reader.block(wanted)
            mono, bad = mix(frames, self.channel)
            if full_scale is None and np.abs(mono).max(initial=0) > QUIET:
                unit = other_unit(mono, str(self.path))
                full_scale, self.warnings = (FULL_SCALE, (unit,)) if unit else (1, ())
            mono /= full_scale or 1
            extreme = np.abs(mono) > EXTREME
            mono[extreme] = 0
            read, damaged, more = read + len(mono), damaged + bad + int(extreme.sum()), len(mono) == wanted
            values += frames.size if self.channel is None else len(frames)
            yield resampler.push(mono, last=not more)
        if not read:
            raise AudioError(f"expected sound, received none in {self.path}; is it empty, cut short or damaged?")
        if damaged == values:
            raise AudioError(
                f"expected sound, received only samples that are no numbers in {self.path}; export it again"
            )
        self.duration = read / rate
        if reader.broken or reader.cut_short(read):
            self.warnings += (short_warning(str(self.path), self.duration),)
        if damaged:
            self.warnings += (f"{self.path} holds {damaged} samples that are no sound, read as silence",)


def header_seconds(path: Path, enough: float = 60.0) -> float:
    """How long a sound file says that it is: 0 where it is none. One that never said is read, and has infinite seconds
    where it lasts longer than `enough`."""
    try:
        with path.open("rb", buffering=0) as file, open_reader(file, str(path)) as reader:
            if reader.frames < UNKNOWN_FRAMES:
                return reader.frames / reader.samplerate
            frames = round(enough * reader.samplerate) + 1
            heard = len(reader.block(frames))
            return float("inf") if heard == frames else heard / reader.samplerate
    except (OSError, AudioError):
        return 0.0
