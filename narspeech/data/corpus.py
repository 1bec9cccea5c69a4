"""What the prepare.py of every recipe shares: from a listing of sounds and texts to a manifest, and its command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import tyro
from rich.console import Console
from rich.progress import Progress

from narspeech.data.example import Example, read_manifest, write_manifest
from narspeech.data.sound_file import UNKNOWN_FRAMES
from narspeech.data.sound_reader import open_reader
from narspeech.errors import AudioError, ManifestError, NarspeechError

# What counts as a sound when a corpus is listed; whether it can be read is found out by reading.
SOUND_SUFFIXES = frozenset(
    {".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".sph", ".w64"}
    | {".m4a", ".mp4", ".webm", ".mka", ".aac", ".wma"}
)
# Most of the time goes to waiting for the disk.
WORKERS = 8
# Above this a header's count of frames is not believed (a week at 16 kHz).
MAX_SECONDS = 7 * 24 * 3600.0


class Utterance(NamedTuple):
    """One line of a corpus before its sound has been looked at."""

    id: str
    audio: Path
    text: str
    speaker: str | None


def write_part(path: Path, utterances: Sequence[Utterance], *, lower: bool = True) -> Path:
    """Write the manifest of whole recordings at `path` and return it; the durations are measured.

    lower: texts are put in lower case, as transcripts are everywhere; translations keep their case. Runs of spaces
    become one. Run again, durations are taken from the manifest that is there, save those of sounds that changed
    since; a manifest that would come out the same is left untouched. Raises ManifestError on texts that are empty,
    AudioError on sounds that cannot be read, naming up to five and their count.
    """
    if not utterances:
        raise ManifestError(f"expected utterances for {path.name}, received none; check the folder's layout")
    refuse(
        [f"{utterance.id} in {utterance.audio}" for utterance in utterances if not utterance.text.strip()],
        "a text for every utterance",
        "without one",
    )
    earlier = _earlier(path)
    known = {example.audio: example.duration for example in earlier}
    # A sound as new as the manifest may have changed just after it was measured.
    written = path.stat().st_mtime_ns if earlier else 0
    new = [utterance.audio for utterance in utterances if not _unchanged(utterance.audio, known, written)]
    known.update(zip(map(_name, new), measure(new), strict=True))
    examples = [
        Example(
            id=utterance.id,
            audio=_name(utterance.audio),
            text=tidy(utterance.text, lower=lower),
            duration=known[_name(utterance.audio)],
            speaker=utterance.speaker,
        )
        for utterance in utterances
    ]
    if examples != earlier:
        write_manifest(path, examples)
    return path


def measure(sounds: Sequence[Path]) -> list[float]:
    """Seconds of every sound, from its header. Raises AudioError naming up to five that cannot be read."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with ThreadPoolExecutor(WORKERS) as pool, bar:
        found = list(bar.track(pool.map(_seconds, sounds), total=len(sounds), description="reading sound headers"))
    refuse(
        [f"{sound} ({reason})" for sound, reason in zip(sounds, found, strict=True) if isinstance(reason, str)],
        f"{len(found)} sounds that can be read",
        "that cannot",
        AudioError,
    )
    return [seconds for seconds in found if not isinstance(seconds, str)]


def refuse(problems: Sequence[str], expected: str, received: str, error: type[NarspeechError] = ManifestError) -> None:
    """Raise one `error` that counts the problems and names up to five of them; nothing happens when there are none."""
    if problems:
        named = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise error(f"expected {expected}, received {len(problems)} {received}: {named}; mend or remove them")


def tidy(text: str, *, lower: bool = True) -> str:
    """Single spaces, and lower case unless told otherwise."""
    return " ".join((text.lower() if lower else text).split())


def sounds_by_stem(folder: Path) -> dict[str, Path]:
    """The sounds right in `folder` by name without suffix. Raises ManifestError where only the suffix differs."""
    sounds: dict[str, Path] = {}
    twice: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SOUND_SUFFIXES and not path.name.startswith("."):
            if path.stem in sounds:
                twice.append(f"{sounds[path.stem]} and {path.name}")
            sounds[path.stem] = path
    refuse(twice, "one sound an utterance", "with two")
    return sounds


def describe(manifest: Path) -> str:
    """One line: utterances, hours and speakers of a manifest."""
    examples = read_manifest(manifest)
    hours = sum(example.duration for example in examples) / 3600
    speakers = len({example.speaker for example in examples if example.speaker is not None})
    return f"{manifest}: {len(examples)} utterances, {hours:.2f} hours, {speakers or 'unknown'} speakers"


def _earlier(path: Path) -> list[Example]:
    try:
        return read_manifest(path) if path.exists() else []
    except ManifestError:
        return []


def _unchanged(audio: Path, known: Iterable[str], written: int) -> bool:
    if _name(audio) not in known:
        return False
    try:
        state = audio.stat()
    except OSError:
        return False
    # ctime as well: unpacking an archive sets mtime back to that of the archive.
    return state.st_size > 0 and max(state.st_mtime_ns, state.st_ctime_ns) < written


def _name(audio: Path) -> str:
    return str(audio.absolute())


def _seconds(sound: Path) -> float | str:
    """Seconds of a sound, or why it has none."""
    try:
        if sound.stat().st_size == 0:
            return "the file is empty"
        with sound.open("rb", buffering=0) as file, open_reader(file, str(sound)) as reader:
            rate, frames = reader.samplerate, reader.frames
            if frames == UNKNOWN_FRAMES:
                frames = sum(iter(lambda: len(reader.block(rate)), 0))
    except OSError as error:
        return error.strerror or str(error)
    except AudioError as error:
        return str(error)
    seconds = frames / rate
    if not 0 < seconds <= MAX_SECONDS:
        return f"its header tells of {frames} frames at {rate} Hz"
    return round(seconds, 6)


def names_in(words: str) -> list[str]:
    """The names in a list such as "train, dev". Raises ManifestError where there is none."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    if not names:
        raise ManifestError(f"expected names with commas between, received {words!r}: name at least one")
    return names


def language_pair(words: str) -> tuple[str, str]:
    """The two languages of "en,de". Raises ManifestError."""
    names = names_in(words)
    if len(names) != 2 or names[0] == names[1]:
        raise ManifestError(f"expected two languages such as en,de, received {words!r}")
    return names[0], names[1]


def command_line(main: Callable[..., None]) -> None:
    """Run a prepare.py's `main` with the arguments of the command; what is wrong ends it with one sentence."""
    try:
        tyro.cli(main)
    except NarspeechError as error:
        sys.exit(f"error: {error}")
