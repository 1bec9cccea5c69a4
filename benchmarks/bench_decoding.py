"""Decoding speed: Mask-CTC in batches against one by one, and greedy CTC against a plain loop over utterances.

`python benchmarks/bench_decoding.py` takes about a minute. Weights and posteriors are random: speed depends on shapes.
The ways run in turns, so that a busy machine slows both alike; medians of times and of ratios are printed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from narspeech.batch import Encoded, Padded
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.mask_ctc import MaskCTC, MaskCTCConfig
from narspeech.memory import keep_freed_memory
from narspeech.ops.ctc import greedy
from narspeech.refine import decode
from narspeech.result import Hypothesis
from narspeech.tokenizer import BLANK, NUM_SPECIAL

ROUNDS = 9
BATCH, FRAMES, TOKENS, VOCABULARY = 8, 300, 48, 300
GREEDY_BATCH = 64


def posteriors(rows: int, seed: int = 0) -> Padded:
    """(rows, FRAMES, VOCABULARY) log-probabilities whose best paths are mostly blank, with TOKENS spikes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, FRAMES, VOCABULARY, generator=generator)
    logits[..., BLANK] += 6
    spikes = torch.rand(rows, FRAMES // 2, generator=generator).topk(TOKENS).indices * 2
    pieces = torch.randint(NUM_SPECIAL, VOCABULARY, spikes.shape, generator=generator)
    row = torch.arange(rows)[:, None]
    logits[row, spikes, pieces] += 12
    return Padded(logits.log_softmax(-1), torch.full((rows,), FRAMES))


def loop(log_probs: Padded) -> list[Tensor]:
    """One utterance after the other, runs found by comparing tensor elements in Python."""
    found = []
    for row in log_probs.unpack():
        best = torch.stack([label for label, _ in groupby(row.argmax(-1))])
        found.append(best[best != BLANK])
    return found


def vectorised(log_probs: Padded) -> list[Tensor]:
    return greedy(log_probs).tokens.unpack()


def turns(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of every way, round by round, after one warm-up each."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def show(title: str, seconds: dict[str, list[float]], goal: float) -> None:
    """The first way is the slow one."""
    (slow_name, slow), (fast_name, fast) = seconds.items()
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    print(
        f"{title}\n  {slow_name:<18} {1e3 * statistics.median(slow):9.2f} ms\n"
        f"  {fast_name:<18} {1e3 * statistics.median(fast):9.2f} ms\n"
        f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}), goal {goal:g}\n"
    )


def mask_ctc() -> dict[str, list[float]]:
    """Everything masked, ten steps, through the refinement engine with all its bookkeeping."""
    torch.manual_seed(0)
    config = MaskCTCConfig(depth=6, width=256, heads=4, feed_forward=2048)
    decoder = MaskCTC(config, config.width, VOCABULARY).eval()
    ctc = posteriors(BATCH)
    states = Padded(torch.randn(BATCH, FRAMES, config.width), ctc.lengths)
    whole = Encoded(states, states, ctc=ctc)
    rows = [torch.tensor([row]) for row in range(BATCH)]
    single = [Encoded(states.rows(row), states.rows(row), ctc=ctc.rows(row)) for row in rows]
    options = DecodeOptions(steps=10, threshold=1.0)

    def one_by_one() -> list[Hypothesis]:
        return [hypothesis for encoded in single for hypothesis in decode(decoder, encoded, options)]

    def together() -> list[Hypothesis]:
        return decode(decoder, whole, options)

    agreed = sum(one.tokens == other.tokens for one, other in zip(one_by_one(), together(), strict=True))
    lengths = [len(hypothesis.tokens) for hypothesis in together()]
    print(
        f"{agreed} of {BATCH} rows decode to the same tokens both ways; tokens a row: {min(lengths)} - {max(lengths)}"
    )
    return turns({"one by one": one_by_one, f"batch of {BATCH}": together})


def greedy_ctc() -> dict[str, list[float]]:
    log_probs = posteriors(GREEDY_BATCH)
    equal = all(map(torch.equal, loop(log_probs), vectorised(log_probs)))
    if not equal:
        raise SystemExit("expected equal tokens of both ways, received different ones")
    return turns({"loop, groupby": lambda: loop(log_probs), "vectorised": lambda: vectorised(log_probs)})


def main() -> None:
    keep_freed_memory()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{torch.get_num_threads()} threads, load {load}, {ROUNDS} rounds, medians; random weights and posteriors\n")
    with torch.inference_mode():
        show(
            f"Mask-CTC decoder, K=10, threshold 1, {BATCH} utterances of {FRAMES} frames and {TOKENS} tokens",
            mask_ctc(),
            goal=1.7,
        )
        show(f"greedy CTC, {GREEDY_BATCH} utterances of {FRAMES} frames", greedy_ctc(), goal=10)


if __name__ == "__main__":
    main()
