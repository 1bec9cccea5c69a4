"""How good a model is on the part that was held out: after every epoch, and to choose its decoding settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from narspeech.data.batching import make_batches
from narspeech.data.dataset import SpeechDataset, collate
from narspeech.data.example import Example
from narspeech.decoders.base import DecodeOptions
from narspeech.evaluate.error_rate import corpus
from narspeech.evaluate.report import sample_lines
from narspeech.model import Model

# Padded seconds decoded together.
MAX_SECONDS = 240.0


def decode_texts(
    model: Model,
    examples: Sequence[Example],
    data: SpeechDataset,
    options: DecodeOptions | None = None,
    decoder: Literal["ctc"] | None = None,
) -> list[tuple[str, str]]:
    """Reference and hypothesis of every example; `data` holds their sound."""
    pairs: dict[int, tuple[str, str]] = {}
    for batch in make_batches(data.durations(0), max_seconds=MAX_SECONDS, seed=0, epoch=0):
        source = collate([data[0, index] for index in batch]).source.to(model.device)
        for index, hypothesis in zip(batch, model.decode(source, options, decoder), strict=True):
            pairs[index] = (examples[index].text, model.tokenizer.decode(hypothesis.tokens))
    return [pairs[index] for index in range(len(examples))]


def word_error_rate(
    model: Model, examples: Sequence[Example], data: SpeechDataset, options: DecodeOptions | None
) -> float:
    return corpus(decode_texts(model, examples, data, options)).rate


def evaluate_epoch(model: Model, *, examples: Sequence[Example], data: SpeechDataset) -> dict[str, float]:
    """Error rates by CTC and by the model's decoder, with a look at three utterances on stderr."""
    scores: dict[str, float] = {}
    kind = model.config.decoder.kind
    decoders: dict[str, Literal["ctc"] | None] = {"ctc": "ctc", kind: None}
    for name, decoder in decoders.items():
        pairs = decode_texts(model, examples, data, None, decoder)
        words, characters = corpus(pairs), corpus(pairs, "character")
        reference = max(words.reference, 1)
        scores |= {
            f"{name}_wer": words.rate,
            f"{name}_cer": characters.rate,
            f"{name}_substitutions": words.substitutions / reference,
            f"{name}_deletions": words.deletions / reference,
            f"{name}_insertions": words.insertions / reference,
        }
        for text, hypothesis in pairs[:: max(1, len(pairs) // 3)][:3]:
            print(f"[{name}]\n{sample_lines(text, hypothesis)}", file=sys.stderr)
    # Words are all wrong for a while at first; characters tell the epochs apart.
    scores["score"] = scores[f"{kind}_wer"] + 1e-3 * scores[f"{kind}_cer"]
    return scores
