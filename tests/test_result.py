"""What a user gets can be written as JSON, always in the same order."""

from __future__ import annotations

import json
import math
from dataclasses import fields

from narspeech.result import Failure, Segment, Step, Transcript, Word


def transcript() -> Transcript:
    first = Segment.of(
        (Word(text="a", confidence=0.5, start=0.12345, end=0.5), Word(text="b", confidence=0.7)), 0.0, 1.0
    )
    second = Segment.of((Word(text="c", confidence=0.9),), 1.0, 2.5)
    return Transcript.of((first, second), duration=2.5, speed=33.333, model="english", warnings=("odd",), steps=2)


def test_the_whole_is_made_of_its_segments() -> None:
    found = transcript()
    assert found.text == "a b c"
    assert [word.text for word in found.words] == ["a", "b", "c"]
    assert math.isclose(found.confidence, 0.7)
    assert [segment.text for segment in found.segments] == ["a b", "c"]
    assert math.isclose(found.segments[0].confidence, 0.6)
    empty = Transcript.of((Segment.of((), 0.0, 1.0),), duration=1.0)
    assert (empty.text, empty.words, empty.confidence) == ("", (), 0.0)


def test_a_dict_holds_every_field_in_order() -> None:
    entry = transcript().to_dict()
    assert list(entry) == [
        "text", "language", "duration", "confidence", "speed", "model", "steps", "segments", "words", "warnings"
    ]  # fmt: skip
    assert {*entry, "trace"} == {field.name for field in fields(Transcript)}
    assert entry["segments"][0] == {"start": 0.0, "end": 1.0, "text": "a b", "num_words": 2, "confidence": 0.6}
    assert entry["words"][0] == {"text": "a", "start": 0.123, "end": 0.5, "confidence": 0.5}
    assert entry["words"][1] == {"text": "b", "start": None, "end": None, "confidence": 0.7}
    assert (entry["speed"], entry["warnings"]) == (33.3, ["odd"])
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_a_trace_is_told_if_there_is_one() -> None:
    traced = Transcript.of((), duration=0.0, trace=(Step(tokens=(7, 2), scores=(-0.123456, -math.inf)),))
    assert traced.to_dict()["trace"] == [{"tokens": [7, 2], "scores": [-0.1235, None]}]


def test_speed_is_no_part_of_what_was_heard() -> None:
    assert Transcript.of((), duration=1.0, speed=1.0) == Transcript.of((), duration=1.0, speed=2.0)


def test_a_failure() -> None:
    assert Failure(path="a.wav", reason="damaged").to_dict() == {"path": "a.wav", "error": "damaged"}
