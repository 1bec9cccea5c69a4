"""Glancing (Qian et al. 2021, GLAT): the more of a target a first pass gets wrong, the more of it is revealed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.masking import top


def annealed(start: float, end: float, progress: float) -> float:
    """From start to end in a straight line as progress goes from 0 to 1."""
    return start + (end - start) * progress


def reveal(wrong: Padded, ratio: float, draw: Tensor) -> Tensor:
    """(B, U) bool: floor(ratio x the number of wrong ones) of the places of each row, those where `draw` is highest.

    wrong (B, U) bool; draw (B, U) random numbers. Right and wrong places are as likely to be revealed.
    """
    count = (wrong.data & wrong.mask).sum(-1)
    return top(draw, wrong.mask, (ratio * count.double()).long())


@contextmanager
def rehearsal(device: torch.device) -> Iterator[None]:
    """A pass without gradient that leaves the random numbers where they were: the next pass has the same dropout."""
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def glance(
    target: Padded, ratio: float, rehearse: Callable[[], Tensor], generator: torch.Generator | None = None
) -> Tensor:
    """(B, U) bool: the places of target (B, U) to reveal, `rehearse` being a first pass that returns its guess (B, U).

    Places are drawn on the CPU, so that every device reveals the same, and before the rehearsal, after which the
    random numbers have to stand where it found them.
    """
    draw = torch.rand(target.data.shape, generator=generator).to(target.data.device)
    with rehearsal(target.data.device):
        guess = rehearse()
    return reveal(target._replace(data=guess != target.data), ratio, draw)
