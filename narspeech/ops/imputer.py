"""The Imputer's loss: CTC over the paths that agree with what is already known (Chan et al. 2020, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.ctc import spelled_loss

# The log-probability of a label at a frame that is known to hold another: far below what whole utterances come to, and
# finite, so that no gradient is NaN.
IMPOSSIBLE = -1e9


def imputer_loss(log_probs: Padded, target: Padded, path: Tensor, revealed: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the probability that the hidden frames complete the revealed ones to a path that spells the target.

    log_probs (B, T, V), target (B, U), path (B, T) labels, all of them in terms of a Spelling or of the vocabulary;
    revealed (B, T) bool: where the path is given -> losses (B,) float32, fits (B,) bool. The sum runs over all paths
    that agree with the revealed labels; these are given, so their own probability is 1 and their frames have no
    gradient. With nothing revealed it is the CTC loss. Where no path agrees, or the target needs more frames, the loss
    is 0, without gradient, and the caller must count it.
    """
    data = log_probs.data.float()
    # CTC sums products over frames: to forbid the other labels there is to constrain the dynamic programme.
    known = F.one_hot(path.masked_fill(~revealed, 0), data.shape[-1]).bool()
    given = torch.zeros_like(data).masked_fill(~known, IMPOSSIBLE)
    losses, fits = spelled_loss(log_probs._replace(data=torch.where(revealed.unsqueeze(-1), given, data)), target)
    agrees = losses < -IMPOSSIBLE / 2
    return losses.masked_fill(~agrees, 0), fits & agrees
