"""Token ids as embeddings: what translation reads where speech recognition reads log-mel features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from narspeech.batch import Padded
from narspeech.errors import ConfigError
from narspeech.frontends.base import Frontend


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """width: of the embeddings."""

    kind: ClassVar[str] = "text"
    rate: ClassVar[int] = 0  # samples a second: text has none
    width: int = 256

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"expected a width of at least 1, received {self.width}; 256 is usual")


class TextEmbedding(Frontend):
    """Token ids (B, L) -> embeddings (B, L, width), scaled by the root of the width (Vaswani et al. 2017)."""

    frames_per_second = 1.0  # a token stands for one unit of time

    def __init__(self, config: TextConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.width
        self.embedding = nn.Embedding(size, config.width)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)

    def forward(self, source: Padded, views: bool = False) -> Padded:
        """There is nothing to augment: the two views of a text are equal, and differ by dropout alone."""
        ids, lengths = source
        if ids.dim() != 2 or ids.is_floating_point():
            raise ValueError(
                f"expected token ids (B, L), received {ids.dtype} {tuple(ids.shape)}; encode the text with the "
                "model's tokenizer"
            )
        # Layers need at least one place, as features of sound have.
        ids = nn.functional.pad(ids, (0, int(not ids.shape[1])))
        embedded: Tensor = self.embedding(ids) * math.sqrt(self.config.width)
        features = Padded(embedded, lengths).zeroed()
        return features.twice() if views else features
