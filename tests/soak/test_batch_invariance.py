"""1,000 random cases each of tiny random models and of the bundled model: no row depends on its batch.

The exceptions, and what is compared, are told in tests/invariance.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

import narspeech
from tests.invariance import Report, check, variants
from tests.test_batch_invariance import SOUND

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "narspeech" / "models" / "english"
CASES = 1000


def verdict(report: Report) -> None:
    print(report)
    assert report.ties <= report.rows / 200  # a tie is a rare accident; more of them would be a leak in disguise
    assert report.spoken > 0.5 * report.rows
    assert report.rewritten > 0


@pytest.mark.soak
def test_random_models() -> None:
    report, models = Report(), list(variants())
    for number, model in enumerate(models):
        report = report.plus(check(model, CASES // len(models), SOUND, longest=1.5, first=10_000 * number))
    verdict(report)


@pytest.mark.soak
def test_bundled_model() -> None:
    model = narspeech.load(BUNDLED)
    recordings = sorted((ROOT / "samples").glob("*.flac"))
    assert recordings, "expected a recording in samples/ to cut clips from, received none"
    rate = model.config.frontend.rate
    clips = []
    for path in recordings:
        samples, found = soundfile.read(path, dtype="float32", always_2d=True)
        assert found == rate, f"expected {path.name} at {rate} Hz, received {found} Hz"
        clips.append(torch.from_numpy(samples).mean(1))
    verdict(check(model, CASES, torch.cat(clips), longest=4.0, first=50_000))
