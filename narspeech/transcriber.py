"""From recordings to transcripts: `transcribe()` and `iter_transcribe()` for Python."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeGuard, Unpack, overload

import numpy as np
import torch

from narspeech.align import Aligned, align
from narspeech.batch import Encoded, Padded
from narspeech.calibration import Calibration
from narspeech.checkpoint import ready
from narspeech.data.audio import Audio, AudioSource, load_audio
from narspeech.data.batching import by_length
from narspeech.data.sound_file import Samples
from narspeech.data.sound_stream import SoundStream, header_seconds
from narspeech.data.voice import VadName, detector
from narspeech.decoders.base import DecodeOptions, Decoder
from narspeech.errors import ConfigError, NarspeechError
from narspeech.longform import segments
from narspeech.memory import give_back_freed_memory
from narspeech.model import Model
from narspeech.ops.scorer import Scorer
from narspeech.outcomes import Outcome, Progress, group_size, in_order, outcomes, tracked
from narspeech.result import Failure, Hypothesis, Segment, Transcript
from narspeech.search.flashlight import Flashlight
from narspeech.search.fusion import find_lm, fuse, load_lm
from narspeech.search.ngram import NGramScorer
from narspeech.search.rescore import decode_with, find_teacher

# Seconds: what is longer is cut into sections. It is read in blocks of so many seconds.
LONG, BLOCK = 60.0, 10.0
# Seconds of sound, padding included, that are decoded together on a CPU: more take more memory, and are slower there.
CPU_SECONDS = 60.0
BUNDLED = Path(__file__).parent / "models" / "english"

DecoderName = Literal["ctc", "flashlight", "mask_ctc"]
OnError = Literal["raise", "record"]


class Hearing(NamedTuple):
    """How recordings are heard: see `Transcriber.hearing`. head: what `Model.decode` takes for the decoder's name."""

    options: DecodeOptions
    decoder: DecoderName | None
    head: Literal["ctc"] | Decoder | None
    scorer: Scorer | None
    word_times: bool
    vad: VadName = "energy"


class Decoded(NamedTuple):
    """What was decoded together: what the encoder gave, and of every recording its hypothesis and its words."""

    encoded: Encoded
    hypotheses: list[Hypothesis]
    aligned: list[Aligned]


