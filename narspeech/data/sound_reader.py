"""Files of any known kind opened by whoever reads them, libsndfile or else FFmpeg, and decoded to mono samples."""

from __future__ import annotations

import io
import os

import numpy as np
import soundfile

from narspeech.data.media import MediaReader, signature
from narspeech.data.sound_file import BLOCK, MAX_CHANNELS, Part, Reader, Samples, Sound, check_channel, check_rate, mix
from narspeech.errors import AudioError

# libsndfile reads MIDI sample dumps, but prints to stdout where they are damaged, among the transcripts.
SAMPLE_DUMP = b"\xf0\x7e"


def open_reader(file: io.BytesIO | io.FileIO, name: str) -> Reader | MediaReader:
    """A reader, to be closed, of a file that has just been opened; `name` is for messages.

    Raises AudioError where nobody reads it, or where its header tells of no recording.
    """
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise AudioError(f"expected a sound file, received 0 bytes in {name}; record or copy it again")
    file.seek(0)
    head = file.read(256) or b""
    file.seek(0)
    if head.startswith(SAMPLE_DUMP):
        raise AudioError(
            f"expected sound as wav, flac, ogg, opus or mp3, received a MIDI sample dump, {name}; convert it"
        )
    reader: Reader | MediaReader
    try:
        reader = Reader(file, file if isinstance(file, io.BytesIO) else file.fileno())
    except soundfile.SoundFileError as error:
        kind = signature(head)
        if kind is None:
            reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
            raise AudioError(
                f"expected sound as wav, flac, ogg, opus, mp3, m4a, mp4 or webm, received {name}: {reason} "
                "Convert it to one of those."
            ) from error
        reader = MediaReader(file, kind, name)
    try:
        check_rate(reader.samplerate, f"in the header of {name}")
        if not 1 <= reader.channels <= MAX_CHANNELS:
            raise AudioError(
                f"expected 1 to {MAX_CHANNELS} channels, received {reader.channels} in the header of {name}; "
                "is it damaged?"
            )
    except AudioError:
        reader.close()
        raise
    return reader


def decode(file: io.BytesIO | io.FileIO, part: Part) -> Sound:
    """The part of a sound file that is asked for.

    Raises AudioError where there is no sound in it; damage further on is told in the warnings.
    """
    with open_reader(file, part.name) as reader:
        check_channel(part, reader.channels)
        rate = reader.samplerate
        first, count = part.first(rate), part.count(rate)
        if first and not reader.skip(first):
            return Sound(np.zeros(0, np.float32), rate, 0, 0)
        blocks: list[Samples] = []
        read = damaged = 0
        more = True
        while read < count and more:
            wanted = min(BLOCK, count - read)
            mono, bad = mix(reader.block(wanted), part.channel)
            blocks.append(mono)
            read, damaged, more = read + len(mono), damaged + bad, len(mono) == wanted
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        values = read * (reader.channels if part.channel is None else 1)
        warnings: tuple[str, ...] = ()
        if read < count and (reader.broken or reader.cut_short(first + read)):
            warnings = (short_warning(part.name, read / rate),)
        return Sound(samples, rate, damaged, values, warnings)


def short_warning(name: str, seconds: float) -> str:
    return f"{name} is damaged or ends early: only {seconds:.2f} s could be read"
