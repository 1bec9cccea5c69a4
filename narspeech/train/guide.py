"""When each character of the training texts is spoken, as an earlier model hears it: what guided CTC starts from.

CTC from scratch emits nothing but blanks for thousands of updates, until it finds an alignment. Even a poor model of
letters aligns a known text well, so it can show the next one where to look.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import torch

from narspeech.checkpoint import load
from narspeech.data.batching import make_batches
from narspeech.data.dataset import SpeechDataset, collate
from narspeech.data.example import Example
from narspeech.files import write_atomic
from narspeech.model import Model
from narspeech.ops.ctc import token_starts
from narspeech.train import distributed

# Padded seconds aligned together.
MAX_SECONDS = 120.0

Starts = dict[str, list[float]]


def guide(path: Path, teacher: Path, examples: Sequence[Example], data: SpeechDataset) -> Starts:
    """For every id the second at which each character of its text starts, kept in the file `path` for a resumed run.

    teacher: a checkpoint folder whose tokenizer can spell the texts; data: the examples' sound in that tokenizer's
    tokens, at its own speed.
    """
    if not path.exists():
        starts = character_starts(load(teacher, device=distributed.device()), examples, data)
        write_atomic(path, json.dumps(starts).encode())
    kept: Starts = json.loads(path.read_text(encoding="utf-8"))
    return kept


@torch.inference_mode()
def character_starts(model: Model, examples: Sequence[Example], data: SpeechDataset) -> Starts:
    """Forced alignment of every text to the model's CTC posteriors; a character starts with the token it is in."""
    seconds = model.encoder.reduction / model.frontend.frames_per_second
    starts: Starts = {}
    for indices in make_batches(data.durations(0), max_seconds=MAX_SECONDS, seed=0, epoch=0):
        batch = collate([data[0, index] for index in indices]).to(model.device)
        posteriors = model.encode(batch.source).ctc
        assert posteriors is not None
        frames = token_starts(posteriors, batch.target)
        rows = zip(indices, frames.tolist(), batch.target.unpack(), strict=True)
        for index, row, tokens in rows:
            offsets = model.tokenizer.offsets(tokens.tolist())
            owners = [max(0, bisect_right(offsets, place) - 1) for place in range(len(examples[index].text))]
            starts[examples[index].id] = [round(row[owner] * seconds, 3) for owner in owners]
    return starts
