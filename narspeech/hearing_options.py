"""With what, and how, recordings are heard: the options that commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from narspeech.data.voice import VadName
from narspeech.transcriber import DecoderName, Hearing, Transcriber


@dataclass(frozen=True, kw_only=True)
class HearingOptions:
    """A model and its settings."""

    model: Path | None = None
    """A checkpoint folder, such as OUT/final; by default the small English model in the package."""
    decoder: DecoderName | None = None
    """ctc: the CTC head alone, fastest; flashlight: the same head by flashlight's beam search, on the CPU (pip install
    narspeech[lm]); by default the model's own decoder."""
    steps: int | None = None
    """Refinement steps at most; by default what suits the model."""
    threshold: float | None = None
    """Refine tokens of less confidence (0 to 1); by default what suits the model."""
    lm: str | None = None
    """A language model of `narspeech lm` over the model's tokens, for flashlight also KenLM's binary of one; "bundled":
    the one in the model's folder."""
    lm_weight: float | None = None
    """What the language model counts beside the model's own 1; by default what suits the model."""
    beam: int | None = None
    """With --decoder ctc: texts that the search keeps; by default 16 with --lm or --hotword, else 1. With flashlight,
    which counts a text with a blank behind it as another: by default 16."""
    hotword: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A word or phrase to favour, spelt as the model writes; may be given often. It counts with --decoder ctc; Mask-CTC
    hears it only where it masks a token."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; by default CUDA where there is one."""

    def transcriber(self) -> Transcriber:
        """Raises CheckpointError or ConfigError where the model or its language model cannot be loaded."""
        transcriber = Transcriber(self.model, device=self.device, lm=self.lm)
        transcriber.hearing(None, self.decoder, self.hotword)  # reads the language model
        return transcriber

    def hearing(self, transcriber: Transcriber, vad: VadName = "energy") -> Hearing:
        """Raises NarspeechError for settings that do not suit the model."""
        decoding = transcriber.options(
            steps=self.steps, threshold=self.threshold, beam=self.beam, lm_weight=self.lm_weight, decoder=self.decoder
        )
        return transcriber.hearing(decoding, self.decoder, self.hotword, vad=vad)
