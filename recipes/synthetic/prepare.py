"""Sentences read by espeak-ng or flite: SYNTHETIC speech, for trying things end to end and for more text to train on.

python recipes/synthetic/prepare.py --data TEXT --out DIR --parts train
"""

from __future__ import annotations

import lzma
import random
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from narspeech.data.corpus import Utterance, command_line, describe, names_in, tidy, write_part
from narspeech.errors import ManifestError

LANGUAGES = ("en-us", "en-gb", "en-gb-scotland")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m7", "f1", "f2", "f3", "f4")
FLITE_VOICES = ("awb", "rms", "slt", "kal16")  # three of them made from a person's recordings
COUNTS = {"train": 400, "test": 100, "flite": 3600}
PROGRAMS = {"train": "espeak-ng", "test": "espeak-ng", "flite": "flite"}
TEXT = "text/english_books.txt.xz"


class Reading(NamedTuple):
    """A sentence, whose voice reads it, and the command for that, to be followed by the sound's path and the text."""

    text: str
    speaker: str
    command: tuple[str, ...]


def prepare(data: Path, out: Path, parts: Sequence[str] = ("train",), *, download: bool = False) -> dict[str, Path]:  # noqa: ARG001
    """Synthesise `out`/sound/<part>-<number>.wav and write `out`/<part>.jsonl; the same text gives the same corpus.

    data: a text file, plain or .xz, with a sentence a line, or the folder that holds text/english_books.txt.xz. Nothing
    can be downloaded. Raises ManifestError where the text or the program that reads it is missing.
    """
    sentences = read_sentences(data if data.is_file() else data / TEXT)
    manifests = {}
    for part in parts:
        if part not in COUNTS:
            raise ManifestError(f"expected parts among {', '.join(COUNTS)}, received {part!r}; correct --parts")
        names = [f"synthetic-{part}-{number:04d}" for number in range(COUNTS[part])]
        readings = draw(sentences, part)
        sounds = [out / "sound" / f"{name}.wav" for name in names]
        read_aloud(readings, sounds)
        utterances = [
            Utterance(name, sound, reading.text, reading.speaker)
            for name, sound, reading in zip(names, sounds, readings, strict=True)
        ]
        manifests[part] = write_part(out / f"{part}.jsonl", utterances)
    return manifests


def read_sentences(path: Path) -> list[str]:
    """The lines of 3 to 12 words, in lower case: short enough for a voice without breath."""
    try:
        with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
            sentences = [tidy(line) for line in file if 3 <= len(line.split()) <= 12]
    except OSError as error:
        raise ManifestError(f"expected a text with a sentence a line at {path}, received: {error}") from error
    return sentences


def draw(sentences: Sequence[str], part: str) -> list[Reading]:
    """Sentences of one part, no two parts sharing a line, and a voice for each."""
    start = sum(COUNTS[other] for other in list(COUNTS)[: list(COUNTS).index(part)])
    end = start + COUNTS[part]
    if len(sentences) < end:
        raise ManifestError(f"expected a text with at least {end} lines of 3 to 12 words, received {len(sentences)}")
    # As many for every part, because the sampler's draws depend on their number.
    places = random.Random(0).sample(range(len(sentences)), min(sum(COUNTS.values()), len(sentences)))
    chance = random.Random(part)
    voice = flite if PROGRAMS[part] == "flite" else espeak
    return [Reading(sentences[place], *voice(chance)) for place in places[start:end]]


def espeak(chance: random.Random) -> tuple[str, tuple[str, ...]]:
    """A speaker and the command: any voice, words a minute and pitch (0..99)."""
    voice = f"{chance.choice(LANGUAGES)}+{chance.choice(VARIANTS)}"
    speed, pitch = chance.randrange(130, 180), chance.randrange(30, 70)
    return f"espeak-{voice}", ("espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w")


def flite(chance: random.Random) -> tuple[str, tuple[str, ...]]:
    """A speaker and the command: any voice, a little faster or slower than it is."""
    voice, stretch = chance.choice(FLITE_VOICES), chance.uniform(0.85, 1.15)
    return f"flite-{voice}", ("flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}", "-o")


def read_aloud(readings: Sequence[Reading], sounds: Sequence[Path]) -> None:
    """Write each reading as the sound in its place; those that are there stay. Raises ManifestError where the program
    is missing."""
    for program in {reading.command[0] for reading in readings}:
        if shutil.which(program) is None:
            raise ManifestError(f"expected the program {program}, received none: install it (apt install {program})")
    for folder in {sound.parent for sound in sounds}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(speak, readings, sounds))


def speak(reading: Reading, target: Path) -> None:
    """Write the reading as a sound file, by way of a temporary name."""
    if target.exists():
        return
    partial = target.with_suffix(".part.wav")
    text = ("-t", reading.text) if reading.command[0] == "flite" else ("--", reading.text)
    subprocess.run([*reading.command, str(partial), *text], check=True, capture_output=True)
    partial.replace(target)


def main(data: Path, out: Path, parts: str = "train") -> None:
    """Read sentences aloud with espeak-ng or flite and write JSONL manifests.

    Args:
        data: a text with a sentence a line, plain or .xz, or the folder that holds text/english_books.txt.xz.
        out: folder for the sound and the manifests.
        parts: names of parts, with commas between: train, test, flite.
    """
    for manifest in prepare(data, out, names_in(parts)).values():
        print(describe(manifest))


if __name__ == "__main__":
    command_line(main)
