"""The child process of narspeech/data/media.py: FFmpeg decodes the file on stdin, its samples go to stdout.

It is run by its path and imports nothing of narspeech, so that it starts fast; PyAV and the standard library is all.
Messages on stdout: a kind (I, S or E) and a length, as STRUCTURE says, and so many bytes. First I, what the header
says, as JSON; then S, blocks of interleaved float32 samples; then E, as JSON what was damaged, or why there was no I.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

STRUCTURE = struct.Struct("<cI")
# Bytes of a message at most; small frames are gathered until there are so many.
LARGEST, GATHERED = 1 << 20, 1 << 16
# Containers that tell an audio stream's length truly; others are guessed from the bit rate.
TRUTHFUL = ("mov", "matroska")


class Channel:
    """Where messages go, within limits: spin: seconds of processor time that the process may use up to its next one."""

    def __init__(self, pipe: BinaryIO, spin: int) -> None:
        self.pipe, self.spin = pipe, spin
        self.progress()

    def send(self, kind: bytes, content: bytes) -> None:
        self.pipe.write(STRUCTURE.pack(kind, len(content)) + content)
        self.pipe.flush()
        self.progress()

    def tell(self, kind: bytes, **facts: Any) -> None:
        self.send(kind, json.dumps(facts).encode())

    def progress(self) -> None:
        """Beyond its limit of processor time the system ends a process."""
        if resource is not None:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + self.spin)


def limit(what: int, amount: int) -> None:
    """Set a soft limit, as far as the system lets us."""
    hard = resource.getrlimit(what)[1]
    with suppress(OSError, ValueError):  # macOS refuses some
        resource.setrlimit(what, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))


def main(settings: dict[str, Any]) -> None:
    """settings: demuxer; rates: lowest and highest; channels, memory (bytes) and spin (see Channel), each at most."""
    # What a library prints must not get among the samples.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if resource is not None:
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_AS, settings["memory"])
    channel = Channel(pipe, settings["spin"])
    try:
        decode(channel, settings)
    except BrokenPipeError:  # the reader has enough
        os._exit(0)
    except Exception as error:
        channel.tell(b"E", error=getattr(error, "strerror", None) or repr(error))


def decode(channel: Channel, settings: dict[str, Any]) -> None:
    import av

    file = os.fdopen(0, "rb")
    file.seek(0)
    # The demuxer is named and no other file may be opened: playlists and links in a file lead nowhere.
    container = av.open(
        file, format=settings["demuxer"], options={"protocol_whitelist": "none"}, metadata_errors="replace"
    )
    stream = container.streams.best("audio")
    if stream is None:
        channel.tell(b"E", error="it has no audio stream")
        return
    context: Any = stream.codec_context
    rate, channels = context.sample_rate, context.channels
    channel.tell(b"I", rate=rate, channels=channels, **length(container, stream, settings["demuxer"]))
    lowest, highest = settings["rates"]
    if not (lowest <= rate <= highest and 1 <= channels <= settings["channels"]):
        return  # the reader will say so; a resampler must never see it
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    damage = Damage()
    gathered = bytearray()
    for frame in resampled(av, frames(av, container, stream, damage), context.layout, rate, settings):
        gathered += memoryview(frame.planes[0])[: frame.samples * channels * 4]
        if len(gathered) >= GATHERED:
            for start in range(0, len(gathered), LARGEST):
                channel.send(b"S", bytes(gathered[start : start + LARGEST]))
            gathered.clear()
    for start in range(0, len(gathered), LARGEST):
        channel.send(b"S", bytes(gathered[start : start + LARGEST]))
    channel.tell(b"E", damaged=damage.packets, broken=damage.broken)


def length(container: Any, stream: Any, demuxer: str) -> dict[str, Any]:
    """seconds: of the sound, None where nobody knows; promised: whether less is a fault."""
    if stream.duration is not None and stream.duration > 0:
        return {"seconds": float(stream.duration * stream.time_base), "promised": demuxer in TRUTHFUL}
    if container.duration is not None and container.duration > 0:
        return {"seconds": container.duration / 1e6, "promised": demuxer in TRUTHFUL and len(container.streams) == 1}
    return {"seconds": None, "promised": False}


class Damage:
    """packets: how many could not be decoded and were left out; broken: whether the rest could not be read at all."""

    packets = 0
    broken = False


def frames(av: Any, container: Any, stream: Any, damage: Damage) -> Iterator[Any]:
    """The stream's frames, whatever they hold."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            damage.broken = True
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            damage.packets += 1


def resampled(av: Any, frames: Iterator[Any], layout: Any, rate: int, settings: dict[str, Any]) -> Iterator[Any]:
    """Frames as interleaved float32, all of them in the layout and at the rate that were told: both may change on the
    way, where a broadcast goes from one programme to the next."""
    lowest, highest = settings["rates"]
    resampler: Any = None
    form = None
    for frame in frames:
        if not (lowest <= frame.sample_rate <= highest and frame.layout.nb_channels <= settings["channels"]):
            continue
        if form != (form := (frame.sample_rate, frame.layout.name, frame.format.name)):
            if resampler is not None:
                yield from resampler.resample(None)
            resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
