"""What an encoder is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from narspeech.batch import Encoded, Padded


class Encoder(nn.Module):
    """features (B, T', F) -> states (B, T, width), with the normalised states of tapped layers on the way.

    `feedback` maps a tapped state (B, T, width) to what is added to the stream behind it (self-conditioning).
    """

    width: int
    reduction: int  # input frames an output frame

    def forward(self, features: Padded, feedback: Callable[[Tensor], Tensor] | None = None) -> Encoded:
        raise NotImplementedError

    def lengths(self, lengths: Tensor) -> Tensor:
        """Output frames for `lengths` input frames, exactly."""
        raise NotImplementedError
