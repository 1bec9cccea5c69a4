"""Many recordings through little memory: loaded a group at a time, decoded in batches of like length, told in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch

from narspeech.data.audio import Audio
from narspeech.data.batching import by_length
from narspeech.errors import AudioError, NarspeechError
from narspeech.memory import give_back_freed_memory
from narspeech.result import Transcript

# Seconds of sound that are in memory at a time, unless one recording is longer: 230 MB at 16 kHz.
GROUP_SECONDS = 3600.0

Source = TypeVar("Source")
Item = TypeVar("Item")
# Called with how many are done, and of how many, None where nobody knows; True draws a bar on stderr.
Progress = bool | Callable[[int, int | None], None]
Load = Callable[[Source], Audio | Transcript]
Decode = Callable[[Sequence[Audio]], Sequence[Transcript]]


class Outcome(NamedTuple, Generic[Source]):
    """What became of the source at `place`, counted from 0: its transcript, or why there is none."""

    place: int
    source: Source
    result: Transcript | AudioError


class Loaded(NamedTuple, Generic[Source]):
    """A source and its sound."""

    place: int
    source: Source
    audio: Audio


def outcomes(
    sources: Iterable[Source], load: Load[Source], decode: Decode, batch_size: int, most: float = math.inf
) -> Iterator[Outcome[Source]]:
    """What becomes of every source, as soon as it is known: of a group that was loaded, the shortest first.

    most: samples that are decoded together, padding included; load: gives the sound of a source, or its transcript
    where it need not be decoded with others. An AudioError that it raises is the outcome of that source, and so is too
    little memory for it; the others are not lost.
    """
    for group in _groups(sources, load, group_size(batch_size)):
        loaded = [found for found in group if isinstance(found, Loaded)]
        yield from (found for found in group if isinstance(found, Outcome))
        for chosen in by_length({i: len(found.audio.samples) for i, found in enumerate(loaded)}, batch_size, most):
            results = _spared(decode, [loaded[i].audio for i in chosen])
            for i, result in zip(chosen, results, strict=True):
                yield Outcome(loaded[i].place, loaded[i].source, result)
        give_back_freed_memory()


def group_size(batch_size: int) -> int:
    """How many recordings are in memory at a time: a few batches, so that like lengths can be put together."""
    if batch_size < 1:
        raise NarspeechError(f"expected a batch size of at least 1, received {batch_size}: 8 is usual")
    return 4 * batch_size


def _groups(
    sources: Iterable[Source], load: Load[Source], size: int
) -> Iterator[list[Loaded[Source] | Outcome[Source]]]:
    """Sources with their sound, or with what became of them already: at most `size`, and little more than
    GROUP_SECONDS, at a time."""
    group: list[Loaded[Source] | Outcome[Source]] = []
    seconds = 0.0
    for place, source in enumerate(sources):
        try:
            found: Audio | Transcript | AudioError = load(source)
        except AudioError as error:
            found = error
        except (RuntimeError, MemoryError) as error:
            if not is_too_little_memory(error):
                raise
            found = AudioError("expected memory to hear a recording, received too little: cut it up")
        if isinstance(found, Audio):
            group.append(Loaded(place, source, found))
            seconds += found.duration
        else:
            group.append(Outcome(place, source, found))
        # What is known is told: a transcript took its time, and should not wait for others to be loaded.
        if len(group) == size or seconds > GROUP_SECONDS or isinstance(found, Transcript):
            yield group
            group, seconds = [], 0.0
    if group:
        yield group


def _spared(decode: Decode, recordings: Sequence[Audio]) -> Sequence[Transcript | AudioError]:
    """`decode`, one by one where the memory is too small for all, and an error where it is too small for one."""
    try:
        return decode(recordings)
    except (RuntimeError, MemoryError) as error:
        if not is_too_little_memory(error):
            raise
    if len(recordings) == 1:
        seconds = recordings[0].duration
        return [
            AudioError(f"expected memory to decode {seconds:.0f} s of sound at once, received too little: cut it up")
        ]
    return [result for recording in recordings for result in _spared(decode, [recording])]


def is_too_little_memory(error: RuntimeError | MemoryError) -> bool:
    # On the CPU torch tells it by its words alone.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def in_order(found: Iterable[Outcome[Source]]) -> Iterator[Outcome[Source]]:
    """Outcomes by their places, each as soon as those before it are there."""
    waiting: dict[int, Outcome[Source]] = {}
    due = 0
    for outcome in found:
        waiting[outcome.place] = outcome
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def tracked(items: Iterable[Item], total: int | None, progress: Progress) -> Iterator[Item]:
    """The items, while `progress` is told how many there were."""
    if not isinstance(progress, bool):
        for done, item in enumerate(items, 1):
            progress(done, total)
            yield item
    elif progress:
        # Who wants no bar need not wait for it.
        from rich.console import Console
        from rich.progress import Progress as Bar

        # Rich would send what is printed meanwhile to stderr.
        with Bar(console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
            yield from bar.track(items, total=total, description="transcribing")
    else:
        yield from items
