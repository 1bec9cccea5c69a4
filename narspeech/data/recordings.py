"""Recordings of a manifest, decoded once into one memory-mapped file.

Decoding compressed sound costs more than a small model's training step, so a training run reads the decoded samples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from narspeech.data.audio import Audio, load_audio
from narspeech.data.example import Example
from narspeech.errors import AudioError
from narspeech.files import sync_folder, write_atomic

FORMAT = 1
# 16-bit full scale: a 16-bit recording survives bit for bit.
FULL_SCALE = 32768
# A recording may be shorter than its manifest says by rounding and codec delay, in seconds, but not by more.
SHORTFALL = 0.25


class Recordings(NamedTuple):
    """samples: (total,) int16, memory-mapped; recording i stands at offsets[i] : offsets[i + 1]."""

    samples: np.ndarray[Any, np.dtype[np.int16]]
    offsets: np.ndarray[Any, np.dtype[np.int64]]

    def at(self, index: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Recording `index` as (N,) float32 in -1..1."""
        samples = self.samples[self.offsets[index] : self.offsets[index + 1]]
        return samples.astype(np.float32) / np.float32(FULL_SCALE)


def load_example(example: Example, rate: int) -> Audio:
    """The sound of an example at `rate`.

    Raises AudioError that names the file when it cannot be read or holds clearly less sound than the manifest says.
    """
    audio = load_audio(example.audio, target_rate=rate, start=example.start, duration=example.duration)
    seconds = len(audio.samples) / rate
    if seconds < example.duration - SHORTFALL:
        raise AudioError(
            f"expected {example.duration:.2f} s from {example.start:.2f} s on in {example.audio} ({example.id}), "
            f"received {seconds:.2f} s; replace the file or prepare the manifest again"
        )
    return audio


def open_recordings(
    examples: Sequence[Example],
    folder: Path,
    *,
    rate: int = 16000,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Recordings:
    """The decoded recordings of `examples` in `folder`, decoded first if they are not there or are of other examples.

    Use one folder a manifest. progress is called with (done, total) while decoding; without it a bar is drawn on
    stderr. workers: decoding threads, by default one a core (libsndfile and soxr release the interpreter lock). Raises
    an AudioError that counts the recordings that fail and names the first of them; nothing is skipped.
    """
    digest = _digest(examples, rate)
    recordings = _read(folder, digest, len(examples))
    if recordings is not None:
        return recordings
    folder.mkdir(parents=True, exist_ok=True)
    stale = set(folder.glob("samples-*.i16"))
    # The digest is part of the name: an index never points at another manifest's samples, whoever dies when.
    path = folder / f"samples-{digest[:16]}.i16"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        decoded = _report(_decode_all(examples, rate, workers), len(examples), progress)
        offsets = _write_samples(temporary, decoded)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    entries = [
        {"id": example.id, "offset": offset, "length": end - offset}
        for example, offset, end in zip(examples, offsets[:-1], offsets[1:], strict=True)
    ]
    index = {"format": FORMAT, "digest": digest, "rate": rate, "samples": path.name, "recordings": entries}
    write_atomic(folder / "index.json", json.dumps(index).encode())
    for old in stale - {path}:
        old.unlink(missing_ok=True)
    return _map(path, offsets)


def _decode_all(examples: Sequence[Example], rate: int, workers: int | None) -> Iterator[np.ndarray[Any, Any]]:
    """Every recording in order as int16. Failures are gathered, so that one run tells about all of them."""
    failures: list[str] = []
    workers = workers or os.cpu_count() or 1
    pending: deque[Future[np.ndarray[Any, Any]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        # A short queue ahead of the reader: memory does not follow the size of the corpus.
        for place in range(len(examples) + 4 * workers):
            if place < len(examples):
                pending.append(pool.submit(_decode_int16, examples[place], rate))
            if pending and place >= 4 * workers:
                try:
                    yield pending.popleft().result()
                except AudioError as error:
                    failures.append(str(error))
                    yield np.zeros(0, np.int16)
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise AudioError(
            f"expected {len(examples)} readable recordings, received {len(failures)} that are not; mend or remove: "
            + "; ".join(failures[:5])
            + ("; ..." if len(failures) > 5 else "")
        )


def _decode_int16(example: Example, rate: int) -> np.ndarray[Any, Any]:
    scaled = np.rint(load_example(example, rate).samples * FULL_SCALE)
    clipped: np.ndarray[Any, Any] = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return clipped


def _write_samples(path: Path, decoded: Iterable[np.ndarray[Any, Any]]) -> list[int]:
    offsets = [0]
    with path.open("wb") as file:
        for samples in decoded:
            file.write(samples.tobytes())
            offsets.append(offsets[-1] + len(samples))
        file.flush()
        os.fsync(file.fileno())
    return offsets


def _report(
    decoded: Iterator[np.ndarray[Any, Any]], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[np.ndarray[Any, Any]]:
    if progress is not None:
        for done, samples in enumerate(decoded, 1):
            yield samples
            progress(done, total)
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(decoded, total=total, description="decoding")


def _read(folder: Path, digest: str, count: int) -> Recordings | None:
    """The recordings of an earlier run, or None if they are missing, damaged or of other examples."""
    try:
        index = json.loads((folder / "index.json").read_text())
        if index["format"] != FORMAT or index["digest"] != digest or len(index["recordings"]) != count:
            return None
        offsets = [0] + [entry["offset"] + entry["length"] for entry in index["recordings"]]
        path = folder / index["samples"]
        if path.stat().st_size != 2 * offsets[-1]:
            return None
        return _map(path, offsets)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map(path: Path, offsets: list[int]) -> Recordings:
    # An empty file cannot be mapped.
    samples = np.memmap(path, np.int16, mode="r") if offsets[-1] else np.zeros(0, np.int16)
    return Recordings(samples, np.array(offsets, dtype=np.int64))


def _digest(examples: Sequence[Example], rate: int) -> str:
    # What decides the samples, and nothing else: a corrected text does not decode the sound again.
    described = [[example.id, example.audio, example.start, example.duration] for example in examples]
    return hashlib.sha256(json.dumps([FORMAT, rate, described]).encode()).hexdigest()
