"""The mean of several checkpoints' weights (Polyak averaging over the best epochs)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from narspeech.checkpoint import read_weights
from narspeech.errors import CheckpointError


def average(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of the weights in safetensors files; integer tensors are taken from the first."""
    if not paths:
        raise CheckpointError("expected at least one checkpoint to average, received none: train for one epoch first")
    total = {name: x.double() if x.is_floating_point() else x for name, x in read_weights(paths[0]).items()}
    for path in paths[1:]:
        weights = read_weights(path)
        if weights.keys() != total.keys():
            raise CheckpointError(f"expected {path} to hold the same weights as {paths[0]}, received other names")
        for name, x in total.items():
            if x.is_floating_point():
                x += weights[name]
    return {name: (x / len(paths)).float() if x.is_floating_point() else x for name, x in total.items()}
