"""From recordings to transcripts: `transcribe()` and `iter_transcribe()` for Python."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch

from narspeech.batch import Padded
from narspeech.checkpoint import ready
from narspeech.data.audio import Audio, AudioSource, load_audio
from narspeech.data.batching import by_length
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import ConfigError, NarspeechError
from narspeech.model import Model
from narspeech.ops.scorer import Scorer
from narspeech.outcomes import Outcome, Progress, group_size, in_order, outcomes, tracked
from narspeech.result import Failure, Hypothesis, Segment, Transcript, Word
from narspeech.search.fusion import fuse, load_lm
from narspeech.search.rescore import decode_with, find_teacher
from narspeech.tokenizer import Tokenizer

BUNDLED = Path(__file__).parent / "models" / "english"

DecoderName = Literal["ctc", "mask_ctc"]
OnError = Literal["raise", "record"]


class Transcriber:
    """A loaded model that transcribes: load it once, call it often.

    model: a checkpoint folder, a Model (which is put into evaluation mode), or None for the small English model in the
    package; device: "cpu", "cuda", ..., or None for where a given Model is, else CUDA where there is one; teacher: an
    autoregressive model, or its folder, that chooses among the candidates (noisy parallel decoding); lm: a file of
    `narspeech lm`, or "bundled" for the one in the model's folder. `name` is the folder as given, "english" for the
    model in the package and "" for a Model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        device: str | None = None,
        teacher: str | os.PathLike[str] | Model | None = None,
        lm: str | os.PathLike[str] | None = None,
    ) -> None:
        self.model = ready(BUNDLED if model is None else model, device)
        self.name = BUNDLED.name if model is None else "" if isinstance(model, Model) else os.fspath(model)
        self.device = self.model.device
        self.rate = self.model.config.frontend.rate
        if not self.rate:
            raise ConfigError("expected a model that hears sound, received one that reads text: translate with it")
        self.teacher = None if teacher is None else find_teacher(teacher, self.model)
        folder = BUNDLED if model is None else None if isinstance(model, Model) else Path(model)
        self.lm = None if lm is None else load_lm(lm, folder, self.model)

    def options(
        self,
        *,
        steps: int | None = None,
        threshold: float | None = None,
        beam: int | None = None,
        lm_weight: float | None = None,
        trace: bool = False,
    ) -> DecodeOptions:
        """The model's own decoding settings, with what is given here in their place."""
        changes = {"steps": steps, "threshold": threshold, "beam": beam, "lm_weight": lm_weight, "trace": trace}
        return self.model.config.decoding.but(**changes)

    def scorer(self, hotwords: Sequence[str], options: DecodeOptions) -> Scorer | None:
        """The language model and the words or phrases to favour, with their weights; None where there is neither."""
        return fuse(self.lm, hotwords, self.model, options)

    def __call__(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        batch_size: int = 8,
        hotwords: Sequence[str] = (),
    ) -> list[Transcript]:
        """Transcripts of recordings at the model's rate, in their order."""
        found = dict(self.stream(recordings, options, decoder=decoder, batch_size=batch_size, hotwords=hotwords))
        return [found[index] for index in range(len(recordings))]

    def stream(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        batch_size: int = 8,
        hotwords: Sequence[str] = (),
    ) -> Iterator[tuple[int, Transcript]]:
        """Index and transcript of every recording as soon as it is done; batches hold recordings of like length."""
        self.check(decoder, batch_size)
        scorer = self.scorer(hotwords, options or self.model.config.decoding)
        for chosen in by_length({index: len(audio.samples) for index, audio in enumerate(recordings)}, batch_size):
            yield from zip(chosen, self.batch([recordings[i] for i in chosen], options, decoder, scorer), strict=True)

    def batch(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        decoder: DecoderName | None = None,
        scorer: Scorer | None = None,
    ) -> list[Transcript]:
        """Transcripts of recordings that are decoded together."""
        other = next((recording.rate for recording in recordings if recording.rate != self.rate), None)
        if other is not None:
            raise NarspeechError(f"expected recordings at {self.rate} Hz, received {other} Hz: load them at that rate")
        began = time.perf_counter()
        source = Padded.pack([torch.from_numpy(recording.samples) for recording in recordings]).to(self.device)
        head: Literal["ctc"] | None = "ctc" if decoder == "ctc" else None
        hypotheses = decode_with(self.teacher, self.model, source, options, head, scorer)
        sound = sum(recording.duration for recording in recordings)
        known = {
            "speed": sound / max(time.perf_counter() - began, 1e-9),
            "model": self.name,
            "language": self.model.config.language,
        }
        return [
            to_transcript(hypothesis, recording, self.model.tokenizer, **known)
            for hypothesis, recording in zip(hypotheses, recordings, strict=True)
        ]

    def check(self, decoder: DecoderName | None, batch_size: int) -> None:
        """Raises NarspeechError for a decoder that the model has not, and for batches of nothing."""
        group_size(batch_size)
        own = self.model.config.decoder.kind
        if decoder not in (None, "ctc", own):
            known = " or ".join(dict.fromkeys(("ctc", own)))
            raise NarspeechError(f"expected the decoder of this model ({known}), received {decoder!r}: name no other")


