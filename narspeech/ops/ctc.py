"""Connectionist temporal classification (Graves et al. 2006) on padded batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Padded
from narspeech.tokenizer import BLANK, PAD


def required_frames(target: Padded) -> Tensor:
    """(B,) the least number of frames that can spell the target: its tokens plus a blank between equal neighbours."""
    data, lengths = target
    return lengths + ((data[:, 1:] == data[:, :-1]) & target.mask[:, 1:]).sum(-1)


def ctc_loss(log_probs: Padded, target: Padded) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each target, and which targets fit into their frames.

    log_probs (B, T, V), target (B, U) -> losses (B,) float32, fits (B,) bool. A target that does not fit has no
    likelihood: its loss is 0, without gradient, and the caller must count it.
    """
    fits = required_frames(target) <= log_probs.lengths
    if not log_probs.data.numel():  # the kernel refuses a batch without a frame
        return log_probs.data.float().sum((1, 2)), fits
    # An empty target always fits, so the kernel never meets an infinity whose gradient would be NaN.
    losses = F.ctc_loss(
        log_probs.data.float().transpose(0, 1),
        target.data,
        log_probs.lengths,
        target.lengths * fits,
        blank=BLANK,
        reduction="none",
    )
    return losses.masked_fill(~fits, 0), fits


class Collapsed(NamedTuple):
    """tokens (B, U); scores (B, U): the highest log-posterior in each token's run of frames."""

    tokens: Padded
    scores: Tensor


def collapse(path: Padded, scores: Tensor) -> Collapsed:
    """Merge runs of equal labels and drop blanks: path (B, T) labels with scores (B, T) -> tokens (B, U).

    Vectorised; one host sync, for U.
    """
    labels = path.data
    spoken = (labels != BLANK) & path.mask
    fresh = spoken.clone()
    fresh[:, 1:] &= labels[:, 1:] != labels[:, :-1]
    counts = fresh.sum(-1)
    width = int(counts.max()) if labels.numel() else 0
    # Every frame of a run points at its token; silent frames point at one spare column, which is cut off.
    column = (fresh.cumsum(-1) - 1).masked_fill(~spoken, width)
    tokens = labels.new_full((len(labels), width + 1), PAD).scatter_(1, column, labels)
    best = scores.new_full((len(labels), width + 1), float("-inf")).scatter_reduce_(1, column, scores, "amax")
    tokens, best = tokens[:, :width], best[:, :width]
    inside = torch.arange(width, device=labels.device) < counts[:, None]
    return Collapsed(Padded(tokens.masked_fill(~inside, PAD), counts), best.masked_fill(~inside, 0.0))


def greedy(log_probs: Padded) -> Collapsed:
    """Best path of log-probabilities (B, T, V), collapsed."""
    scores, labels = log_probs.data.max(-1)
    return collapse(Padded(labels, log_probs.lengths), scores)
