"""A training killed at random moments, and started again by the same command, ends in the same weights bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from narspeech.run import main
from narspeech.train.metrics import read_metrics
from tests.train.songs import REFINING, arguments, write_librispeech

ROOT = Path(__file__).parents[2]
PROFILE = f"{ROOT / 'recipes' / 'librispeech' / 'recipe.py'}:mini_mask_ctc"
RESULTS = ("final/model.safetensors", "final/config.json", "tokenizer/tokenizer.model", "scores.json")


def words(data: Path, out: Path, epochs: int) -> list[str]:
    settings = arguments(
        **REFINING, train__epochs=epochs, train__keep=3, train__max_seconds=2, model__encoder__dropout=0.1
    )
    return [PROFILE, "--data", str(data), "--out", str(out), "--no-download", *settings]


def start(given: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "narspeech", "run", *given],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        )


def kill_when(process: subprocess.Popen[bytes], due: Callable[[], bool]) -> bool:
    """Kill the process when that moment comes; False where it was done before."""
    while process.poll() is None:
        if due():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.01)
    return False


def check(out: Path, expected: Path, log: Path) -> None:
    for name in RESULTS:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), f"{name} differs, see {log}"
    timeless = [
        [{name: x for name, x in entry.items() if name != "tokens_per_second"} for entry in read_metrics(folder)]
        for folder in (out, expected)
    ]
    assert timeless[0] == timeless[1]
    assert not list(out.glob("checkpoints/.*"))


@pytest.mark.soak
def test_two_kills(tmp_path):
    data = write_librispeech(tmp_path / "data")
    unkilled, out, log = tmp_path / "unkilled", tmp_path / "out", tmp_path / "log"
    assert main(words(data, unkilled, 4)) == 0
    lines = len(read_metrics(unkilled))
    for share in (0.2, 0.7):  # of the training
        process = start(words(data, out, 4), log)
        assert kill_when(process, lambda share=share: len(read_metrics(out)) >= share * lines), log.read_text()
    process = start(words(data, out, 4), log)
    assert process.wait() == 0, log.read_text()
    check(out, unkilled, log)


@pytest.mark.soak
def test_thirty_kills_at_random_moments(tmp_path):
    data = write_librispeech(tmp_path / "data", speakers=12)
    unkilled, log = tmp_path / "unkilled", tmp_path / "log"
    began = time.monotonic()
    process = start(words(data, unkilled, 20), log)
    ready = None
    while process.poll() is None:
        if ready is None and (unkilled / "checkpoints").exists():
            ready = time.monotonic() - began  # what a start takes until it trains
        time.sleep(0.05)
    assert process.returncode == 0, log.read_text()
    assert ready is not None
    moments = random.Random(30)
    kills, finished, out = 0, 0, tmp_path / "out-0"
    while kills < 30 or out.exists():
        process = start(words(data, out, 20), log)
        # From the middle of a start to about as long after it, so that runs do come forward; at last to the end.
        end = time.monotonic() + moments.uniform(0.5, 2.0) * ready if kills < 30 else float("inf")
        if kill_when(process, lambda end=end: time.monotonic() > end):
            kills += 1
            continue
        assert process.returncode == 0, log.read_text()[-5000:]
        check(out, unkilled, log)
        finished += 1
        out = tmp_path / f"out-{finished}"
    print(f"{kills} kills, {finished} runs, each equal to the one that was not killed")
    assert kills == 30
    assert finished >= 1
