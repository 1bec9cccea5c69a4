"""Containers that libsndfile does not read (m4a, mp4, webm, mkv, aac, ...), decoded by FFmpeg in a child process.

FFmpeg is large and reads what strangers send: if it crashes, hangs or wants all the memory, only the child is lost. Its
samples come through a pipe in blocks, so memory does not grow with the recording.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from narspeech.data.media_child import LARGEST, STRUCTURE
from narspeech.data.sound_file import MAX_CHANNELS, RATES, UNKNOWN_FRAMES, Samples
from narspeech.errors import AudioError

# What the child may use: seconds until its next block, of processor time and on the clock (many, for on a busy machine
# even its start takes long), and bytes of memory.
SPIN, PATIENCE, MEMORY = 4, 300.0, 1 << 30
# Codecs pad and containers round: a recording may be this much shorter than it says, in seconds.
SHORTFALL = 0.25
CHILD = Path(__file__).with_name("media_child.py")


class Signature(NamedTuple):
    """The bytes at `place` that begin a kind of file, what FFmpeg calls it, and what people do."""

    place: int
    content: bytes
    demuxer: str
    name: str


SIGNATURES = (
    *(Signature(4, box, "mov", "MPEG-4") for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    Signature(0, b"\x1aE\xdf\xa3", "matroska", "Matroska or WebM"),
    Signature(0, b"0&\xb2u\x8ef\xcf\x11", "asf", "Windows Media"),
    Signature(0, b"FLV\x01", "flv", "Flash video"),
    Signature(8, b"AVI ", "avi", "AVI"),
    Signature(0, b"#!AMR", "amr", "AMR"),
    Signature(0, b"\0\0\x01\xba", "mpeg", "MPEG"),
    Signature(188, b"G", "mpegts", "MPEG transport stream"),
    Signature(0, b"wvpk", "wv", "WavPack"),
    Signature(0, b"TTA1", "tta", "True Audio"),
    Signature(0, b"MAC ", "ape", "Monkey's Audio"),
    # libsndfile knows some of these by itself.
    Signature(0, b"OggS", "ogg", "Ogg"),
    Signature(0, b"caff", "caf", "Core Audio"),
)


def signature(head: bytes) -> Signature | None:
    """What kind of file begins with these bytes (a few hundred), if it is one for FFmpeg."""
    for one in SIGNATURES:
        if head[one.place :].startswith(one.content) and (one.demuxer != "mpegts" or head[:1] == b"G"):
            return one
    # Advanced Audio Coding as it is broadcast has no more than a mark of 12 bits and a layer of 0 before each frame.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Signature(0, head[:2], "aac", "AAC")
    return None


class MediaReader:
    """A file decoded from front to back by a child process; to be closed, or used in a with statement.

    samplerate, channels, frames: as the header says, UNKNOWN_FRAMES where it does not; broken: whether the file could
    not be read to its end. Raises AudioError where there is no sound, and whenever the child dies or stands still.
    """

    def __init__(self, file: io.BytesIO | io.FileIO, kind: Signature, name: str) -> None:
        self.kind, self.name = kind, name
        if not sys.executable or importlib.util.find_spec("av") is None:
            raise AudioError(
                f"expected PyAV to read {name} ({kind.name}), received none: pip install narspeech[media], or convert "
                "the file to wav"
            )
        self.rest: Samples = np.zeros(0, np.float32)
        self.ended = self.broken = self.late = False
        self.child = self._start(file)
        try:
            header = self._header()
            self.samplerate, self.channels = int(header["rate"]), int(header["channels"])
            seconds = header["seconds"]
            self.frames = UNKNOWN_FRAMES if seconds is None else round(seconds * self.samplerate)
            self.promised: bool = header["promised"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> MediaReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self.child.kill()
        self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()

    def block(self, wanted: int) -> Samples:
        """(n, channels): the next `wanted` frames, fewer at the end."""
        blocks, count = [self.rest], len(self.rest)
        while count < wanted * self.channels and not self.ended:
            blocks.append(self._next())
            count += len(blocks[-1])
        samples = np.concatenate(blocks)
        edge = min(wanted, count // self.channels) * self.channels
        self.rest = samples[edge:].copy()
        return samples[:edge].reshape(-1, self.channels)

    def skip(self, first: int) -> bool:
        """Go to frame `first`; False if there is no such frame."""
        while first > 0:
            heard = len(self.block(min(first, self.samplerate)))
            if not heard:
                return False
            first -= heard
        return True

    def cut_short(self, end: int) -> bool:
        """Whether the header promised clearly more than the `end` frames that were found."""
        return self.promised and end < self.frames - SHORTFALL * self.samplerate

    def _start(self, file: io.BytesIO | io.FileIO) -> subprocess.Popen[bytes]:
        settings = {
            "demuxer": self.kind.demuxer,
            "rates": [RATES[0], RATES[-1]],
            "channels": MAX_CHANNELS,
            "memory": MEMORY,
            "spin": SPIN,
        }
        # A fresh interpreter: this process may have threads and a GPU, which do not survive a fork. -P: the child's
        # folder is no place to import from.
        command = [sys.executable, "-P", str(CHILD), json.dumps(settings)]
        try:
            with _on_disk(file) as source:
                return subprocess.Popen(
                    command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=LARGEST
                )
        except OSError as error:
            raise AudioError(f"expected to start a process that reads {self.name}, received {error}") from error

    def _header(self) -> dict[str, Any]:
        kind, content = self._message()
        if kind == b"I":
            return dict(json.loads(content))
        raise AudioError(
            f"expected sound in {self.name} ({self.kind.name}), but FFmpeg found none: "
            f"{json.loads(content)['error']}; convert it to wav, or export it again"
        )

    def _next(self) -> Samples:
        kind, content = self._message()
        if kind == b"S":
            return np.frombuffer(content, np.float32)
        end = json.loads(content)
        self.ended, self.broken = True, bool(end.get("error") or end["damaged"] or end["broken"])
        return np.zeros(0, np.float32)

    def _message(self) -> tuple[bytes, bytes]:
        """The next message. Raises AudioError where none comes in time, or none at all."""
        assert self.child.stdout is not None
        timer = threading.Timer(PATIENCE, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            head = self.child.stdout.read(STRUCTURE.size)
            if len(head) == STRUCTURE.size:
                kind, size = STRUCTURE.unpack(head)
                content = self.child.stdout.read(size) if kind in b"ISE" and size <= LARGEST else b""
                if content and len(content) == size:
                    return kind, content
        finally:
            timer.cancel()
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(timeout=1.0)  # so that its own code is seen
        self.child.kill()  # it may have sent something else than messages
        code = self.child.wait()
        if self.late or code == -getattr(signal, "SIGXCPU", 0):
            what = "stood still"
        else:
            what = f"ended (with signal {-code})" if code < 0 else f"ended (with code {code})"
        raise AudioError(
            f"expected FFmpeg to decode {self.name} ({self.kind.name}), but its process {what}: the file is probably "
            "damaged, export it again or convert it to wav"
        )

    def _give_up(self) -> None:
        self.late = True
        self.child.kill()


@contextmanager
def _on_disk(file: io.BytesIO | io.FileIO) -> Iterator[Any]:
    """A file that a process can be given: the index of an MPEG-4 file may stand at its end, so it must seek."""
    if isinstance(file, io.FileIO):
        yield file
        return
    with tempfile.TemporaryFile() as temporary:
        file.seek(0)
        shutil.copyfileobj(file, temporary)
        temporary.seek(0)
        yield temporary
