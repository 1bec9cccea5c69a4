"""Trainings that save often, on a disk that others keep busy."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing guards against a power loss, which no test here can see, and takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
