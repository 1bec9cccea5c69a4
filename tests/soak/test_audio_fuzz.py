"""300 damaged sound files: no crash, no hang, only AudioError or a result with finite samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.sound_fuzz import read_in_child, write_mutants


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_damaged_files(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "mutants"
    folder.mkdir()
    write_mutants(folder, 300, seed)
    report = read_in_child(folder)
    assert not report.faults, "\n".join(report.faults)
    assert len(report.records) == 300
    # The damage is of every degree: some files are refused, some read with a warning, some read whole.
    assert sum(bool(record["error"]) for record in report.records) >= 50
    assert sum(bool(record["warnings"]) for record in report.records) >= 20


@pytest.mark.soak
def test_a_child_that_dies_is_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "mutants"
    folder.mkdir()
    # The child opens every second file itself, unguarded, so a missing one ends it.
    for name in ("a.wav", "b.wav", "c.wav"):
        (folder / name).symlink_to(tmp_path / "nowhere")
    report = read_in_child(folder)
    assert len(report.records) == 1
    assert report.faults[0].startswith("b.wav: ended the process")
