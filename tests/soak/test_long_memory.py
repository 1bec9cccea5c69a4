"""A recording of two hours is transcribed in the memory that one of ten minutes takes, and its last words are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import soundfile

from narspeech import checkpoint
from tests import fakes
from tests.test_longform import babble

ROOT = Path(__file__).parents[2]
RATE = fakes.RATE
# The resident set at its highest, of the process itself, as Linux tells it.
MAIN = """
import sys
from narspeech.cli import main
code = main(sys.argv[1:])
print(open("/proc/self/status").read(), file=sys.stderr)
sys.exit(code)
"""


def write(path: Path, minutes: int) -> Path:
    """Voices and pauses, no two minutes alike."""
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for minute in range(minutes):
            pause = 0.2 + minute % 7 / 3
            file.write(babble([(pause, 0), (25 - pause, 0.2), (pause, 0), (35 - pause, 0.1)], seed=minute))
    return path


def peak(sound: Path, model: Path) -> int:
    """MB at most while the command writes a transcript beside the sound."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "transcribe", sound, "--format", "json", "--model", model, "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    sound.with_suffix(".json").write_text(done.stdout, encoding="utf-8")
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is watched as Linux tells it")
def test_two_hours_take_the_memory_of_ten_minutes(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model", fakes.tiny_model())
    short, long = (write(tmp_path / f"{minutes}.wav", minutes) for minutes in (10, 120))
    assert peak(long, tmp_path / "model") - peak(short, tmp_path / "model") < 100
    found = json.loads(long.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["duration"] == 7200
    words = found["words"]
    assert words[-1]["end"] > 7200 - 2
    assert all(0 <= word["start"] < word["end"] <= 7200 for word in words)
    assert all(before["end"] <= after["start"] for before, after in pairwise(words))
