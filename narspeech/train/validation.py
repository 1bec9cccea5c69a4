"""How good a model is on the part that was held out: after every epoch, and to choose its decoding settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from narspeech.data.batching import make_batches
from narspeech.data.dataset import collate
from narspeech.decoders.base import DecodeOptions
from narspeech.evaluate.measure import Measure
from narspeech.model import Model
from narspeech.result import Hypothesis
from narspeech.train.trainer import TrainingSet


def decode_all(
    model: Model,
    data: TrainingSet,
    indices: Sequence[int],
    together: float,
    options: DecodeOptions | None = None,
    decoder: Literal["ctc"] | None = None,
) -> Iterator[tuple[int, Hypothesis]]:
    """Each of the `indices` of `data` with its hypothesis, as soon as it is done; like lengths share a batch.

    together: padded seconds or tokens a batch.
    """
    lengths = data.durations(0)
    for batch in make_batches([lengths[index] for index in indices], max_seconds=together, seed=0, epoch=0):
        chosen = [indices[place] for place in batch]
        source = collate([data[0, index] for index in chosen]).source.to(model.device)
        yield from zip(chosen, model.decode(source, options, decoder), strict=True)


def decode_texts(
    model: Model,
    data: TrainingSet,
    together: float,
    options: DecodeOptions | None = None,
    decoder: Literal["ctc"] | None = None,
) -> list[str]:
    """The text of every example, in order."""
    found = dict(decode_all(model, data, range(len(data)), together, options, decoder))
    return [model.tokenizer.decode(found[index].tokens) for index in range(len(data))]


def evaluate_epoch(
    model: Model, *, references: Sequence[str], data: TrainingSet, together: float, measure: Measure
) -> dict[str, float]:
    """What the measure says of CTC, where there is a head, and of the model's decoder, with a look at three examples
    on stderr. "score", lower is better, is of the latter."""
    scores: dict[str, float] = {}
    kind = model.config.decoder.kind
    heads: dict[str, Literal["ctc"] | None] = {} if model.ctc is None else {"ctc": "ctc"}
    for name, decoder in {**heads, kind: None}.items():
        texts = list(zip(references, decode_texts(model, data, together, None, decoder), strict=True))
        rates = measure.rates(texts)
        scores |= {f"{name}_{key}": value for key, value in rates.items()}
        for reference, hypothesis in texts[:: max(1, len(texts) // 3)][:3]:
            print(f"[{name}]\n{measure.sample(reference, hypothesis)}", file=sys.stderr)
    coarse, fine = measure.errors(rates)
    # Words are all wrong for a while at first; characters tell the epochs apart.
    return {**scores, "score": coarse + 1e-3 * fine}


def best_threshold(
    model: Model,
    trials: Sequence[DecodeOptions],
    references: Sequence[str],
    data: TrainingSet,
    together: float,
    measure: Measure,
) -> DecodeOptions:
    """The first of the best trials, each of which is told on stderr."""
    errors = []
    for trial in trials:
        texts = zip(references, decode_texts(model, data, together, trial), strict=True)
        rates = measure.rates(list(texts))
        errors.append(measure.errors(rates)[0])
        print(f"held-out part: threshold {trial.threshold:g} {measure.shown(rates)}", file=sys.stderr)
    return trials[errors.index(min(errors))]
