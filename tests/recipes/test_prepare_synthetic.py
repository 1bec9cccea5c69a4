from __future__ import annotations

from pathlib import Path

import pytest

from narspeech.errors import ManifestError
from narspeech.profile import load_file

synthetic = load_file(Path(__file__).parents[2] / "recipes" / "synthetic" / "prepare.py")
SENTENCES = [f"sentence number {number}" for number in range(6000)]


def test_parts_share_no_line_and_are_always_the_same() -> None:
    parts = {part: synthetic.draw(SENTENCES, part) for part in synthetic.COUNTS}
    assert {part: len(readings) for part, readings in parts.items()} == synthetic.COUNTS
    lines = [reading.text for readings in parts.values() for reading in readings]
    assert len(set(lines)) == len(lines)
    assert parts == {part: synthetic.draw(SENTENCES, part) for part in synthetic.COUNTS}


def test_each_part_is_read_by_its_program_in_all_its_voices() -> None:
    for part, program in synthetic.PROGRAMS.items():
        readings = synthetic.draw(SENTENCES, part)
        assert {reading.command[0] for reading in readings} == {program}
        assert all(reading.speaker.split("-")[0] == program.split("-")[0] for reading in readings)
    assert {reading.speaker for reading in synthetic.draw(SENTENCES, "flite")} == {
        f"flite-{voice}" for voice in synthetic.FLITE_VOICES
    }


def test_too_short_a_text() -> None:
    with pytest.raises(ManifestError, match="400 lines"):
        synthetic.draw(SENTENCES[:399], "train")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES))
    with pytest.raises(ManifestError, match="parts among"):
        synthetic.prepare(text, tmp_path, ["dev"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ManifestError, match="program flite"):
        synthetic.prepare(text, tmp_path, ["flite"])
    with pytest.raises(ManifestError, match="sentence a line"):
        synthetic.prepare(tmp_path / "nowhere.txt", tmp_path)
