"""What a user asks to be heard beside a model: a language model and hotwords, as one scorer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from narspeech.decoders.base import DecodeOptions
from narspeech.errors import CheckpointError
from narspeech.model import Model
from narspeech.ops.scorer import Scorer, Sum
from narspeech.search import ngram_file
from narspeech.search.hotwords import Hotwords
from narspeech.search.ngram import NGramScorer

BUNDLED = "bundled"
NAME = "lm.nslm"


def find_lm(source: str | os.PathLike[str], folder: Path | None) -> Path:
    """The file of a language model, for "bundled" the one beside the weights in the model's folder.

    Raises CheckpointError where there is none.
    """
    path = Path(source)
    if source == BUNDLED:
        if folder is None or not (folder / NAME).exists():
            raise CheckpointError(
                f"expected {NAME} in the model's folder, received none there: make one with `narspeech lm --tokenizer "
                "MODEL_FOLDER --out MODEL_FOLDER/lm.nslm`, or name a file"
            )
        path = folder / NAME
    if not path.is_file():
        raise CheckpointError(f"expected a language model in {path}, received no such file: name one of `narspeech lm`")
    return path


def load_lm(path: Path, model: Model) -> NGramScorer:
    """The language model in a file. Raises CheckpointError where it is damaged, or speaks of other tokens."""
    return NGramScorer(ngram_file.read(path, model.tokenizer.pieces), model.device)


def fuse(lm: Scorer | None, hotwords: Sequence[str], model: Model, options: DecodeOptions) -> Scorer | None:
    """Both with their weights; None where there is neither. Raises NarspeechError for a word that cannot be spelt."""
    parts: list[tuple[Scorer, float]] = [] if lm is None else [(lm, options.lm_weight)]
    if hotwords:
        parts.append((Hotwords(hotwords, model.tokenizer, model.device), options.hotword_weight))
    return Sum(parts) if parts else None
