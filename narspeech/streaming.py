"""Speech while it is spoken: CTC's text at once, the refined text when a segment ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from narspeech.batch import Padded
from narspeech.calibration import Calibration
from narspeech.data.audio import Audio
from narspeech.data.sound_file import Samples
from narspeech.data.sound_stream import Resampler
from narspeech.data.voice import VadName, detector
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import AudioError, ConfigError
from narspeech.longform import Gate, Section, SectionConfig, Sections, shifted
from narspeech.ops.ctc import greedy
from narspeech.result import Word
from narspeech.transcriber import Transcriber

# A listener waits for the end of a segment: shorter pauses than in a file. No overlap, so that a segment's text is that
# of its own samples.
SECTIONS = SectionConfig(pause=0.6, long_pause=1.0, least=5.0, longest=20.0, overlap=0.0)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What is known of one segment: its text so far, or, where it is final, its last text with words; empty where it
    turned out to be no speech.

    start, end: seconds of the stream between which lie the very samples that were heard; words: with times of the
    stream; warnings: sentences about what is doubtful.
    """

    text: str
    start: float
    end: float
    final: bool
    words: tuple[Word, ...] = ()
    warnings: tuple[str, ...] = ()


class Streamer:
    """Takes sound in chunks and says what is heard; one for each stream.

    While a segment lasts, its text by CTC comes `every` so many seconds of sound, if it has changed. A segment ends in
    a pause, or after 20 s at its quietest place; its final text is what the transcriber makes of those samples alone.
    Of a segment that goes on, only the last `window` to 1.5 times as many seconds are encoded anew, so that a partial
    text never costs more than that; what is older stays as it was heard. vad: what tells voice, see `transcribe`.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        rate: int,
        *,
        options: DecodeOptions | None = None,
        every: float = 0.2,
        window: float = 6.0,
        vad: VadName = "energy",
    ) -> None:
        if transcriber.model.ctc is None:
            raise ConfigError("expected a model with a CTC head to stream, received one without: take another")
        if not 0 < every <= window:
            raise ConfigError(f"expected 0 < every <= window, received {every} and {window} s: 0.2 and 6 are usual")
        self.transcriber, self.options = transcriber, options
        self.every, self.window = round(every * transcriber.rate), window
        self.resampler = Resampler(rate, transcriber.rate)
        self.sections = Sections(transcriber.rate, SECTIONS, detector(vad, transcriber.rate))
        self.gate = Gate((transcriber.model.config.calibration or Calibration()).typical)
        model = transcriber.model
        self.frame = round(transcriber.rate * model.encoder.reduction / model.frontend.frames_per_second)  # samples
        self.listened, self.text, self.edge = 0, "", 0
        self.settled: list[int] = []

    def push(self, samples: NDArray[Any]) -> list[Heard]:
        """What a chunk of samples, (N,) or (N, channels) floats in -1..1, adds: nothing, a partial text, final ones."""
        return self._after(self.resampler.push(mono(samples)))

    def finish(self) -> list[Heard]:
        """The end of the sound: the final text of a segment that is still open."""
        found = self._after(self.resampler.push(np.zeros(0, np.float32), last=True))
        return found + [self._final(section) for section in self.sections.finish()]

    def _after(self, block: Samples) -> list[Heard]:
        found = [self._final(section) for section in self.sections.push(block)]
        held = len(self.sections.samples) if self.sections.open else 0
        if held - self.listened >= self.every:
            self.listened = held
            text = self._partial()
            if text != self.text:
                self.text = text
                rate, first = self.transcriber.rate, self.sections.frame * self.sections.hop
                found.append(Heard(text=text, start=first / rate, end=(first + held) / rate, final=False))
        return found

    def _forget(self) -> None:
        """A new segment: nothing is heard yet."""
        self.listened = 0  # samples that the text is of
        self.text = ""
        self.settled = []  # tokens that will not be heard anew
        self.edge = 0  # frames that they cover

    def _final(self, section: Section) -> Heard:
        rate, count = self.transcriber.rate, len(section.samples)
        audio = Audio(section.samples, rate, count / rate)
        (transcript,) = self.transcriber([audio], self.options)
        self._forget()
        start = section.start / rate
        heard = Heard(text="", start=start, end=(section.start + count) / rate, final=True)
        if not self.gate.is_speech(transcript.words):
            return heard
        words = shifted(transcript.words, start)
        return replace(heard, text=transcript.text, words=words, warnings=transcript.warnings)

    @torch.inference_mode()
    def _partial(self) -> str:
        """The collapsed best path of the open segment, whose older part is settled."""
        model = self.transcriber.model
        half = round(self.window * self.transcriber.rate / self.frame / 2)
        context = max(0, self.edge - half)
        samples = self.sections.samples[context * self.frame :]
        encoded = model.encode(Padded.pack([torch.from_numpy(samples)]).to(self.transcriber.device))
        assert encoded.ctc is not None
        path = greedy(encoded.ctc)
        pairs = zip(path.tokens.data[0].tolist(), (path.starts[0] + context).tolist(), strict=True)
        fresh = [(token, start) for token, start in pairs if start >= self.edge]
        text = model.tokenizer.decode([*self.settled, *(token for token, _ in fresh)])
        if len(self.sections.samples) / self.frame - self.edge >= 2 * half:
            edge = self.edge + half
            self.settled += [token for token, start in fresh if start < edge]
            self.edge = edge
        return text


def mono(samples: NDArray[Any]) -> Samples:
    """(N,) float32 of (N,) or (N, channels). Raises AudioError."""
    x = np.asarray(samples)
    if x.ndim not in (1, 2) or x.dtype.kind != "f":
        raise AudioError(
            f"expected floats in -1..1 of shape (N,) or (N, channels), received {x.dtype} {x.shape}: "
            "divide integers by their full scale"
        )
    one: Samples = np.nan_to_num(x if x.ndim == 1 else x.mean(1), posinf=0, neginf=0).astype(np.float32)
    return one
