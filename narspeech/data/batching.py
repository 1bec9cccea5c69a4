"""Which utterances share a batch, and which batches share an optimizer step.

Everything here is a pure function of its arguments, so a resumed run or another rank computes the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

# Utterances are sorted by their length times a random factor within 1 +- SPREAD: enough to give an utterance new
# batch-mates every epoch, little enough to keep padding small.
SPREAD = 0.05


def make_batches(
    durations: Sequence[float],
    *,
    max_seconds: float,
    seed: int,
    epoch: int,
    order: Literal["random", "short_first"] = "random",
    max_utterances: int | None = None,
) -> list[list[int]]:
    """Micro-batches of utterance indices for one epoch; every index occurs exactly once.

    durations: seconds of every utterance; max_seconds: longest utterance x count of a batch, padding included; an
    utterance longer than that gets a batch of its own. order: shuffled, or from short to long for an easy first epoch.
    max_utterances: at most so many a batch. seed and epoch: integers, 0 or more.
    """
    lengths = np.asarray(durations, dtype=np.float64)
    if lengths.ndim != 1 or not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise ValueError("expected durations to be positive seconds, received a value that is not; mend the manifest")
    if not max_seconds > 0:
        raise ValueError(f"expected max_seconds above 0, received {max_seconds}")
    if max_utterances is not None and max_utterances < 1:
        raise ValueError(f"expected max_utterances of at least 1, received {max_utterances}")
    if order not in ("random", "short_first"):
        raise ValueError(f"expected order 'random' or 'short_first', received {order!r}")
    generator = np.random.default_rng([seed, epoch])
    keys = lengths * generator.uniform(1 - SPREAD, 1 + SPREAD, len(lengths))
    batches = _packed(
        {index: float(lengths[index]) for index in np.argsort(keys, kind="stable").tolist()},
        max_utterances,
        max_seconds,
    )
    if order == "random":
        return [batches[place] for place in generator.permutation(len(batches)).tolist()]
    return batches


def by_length(lengths: Mapping[int, float], size: int, most: float = math.inf) -> list[list[int]]:
    """The keys from short to long, in batches of at most `size`; equals keep their order.

    most: longest length x count of a batch, padding included; a longer one gets a batch of its own.
    """
    return _packed({key: lengths[key] for key in sorted(lengths, key=lengths.__getitem__)}, size, most)


def _packed(lengths: Mapping[int, float], size: int | None, most: float) -> list[list[int]]:
    """The keys in their order, a new batch wherever one more would break a limit."""
    batches: list[list[int]] = []
    longest = 0.0
    for key, length in lengths.items():
        longest = max(longest, length)
        if not batches or len(batches[-1]) == size or longest * (len(batches[-1]) + 1) > most:
            batches.append([])
            longest = length
        batches[-1].append(key)
    return batches


def steps(batches: Sequence[list[int]], accumulate: int) -> list[list[list[int]]]:
    """Group micro-batches into optimizer steps of `accumulate` each; the last step holds what is left."""
    if accumulate < 1:
        raise ValueError(f"expected accumulate of at least 1, received {accumulate}")
    return [list(batches[start : start + accumulate]) for start in range(0, len(batches), accumulate)]


def shard(step_batches: Sequence[list[int]], rank: int, world: int) -> list[list[int]]:
    """The micro-batches of one step for `rank` of `world` processes: possibly fewer than another's, or none."""
    if not 0 <= rank < world:
        raise ValueError(f"expected a rank from 0 to {world - 1}, received {rank}")
    return list(step_batches[rank::world])
