"""What every test stands on: fixed seeds and no network."""

from __future__ import annotations

import os
import random
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from narspeech.model import Model

# Tiny tensors gain nothing from more threads, and tests that run beside other work lose much; read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Never a deadline: tests do not judge time. On a build server the examples are the same in every run.
settings.register_profile("default", deadline=None)
settings.register_profile("server", deadline=None, derandomize=True)
settings.load_profile("server" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers whatever ran before; a file that never loads torch does not pay for it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections stay on this machine: a test that reaches further fails, also where there is a network."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        local = self.family == getattr(socket, "AF_UNIX", None) or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        )
        if not local:
            self.close()
            raise RuntimeError(f"expected no network in tests, received a connection to {address!r}: use a local fake")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


# What follows loads torch only where it is asked for.


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the `model` that the test's own file has."""
    from narspeech import checkpoint

    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(folder, model)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sound files of noise."""
    from tests import fakes

    return fakes.write_noises(tmp_path_factory.mktemp("sound"))
