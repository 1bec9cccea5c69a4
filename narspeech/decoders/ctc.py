"""CTC, read greedily: the collapsed best path of the model's own CTC head (Graves et al. 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from narspeech.batch import Batch, Draft, Encoded, Loss, TrainStep
from narspeech.decoders.base import DecodeOptions, Decoder, Memory
from narspeech.ops.ctc import ctc_loss, greedy


@dataclass(frozen=True, kw_only=True)
class CTCDecoderConfig:
    kind: ClassVar[str] = "ctc"


def greedy_draft(memory: Memory) -> Draft:
    """The collapsed best path of every utterance; a token's score is the highest posterior in its run of frames."""
    assert memory.ctc is not None
    tokens, scores, _ = greedy(memory.ctc)
    return Draft.decided(tokens, scores)


class CTCDecoder(Decoder):
    """It has no parameters: the one CTC head belongs to the model."""

    reads_ctc = True

    def __init__(self, config: CTCDecoderConfig | None = None, memory_width: int = 0, size: int = 0) -> None:  # noqa: ARG002
        super().__init__()

    def prepare(self, encoded: Encoded) -> Memory:
        return Memory(encoded.states.mask[:, None, None], encoded.states, encoded.inputs, ctc=encoded.ctc)

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:  # noqa: ARG002
        assert encoded.ctc is not None
        losses, fits = ctc_loss(encoded.ctc, batch.target)
        return Loss(losses.sum(), (batch.target.lengths * fits).sum(), {})

    def draft(self, memory: Memory, options: DecodeOptions) -> Draft:  # noqa: ARG002
        return greedy_draft(memory)
