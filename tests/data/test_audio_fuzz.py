"""A small, fixed share of the damaged files of tests/soak/test_audio_fuzz.py."""

from __future__ import annotations

from pathlib import Path

from tests.data.sound_fuzz import read_in_child, write_mutants


def test_damaged_files(tmp_path: Path) -> None:
    folder = tmp_path / "mutants"
    folder.mkdir()
    write_mutants(folder, 40, seed=0)
    report = read_in_child(folder)
    assert not report.faults, "\n".join(report.faults)
    assert len(report.records) == 40
    assert any(record["error"] for record in report.records)
    assert any(record["warnings"] for record in report.records)
