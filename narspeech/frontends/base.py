"""What every frontend offers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from narspeech.batch import Padded


class Frontend(nn.Module):
    """Turns a source into features: samples (B, N) or token ids (B, L) -> (B, T, F), zero beyond each row's length."""

    num_features: int
    frames_per_second: float

    def forward(self, source: Padded, views: bool = False) -> Padded:
        """`views` asks for two augmentations of each utterance: 2B rows, where rows i and i + B belong together."""
        raise NotImplementedError

    def fit(self, batches: Iterable[Padded]) -> None:
        """Learn the statistics of the training sources; most frontends have none and do not read the batches."""
