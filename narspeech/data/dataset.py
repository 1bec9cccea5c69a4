"""Examples as tensors: sound at one rate, speed perturbed by a fixed plan, and the tokens of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from narspeech.batch import Batch, Padded
from narspeech.data.example import Example
from narspeech.data.recordings import load_example, open_recordings
from narspeech.ops.augment import speed_perturb
from narspeech.tokenizer import PAD


class TextEncoder(Protocol):
    """The part of a tokenizer that a dataset needs."""

    def encode(self, text: str) -> Sequence[int]: ...

    def offsets(self, ids: Sequence[int]) -> list[int]: ...


class Item(NamedTuple):
    """One example: source (N,) samples, float32 in about -1..1, or (L,) token ids; tokens (U,) int64; guide: what is
    known of each token, such as the second (U,) at which it starts, or of each source token, such as its fertility."""

    id: str
    source: Tensor
    tokens: Tensor
    guide: Tensor | None = None


class SpeechDataset(torch.utils.data.Dataset[Item]):
    """Examples as `Item`s, addressed by (epoch, index).

    The speed factor is drawn from `speeds` as a pure function of (seed, epoch, index), so any worker or resumed run
    hears the same sound. starts: for every id, the second at which each character of its text starts. With `cache`, a
    folder, each recording is decoded once (see `open_recordings`); without, at every access. Raises AudioError that
    names the file when a recording cannot be read.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: TextEncoder,
        *,
        rate: int = 16000,
        speeds: tuple[float, ...] = (1.0,),
        seed: int = 0,
        cache: Path | None = None,
        starts: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not speeds or not all(0.1 <= speed <= 10 for speed in speeds):
            raise ValueError(f"expected speeds between 0.1 and 10, at least one, received {speeds}")
        self.examples = list(examples)
        self.tokenizer = tokenizer
        self.rate = rate
        self.speeds = speeds
        self.seed = seed
        self.cache = cache
        self.starts = starts
        self._recordings = None if cache is None else open_recordings(self.examples, cache, rate=rate)
        self._plan: tuple[int, np.ndarray[Any, Any]] | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        example = self.examples[index]
        samples = torch.from_numpy(self._samples(index))
        factor = self.speed(epoch, index)
        if factor != 1.0:
            samples = speed_perturb(samples, factor)
        tokens = list(self.tokenizer.encode(example.text))
        starts = None
        if self.starts is not None:
            seconds = self.starts[example.id]
            starts = torch.tensor([seconds[place] / factor for place in self.tokenizer.offsets(tokens)])
        return Item(example.id, samples, torch.tensor(tokens, dtype=torch.int64), starts)

    def speed(self, epoch: int, index: int) -> float:
        """The factor by which example `index` is sped up in `epoch`."""
        return float(self._factors(epoch)[index])

    def durations(self, epoch: int) -> list[float]:
        """Seconds of every example after speed perturbation, without touching the sound."""
        seconds = np.array([example.duration for example in self.examples], dtype=np.float64)
        return [float(value) for value in seconds / self._factors(epoch)]

    def _factors(self, epoch: int) -> np.ndarray[Any, Any]:
        # One uniform draw an example from a stream of (seed, epoch): draw i does not depend on how many follow.
        if self._plan is None or self._plan[0] != epoch:
            draws = np.random.default_rng([self.seed, epoch]).random(len(self.examples))
            self._plan = (epoch, np.array(self.speeds)[(draws * len(self.speeds)).astype(np.int64)])
        return self._plan[1]

    def _samples(self, index: int) -> np.ndarray[Any, Any]:
        if self._recordings is None:
            return load_example(self.examples[index], self.rate).samples
        return self._recordings.at(index)

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would travel to a spawned worker as a copy of every sample: the worker opens the file itself.
        return {**self.__dict__, "_recordings": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.cache is not None:
            self._recordings = open_recordings(self.examples, self.cache, rate=self.rate)


def collate(items: Sequence[Item]) -> Batch:
    """Items as a batch: source (B, N) or (B, L) and guide padded with zeros, target (B, U) padded with PAD."""
    guides = [item.guide for item in items if item.guide is not None]
    return Batch(
        tuple(item.id for item in items),
        Padded.pack([item.source for item in items]),
        Padded.pack([item.tokens for item in items], PAD),
        Padded.pack(guides) if len(guides) == len(items) else None,
    )
