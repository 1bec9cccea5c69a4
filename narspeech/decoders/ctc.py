"""CTC (Graves et al. 2006): the collapsed best path of the model's own head, or the best texts of a beam search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from narspeech.batch import Batch, Draft, Encoded, Loss, TrainStep
from narspeech.decoders.base import DecodeOptions, Decoder, Memory
from narspeech.ops.ctc import ctc_loss, greedy
from narspeech.ops.ctc_beam import prefix_beam_search
from narspeech.ops.scorer import Scorer

BEAM = 16


@dataclass(frozen=True, kw_only=True)
class CTCDecoderConfig:
    kind: ClassVar[str] = "ctc"


def greedy_draft(memory: Memory) -> Draft:
    """The collapsed best path of every utterance; a token's score is the highest posterior in its run of frames."""
    assert memory.ctc is not None
    tokens, scores, _ = greedy(memory.ctc)
    return Draft.decided(tokens, scores)


def searched_draft(memory: Memory, options: DecodeOptions, scorer: Scorer | None) -> Draft:
    """The best texts of every utterance in a beam, best first. A scorer needs some to choose from: beside one, a beam
    of 1 stands for BEAM."""
    assert memory.ctc is not None
    beam = BEAM if options.beam == 1 else options.beam
    return prefix_beam_search(memory.ctc, beam, scorer, options.token_bonus if scorer is not None else 0.0).draft()


class CTCDecoder(Decoder):
    """It has no parameters: the one CTC head belongs to the model."""

    reads_ctc = True
    reads_scorer = True
    several = ("beam",)

    def __init__(self, config: CTCDecoderConfig | None = None, memory_width: int = 0, size: int = 0) -> None:
        super().__init__()

    def prepare(self, encoded: Encoded) -> Memory:
        return Memory(encoded.states.mask[:, None, None], encoded.states, encoded.inputs, ctc=encoded.ctc)

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        assert encoded.ctc is not None
        losses, fits = ctc_loss(encoded.ctc, batch.target)
        return Loss(losses.sum(), (batch.target.lengths * fits).sum(), {})

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        if options.beam == 1 and scorer is None:
            return greedy_draft(memory)
        return searched_draft(memory, options, scorer)

    def rank(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Tensor:
        """All alike, which keeps the beam's own order."""
        return torch.zeros_like(draft.owner, dtype=torch.float)
