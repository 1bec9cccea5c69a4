"""Prove that a recording of hours costs neither memory nor words: join real utterances, transcribe them by the command.

    python scripts/prove_long.py MANIFEST OUT --minutes 10 60 600

MANIFEST: JSONL of utterances with texts in the model's own spelling. They are joined in random order, again and again
where they are too few, with silences of random length, as 16-bit mono WAV files in OUT; each file is transcribed by
`narspeech transcribe` in a process of its own, whose memory is watched, and scored beside the same utterances heard one
by one. What lies in OUT already is not made again, so a run that was stopped goes on; each decoder needs its own OUT.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joined import JoinConfig, Piece, build

from narspeech.data.example import read_manifest
from narspeech.evaluate.alignment import counts
from narspeech.evaluate.error_rate import ErrorRate
from narspeech.files import write_atomic
from narspeech.result import Word

POLL = 0.5  # seconds between two looks at the memory
NEAR = 0.1  # seconds by which the same word may lie elsewhere in the file than alone


class Memory(NamedTuple):
    """Of a process, in MB: the highest resident set and, every POLL seconds, the present one; seconds it ran."""

    peak: float
    present: list[float]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Transcribe joined utterances as one long file.")
    parser.add_argument("manifest", type=Path, help="utterances with texts")
    parser.add_argument("out", type=Path, help="a folder for the files and their transcripts")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60, 600])
    parser.add_argument("--pause", type=float, default=JoinConfig.pause, help="the longest silence in seconds")
    parser.add_argument("--hiss", type=float, help="noise everywhere, in dB of full scale; else digital silence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--decoder", help="by default the model's own")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    settings = [f"--{name}={value}" for name in ("model", "decoder") if (value := getattr(arguments, name)) is not None]
    examples = read_manifest(arguments.manifest)
    alone_path = out / "alone.jsonl"
    if not alone_path.exists():
        watch([str(arguments.manifest), "--format=jsonl", *settings], alone_path)
    alone = {entry["id"]: entry for entry in map(json.loads, alone_path.read_text(encoding="utf-8").splitlines())}
    for minutes in arguments.minutes:
        config = JoinConfig(minutes=minutes, pause=arguments.pause, hiss=arguments.hiss, seed=arguments.seed)
        sound, heard, memory = (out / f"{minutes:g}{suffix}" for suffix in (".wav", ".json", ".memory.json"))
        pieces = build(sound, examples, config)
        if not (heard.exists() and memory.exists()):
            found = watch([str(sound), "--format=json", *settings], heard)
            write_atomic(memory, json.dumps(found._asdict()).encode())
        report(pieces, json.loads(heard.read_text("utf-8")), alone, Memory(**json.loads(memory.read_text())))


def watch(arguments: Sequence[str], target: Path) -> Memory:
    """Run `narspeech transcribe` with its stdout in a file."""
    present: list[float] = []
    peak, began = 0.0, time.perf_counter()
    part = target.with_suffix(".part")
    with part.open("wb") as stdout:
        process = subprocess.Popen([sys.executable, "-m", "narspeech", "transcribe", *arguments], stdout=stdout)
        while process.poll() is None:
            # Not the peak that wait4 tells: that one begins at the memory of the process which forked.
            status = Path(f"/proc/{process.pid}/status").read_text()
            sizes = dict(line.split(":", 1) for line in status.splitlines())
            if "VmRSS" in sizes:  # not of a process that has just ended
                present.append(int(sizes["VmRSS"].split()[0]) / 1024)
                peak = max(peak, int(sizes["VmHWM"].split()[0]) / 1024)
            time.sleep(POLL)
    if process.returncode:
        raise SystemExit(f"expected the command to succeed, received exit code {process.returncode}: see above")
    part.replace(target)
    return Memory(peak, present, time.perf_counter() - began)


def report(pieces: Sequence[Piece], heard: dict[str, Any], alone: dict[str, dict[str, Any]], memory: Memory) -> None:
    words = [Word(**entry) for entry in heard["words"]]
    reference = [piece.text for piece in pieces]
    single = [alone[piece.id]["text"] for piece in pieces]
    first, last = (np.mean(part) for part in np.array_split(np.array(memory.present), 10)[1::8])
    print(
        f"{heard['duration'] / 60:.1f} min, {len(pieces)} utterances, {len(heard['segments'])} segments, "
        f"{heard['duration'] / memory.seconds:.1f} times real time, start of the process included\n"
        f"  memory: peak {memory.peak:.0f} MB; mean of the second tenth of the time {first:.0f}, of the last {last:.0f}"
    )
    rates = {
        "utterance by utterance": ErrorRate.of(counts(reference, single)),
        "those texts joined": ErrorRate.of(counts([" ".join(reference)], [" ".join(single)])),
        "one file": ErrorRate.of(counts([" ".join(reference)], [heard["text"]])),
    }
    for name, rate in rates.items():
        print(
            f"  WER {100 * rate.rate:.2f}  {name} ({rate.substitutions} substituted, {rate.deletions} deleted, "
            f"{rate.insertions} inserted of {rate.reference})"
        )
    wrong = misplaced(words, heard["duration"])
    print(f"  words: {len(words)}, of which {wrong} have no place in order between 0 and the end of the file")
    print_last_words(pieces, words, alone)
    for warning in heard["warnings"]:
        print(f"  warning: {warning}")


def misplaced(words: Sequence[Word], duration: float) -> int:
    """How many words break start < end, begin before the word before has ended, or reach out of the file."""
    times = [(word.start if word.start is not None else -1.0, word.end or 0.0) for word in words]
    # JSON has seconds to three places.
    wrong = [not 0 <= start < end <= duration + 5e-4 for start, end in times]
    late = [one[1] > other[0] for one, other in pairwise(times)]
    return sum(bad or early for bad, early in zip(wrong, [False, *late], strict=True))


def print_last_words(pieces: Sequence[Piece], words: Sequence[Word], alone: dict[str, dict[str, Any]]) -> None:
    """Whether the last word that each utterance has when heard alone stands in the file, at its time."""
    starts = np.array([word.start for word in words], np.float64)
    ends = np.array([word.end for word in words], np.float64)
    tally = {"the same word": 0, "another word": 0, "no word": 0}
    name = ""
    for piece in pieces:
        if not alone[piece.id]["words"]:
            continue
        last = Word(**alone[piece.id]["words"][-1])
        assert last.start is not None
        assert last.end is not None
        begin, end = piece.start + last.start - NEAR, piece.start + last.end + NEAR
        there = [words[place] for place in np.flatnonzero((ends > begin) & (starts < end)).tolist()]
        same = any(word.text == last.text for word in there)
        name = "the same word" if same else "another word" if there else "no word"
        tally[name] += 1
    found = ", ".join(f"{kind} {number} times" for kind, number in tally.items())
    print(
        f"  where an utterance heard alone has its last word, the file has {found}; in the last of all {name}\n"
        f"  the file ends {words[-1].text!r}; the reference {pieces[-1].text.rpartition(' ')[2]!r}"
    )


if __name__ == "__main__":
    main()
