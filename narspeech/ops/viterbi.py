"""Forced alignment: the best CTC path that spells a given target (Viterbi 1967; Graves et al. 2006)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.ctc import required_frames
from narspeech.tokenizer import BLANK


def forced_path(log_probs: Padded, target: Padded) -> tuple[Tensor, Tensor]:
    """The likeliest of the paths that spell each target, and which targets fit into their frames.

    log_probs (B, T, V), target (B, U) -> labels (B, T) int64, blanks kept; fits (B,) bool. Beyond a row's length, and
    throughout a row that does not fit, the labels mean nothing. One step a frame for the whole batch, in float32; no
    gradient, no host sync.
    """
    data, lengths = log_probs
    fits = required_frames(target) <= lengths
    batch, frames, _ = data.shape
    # The states of the lattice: a blank before every token and one at the end.
    labels = target.data.new_full((batch, 2 * target.data.shape[1] + 1), BLANK)
    labels[:, 1::2] = target.data.masked_fill(~target.mask, BLANK)
    if not frames:
        return labels[:, :0], fits
    emissions = data.detach().float().gather(2, labels.unsqueeze(1).expand(-1, frames, -1))
    skips = (labels != BLANK) & (labels != F.pad(labels, (2, 0), value=BLANK)[:, :-2])
    never = float("-inf")
    score = emissions[:, 0].clone()
    score[:, 2:] = never
    inside, origins = log_probs.mask, []
    for frame in range(1, frames):
        earlier = F.pad(score, (2, 0), value=never)
        choices = torch.stack([score, earlier[:, 1:-1], earlier[:, :-2].masked_fill(~skips, never)])
        best, origin = choices.max(0)  # how many states back a path comes from
        going = inside[:, frame, None]
        score = torch.where(going, best + emissions[:, frame], score)
        origins.append((origin * going).to(torch.int8))
    blank = 2 * target.lengths
    token = (blank - 1).clamp(min=0)
    at_blank = score.gather(1, blank[:, None]) > score.gather(1, token[:, None])
    state = torch.where(at_blank[:, 0], blank, token)
    states = [state]
    for origin in reversed(origins):
        # A row that does not fit comes from nowhere.
        state = (state - origin.gather(1, state[:, None])[:, 0]).clamp(min=0)
        states.append(state)
    return labels.gather(1, torch.stack(states[::-1], 1)), fits
