from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narspeech.data.example import Example
from narspeech.data.split import split
from narspeech.errors import ManifestError


def examples(speakers: list[str | None]) -> list[Example]:
    return [
        Example(id=str(index), audio=f"{index}.wav", text="a", duration=1.0, speaker=speaker)
        for index, speaker in enumerate(speakers)
    ]


@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), min_size=2, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
    st.sampled_from(["speaker", "utterance"]),
)
def test_no_example_is_lost_and_no_speaker_is_on_both_sides(speakers, share, seed, by):
    every = examples(speakers)
    if by == "speaker" and len({s for s in speakers if s}) + speakers.count(None) < 2:
        with pytest.raises(ManifestError, match="at least two speakers"):
            split(every, share=share, seed=seed, by=by)
        return
    train, held_out = split(every, share=share, seed=seed, by=by)
    assert sorted([*train, *held_out], key=lambda example: int(example.id)) == every
    assert train
    assert held_out
    assert [int(e.id) for e in train] == sorted(int(e.id) for e in train)
    if by == "speaker":
        assert not {e.speaker for e in train if e.speaker} & {e.speaker for e in held_out if e.speaker}
    else:
        assert len(held_out) == min(max(round(share * len(every)), 1), len(every) - 1)


def test_the_split_is_the_same_every_time_and_in_any_order_but_not_for_another_seed():
    every = examples([f"speaker {n % 20}" for n in range(200)])
    first = split(every, share=0.2, seed=1)
    assert split(every, share=0.2, seed=1) == first
    shuffled = random.Random(0).sample(every, len(every))
    assert {e.id for e in split(shuffled, share=0.2, seed=1).held_out} == {e.id for e in first.held_out}
    assert {e.id for e in split(every, share=0.2, seed=2).held_out} != {e.id for e in first.held_out}
    assert len(first.held_out) == 40


def test_count_is_met_exactly_where_speakers_allow_it():
    assert len(split(examples(list("aabbccdd")), count=4, seed=0).held_out) == 4
    assert len(split(examples(list("aaaab")), count=2, seed=0).held_out) == 1
    assert len(split(examples(["a", "a", None, None, None]), count=3, seed=0).held_out) == 3
    assert len(split(examples([None] * 9), count=5, seed=3).held_out) == 5


def test_a_speaker_too_large_is_taken_only_where_there_is_no_other():
    assert {e.speaker for e in split(examples(list("aaaabbbbbb")), count=1, seed=0).held_out} == {"a"}


def test_what_cannot_be_is_refused():
    every = examples(list("ab"))
    for wrong in ({}, {"share": 0.5, "count": 1}, {"share": 0.0}, {"share": 1.0}, {"count": 0}, {"count": 2}):
        with pytest.raises(ValueError, match="expected"):
            split(every, seed=0, **wrong)
    with pytest.raises(ManifestError, match="two utterances"):
        split(every[:1], share=0.5, seed=0)