class Transcriber:
    """A loaded model that transcribes: load it once, call it often.

    model: a checkpoint folder, a Model (which is put into evaluation mode), or None for the small English model in the
    package; device: "cpu", "cuda", ..., or None for where a given Model is, else CUDA where there is one; teacher: an
    autoregressive model, or its folder, that chooses among the candidates (noisy parallel decoding); lm: a file of
    `narspeech lm`, or "bundled" for the one in the model's folder, which is read when it is first needed. `name` is the
    folder as given, "english" for the model in the package and "" for a Model.
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
        self.lm_file = None if lm is None else find_lm(lm, folder)

    @property
    def most(self) -> float:
        """Samples, padding included, that are decoded together."""
        return CPU_SECONDS * self.rate if self.device.type == "cpu" else math.inf

    @cached_property
    def lm(self) -> NGramScorer | None:
        """The language model. Raises CheckpointError where it cannot be read."""
        return None if self.lm_file is None else load_lm(self.lm_file, self.model)

    @cached_property
    def flashlight(self) -> Flashlight:
        """Flashlight's search with the language model. Raises NarspeechError without the extra `lm`, CheckpointError
        where the language model cannot be read."""
        return Flashlight(self.lm_file, self.model.tokenizer.pieces)

    def options(
        self,
        *,
        steps: int | None = None,
        threshold: float | None = None,
        beam: int | None = None,
        lm_weight: float | None = None,
        trace: bool = False,
        decoder: DecoderName | None = None,
    ) -> DecodeOptions:
        """The model's own decoding settings, with what is given here in their place, for the decoder that is to use
        them."""
        own = self.model.config
        if beam is None and decoder in ("ctc", "flashlight") and own.decoder.kind != "ctc":
            beam = 1  # what the model's own decoder searches with says nothing of the CTC head
        changes = {"steps": steps, "threshold": threshold, "beam": beam, "lm_weight": lm_weight, "trace": trace}
        return own.decoding.but(**changes)

    def hearing(
        self,
        options: DecodeOptions | None = None,
        decoder: DecoderName | None = None,
        hotwords: Sequence[str] = (),
        word_times: bool = True,
        vad: VadName = "energy",
    ) -> Hearing:
        """The settings, together with the language model and the words or phrases to favour. Raises NarspeechError for
        a decoder that the model has not, for hotwords that it cannot hear, and for what comes with an extra that is not
        there, CheckpointError where the language model cannot be read."""
        own = self.model.config.decoder.kind
        if decoder not in (None, "ctc", "flashlight", own):
            known = " or ".join(dict.fromkeys(("ctc", "flashlight", own)))
            raise NarspeechError(f"expected the decoder of this model ({known}), received {decoder!r}: name no other")
        if decoder in ("ctc", "flashlight") and self.model.ctc is None:
            raise NarspeechError(
                f"expected a model with a CTC head for the decoder {decoder}, received one without: name no decoder"
            )
        if decoder in (None, own) and not self.model.decoder.reads_scorer and (hotwords or self.lm_file is not None):
            raise NarspeechError(
                f"expected a decoder that hears a language model or hotwords, received {own}: take the decoder ctc"
            )
        options = options or self.options(decoder=decoder)
        # The bonus makes up for a language model's liking of short texts, and does harm without one.
        if self.lm_file is None:
            options = options.but(token_bonus=0.0)
        detector(vad, self.rate)  # that it cannot be had is told now, and not at the first long recording
        if decoder == "flashlight":
            if hotwords:
                raise NarspeechError(
                    f"expected no hotwords with the decoder flashlight, received {hotwords[0]!r}: take the decoder ctc"
                )
            return Hearing(options, decoder, self.flashlight, None, word_times, vad)
        scorer = fuse(self.lm, hotwords, self.model, options)
        return Hearing(options, decoder, "ctc" if decoder == "ctc" else None, scorer, word_times, vad)

    def __call__(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        batch_size: int = 8,
        hotwords: Sequence[str] = (),
        word_times: bool = True,
    ) -> list[Transcript]:
        """Transcripts of recordings at the model's rate, in their order.

        word_times: align the words to the sound; without it they have no times, and their confidence is that of their
        weakest tokens, not calibrated, but for recordings of more than a minute, whose parts are joined by times.
        """
        group_size(batch_size)
        hearing = self.hearing(options, decoder, hotwords, word_times)
        found: dict[int, Transcript] = {}
        lengths = {index: len(audio.samples) for index, audio in enumerate(recordings)}
        for chosen in by_length(lengths, batch_size, self.most):
            found |= zip(chosen, self.batch([recordings[index] for index in chosen], hearing), strict=True)
        return [found[index] for index in range(len(recordings))]

    def batch(self, recordings: Sequence[Audio], hearing: Hearing) -> list[Transcript]:
        """Transcripts of recordings that are decoded together; one longer than LONG is cut into sections, as `long`
        says, and heard by itself."""
        other = next((recording.rate for recording in recordings if recording.rate != self.rate), None)
        if other is not None:
            raise NarspeechError(f"expected recordings at {self.rate} Hz, received {other} Hz: load them at that rate")
        cut = self.model.ctc is not None
        found: dict[int, Transcript] = {}
        for index, audio in enumerate(recordings):
            if cut and len(audio.samples) > LONG * self.rate:
                size = round(BLOCK * self.rate)
                blocks = np.split(audio.samples, range(size, len(audio.samples), size))
                found[index] = self._whole(blocks, audio, hearing, len(recordings))
        short = [index for index in range(len(recordings)) if index not in found]
        if short:
            began = time.perf_counter()
            some = [recordings[index] for index in short]
            heard = self.hear([audio.samples for audio in some], hearing)
            known = self._known(sum(audio.duration for audio in some), began)
            found |= {
                index: to_transcript(hypothesis, audio, aligned, **known)
                for index, audio, hypothesis, aligned in zip(short, some, heard.hypotheses, heard.aligned, strict=True)
            }
        return [found[index] for index in range(len(recordings))]

    def long(self, blocks: Iterable[Samples], hearing: Hearing, batch_size: int = 8) -> Iterator[Segment]:
        """The segments of a recording that comes in blocks of samples (N,) at the model's rate, in memory that does not
        depend on its length: cut in silence, and without the sections that do not sound like speech to the model.

        Raises ConfigError for a model without a CTC head, which has no times to join sections by.
        """
        if self.model.ctc is None:
            raise ConfigError(
                "expected a model with a CTC head for a long recording, received one without: cut it first"
            )
        timed = hearing._replace(word_times=True)

        def hear(sections: Sequence[Samples]) -> list[Aligned]:
            found: dict[int, Aligned] = {}
            lengths = {index: len(samples) for index, samples in enumerate(sections)}
            # The longest first: what is shorter fits into the memory that was freed. That is given back each time, or
            # the gaps between blocks of ever new sizes would add up over the hours.
            for chosen in reversed(by_length(lengths, batch_size, self.most)):
                heard = self.hear([sections[index] for index in chosen], timed)
                found |= zip(chosen, heard.aligned, strict=True)
                give_back_freed_memory()
            return [found[index] for index in range(len(sections))]

        typical = (self.model.config.calibration or Calibration()).typical
        voice = detector(hearing.vad, self.rate)
        return segments(blocks, self.rate, hear, typical=typical, together=2 * batch_size, voice=voice)

    def read(
        self, path: str | os.PathLike[str], hearing: Hearing, *, channel: int | None = None, batch_size: int = 8
    ) -> Transcript:
        """The transcript of a sound file of any length, of which only a few sections are in memory at a time."""
        sound = SoundStream(path, target_rate=self.rate, channel=channel, seconds=BLOCK)
        return self._whole(sound, sound, hearing, batch_size)

    def _whole(
        self, blocks: Iterable[Samples], sound: Audio | SoundStream, hearing: Hearing, batch_size: int
    ) -> Transcript:
        """A recording of several segments. What its sound tells of itself may be known only when it has been read."""
        began = time.perf_counter()
        heard = tuple(self.long(blocks, hearing, batch_size))
        known = self._known(sound.duration, began)
        warnings = sound.warnings + tuple(warning for segment in heard for warning in segment.warnings)
        if hearing.options.trace:
            warnings += (f"no trace of a recording of more than {LONG:.0f} s is kept: cut it up to have one",)
        steps = max((segment.steps for segment in heard), default=0)
        return Transcript.of(heard, duration=sound.duration, steps=steps, warnings=warnings, **known)

    def _known(self, seconds: float, began: float) -> dict[str, Any]:
        """What a transcript says of the model, and of its speed."""
        speed = seconds / max(time.perf_counter() - began, 1e-9)
        return {"speed": speed, "model": self.name, "language": self.model.config.language}

    def hear(self, sounds: Sequence[Samples], hearing: Hearing) -> Decoded:
        """Sounds (N,) at the model's rate, decoded together; encoded once for both the text and its times."""
        source = Padded.pack([torch.from_numpy(samples) for samples in sounds]).to(self.device)
        with torch.inference_mode():
            encoded = self.model.encode(source)
        found = decode_with(self.teacher, self.model, source, hearing.options, hearing.head, hearing.scorer, encoded)
        durations = [len(samples) / self.rate for samples in sounds]
        return Decoded(encoded, found, align(self.model, found, encoded.ctc if hearing.word_times else None, durations))


