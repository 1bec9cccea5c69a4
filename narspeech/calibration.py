"""What a model's posteriors do not say by themselves: when a word begins and ends, and how likely it is right.

Both are learnt on data that the model was not trained on, and stored with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from narspeech.errors import ConfigError

Values = NDArray[np.float64]

EVIDENCE = ("decoder, weakest", "decoder, mean", "ctc, weakest", "ctc, mean", "log of tokens", "log of letters")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The corrections of one model.

    lead: seconds between a word's beginning and the first frame of its first token, for CTC emits a token late and
    briefly (Sak et al. 2015); hold: seconds that a word may go on after the last frame of its last token, where no
    other word begins; weights: the log-odds that a word is right, a constant and one factor for each of EVIDENCE
    (logistic regression, hence Platt scaling on several scores); none: the probability of its weakest token instead;
    typical: mean confidence of the words in speech that the model was not trained on, 0 where that is not known.
    """

    lead: float = 0.04
    hold: float = 0.12
    weights: tuple[float, ...] = ()
    typical: float = 0.0

    def __post_init__(self) -> None:
        if len(self.weights) not in (0, 1 + len(EVIDENCE)):
            raise ConfigError(
                f"expected {1 + len(EVIDENCE)} weights or none, received {len(self.weights)}: calibrate the model anew"
            )
        if not self.hold > 0:
            raise ConfigError(f"expected a hold above 0 s, received {self.hold}: 0.12 is usual")

    def confidence(self, evidence: Values) -> Values:
        """(W, 6) evidence of words -> (W,) probabilities that they are right."""
        if not self.weights:
            return np.exp(evidence[:, 0])
        return _sigmoid(self.weights[0] + evidence @ np.array(self.weights[1:]))


def fit_weights(evidence: Values, right: NDArray[np.bool_], *, ridge: float = 1.0) -> tuple[float, ...]:
    """Weights that make the confidences of words (W, 6) likeliest, given which were right (W,), by Newton's method.

    ridge: a penalty on the factors (not on the constant) that keeps them finite where the words can be told apart.
    """
    x = np.column_stack([np.ones(len(evidence)), evidence])
    penalty = ridge * np.eye(x.shape[1])
    penalty[0, 0] = 1e-6
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = _sigmoid(x @ weights)
        gradient = x.T @ (right - p) - penalty @ weights
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, gradient)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return tuple(float(weight) for weight in weights)


class Bin(NamedTuple):
    """Words of like confidence: how many, their mean confidence, and the share that was right."""

    words: int
    confidence: float
    right: float


def reliability(confidence: Values, right: NDArray[np.bool_], bins: int = 10) -> list[Bin]:
    """The words in `bins` equal steps of confidence, those without a word left out."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    groups = [place == index for index in range(bins)]
    return [
        Bin(int(group.sum()), float(confidence[group].mean()), float(right[group].mean()))
        for group in groups
        if group.any()
    ]


def calibration_error(confidence: Values, right: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean distance of confidence and accuracy over the bins."""
    found = reliability(confidence, right, bins)
    return sum(one.words * abs(one.confidence - one.right) for one in found) / max(1, len(right))


def _sigmoid(x: Any) -> Values:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))
