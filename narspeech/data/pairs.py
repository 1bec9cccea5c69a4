"""A text and its translation, the JSONL manifests that list such pairs, and pairs as token ids."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from narspeech.data.dataset import Item
from narspeech.data.example import read_objects, shorten
from narspeech.errors import ManifestError
from narspeech.files import write_chunks_atomic

# Texts that are encoded at a time.
TOGETHER = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A text in one language and the same in another."""

    id: str
    source: str
    target: str

    @property
    def speaker(self) -> None:
        """Nobody speaks a text: every pair is held out, or not, by itself."""


_FIELDS = {"id": "a non-empty string", "source": "a string", "target": "a string"}
_MEND = "add it, or let the recipe's prepare.py write the manifest"


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a JSONL manifest, one object a line with the fields of `Pair`. Blank lines are skipped.

    Raises ManifestError, naming the file and line, on anything malformed and on an id that occurs twice.
    """
    pairs = []
    for where, fields in read_objects(Path(path), _FIELDS, required=tuple(_FIELDS), mend=_MEND):
        for name, value in fields.items():
            if not isinstance(value, str) or (name == "id" and not value.strip()):
                raise ManifestError(
                    f"{where}: expected {name!r} to be {_FIELDS[name]}, received {shorten(repr(value))}"
                )
        pairs.append(Pair(**fields))
    return pairs


def write_pairs(path: str | os.PathLike[str], pairs: Iterable[Pair]) -> None:
    """Write a JSONL manifest atomically, one pair at a time. Raises ManifestError when two pairs share an id."""
    path = Path(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_chunks_atomic(path, _lines(path, pairs))


def _lines(path: Path, pairs: Iterable[Pair]) -> Iterator[bytes]:
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise ManifestError(f"expected every id once for {path}, received {pair.id!r} twice; rename one of them")
        seen.add(pair.id)
        yield (json.dumps(dataclasses.asdict(pair), ensure_ascii=False) + "\n").encode()


class BatchEncoder(Protocol):
    """The part of a tokenizer that a dataset of texts needs."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


class PairDataset(torch.utils.data.Dataset[Item]):
    """Pairs as `Item`s of token ids, addressed by (epoch, index); both sides share the tokenizer's vocabulary.

    guides: for every id a number for each of its source tokens, such as the fertility. The texts are encoded once.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        tokenizer: BatchEncoder,
        *,
        guides: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.ids = [pair.id for pair in pairs]
        self.guides = guides
        self._source = _Ragged(tokenizer, [pair.source for pair in pairs])
        self._target = _Ragged(tokenizer, [pair.target for pair in pairs])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        _, index = key
        source, target = (torch.from_numpy(side[index]) for side in (self._source, self._target))
        guide = None if self.guides is None else torch.tensor(self.guides[self.ids[index]])
        return Item(self.ids[index], source, target, guide)

    def durations(self, epoch: int) -> list[float]:  # noqa: ARG002  # texts are the same in every epoch
        """The tokens of the longer side of every pair, at least 1: what a row of a padded batch costs."""
        longest = np.maximum(self._source.lengths, self._target.lengths)
        return [float(length) for length in np.maximum(longest, 1)]


class _Ragged:
    """Texts as token ids in one array, which a loading process receives in no time."""

    def __init__(self, tokenizer: BatchEncoder, texts: Sequence[str]) -> None:
        lengths, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        for start in range(0, len(texts), TOGETHER):  # as lists of ints, millions of texts would take gigabytes
            rows = tokenizer.encode_batch(texts[start : start + TOGETHER])
            lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
            values.append(np.fromiter((x for row in rows for x in row), dtype=np.int32))
        self.lengths, self._values = np.concatenate(lengths), np.concatenate(values)
        self._ends = self.lengths.cumsum()

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        end = self._ends[index]
        return self._values[end - self.lengths[index] : end].astype(np.int64)
