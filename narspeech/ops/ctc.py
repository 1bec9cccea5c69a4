"""Connectionist temporal classification (Graves et al. 2006) on padded batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import forced_align

from narspeech.batch import Padded
from narspeech.tokenizer import BLANK, PAD


def required_frames(target: Padded) -> Tensor:
    """(B,) the least number of frames that can spell the target: its tokens plus a blank between equal neighbours."""
    data, lengths = target
    return lengths + ((data[:, 1:] == data[:, :-1]) & target.mask[:, 1:]).sum(-1)


class Spelling(NamedTuple):
    """labels (B, U + 1) of which the paths of each row consist: BLANK and its target's tokens; target (B, U) as places
    in labels, equal tokens at the same place."""

    labels: Tensor
    target: Padded


def spelling(target: Padded) -> Spelling:
    """A path needs no more labels than these of the whole vocabulary."""
    data = target.data.masked_fill(~target.mask, BLANK)
    labels = F.pad(data, (1, 0), value=BLANK)
    first = (data.unsqueeze(-1) == labels.unsqueeze(-2)).to(torch.uint8).argmax(-1)
    return Spelling(labels, Padded(first, target.lengths))


def at_labels(log_probs: Padded, labels: Tensor) -> Padded:
    """Of log-probabilities (B, T, V) those of the labels (B, U) of each row: (B, T, U)."""
    chosen = log_probs.data.gather(2, labels[:, None].expand(-1, log_probs.data.shape[1], -1))
    return Padded(chosen, log_probs.lengths)


def ctc_loss(log_probs: Padded, target: Padded) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each target, and which targets fit into their frames.

    log_probs (B, T, V), target (B, U) -> losses (B,) float32, fits (B,) bool. A target that does not fit has no
    likelihood: its loss is 0, without gradient, and the caller must count it.
    """
    labels, places = spelling(target)
    return spelled_loss(at_labels(log_probs, labels), places)


def spelled_loss(log_probs: Padded, target: Padded) -> tuple[Tensor, Tensor]:
    """`ctc_loss` where log_probs (B, T, V) are of some labels only, BLANK the first, such as a Spelling's."""
    fits = required_frames(target) <= log_probs.lengths
    data = log_probs.zeroed().data.float()
    if not data.numel():  # the kernel refuses a batch without a frame
        return data.sum((1, 2)), fits
    # An empty target always fits, so the kernel never meets an infinity whose gradient would be NaN.
    losses = F.ctc_loss(
        data.transpose(0, 1), target.data, log_probs.lengths, target.lengths * fits, blank=BLANK, reduction="none"
    )
    # The kernel gives the gradient of a softmax's logits: probabilities less posteriors, wrong where labels lack.
    # That of log-probabilities is the second part alone: the first is taken off by adding a zero.
    probabilities = log_probs._replace(data=data.detach().exp()).zeroed().data
    losses = losses + (probabilities * (data.detach() - data)).sum((1, 2))
    return losses.masked_fill(~fits, 0), fits


def guided_path(target: Padded, starts: Tensor, size: int, hold: int) -> Tensor:
    """(B, size) frame labels that put every token where it is known to start.

    target (B, U), starts (B, U) frames, rising in a row -> each token labels its first frame and those after it up to
    the next token's start, at most `hold` frames in all; the others are blank.
    """
    frames = torch.arange(size, device=starts.device)
    begun = torch.searchsorted(
        starts.masked_fill(~target.mask, size).contiguous(), frames.expand(len(starts), size).contiguous(), right=True
    )
    if not target.data.shape[1]:
        return torch.full_like(begun, BLANK)
    token = (begun - 1).clamp(min=0)
    spoken = (begun > 0) & (frames - starts.gather(1, token) < hold)
    return target.data.gather(1, token).masked_fill(~spoken, BLANK)


def path_loss(log_probs: Padded, path: Tensor) -> Tensor:
    """(B,) negative log-likelihood of one given path (B, T) under log-probabilities (B, T, V)."""
    losses = -log_probs.data.gather(-1, path.unsqueeze(-1)).squeeze(-1)
    return losses.masked_fill(~log_probs.mask, 0).sum(-1)


class Spans(NamedTuple):
    """starts (B, U): each token's first frame; ends (B, U): the frame after its last; scores (B, U): the highest
    log-posterior that the token has in between; fits (B,): rows that could be aligned."""

    starts: Tensor
    ends: Tensor
    scores: Tensor
    fits: Tensor


def token_spans(log_probs: Padded, target: Padded) -> Spans:
    """Where each target token stands on the best CTC path that spells it (forced alignment).

    log_probs (B, T, V), target (B, U). Tokens are spread evenly where the target does not fit into its frames or the
    posteriors are not finite, which the aligner would take without a word; their scores are 0 then. No gradient.
    """
    fits = (required_frames(target) <= log_probs.lengths) & (target.lengths > 0)
    fits &= (torch.isfinite(log_probs.data).all(-1) | ~log_probs.mask).all(-1)
    places = torch.arange(target.data.shape[1] + 1, device=target.data.device)
    edges = places * log_probs.lengths[:, None] // target.lengths.clamp(min=1)[:, None]
    starts, ends = edges[:, :-1].clone(), edges[:, 1:].clone()
    scores = torch.zeros_like(starts, dtype=torch.float32)
    counts = zip(fits.tolist(), log_probs.lengths.tolist(), target.lengths.tolist(), strict=True)
    # The aligner takes one utterance at a time; it is compiled, and a millisecond beside an encoder's pass.
    for row, (fit, frames, length) in enumerate(counts):
        if fit:
            posteriors = log_probs.data[row : row + 1, :frames].detach().float()
            labels, found = (x[0] for x in forced_align(posteriors, target.data[row : row + 1, :length], blank=BLANK))
            spoken, before = labels != BLANK, F.pad(labels, (1, 0), value=BLANK)
            fresh, last = spoken & (labels != before[:-1]), spoken.clone()
            last[:-1] &= labels[1:] != labels[:-1]
            starts[row, :length], ends[row, :length] = fresh.nonzero()[:, 0], last.nonzero()[:, 0] + 1
            owner = (fresh.cumsum(0) - 1)[spoken]
            best = scores.new_full((length,), float("-inf"))
            scores[row, :length] = best.scatter_reduce_(0, owner, found[spoken], "amax")
    return Spans(starts, ends, scores, fits | (target.lengths == 0))


def token_starts(log_probs: Padded, target: Padded) -> Tensor:
    """(B, U) the frame at which each target token starts, as `token_spans` finds it."""
    return token_spans(log_probs, target).starts


class Collapsed(NamedTuple):
    """tokens (B, U); scores (B, U): the highest log-posterior in each token's run of frames; starts (B, U): the first
    frame of the run."""

    tokens: Padded
    scores: Tensor
    starts: Tensor


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
    frames = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    starts = labels.new_zeros(len(labels), width + 1).scatter_(1, column.masked_fill(~fresh, width), frames)
    tokens, best, starts = tokens[:, :width], best[:, :width], starts[:, :width]
    inside = torch.arange(width, device=labels.device) < counts[:, None]
    tokens, best, starts = tokens.masked_fill(~inside, PAD), best.masked_fill(~inside, 0.0), starts * inside
    return Collapsed(Padded(tokens, counts), best, starts)


def greedy(log_probs: Padded) -> Collapsed:
    """Best path of log-probabilities (B, T, V), collapsed."""
    scores, labels = log_probs.data.max(-1)
    return collapse(Padded(labels, log_probs.lengths), scores)
