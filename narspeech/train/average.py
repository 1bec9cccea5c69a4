"""The mean of several checkpoints' weights (Polyak averaging over the best epochs)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from narspeech.checkpoint import read_weights
from narspeech.errors import CheckpointError


def average(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of the weights in safetensors files; integer tensors are taken from the first.

    Raises CheckpointError where there is nothing to average, or a file does not hold the weights that the first holds.
    """
    if not paths:
        raise CheckpointError("expected at least one checkpoint to average, received none: train for one epoch first")
    first = read_weights(paths[0])
    total = {name: x.double() for name, x in first.items() if x.is_floating_point()}
    for path in paths[1:]:
        weights = read_weights(path)
        if {name: x.shape for name, x in weights.items()} != {name: x.shape for name, x in first.items()}:
            raise CheckpointError(
                f"expected {path} to hold the same weights as {paths[0]}, received other names or shapes: "
                "average epochs of one run"
            )
        for name in total:
            total[name] += weights[name]
    return first | {name: (x / len(paths)).to(first[name].dtype) for name, x in total.items()}
