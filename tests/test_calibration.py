"""How much scores are worth."""

from __future__ import annotations

import numpy as np
import pytest

from narspeech.calibration import Calibration, calibration_error, fit_weights, reliability
from narspeech.config import from_dict, to_dict
from narspeech.errors import ConfigError


def made_up(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evidence, whether the words are right, and the true probabilities."""
    generator = np.random.default_rng(seed)
    evidence = generator.normal(size=(count, 6))
    probability = 1 / (1 + np.exp(-(0.3 + evidence @ np.array([1.5, 0, -0.7, 0.2, 0, 1.0]))))
    return evidence, generator.random(count) < probability, probability


def test_fitted_weights_are_those_that_made_the_words() -> None:
    evidence, right, _ = made_up(20000, 0)
    weights = fit_weights(evidence, right)
    assert weights == pytest.approx((0.3, 1.5, 0, -0.7, 0.2, 0, 1.0), abs=0.08)
    evidence, right, probability = made_up(5000, 1)
    confidence = Calibration(weights=weights).confidence(evidence)
    assert np.abs(confidence - probability).mean() < 0.02
    assert calibration_error(confidence, right) < 0.03
    assert calibration_error(confidence**3, right) > 0.1


@pytest.mark.filterwarnings("error")
def test_words_that_can_be_told_apart_keep_finite_weights() -> None:
    evidence = np.zeros((10, 6))
    evidence[5:, 0] = -1000.0
    weights = fit_weights(evidence, np.arange(10) < 5)
    assert np.isfinite(weights).all()
    assert Calibration(weights=weights).confidence(evidence)[[0, -1]] == pytest.approx([1, 0], abs=0.2)


def test_reliability_by_hand() -> None:
    confidence, right = np.array([0.05, 0.95, 1.0, 0.45]), np.array([False, True, False, True])
    assert reliability(confidence, right) == [(1, 0.05, 0.0), (1, 0.45, 1.0), (2, pytest.approx(0.975), 0.5)]
    assert calibration_error(confidence, right) == pytest.approx((0.05 + 0.55 + 2 * 0.475) / 4)
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_a_calibration_without_weights_takes_the_weakest_token() -> None:
    evidence = np.log([[0.5, 0.9, 0.1, 0.1, 1, 1]])
    assert Calibration().confidence(evidence) == pytest.approx([0.5])


def test_it_is_stored_and_checked() -> None:
    calibration = Calibration(lead=0.05, weights=(1.0,) * 7, typical=0.5)
    assert from_dict(Calibration, to_dict(calibration)) == calibration
    with pytest.raises(ConfigError, match="expected 7 weights or none, received 3"):
        Calibration(weights=(1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match="hold above 0"):
        Calibration(hold=0.0)