def to_transcript(hypothesis: Hypothesis, audio: Audio, tokenizer: Tokenizer, **known: Any) -> Transcript:
    """Text, words and confidence, of one segment: a token's confidence is exp(score), a word's the least of its
    tokens', the whole's the mean of the words'; known: fields of the Transcript that the caller can tell."""
    confidence = [math.exp(score) for score in hypothesis.scores]
    words = tuple(
        Word(text=text, confidence=min(confidence[place], default=0.0))
        for text, place in tokenizer.words(hypothesis.tokens)
    )
    return Transcript.of(
        (Segment.of(words, 0.0, audio.duration),),
        duration=audio.duration,
        steps=hypothesis.steps,
        trace=hypothesis.trace,
        warnings=audio.warnings,
        **known,
    )


@lru_cache(maxsize=1)
def shared_transcriber(model: str | None, device: str | None, lm: str | None = None) -> Transcriber:
    """The last model used stays loaded, so that calling `transcribe` in a loop loads it once."""
    return Transcriber(model, device=device, lm=lm)


class Settings(TypedDict, total=False):
    """The settings of `transcribe` and `iter_transcribe`."""

    rate: int | None
    channel: int | None
    model: str | os.PathLike[str] | Model | None
    device: str | None
    decoder: DecoderName | None
    steps: int | None
    threshold: float | None
    lm: str | os.PathLike[str] | None
    lm_weight: float | None
    beam: int | None
    hotwords: Sequence[str]
    batch_size: int
    trace: bool
    progress: Progress


