"""Manifests come back as they were written, and every fault is told with its line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narspeech.data.example import Example, read_manifest, write_manifest
from narspeech.errors import ManifestError

GOOD = {"id": "a", "audio": "a.wav", "text": "hello", "duration": 1.5}


def write_lines(path: Path, *lines: str | dict[str, Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@given(
    text=st.text(st.characters(codec="utf-8")),
    speaker=st.none() | st.text(st.characters(codec="utf-8")),
    duration=st.floats(1e-3, 1e5),
    start=st.floats(0, 1e5),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, text: str, speaker: str | None, duration: float, start: float
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    examples = [
        Example(id=f"{number}", audio=str(audio), text=text, duration=duration, start=start, speaker=speaker)
        for number, audio in enumerate([folder / "sound" / "a.wav", Path("/elsewhere/b.wav")])
    ]
    write_manifest(folder / "train.jsonl", examples)
    assert read_manifest(folder / "train.jsonl") == examples


def test_folder_may_move(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    example = Example(id="a", audio=str(tmp_path / "old" / "sound" / "a.wav"), text="hello", duration=1.0)
    write_manifest(tmp_path / "old" / "train.jsonl", [example])
    (tmp_path / "old").rename(tmp_path / "new")
    moved = dataclasses.replace(example, audio=str(tmp_path / "new" / "sound" / "a.wav"))
    assert read_manifest(tmp_path / "new" / "train.jsonl") == [moved]


def test_optional_fields_and_blank_lines(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", GOOD, "", {**GOOD, "id": "b", "duration": 2, "start": 1, "speaker": None})
    first, second = read_manifest(path)
    assert first == Example(id="a", audio=str(tmp_path / "a.wav"), text="hello", duration=1.5)
    assert (second.duration, second.start, second.speaker) == (2.0, 1.0, None)
    assert isinstance(second.duration, float)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "one JSON object"),
        ("[1]", "one JSON object"),
        ("[" * 100000, "one JSON object"),
        ({"id": "b"}, "the fields 'audio' .*, 'text' .*, 'duration' .*, received only"),
        (
            {"audio": "b.wav", "text": "b"},
            r"'id' .*, 'duration' .*, received only .*: let recipes/manifest/prepare\.py write .* name the sound files",
        ),
        ({**GOOD, "id": ""}, "'id' to be a non-empty string"),
        ({**GOOD, "id": 7}, "'id' to be a non-empty string"),
        ({**GOOD, "id": "b", "text": None}, "'text' to be a string"),
        ({**GOOD, "id": "b", "duration": 0}, "'duration' to be a positive number"),
        ({**GOOD, "id": "b", "duration": "1"}, "'duration' to be a positive number"),
        ({**GOOD, "id": "b", "duration": True}, "'duration' to be a positive number"),
        ({**GOOD, "id": "b", "duration": float("nan")}, "'duration' to be a positive number"),
        ({**GOOD, "id": "b", "duration": 10**400}, "'duration' to be a positive number"),
        ({**GOOD, "id": "b", "start": -1}, "'start' to be a number"),
        ({**GOOD, "id": "b", "speaker": 3}, "'speaker' to be a string or null"),
        ({**GOOD, "id": "b", "strat": 3}, "received 'strat'"),
        (GOOD, r"'a' again \(first on line 1\)"),
    ],
)
def test_faults_name_the_line(tmp_path: Path, line: Any, message: str) -> None:
    path = write_lines(tmp_path / "m.jsonl", GOOD, line)
    with pytest.raises(ManifestError, match=rf"m\.jsonl, line 2: .*{message}"):
        read_manifest(path)


def test_unreadable_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="readable"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")


def test_duplicates_are_not_written(tmp_path: Path) -> None:
    example = Example(id="a", audio="a.wav", text="", duration=1.0)
    with pytest.raises(ManifestError, match="'a' twice"):
        write_manifest(tmp_path / "m.jsonl", [example, example])
    assert list(tmp_path.iterdir()) == []
