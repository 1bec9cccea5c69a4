"""Noisy parallel decoding (Gu et al. 2018, section 3.4): a second model chooses among the candidates of a first one.

A non-autoregressive model decodes several lengths, fertilities or samples side by side (`DecodeOptions.candidates`); an
autoregressive teacher scores whole texts in one pass, which costs it no more than training does, and the best one wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from narspeech.batch import Padded
from narspeech.model import Model
from narspeech.result import Hypothesis
from narspeech.tokenizer import PAD


@torch.inference_mode()
def rescore(
    hypotheses: Sequence[Hypothesis], teacher: Model, source: Padded, *, length_penalty: float = 0.0
) -> list[Hypothesis]:
    """The hypotheses of the rows of source (B, N) or (B, L), each the teacher's best of it and its alternatives.

    The others become the alternatives, best first; equals keep their order, and scores stay those of the model that
    wrote them. length_penalty: the teacher's log-probability is divided by (tokens + 1) to this power; 0 is published,
    1 the mean a token, with one for the end. The two models must share a tokenizer. Raises ValueError where they
    cannot, or where hypotheses and rows differ in number, and ConfigError for a teacher that gives no scores.
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