def to_transcript(hypothesis: Hypothesis, audio: Audio, aligned: Aligned, **known: Any) -> Transcript:
    """What was heard in a recording of one segment; known: fields of the Transcript that the caller can tell."""
    return Transcript.of(
        (Segment.of(aligned.words, 0.0, audio.duration),),
        duration=audio.duration,
        steps=hypothesis.steps,
        trace=hypothesis.trace,
        warnings=audio.warnings + aligned.warnings,
        **known,
    )


def load_sound(
    transcriber: Transcriber,
    source: AudioSource,
    hearing: Hearing,
    *,
    rate: int | None = None,
    channel: int | None = None,
    batch_size: int = 8,
) -> Audio | Transcript:
    """The sound of a source, to be heard with others, or at once the transcript of a file too long to be read whole."""
    if transcriber.model.ctc is not None and is_long_file(source):
        return transcriber.read(source, hearing, channel=channel, batch_size=batch_size)
    return load_audio(source, rate=rate, target_rate=transcriber.rate, channel=channel)


def is_long_file(source: AudioSource) -> TypeGuard[str | os.PathLike[str]]:
    """A sound file that is better not read whole."""
    # Opening a pipe could wait for ever.
    if not isinstance(source, str | os.PathLike) or not os.path.isfile(source):
        return False
    return header_seconds(Path(source)) > LONG


@lru_cache(maxsize=1)
def shared_transcriber(model: str | None, device: str | None, lm: str | None = None) -> Transcriber:
    """The last model used stays loaded, so that calling `transcribe` in a loop loads it once."""
    return Transcriber(model, device=device, lm=lm)


def find_transcriber(
    model: str | os.PathLike[str] | Model | None, device: str | None, lm: str | os.PathLike[str] | None
) -> Transcriber:
    """One of a given Model, or the shared one of a folder."""
    if isinstance(model, Model):
        return Transcriber(model, device=device, lm=lm)
    folder, lm_file = (None if path is None else os.fspath(path) for path in (model, lm))
    return shared_transcriber(folder, device, lm_file)


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
    word_times: bool
    vad: VadName
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
    decoder: "ctc" reads the CTC head alone, as does "flashlight", by a search that comes with the extra `lm`; steps,
    threshold: refinement budget and the confidence under which a token is refined, by default the model's own; lm: a
    language model's file, or "bundled" for the one in the model's folder; lm_weight: what it counts; beam: texts that a
    search through CTC keeps; hotwords: words or phrases to favour, spelt as the model writes; trace: keep every
    refinement step, of recordings up to a minute; word_times: say when each word is spoken, and how likely it is right;
    vad: what tells voice in recordings of more than a minute, their "energy" or "silero", a network of the extra `vad`;
    batch_size: recordings decoded together, on a CPU no more than a minute of sound.
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
    word_times: bool = True,
    vad: VadName = "energy",
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
    transcriber = find_transcriber(model, device, lm)
    options = transcriber.options(
        steps=steps, threshold=threshold, beam=beam, lm_weight=lm_weight, trace=trace, decoder=decoder
    )
    group_size(batch_size)
    hearing = transcriber.hearing(options, decoder, hotwords, word_times, vad)
    load = partial(load_sound, transcriber, hearing=hearing, rate=rate, channel=channel, batch_size=batch_size)
    decode = partial(transcriber.batch, hearing=hearing)
    total = len(recordings) if isinstance(recordings, Sized) else None
    found = tracked(outcomes(recordings, load, decode, batch_size, transcriber.most), total, progress)
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
