"""Freed memory: kept for the next batch by the command, given back between the parts of a long recording."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from narspeech.memory import give_back_freed_memory, keep_freed_memory


class Allocator:
    """glibc's mallopt as far as it matters here: accepts thresholds up to a limit, and remembers them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.settings: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == -3 and value > self.limit:
            return 0
        self.settings[parameter] = value
        return 1


def load_allocator(monkeypatch: pytest.MonkeyPatch, allocator: object) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.36", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: allocator)


@pytest.mark.parametrize(("limit", "threshold"), [(1 << 40, 1 << 30), (1 << 25, 1 << 25)])
def test_freed_memory_is_kept(limit: int, threshold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(limit)
    load_allocator(monkeypatch, allocator)
    assert keep_freed_memory()
    assert allocator.settings == {-3: threshold, -1: 2**31 - 1}


def test_trimming_is_left_alone_where_the_threshold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(limit=0)
    load_allocator(monkeypatch, allocator)
    assert not keep_freed_memory()
    assert allocator.settings == {}


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    load_allocator(monkeypatch, SimpleNamespace())
    assert not keep_freed_memory()

    def unknown(_: str) -> str:
        raise ValueError("unrecognized configuration name")

    load_allocator(monkeypatch, Allocator(1 << 40))
    monkeypatch.setattr(os, "confstr", unknown, raising=False)
    assert not keep_freed_memory()


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_users_own_setting_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(1 << 40)
    load_allocator(monkeypatch, allocator)
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
    assert allocator.settings == {}


def test_freed_memory_is_given_back_where_malloc_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=calls.append))
    give_back_freed_memory()
    assert calls == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    give_back_freed_memory()
    assert calls == [0]
