"""`narspeech transcribe` killed at random moments leaves whole files only, and the same command goes on to the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narspeech import checkpoint
from tests import fakes

ROOT = Path(__file__).parents[2]
COUNT = 240


def start(folder: Path) -> subprocess.Popen[str]:
    command = ["transcribe", "-r", "in", "--out", "out", "--format", "json,srt", "--model", "model", "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "narspeech", *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        # What a shell runs in the background ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(folder: Path) -> list[Path]:
    """The files with a name of their own; what was killed may leave a hidden one behind."""
    return [path for path in (folder / "out").glob("*") if not path.name.startswith(".")]


def outputs(folder: Path) -> dict[str, str]:
    """The finished files' contents by name, each of them whole."""
    found = {path.name: path.read_text() for path in finished(folder)}
    for name, content in found.items():
        if name.endswith(".json"):
            assert json.loads(content)["path"] == f"in/{Path(name).stem}.wav"
    return found


@pytest.mark.soak
def test_kills_and_ctrl_c(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model", fakes.tiny_model())
    (tmp_path / "in").mkdir()
    for number in range(COUNT):
        length = 2000 + 37 * (number * 7919 % 200)
        fakes.write_wav(tmp_path / "in" / f"{number:03}.wav", 0.1 * fakes.noise([length], number).data[0])
    moments = random.Random(0)
    done = 0
    for how in (signal.SIGKILL, signal.SIGINT):
        process = start(tmp_path)
        goal = done + moments.randrange(10, COUNT // 4)
        while process.poll() is None and len(finished(tmp_path)) < goal:
            time.sleep(0.01)
        process.send_signal(how)
        _, errors = process.communicate()
        if how == signal.SIGINT:
            assert process.returncode == 130, errors
        done = len(outputs(tmp_path))
        assert goal <= done < 2 * COUNT
    process = start(tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert " 0 skipped" not in errors
    found = outputs(tmp_path)
    assert len(found) == 2 * COUNT
