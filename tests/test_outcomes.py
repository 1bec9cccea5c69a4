"""Many recordings: none is lost, few are in memory, results come in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narspeech import outcomes as module
from narspeech.data.audio import Audio
from narspeech.errors import AudioError, NarspeechError
from narspeech.outcomes import Outcome, group_size, in_order, outcomes
from narspeech.result import Segment, Transcript


def load(seconds: int) -> Audio:
    if seconds == 0:
        raise AudioError("expected sound, received none")
    return Audio(np.zeros(seconds, np.float32), 1, float(seconds))


def decode(recordings: Sequence[Audio]) -> list[Transcript]:
    return [
        Transcript.of((Segment.of((), 0.0, audio.duration),), duration=audio.duration, model=str(len(recordings)))
        for audio in recordings
    ]


def length(outcome: Outcome[int]) -> float:
    return 0.0 if isinstance(outcome.result, AudioError) else outcome.result.duration


@given(lengths=st.lists(st.integers(0, 9), max_size=40), batch_size=st.integers(1, 3))
def test_every_source_has_one_outcome_and_order_is_restored(lengths: list[int], batch_size: int) -> None:
    found = list(outcomes(lengths, load, decode, batch_size))
    assert sorted(outcome.place for outcome in found) == list(range(len(lengths)))
    ordered = list(in_order(found))
    assert [outcome.source for outcome in ordered] == lengths
    assert [length(outcome) for outcome in ordered] == lengths


def test_a_group_is_decoded_from_short_to_long() -> None:
    found = list(outcomes([5, 0, 3, 4], load, decode, 2))
    assert [outcome.source for outcome in found] == [0, 3, 4, 5]
    results = [outcome.result for outcome in found]
    assert [one.model for one in results if isinstance(one, Transcript)] == ["2", "2", "1"]


def test_what_is_heard_while_it_is_loaded_is_not_decoded_again() -> None:
    heard = Transcript.of((), duration=1.0)

    def loaded(seconds: int) -> Audio | Transcript:
        return heard if seconds == 7 else load(seconds)

    found = list(in_order(outcomes([3, 7, 2], loaded, decode, 8)))
    assert found[1] == Outcome(1, 7, heard)
    assert [length(outcome) for outcome in found] == [3, 1, 2]


def test_what_is_heard_while_it_is_loaded_waits_for_nobody() -> None:
    asked: list[int] = []

    def loaded(seconds: int) -> Audio | Transcript:
        asked.append(seconds)
        return Transcript.of((), duration=1.0) if seconds == 7 else load(seconds)

    found = in_order(outcomes([3, 7, 7, 2], loaded, decode, 8))
    assert [next(found).source, next(found).source] == [3, 7]
    assert asked == [3, 7]
    assert [outcome.source for outcome in found] == [7, 2]


def test_long_recordings_make_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_SECONDS", 10.0)
    loaded: list[int] = []

    def watched(seconds: int) -> Audio:
        loaded.append(seconds)
        return load(seconds)

    found = outcomes([6, 6, 6, 6], watched, decode, 8)
    next(found)
    assert len(loaded) == 2
    assert len(list(found)) == 3


class Memory:
    """A decoder that has room for so many seconds."""

    def __init__(self, room: float, error: RuntimeError | MemoryError) -> None:
        self.room, self.error = room, error

    def decode(self, recordings: Sequence[Audio]) -> list[Transcript]:
        if sum(audio.duration for audio in recordings) > self.room:
            raise self.error
        return decode(recordings)


TOO_LITTLE = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
)


@pytest.mark.parametrize("error", TOO_LITTLE)
def test_what_does_not_fit_the_memory_takes_nobody_with_it(error: RuntimeError | MemoryError) -> None:
    found = list(in_order(outcomes([3, 9, 2, 4], load, Memory(6, error).decode, 4)))
    assert [length(outcome) for outcome in found] == [3, 0, 2, 4]
    assert "memory to decode 9 s" in str(found[1].result)


@pytest.mark.parametrize("error", TOO_LITTLE)
def test_what_cannot_be_loaded_for_its_size_takes_nobody_with_it(error: RuntimeError | MemoryError) -> None:
    def loaded(seconds: int) -> Audio:
        if seconds == 9:
            raise error
        return load(seconds)

    found = list(in_order(outcomes([3, 9, 2], loaded, decode, 4)))
    assert [length(outcome) for outcome in found] == [3, 0, 2]
    assert "memory to hear a recording" in str(found[1].result)


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        list(outcomes([3], lambda _: Memory(0, RuntimeError("a bug")).decode([load(3)])[0], decode, 4))
    with pytest.raises(RuntimeError, match="a bug"):
        list(outcomes([3], load, Memory(0, RuntimeError("a bug")).decode, 4))


def test_batches_of_nothing_are_refused() -> None:
    assert group_size(1) == 4
    with pytest.raises(NarspeechError, match="at least 1, received 0"):
        list(outcomes([3], load, decode, 0))