# A str is a Sequence of str, but the first overload that fits wins.
@overload
def transcribe(  # type: ignore[overload-overlap]
    recording: AudioSource, *, on_error: Literal["raise"] = "raise", **settings: Unpack[Settings]
) -> Transcript: ...
@overload
def transcribe(  # type: ignore[overload-overlap]
    recording: AudioSource, *, on_error: OnError, **settings: Unpack[Settings]
) -> Transcript | Failure: ...
@overload
def transcribe(
    recording: Sequence[AudioSource], *, on_error: Literal["raise"] = "raise", **settings: Unpack[Settings]
) -> list[Transcript]: ...
@overload
def transcribe(
    recording: Sequence[AudioSource], *, on_error: OnError, **settings: Unpack[Settings]
) -> list[Transcript | Failure]: ...
def transcribe(
    recording: AudioSource | Sequence[AudioSource], *, on_error: OnError = "raise", **settings: Unpack[Settings]
) -> Transcript | Failure | Sequence[Transcript | Failure]:
    """What is said in a recording, in the language and case that the model was trained to write: the words in lower
    case, or a translation as it is printed. A list or tuple of recordings gives a list, in order.

    recording: a path, bytes, a file object, or samples as a numpy array or tensor with their `rate` in Hz; channel:
    which one to hear, None for the mean of all; model: a checkpoint folder or Model, None for the bundled English one;
    decoder: "ctc" reads the CTC head alone; steps, threshold: refinement budget and the confidence under which a token
    is refined, by default the model's own; lm: a language model's file, or "bundled" for the one in the model's folder;
    lm_weight: what it counts; beam: texts that a search through CTC keeps; hotwords: words or phrases to favour, spelt
    as the model writes; trace: keep every refinement step; batch_size: recordings decoded together.
    on_error: "raise" AudioError for the first recording that cannot be transcribed, or "record" a Failure in its place
    and go on with the others. progress: True for a bar on stderr, or a function that is called with (done, total).
    """
    many = isinstance(recording, list | tuple)
    sources: Sequence[Any] = recording if isinstance(recording, list | tuple) else [recording]
    results = list(iter_transcribe(sources, on_error=on_error, **settings))
    return results if many else results[0]


@overload
def iter_transcribe(
    recordings: Iterable[AudioSource], *, on_error: Literal["raise"] = "raise", **settings: Unpack[Settings]
) -> Iterator[Transcript]: ...
@overload
def iter_transcribe(
    recordings: Iterable[AudioSource], *, on_error: OnError, **settings: Unpack[Settings]
) -> Iterator[Transcript | Failure]: ...
def iter_transcribe(
    recordings: Iterable[AudioSource],
    *,
    on_error: OnError = "raise",
    rate: int | None = None,
    channel: int | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    device: str | None = None,
    decoder: DecoderName | None = None,
    steps: int | None = None,
    threshold: float | None = None,
    lm: str | os.PathLike[str] | None = None,
    lm_weight: float | None = None,
    beam: int | None = None,
    hotwords: Sequence[str] = (),
    batch_size: int = 8,
    trace: bool = False,
    progress: Progress = False,
) -> Iterator[Transcript | Failure]:
    """`transcribe` for more recordings than fit in memory: results in order, each as soon as it is ready.

    `recordings` is read as it is needed, a few batches ahead, and may never end; where it has no length, progress is
    told None as the total. Settings that do not fit raise at once.
    """
    if isinstance(recordings, str | bytes | os.PathLike | torch.Tensor | np.ndarray):
        raise NarspeechError("expected several recordings to go through, received one: give a list, or use transcribe")
    if on_error not in ("raise", "record"):
        raise NarspeechError(f"expected on_error to be 'raise' or 'record', received {on_error!r}: take one of them")
    if isinstance(model, Model):
        transcriber = Transcriber(model, device=device, lm=lm)
    else:
        folder, lm_file = (None if path is None else os.fspath(path) for path in (model, lm))
        transcriber = shared_transcriber(folder, device, lm_file)
    options = transcriber.options(steps=steps, threshold=threshold, beam=beam, lm_weight=lm_weight, trace=trace)
    scorer = transcriber.scorer(hotwords, options)
    transcriber.check(decoder, batch_size)

    def load(source: AudioSource) -> Audio:
        return load_audio(source, rate=rate, target_rate=transcriber.rate, channel=channel)

    decode = partial(transcriber.batch, options=options, decoder=decoder, scorer=scorer)
    total = len(recordings) if isinstance(recordings, Sized) else None
    found = tracked(outcomes(recordings, load, decode, batch_size), total, progress)
    return _results(in_order(found), on_error)


def _results(found: Iterable[Outcome[AudioSource]], on_error: OnError) -> Iterator[Transcript | Failure]:
    for _, source, result in found:
        if isinstance(result, Transcript):
            yield result
        elif on_error == "raise":
            raise result
        else:
            path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
            yield Failure(path=path, reason=str(result))
