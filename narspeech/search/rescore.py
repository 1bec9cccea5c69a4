"""Noisy parallel decoding (Gu et al. 2018, section 3.4): a second model chooses among the candidates of a first one.

A non-autoregressive model decodes several lengths, fertilities or samples side by side (`DecodeOptions.candidates`); an
autoregressive teacher scores whole texts in one pass, which costs it no more than training does, and the best one wins.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from narspeech.batch import Encoded, Padded
from narspeech.checkpoint import ready
from narspeech.decoders.base import DecodeOptions, Decoder
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.ops.scorer import Scorer
from narspeech.result import Hypothesis
from narspeech.tokenizer import PAD


def find_teacher(teacher: str | os.PathLike[str] | Model, student: Model) -> Model:
    """A Model, or the one in a checkpoint folder, that may choose among the student's hypotheses, on its device.

    Raises ConfigError where it reads something else, has other tokens, or scores no texts, and CheckpointError.
    """
    found = ready(teacher, student.device)
    rate, wanted = found.config.frontend.rate, student.config.frontend.rate
    if rate != wanted:
        raise ConfigError(
            f"expected a teacher that reads what the model reads ({reading(wanted)}), received one of {reading(rate)}: "
            "take another"
        )
    if found.tokenizer.pieces != student.tokenizer.pieces:
        raise ConfigError(
            "expected a teacher with the model's tokenizer, received one with other pieces: train both on one corpus, "
            "or the model with --init TEACHER"
        )
    if type(found.decoder).score is Decoder.score:
        raise ConfigError(
            f"expected a teacher whose decoder scores a given text, received {found.config.decoder.kind}: "
            "take an autoregressive one"
        )
    return found


def reading(rate: int) -> str:
    return f"sound at {rate} Hz" if rate else "text"


def check_choice(kind: str, several: Sequence[str], widest: DecodeOptions) -> None:
    """Raises ConfigError where a decoder of that kind, which has several hypotheses by the settings `several`, has one
    alone for a teacher to choose from, with the widest settings that are given."""
    if not several:
        raise ConfigError(
            f"expected a decoder of several candidates for the teacher to choose from, received {kind}, which has one: "
            "leave the teacher out"
        )
    if all(getattr(widest, name) == 1 for name in several):
        raise ConfigError(
            f"expected several candidates for the teacher to choose from, received one: raise {' or '.join(several)}"
        )


def decode_with(
    teacher: Model | None,
    model: Model,
    source: Padded,
    options: DecodeOptions | None,
    decoder: Literal["ctc"] | Decoder | None,
    scorer: Scorer | None = None,
    encoded: Encoded | None = None,
) -> list[Hypothesis]:
    """`model.decode`, whose candidates the teacher chooses among where there is one. Raises ConfigError where it has
    no choice."""
    options = options or model.config.decoding
    if teacher is not None:
        if decoder is not None:
            raise ConfigError("expected a teacher or a decoder beside the model's own, received both: leave one out")
        check_choice(model.config.decoder.kind, model.decoder.several, options)
    hypotheses = model.decode(source, options, decoder, scorer, encoded)
    return hypotheses if teacher is None else rescore(hypotheses, teacher, source)


@torch.inference_mode()
def rescore(
    hypotheses: Sequence[Hypothesis], teacher: Model, source: Padded, *, length_penalty: float = 1.0
) -> list[Hypothesis]:
    """The hypotheses of the rows of source (B, N) or (B, L), each the teacher's best of it and its alternatives.

    The others become the alternatives, best first; equals keep their order, and scores stay those of the model that
    wrote them. length_penalty: the teacher's log-probability is divided by (tokens + 1) to this power; 1 takes the mean
    a token, its end being one, and 0 the whole, which prefers short texts. The two models must share a tokenizer.
    Raises ValueError where they cannot, or where hypotheses and rows differ in number, and ConfigError for a teacher
    that gives no scores.
    """
    if len(hypotheses) != len(source.lengths):
        raise ValueError(
            f"expected a hypothesis for each of the {len(source.lengths)} rows of the source, received "
            f"{len(hypotheses)}: rescore the batch that was decoded"
        )
    groups = [[replace(best, alternatives=()), *best.alternatives] for best in hypotheses]
    candidates = [hypothesis for group in groups for hypothesis in group]
    if len(candidates) == len(groups):
        return list(hypotheses)
    highest = max((token for candidate in candidates for token in candidate.tokens), default=0)
    if highest >= teacher.tokenizer.size:
        raise ValueError(
            f"expected tokens of the teacher's vocabulary of {teacher.tokenizer.size}, received token {highest}: "
            "take a teacher with the same tokenizer"
        )
    device = teacher.device
    tokens = Padded.pack([torch.tensor(candidate.tokens).long() for candidate in candidates], PAD).to(device)
    owner = torch.tensor([row for row, group in enumerate(groups) for _ in group], device=device)
    memory = teacher.decoder.prepare(teacher.encode(source.to(device))).rows(owner)
    totals = teacher.decoder.score(tokens, memory) / (tokens.lengths + 1) ** length_penalty
    values = iter(totals.tolist())
    chosen = []
    for group in groups:
        ranked = [h for _, h in sorted(((next(values), h) for h in group), key=lambda pair: -pair[0])]
        chosen.append(replace(ranked[0], alternatives=tuple(ranked[1:])))
    return chosen
