"""Label-smoothed cross-entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smoothed_cross_entropy(logits: Tensor, truth: Tensor, smoothing: float, allowed: Tensor) -> Tensor:
    """Sum over N of the cross-entropy to (1 - smoothing) x truth + smoothing x uniform (Szegedy et al. 2016, sec. 7).

    logits (N, V) all finite, truth (N,), allowed (V,) bool -> scalar. The uniform part is spread over the allowed
    tokens: a head that can never emit some tokens would otherwise be punished for it without bound.
    """
    log_probs = F.log_softmax(logits, -1)
    likelihood = log_probs.gather(-1, truth[:, None]).sum()
    uniform = (log_probs @ allowed.to(log_probs.dtype)).sum() / allowed.sum()
    return -(1 - smoothing) * likelihood - smoothing * uniform


def count_right(logits: Tensor, truth: Tensor) -> Tensor:
    """() at how many of N places the token of `truth` (N,) is the likeliest by logits (N, V); no gradient."""
    logits = logits.detach()
    return (logits.gather(-1, truth[:, None]).squeeze(-1) >= logits.amax(-1)).sum()  # on a CPU, argmax is slow
