"""Every utterance once, little padding, and a plan that depends on nothing but its arguments."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narspeech.data.batching import by_length, make_batches, shard, steps

DURATIONS = np.random.default_rng(0).gamma(4.0, 3.0, 2000).clip(0.5, 35).tolist()


@given(
    durations=st.lists(st.floats(0.01, 100), max_size=60),
    max_seconds=st.floats(0.1, 200),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
    order=st.sampled_from(["random", "short_first"]),
    max_utterances=st.none() | st.integers(1, 5),
    accumulate=st.integers(1, 4),
    world=st.integers(1, 5),
)
def test_partition(durations, max_seconds, seed, epoch, order, max_utterances, accumulate, world) -> None:  # type: ignore[no-untyped-def]
    batches = make_batches(
        durations, max_seconds=max_seconds, seed=seed, epoch=epoch, order=order, max_utterances=max_utterances
    )
    assert sorted(index for batch in batches for index in batch) == list(range(len(durations)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or max(durations[index] for index in batch) * len(batch) <= max_seconds
        assert max_utterances is None or len(batch) <= max_utterances
    grouped = steps(batches, accumulate)
    assert [batch for step in grouped for batch in step] == batches
    assert len(grouped) == math.ceil(len(batches) / accumulate)
    for step in grouped:
        shared = [batch for rank in range(world) for batch in shard(step, rank, world)]
        assert sorted(shared) == sorted(step)


def plan(epoch: int, seed: int = 3) -> list[list[int]]:
    return make_batches(DURATIONS, max_seconds=160, seed=seed, epoch=epoch)


def test_same_arguments_same_batches() -> None:
    # A run resumed at any step of an epoch goes on with the batches that it would have seen.
    assert plan(4) == plan(4)
    assert steps(plan(4), 3)[17:] == steps(plan(4), 3)[17:]


def test_epochs_and_seeds_differ_in_composition() -> None:
    def sets(batches: list[list[int]]) -> set[frozenset[int]]:
        return {frozenset(batch) for batch in batches}

    first = sets(plan(0))
    assert len(first & sets(plan(1))) < 0.1 * len(first)
    assert len(first & sets(plan(0, seed=4))) < 0.1 * len(first)


def padding(batches: list[list[int]]) -> float:
    padded = sum(max(DURATIONS[index] for index in batch) * len(batch) for batch in batches)
    return 1 - sum(DURATIONS) / padded


def test_padding_is_small() -> None:
    assert max(padding(plan(epoch)) for epoch in range(5)) < 0.1
    # The bound can be missed: batches in the order of the manifest pad a third.
    arbitrary = [list(range(start, start + 10)) for start in range(0, len(DURATIONS), 10)]
    assert padding(arbitrary) > 0.3


def test_batches_are_full() -> None:
    assert len(plan(0)) < 1.15 * sum(DURATIONS) / 160


def test_order() -> None:
    def longest(batches: list[list[int]]) -> list[float]:
        return [max(DURATIONS[index] for index in batch) for batch in batches]

    short_first = longest(make_batches(DURATIONS, max_seconds=160, seed=0, epoch=0, order="short_first"))
    # Sorted but for the noise of 5 % either way.
    assert all(later > 0.85 * earlier for earlier, later in itertools.pairwise(short_first))
    shuffled = longest(plan(0))
    middle = len(shuffled) // 2
    assert abs(np.mean(shuffled[:middle]) - np.mean(shuffled[middle:])) < 0.25 * np.mean(shuffled)


def test_like_lengths_share_a_batch() -> None:
    assert by_length({0: 3.0, 1: 1.0, 2: 2.0}, 2) == [[1, 2], [0]]
    assert by_length({5: 2, 3: 2, 8: 1}, 1) == [[8], [5], [3]]
    assert by_length({}, 4) == []
    assert by_length({0: 3.0, 1: 1.0, 2: 2.0, 3: 9.0, 4: 2.0}, 3, most=4) == [[1, 2], [4], [0], [3]]


@given(st.lists(st.integers(1, 50)), st.integers(1, 8), st.integers(1, 100))
def test_batches_hold_no_more_than_they_may(lengths: list[int], size: int, most: int) -> None:
    batches = by_length(dict(enumerate(lengths)), size, most)
    order = [index for batch in batches for index in batch]
    assert order == sorted(range(len(lengths)), key=lengths.__getitem__)
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= most


def test_too_long_stands_alone() -> None:
    batches = make_batches([1.0, 50.0, 1.0], max_seconds=10, seed=0, epoch=0)
    assert [1] in batches


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"durations": [1.0, 0.0]}, "positive"),
        ({"durations": [float("nan")]}, "positive"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"max_utterances": 0}, "max_utterances"),
        ({"order": "long_first"}, "order"),
    ],
)
def test_wrong_arguments(changed: dict[str, object], message: str) -> None:
    arguments = {"durations": [1.0], "max_seconds": 10.0, "seed": 0, "epoch": 0, **changed}
    with pytest.raises(ValueError, match=message):
        make_batches(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="accumulate"):
        steps([[0]], 0)
    with pytest.raises(ValueError, match="rank"):
        shard([[0]], 2, 2)
