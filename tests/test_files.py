"""A write either happens whole or leaves the old file as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from narspeech.files import write_atomic, write_chunks_atomic


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new, longer")
    assert path.read_bytes() == b"new, longer"
    assert os.listdir(tmp_path) == ["file.bin"]  # noqa: PTH208 - hidden temporary files must show


def test_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    write_atomic(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


def test_chunks_are_written_as_they_come_and_a_failure_among_them_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_chunks_atomic(path, (bytes([value]) * 3 for value in b"abc"))
    assert path.read_bytes() == b"aaabbbccc"

    def failing() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_chunks_atomic(path, failing())
    assert path.read_bytes() == b"aaabbbccc"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("語" * 85)
    write_atomic(path, b"new")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
