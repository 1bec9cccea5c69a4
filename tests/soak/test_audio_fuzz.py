"""5,000 damaged sound files: no crash, no hang, little memory, only AudioError or a result with finite samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.sound_fuzz import every_format, read_in_child, write_mutants


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 11))
def test_damaged_files(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "mutants"
    folder.mkdir()
    write_mutants(folder, 500, seed, every_format())
    report = read_in_child(folder)
    errors = [record["error"] for record in report.records if record["error"]]
    warned = sum(bool(record["warnings"]) for record in report.records)
    print(
        f"seed {seed}: {len(report.records)} files, {len(errors)} refused, {warned} read with warnings, "
        f"{sum('its process' in error for error in errors)} whose process died or stood still, "
        f"at most {max([record['cpu'] for record in report.records], default=0):.1f} s of processor time and "
        f"{max([record['memory'] for record in report.records], default=0) >> 10} MiB"
    )
    assert not report.faults, "\n".join(report.faults)
    assert len(report.records) == 500
    # The damage is of every degree: some files are refused, some read with a warning, some read whole.
    assert len(errors) >= 50
    assert warned >= 20


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
