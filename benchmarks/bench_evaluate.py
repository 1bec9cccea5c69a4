"""Errors of 100,000 synthetic utterances by kind, word by word, against jiwer's process_words; and of characters.

`python benchmarks/bench_evaluate.py` takes about two minutes. Both get the same lists of texts and count substitutions,
deletions and insertions. They run in turns, so that a busy machine slows both alike; medians of the times and of the
ratios are printed.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import jiwer

from narspeech.evaluate.alignment import Alignment, Unit, counts

UTTERANCES = 100_000
ROUNDS = 5


def texts(seed: int) -> tuple[list[str], list[str]]:
    """References of 5 to 35 words and hypotheses with about 20 % of their words wrong."""
    generator = random.Random(seed)
    letters = "etaoinshrdlu"
    vocabulary = ["".join(generator.choices(letters, k=generator.randint(1, 9))) for _ in range(5000)]
    references, hypotheses = [], []
    for _ in range(UTTERANCES):
        words = generator.choices(vocabulary, k=generator.randint(5, 35))
        heard: list[str] = []
        for word in words:
            fate = generator.random()
            if fate < 0.04:
                continue
            heard.append(generator.choice(vocabulary) if fate < 0.16 else word)
            if fate > 0.96:
                heard.append(generator.choice(vocabulary))
        references.append(" ".join(words))
        hypotheses.append(" ".join(heard))
    return references, hypotheses


def timed(function: Callable[[], tuple[int, ...]]) -> tuple[float, tuple[int, ...]]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def theirs(process: Callable[..., Any], references: list[str], hypotheses: list[str]) -> tuple[int, ...]:
    output = process(references, hypotheses)
    return output.substitutions, output.deletions, output.insertions


def ours(references: list[str], hypotheses: list[str], unit: Unit, alignment: Alignment = "jiwer") -> tuple[int, ...]:
    return tuple(counts(references, hypotheses, unit=unit, alignment=alignment)[:, :3].sum(axis=0).tolist())


def main() -> None:
    references, hypotheses = texts(seed=0)
    print(f"{ROUNDS} rounds, medians; S, D and I are equal\n")
    print("           utterances  narspeech s  jiwer s  ratio (least - most)")
    cases: list[tuple[str, Unit, int, Callable[..., Any]]] = [
        ("words", "word", UTTERANCES, jiwer.process_words),
        ("characters", "character", UTTERANCES // 10, jiwer.process_characters),
    ]
    for name, unit, count, process in cases:
        part = references[:count], hypotheses[:count]
        here, there = [], []
        for _ in range(ROUNDS):
            seconds, found = timed(lambda part=part, unit=unit: ours(*part, unit))  # type: ignore[misc]
            here.append(seconds)
            seconds, expected = timed(lambda part=part, process=process: theirs(process, *part))  # type: ignore[misc]
            there.append(seconds)
            if found != expected:
                raise SystemExit(f"expected S, D and I of {expected}, received {found}")
        ratios = [slow / fast for slow, fast in zip(there, here, strict=True)]
        print(
            f"{name:10} {count:11}  {statistics.median(here):11.3f}  {statistics.median(there):7.3f}"
            f"  {statistics.median(ratios):5.1f} ({min(ratios):.1f} - {max(ratios):.1f})"
        )
    seconds = [timed(lambda: ours(references, hypotheses, "word", "sclite"))[0] for _ in range(ROUNDS)]
    print(f"{'as sclite':10} {UTTERANCES:11}  {statistics.median(seconds):11.3f}")


if __name__ == "__main__":
    main()
