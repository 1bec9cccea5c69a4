"""Corpus WER and CER against jiwer's functions, side by side on 20,000 synthetic utterances.

`python benchmarks/bench_error_rate.py` takes about two minutes at worst.
Both run in turns, so that a busy machine slows both alike; medians of the times and of the ratios are printed.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import jiwer

from narspeech.evaluate.error_rate import corpus

UTTERANCES = 20_000
ROUNDS = 7


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


def timed(function: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def main() -> None:
    references, hypotheses = texts(seed=0)
    pairs = list(zip(references, hypotheses, strict=True))
    cases: list[tuple[str, Callable[[], float], Callable[[], float]]] = [
        ("WER", lambda: corpus(pairs).rate, lambda: jiwer.process_words(references, hypotheses).wer),
        (
            "CER",
            lambda: corpus(pairs, unit="character").rate,
            lambda: jiwer.process_characters(references, hypotheses).cer,
        ),
    ]
    print(f"{UTTERANCES} utterances, {ROUNDS} rounds, medians\n")
    print("      value  narspeech s  jiwer s  ratio (least - most)")
    for name, ours, theirs in cases:
        here, there = [], []
        for _ in range(ROUNDS):
            seconds, value = timed(ours)
            here.append(seconds)
            seconds, other = timed(theirs)
            there.append(seconds)
            if abs(value - other) > 1e-12:
                raise SystemExit(f"expected equal {name}, received {value} and {other}")
        ratios = [slow / fast for slow, fast in zip(there, here, strict=True)]
        print(
            f"{name}  {value:7.4f}  {statistics.median(here):11.3f}  {statistics.median(there):7.3f}"
            f"  {statistics.median(ratios):5.1f} ({min(ratios):.1f} - {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
