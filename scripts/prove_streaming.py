"""Prove what streaming promises, on real utterances joined with pauses:

    python scripts/prove_streaming.py MANIFEST OUT --minutes 8

The sound goes through a Streamer in chunks of 100 ms. Every final segment is cut out of it into a file, which must give
the very same text, words, times and confidences; chunks of other sizes must give the same segments. Then come the
figures: how long after a word has been spoken it stands in a partial text, how much of that text is taken back, and
what it all costs. Latencies are of the sound: what the machine takes comes on top, and is told beside them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from joined import JoinConfig, Piece, build
from numpy.typing import NDArray

from narspeech.data.audio import load_audio
from narspeech.data.example import read_manifest
from narspeech.data.sound_file import Samples
from narspeech.evaluate.alignment import aligned
from narspeech.longform import shifted
from narspeech.result import Word
from narspeech.streaming import Heard, Streamer
from narspeech.transcriber import Transcriber, transcribe

CHUNK = 0.1
SOON = 0.6  # seconds of speech after which a first partial text is promised


class Event(NamedTuple):
    """Something heard, and the seconds of sound that had come by then."""

    time: float
    heard: Heard


class Run(NamedTuple):
    """All that was heard; wall, processor: seconds that every push took."""

    events: list[Event]
    wall: NDArray[np.float64]
    processor: NDArray[np.float64]

    @property
    def finals(self) -> list[Heard]:
        return [event.heard for event in self.events if event.heard.final]


def main() -> None:
    parser = argparse.ArgumentParser(description="Stream joined utterances.")
    parser.add_argument("manifest", type=Path, help="utterances with texts")
    parser.add_argument("out", type=Path, help="a folder for the joined file and the segments cut out of it")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument(
        "--others", type=float, default=2, help="minutes that are streamed in chunks of other sizes, too"
    )
    parser.add_argument("--pause", type=float, default=JoinConfig.pause, help="the longest silence in seconds")
    parser.add_argument("--hiss", type=float, help="noise everywhere, in dB of full scale; else digital silence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = JoinConfig(minutes=arguments.minutes, pause=arguments.pause, hiss=arguments.hiss, seed=arguments.seed)
    path = arguments.out / "joined.wav"
    pieces = build(path, read_manifest(arguments.manifest), config)
    transcriber = Transcriber(arguments.model)
    samples = load_audio(path, target_rate=transcriber.rate).samples
    run = stream(transcriber, np.split(samples, range(*steps(CHUNK, len(samples), transcriber.rate))))
    different = [heard for heard in run.finals if not equals_file(transcriber, samples, heard, arguments.out)]
    print(f"{len(run.finals)} segments, of which {len(different)} differ from transcribe() of a file of their samples")
    for heard in different:
        print(f"  {heard.start:.2f} to {heard.end:.2f} s: {heard.text!r}")
    part = samples[: round(60 * arguments.others * transcriber.rate)]
    for name, chunks in other_chunks(part, transcriber.rate, arguments.seed).items():
        finals = stream(transcriber, chunks, finish=False).finals
        same = finals == run.finals[: len(finals)]
        print(f"chunks of {name}: {len(finals)} segments, {'the same' if same else 'DIFFERENT ONES'}")
    print_first(run, pieces)
    print_latency(run)
    print_changes(run)
    print_cost(run, len(samples) / transcriber.rate)


def steps(seconds: float, count: int, rate: int) -> tuple[int, int, int]:
    size = round(seconds * rate)
    return size, count, size


def other_chunks(samples: Samples, rate: int, seed: int) -> dict[str, list[Samples]]:
    generator = np.random.default_rng(seed)
    edges = np.cumsum(generator.integers(1, rate // 2, 4 * len(samples) // rate + 100))
    return {
        "20 ms": np.split(samples, range(*steps(0.02, len(samples), rate))),
        "1 s": np.split(samples, range(*steps(1.0, len(samples), rate))),
        "1 sample to 0.5 s, at random": np.split(samples, edges[edges < len(samples)]),
    }


def stream(transcriber: Transcriber, chunks: Sequence[Samples], *, finish: bool = True) -> Run:
    streamer = Streamer(transcriber, transcriber.rate)
    events: list[Event] = []
    wall, processor = [], []
    count = 0
    for chunk in [*chunks, None] if finish else chunks:
        began = time.perf_counter(), time.process_time()
        found = streamer.finish() if chunk is None else streamer.push(chunk)
        wall.append(time.perf_counter() - began[0])
        processor.append(time.process_time() - began[1])
        count += 0 if chunk is None else len(chunk)
        events += [Event(count / transcriber.rate, heard) for heard in found]
    return Run(events, np.array(wall), np.array(processor))


def equals_file(transcriber: Transcriber, samples: Samples, heard: Heard, folder: Path) -> bool:
    """Whether a segment is what its samples give as a file: text, words, times and confidences, to the last bit."""
    rate, path = transcriber.rate, folder / "segment.wav"
    first, last = round(heard.start * rate), round(heard.end * rate)
    soundfile.write(path, samples[first:last], rate, subtype="FLOAT")
    found = transcribe(path, model=transcriber.model)
    words = shifted(found.words, heard.start)
    return (heard.text, heard.words, heard.warnings) == (found.text, words, found.warnings)


def segments(run: Run) -> Iterator[tuple[list[Event], Event]]:
    """Every segment with words: its partial texts, and the final one."""
    partial: list[Event] = []
    for event in run.events:
        if not event.heard.final:
            partial.append(event)
            continue
        if event.heard.words:
            yield partial, event
        partial = []


def spread(values: Sequence[float]) -> str:
    """In milliseconds."""
    if not values:
        return "none"
    low, middle, high = (1000 * np.quantile(values, share) for share in (0.05, 0.5, 0.95))
    return f"median {middle:.0f} ms, 5 % {low:.0f}, 95 % {high:.0f}, most {1000 * max(values):.0f}"


def span(word: Word) -> tuple[float, float]:
    assert word.start is not None
    assert word.end is not None
    return word.start, word.end


def print_first(run: Run, pieces: Sequence[Piece]) -> None:
    """When the first partial text of a segment comes, from the beginning of its first word, and from the end of it."""
    begins, ends, sounds = [], [], []
    missing = 0
    for partial, final in segments(run):
        start, end = span(final.heard.words[0])
        if not partial:
            missing += 1
            continue
        begins.append(partial[0].time - start)
        ends.append(partial[0].time - end)
        inside = [piece.start for piece in pieces if piece.start <= start < piece.end]
        sounds += [partial[0].time - inside[0]] if inside and inside[0] >= final.heard.start else []
    print(
        f"first partial text of a segment ({missing} had none before the final one)\n"
        f"  after its first word begins: {spread(begins)}; {np.mean(np.array(begins) <= SOON):.0%} within "
        f"{1000 * SOON:.0f} ms\n"
        f"  after its first word ends: {spread(ends)}\n"
        f"  after its recording begins, with the silence in front of the voice: {spread(sounds)}"
    )


def print_latency(run: Run) -> None:
    """How long after the end of a word it first stands in the text: by itself, or whatever stands in its place."""
    exact, placed, finals = [], [], []
    before = total = 0
    for partial, final in segments(run):
        words = final.heard.words
        shown, count = [final.time] * len(words), [final.time] * len(words)
        for event in reversed(partial):
            edits = [edit for edit in next(aligned([final.heard.text], [event.heard.text])) if edit.reference]
            for place, edit in enumerate(edits):
                if edit.hypothesis == edit.reference:
                    shown[place] = event.time
            for place in range(min(len(words), len(event.heard.text.split()))):
                count[place] = event.time
        total += len(words)
        before += sum(moment < final.time for moment in shown)
        exact += [moment - span(word)[1] for moment, word in zip(shown, words, strict=True)]
        placed += [moment - span(word)[1] for moment, word in zip(count, words, strict=True)]
        finals.append(final.time - span(words[-1])[1])
    print(
        f"latency of {total} words, from their end in the final text\n"
        f"  until as many words stand in the text: {spread(placed)}\n"
        f"  until the word itself stands there: {spread(exact)}; {before / total:.0%} before the final text\n"
        f"  of the final text, from the end of its last word: {spread(finals)}"
    )


def print_changes(run: Run) -> None:
    """How often a text that has been shown is taken back; the last word shown may still grow."""
    updates = changed = shown = taken = words = finally_taken = 0
    for partial, final in segments(run):
        for before, after in pairwise(event.heard.text for event in partial):
            lost = removed(before.rpartition(" ")[0], after)
            updates, changed, taken = updates + 1, changed + (lost > 0), taken + lost
        if partial:
            shown += len(partial[-1].heard.text.split())
            words += len(final.heard.words)
            finally_taken += removed(partial[-1].heard.text, final.heard.text)
    print(
        f"partial texts: {updates} updates, of which {changed} ({changed / max(updates, 1):.0%}) change or drop a word "
        f"before the last one; {taken} words taken back for {shown} that stay until the final text\n"
        f"  of these the final text changes {finally_taken} ({finally_taken / max(shown, 1):.0%}); it has {words}"
    )


def removed(before: str, after: str) -> int:
    """How many words of a text are not in the one that follows, in their order."""
    edits = next(aligned([before], [after]))
    return sum(edit.reference is not None and edit.reference != edit.hypothesis for edit in edits)


def print_cost(run: Run, seconds: float) -> None:
    print(
        f"cost: {run.processor.sum() / seconds:.3f} s of processor and {run.wall.sum() / seconds:.3f} s by the clock a "
        f"second of sound; a chunk of {1000 * CHUNK:.0f} ms takes {spread(run.processor.tolist())} of processor"
    )


if __name__ == "__main__":
    main()
