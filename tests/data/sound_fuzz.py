"""Damaged sound files, and a child process that reads them, so that a hang or a segmentation fault is survived.

Run as `python -m tests.data.sound_fuzz FOLDER` it reads every file there and prints one JSON line each.
"""

from __future__ import annotations

import importlib.util
import io
import json
import resource
import selectors
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from tests.data.media_file import CONTAINERS, media_file

ROOT = Path(__file__).parents[2]
FORMATS = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
    ("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"),
]  # fmt: skip
# Not a timed assertion: a sound of 1.5 s takes milliseconds, so this much processor time means that something ran away.
HANG_CPU = 5.0
HANG_WALL = 900.0
MOST_MEMORY = 1 << 20  # KiB
# The kind of a file that FFmpeg reads; its subtype is the end of its name.
MEDIA = "MEDIA"


def sound_file(kind: str, subtype: str, *, seconds: float = 1.5, rate: int = 16000, channels: int = 1) -> bytes:
    """A tone in noise as a sound file."""
    times = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.05, (len(times), channels))
    samples = 0.3 * np.sin(2 * np.pi * 440 * times)[:, None] + noise
    if kind == MEDIA:
        return media_file(samples, rate, subtype)
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=kind, subtype=subtype)
    return target.getvalue()


@cache
def some_sound_file(kind: str, subtype: str, rate: int, channels: int) -> bytes:
    """As asked for, or as the format allows it."""
    for some_rate, some_channels in ((rate, channels), (rate, 1), (8000, 1), (48000, 1)):
        try:
            return sound_file(kind, subtype, rate=some_rate, channels=some_channels)
        except Exception:  # PyAV, which may be missing, has many kinds
            continue
    raise ValueError(f"expected a format that can be written, received {kind} {subtype}")


def _can_be_written(kind: str, subtype: str) -> bool:
    try:
        return bool(some_sound_file(kind, subtype, 16000, 1))
    except ValueError:
        return False


def every_format() -> list[tuple[str, str]]:
    """All that soundfile writes (headers and all), and media containers where there is PyAV. Not SD2, whose header
    libsndfile writes into a file of its own in the working directory."""
    found = [
        (kind, subtype)
        for kind in soundfile.available_formats()
        for subtype in soundfile.available_subtypes(kind)
        if kind not in ("RAW", "SD2") and soundfile.check_format(kind, subtype) and _can_be_written(kind, subtype)
    ]
    media = [(MEDIA, suffix) for suffix in CONTAINERS] if importlib.util.find_spec("av") else []
    # Two fifths of each, and one of media, whose child processes take their time to start.
    return [
        one for some in (found, FORMATS, found, FORMATS, media) if some for one in (some * len(found))[: len(found)]
    ]


def mutate(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """`data` with one to three kinds of damage; `other` lends bytes to splice in."""
    mutated = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        size = max(len(mutated), 2)
        place = int(generator.integers(size))
        match int(generator.integers(8)):
            case 0:  # flipped bits anywhere
                for where in generator.integers(len(mutated), size=generator.integers(1, 60)) if mutated else ():
                    mutated[where] ^= 1 << int(generator.integers(8))
            case 1:  # cut short
                del mutated[place:]
            case 2:  # random bytes in the header
                for where in generator.integers(min(128, size), size=generator.integers(1, 12)):
                    mutated[where : where + 1] = generator.bytes(1)
            case 3:  # an extreme number in the header
                extremes = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 65536)
                number = extremes[int(generator.integers(len(extremes)))]
                order = "little" if generator.random() < 0.5 else "big"
                where = int(generator.integers(min(128, size)))
                mutated[where : where + 4] = number.to_bytes(4, order)
            case 4:  # the end of another file
                mutated[place:] = other[int(generator.integers(len(other))) :]
            case 5:  # a stretch left out
                del mutated[place : place + int(generator.integers(1, 2000))]
            case 6:  # a stretch twice
                mutated[place:place] = mutated[place : place + int(generator.integers(1, 2000))]
            case _:  # a stretch of noise
                length = int(generator.integers(1, 3000))
                mutated[place : place + length] = generator.bytes(length)
    return bytes(mutated)


def write_mutants(folder: Path, count: int, seed: int, formats: list[tuple[str, str]] = FORMATS) -> None:
    generator = np.random.default_rng(seed)
    options = [(1, 16000), (2, 48000), (1, 8000)]
    order = generator.permutation(len(formats)) if formats is not FORMATS else np.arange(len(formats))
    for number in range(count):
        kind, subtype = formats[order[number % len(formats)]]
        channels, rate = options[int(generator.integers(len(options)))]
        data = some_sound_file(kind, subtype, rate, channels)
        other = some_sound_file(*formats[int(generator.integers(len(formats)))], 16000, 1)
        mutant = generator.bytes(3000) if number % 25 == 24 else mutate(data, other, generator)
        (folder / f"{number:05d}.{subtype.lower().removeprefix('.')}").write_bytes(mutant)


class Report(NamedTuple):
    """What became of the files: one record each, and what was wrong (empty when all is well)."""

    records: list[dict[str, Any]]
    faults: list[str]


def read_in_child(folder: Path) -> Report:
    """Read every file of `folder` in a child process."""
    names = sorted(path.name for path in folder.iterdir())
    records: list[dict[str, Any]] = []
    faults: list[str] = []
    with (folder.parent / "stderr.txt").open("w+") as noise:
        command = [sys.executable, "-m", "tests.data.sound_fuzz", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, cwd=ROOT, text=True, bufsize=1) as child:
            assert child.stdout is not None
            selector = selectors.DefaultSelector()
            selector.register(child.stdout, selectors.EVENT_READ)
            # The first line says that the imports are done.
            for name in ["the imports", *names]:
                line = child.stdout.readline() if selector.select(HANG_WALL) else "hang"
                while not line.startswith("{") and line not in ("", "hang"):
                    faults.append(f"{name}: made a library print {line!r}")
                    line = child.stdout.readline()
                if not line.startswith("{"):
                    child.kill()
                    faults.append(f"{name}: {'hangs' if line == 'hang' else f'ended the process ({child.wait()})'}")
                    break
                records.append(json.loads(line))
            selector.close()
        noise.seek(0)
        if "Traceback" in (text := noise.read()):
            faults.append(text[text.index("Traceback") :])
    records = records[1:]
    faults += [f"{record['name']}: {record['fault']}" for record in records if record["fault"]]
    faults += [f"{record['name']}: took {record['cpu']} s" for record in records if record["cpu"] > HANG_CPU]
    if records and records[-1]["memory"] > MOST_MEMORY:
        faults.append(f"memory grew from {records[0]['memory']} to {records[-1]['memory']} KiB")
    return Report(records, faults)


def main(folder: Path) -> None:
    from narspeech.data.audio import load_audio
    from narspeech.data.sound_stream import SoundStream
    from narspeech.errors import AudioError

    def usage() -> tuple[float, int]:
        """Seconds of processor time, and the most memory in KiB, of this process and its children."""
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        spent = sum(one.ru_utime + one.ru_stime for one in (own, children))
        # The peak that getrusage tells begins at the memory of the process which forked this one.
        status = Path("/proc/self/status")
        peak = own.ru_maxrss
        if status.exists():
            peak = int(dict(line.split(":", 1) for line in status.read_text().splitlines())["VmHWM"].split()[0])
        return spent, max(peak, children.ru_maxrss)

    print("{}", flush=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        source = path.read_bytes() if number % 2 else path
        part = {"start": 0.3, "duration": 0.5} if number % 5 == 0 else {}
        record: dict[str, Any] = {"name": path.name, "fault": "", "warnings": [], "error": "", "cpu": 0.0}

        def whole(source: Any = source, part: Any = part, record: Any = record) -> Any:
            audio = load_audio(source, **part)
            record["warnings"] += audio.warnings
            if np.abs(audio.samples).max(initial=0) >= 32:
                record["fault"] = "samples that are absurdly large"
            return audio.samples

        def blocks(path: Path = path, record: Any = record) -> Any:
            sound = SoundStream(path, target_rate=16000, seconds=0.4)
            samples = np.concatenate(list(sound))
            record["warnings"] += sound.warnings
            return samples

        found = []
        for read in (whole, blocks):
            began, _ = usage()
            try:
                samples = read()
                found.append(len(samples))
                if not (len(samples) and np.isfinite(samples).all()):
                    record["fault"] = f"samples that are missing or not finite by {read.__name__}"
            except AudioError as error:
                record["error"] += f"{error} "
            except BaseException as error:
                record["fault"] = f"{error!r} by {read.__name__}"
            spent, record["memory"] = usage()
            record["cpu"] = max(record["cpu"], spent - began)
        # Where decoding breaks off, the block that it breaks off in is lost.
        if len(set(found)) > 1 and not part and not record["warnings"]:
            record["fault"] = f"{found} samples, read whole and in blocks"
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
