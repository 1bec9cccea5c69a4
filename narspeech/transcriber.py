"""From recordings to transcripts: `transcribe()` for Python, `narspeech transcribe` for the shell."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np
import torch

from narspeech.align import Aligned, align, untimed
from narspeech.batch import Padded
from narspeech.calibration import Calibration
from narspeech.checkpoint import ready
from narspeech.data.audio import Audio, AudioSource, load_audio
from narspeech.data.batching import by_length
from narspeech.data.sound_file import Samples
from narspeech.data.sound_stream import SoundStream, header_seconds
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import AudioError, ConfigError, NarspeechError
from narspeech.longform import segments
from narspeech.model import Model
from narspeech.result import Hypothesis, Segment, Transcript, Word
from narspeech.search.rescore import decode_with, find_teacher

# Seconds: what is longer is cut into sections. It is read in blocks of so many seconds.
LONG, BLOCK = 60.0, 10.0
BUNDLED = Path(__file__).parent / "models" / "english"

DecoderName = Literal["ctc", "mask_ctc"]
Item = TypeVar("Item")


class Transcriber:
    """A loaded model that transcribes: load it once, call it often.

    model: a checkpoint folder, a Model (which is put into evaluation mode), or None for the small English model in the
    package; device: "cpu", "cuda", ..., or None for where a given Model is, else CUDA where there is one; teacher: an
    autoregressive model, or its folder, that chooses among the candidates (noisy parallel decoding).
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        device: str | None = None,
        teacher: str | os.PathLike[str] | Model | None = None,
    ) -> None:
        self.model = ready(BUNDLED if model is None else model, device)
        self.device = self.model.device
        self.rate = self.model.config.frontend.rate
        if not self.rate:
            raise ConfigError("expected a model that hears sound, received one that reads text: translate with it")
        self.teacher = None if teacher is None else find_teacher(teacher, self.model)

    def options(
        self, *, steps: int | None = None, threshold: float | None = None, trace: bool = False
    ) -> DecodeOptions:
        """The model's own decoding settings, with what is given here in their place."""
        return self.model.config.decoding.but(steps=steps, threshold=threshold, trace=trace)

    def __call__(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        batch_size: int = 8,
        word_times: bool = True,
    ) -> list[Transcript]:
        """Transcripts of recordings at the model's rate, in their order."""
        found = dict(self.stream(recordings, options, decoder=decoder, batch_size=batch_size, word_times=word_times))
        return [found[index] for index in range(len(recordings))]

    def stream(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        batch_size: int = 8,
        word_times: bool = True,
    ) -> Iterator[tuple[int, Transcript]]:
        """Index and transcript of every recording as soon as it is done; batches hold recordings of like length.

        word_times: align the words to the sound; without it they have no times, and their confidence is that of their
        weakest tokens, not calibrated.
        """
        self._check(recordings, decoder, batch_size)
        for chosen in by_length({index: len(audio.samples) for index, audio in enumerate(recordings)}, batch_size):
            batch = [recordings[index] for index in chosen]
            yield from zip(chosen, self.batch(batch, options, decoder, word_times=word_times), strict=True)

    def batch(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        decoder: DecoderName | None = None,
        *,
        word_times: bool = True,
    ) -> list[Transcript]:
        """Transcripts of recordings that are decoded together; one longer than LONG is cut into sections, as `long`
        says, and heard by itself."""
        found: dict[int, Transcript] = {}
        short = []
        for index, audio in enumerate(recordings):
            if len(audio.samples) > LONG * self.rate and word_times and self.model.ctc is not None:
                size = round(BLOCK * self.rate)
                blocks = np.split(audio.samples, range(size, len(audio.samples), size))
                heard = tuple(self.long(blocks, options, decoder=decoder, batch_size=len(recordings)))
                found[index] = whole(heard, audio.duration, audio.warnings)
            else:
                short.append(index)
        if short:
            some = [recordings[index] for index in short]
            hypotheses, aligned = self._hear([audio.samples for audio in some], options, decoder, word_times)
            found |= zip(short, map(to_transcript, hypotheses, some, aligned), strict=True)
        return [found[index] for index in range(len(recordings))]

    def long(
        self,
        blocks: Iterable[Samples],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        batch_size: int = 8,
    ) -> Iterator[Segment]:
        """The segments of a recording that comes in blocks of samples (N,) at the model's rate, in memory that does not
        depend on its length: cut in silence, and without the sections that do not sound like speech to the model.

        Raises ConfigError for a model without a CTC head, which has no times to join sections by.
        """
        if self.model.ctc is None:
            raise ConfigError(
                "expected a model with a CTC head for a long recording, received one without: cut it first"
            )

        def hear(sections: Sequence[Samples]) -> list[tuple[Word, ...]]:
            words: dict[int, tuple[Word, ...]] = {}
            for chosen in by_length({index: len(samples) for index, samples in enumerate(sections)}, batch_size):
                _, aligned = self._hear([sections[index] for index in chosen], options, decoder, True)
                words |= zip(chosen, (one.words for one in aligned), strict=True)
            return [words[index] for index in range(len(sections))]

        typical = (self.model.config.calibration or Calibration()).typical
        return segments(blocks, self.rate, hear, typical=typical, together=2 * batch_size)

    def read(
        self,
        path: str | os.PathLike[str],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        channel: int | None = None,
        batch_size: int = 8,
    ) -> Transcript:
        """The transcript of a sound file of any length, of which only a few sections are in memory at a time."""
        sound = SoundStream(path, target_rate=self.rate, channel=channel, seconds=BLOCK)
        heard = tuple(self.long(sound, options, decoder=decoder, batch_size=batch_size))
        return whole(heard, sound.duration, sound.warnings)

    def _hear(
        self,
        sounds: Sequence[Samples],
        options: DecodeOptions | None,
        decoder: DecoderName | None,
        word_times: bool,
    ) -> tuple[list[Hypothesis], list[Aligned]]:
        """What is decoded together, encoded once for both the text and its times."""
        source = Padded.pack([torch.from_numpy(samples) for samples in sounds]).to(self.device)
        head: Literal["ctc"] | None = "ctc" if decoder == "ctc" else None
        with torch.inference_mode():
            encoded = self.model.encode(source)
        hypotheses = decode_with(self.teacher, self.model, source, options, head, encoded)
        if not word_times:
            return hypotheses, [Aligned(untimed(self.model.tokenizer, hypothesis)) for hypothesis in hypotheses]
        durations = [len(samples) / self.rate for samples in sounds]
        return hypotheses, align(self.model, hypotheses, encoded.ctc, durations)

    def _check(self, recordings: Sequence[Audio], decoder: DecoderName | None, batch_size: int) -> None:
        check_batch_size(batch_size)
        own = self.model.config.decoder.kind
        if decoder not in (None, "ctc", own):
            known = " or ".join(dict.fromkeys(("ctc", own)))
            raise NarspeechError(f"expected the decoder of this model ({known}), received {decoder!r}: name no other")
        other = next((recording.rate for recording in recordings if recording.rate != self.rate), None)
        if other is not None:
            raise NarspeechError(f"expected recordings at {self.rate} Hz, received {other} Hz: load them at that rate")


def check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise NarspeechError(f"expected a batch size of at least 1, received {batch_size}: 8 is usual")


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in pieces of `size`, the last one maybe shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def group_size(batch_size: int) -> int:
    """How many recordings are in memory at a time: a few batches, so that like lengths can be put together."""
    check_batch_size(batch_size)
    return 4 * batch_size


def to_transcript(hypothesis: Hypothesis, audio: Audio, aligned: Aligned) -> Transcript:
    """What was heard in one recording; its confidence is the mean of its words'."""
    words = aligned.words
    return Transcript(
        text=" ".join(word.text for word in words),
        words=words,
        duration=audio.duration,
        confidence=sum(word.confidence for word in words) / len(words) if words else 0.0,
        steps=hypothesis.steps,
        trace=hypothesis.trace,
        warnings=audio.warnings + aligned.warnings,
    )


def whole(segments: tuple[Segment, ...], duration: float, warnings: tuple[str, ...]) -> Transcript:
    """A recording of several segments."""
    words = tuple(word for segment in segments for word in segment.words)
    confidence = sum(word.confidence for word in words) / max(len(words), 1)
    text = " ".join(segment.text for segment in segments)
    return Transcript(text=text, words=words, duration=duration, confidence=confidence, warnings=warnings)


@lru_cache(maxsize=1)
def shared_transcriber(model: str | None, device: str | None) -> Transcriber:
    """The last model used stays loaded, so that calling `transcribe` in a loop loads it once."""
    return Transcriber(model, device=device)


class Settings(TypedDict, total=False):
    """The settings of `transcribe`, for its overloads."""

    rate: int | None
    channel: int | None
    model: str | os.PathLike[str] | Model | None
    device: str | None
    decoder: DecoderName | None
    steps: int | None
    threshold: float | None
    batch_size: int
    trace: bool
    word_times: bool


# A str is a Sequence of str, but the first overload that fits wins.
@overload
def transcribe(  # type: ignore[overload-overlap]
    recording: AudioSource, **settings: Unpack[Settings]
) -> Transcript: ...
@overload
def transcribe(recording: Sequence[AudioSource], **settings: Unpack[Settings]) -> list[Transcript]: ...
def transcribe(
    recording: AudioSource | Sequence[AudioSource],
    *,
    rate: int | None = None,
    channel: int | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    device: str | None = None,
    decoder: DecoderName | None = None,
    steps: int | None = None,
    threshold: float | None = None,
    batch_size: int = 8,
    trace: bool = False,
    word_times: bool = True,
) -> Transcript | list[Transcript]:
    """What is said in a recording, in the language and case that the model was trained to write: the words in lower
    case, or a translation as it is printed. A list or tuple of recordings gives a list, in order.

    recording: a path, bytes, a file object, or samples as a numpy array or tensor with their `rate` in Hz; channel:
    which one to hear, None for the mean of all; model: a checkpoint folder or Model, None for the bundled English one;
    decoder: "ctc" reads the CTC head alone; steps, threshold: refinement budget and the confidence under which a token
    is refined, by default the model's own; word_times: say when each word is spoken.
    Raises AudioError for the first recording that cannot be read.
    """
    if isinstance(model, Model):
        transcriber = Transcriber(model, device=device)
    else:
        transcriber = shared_transcriber(None if model is None else os.fspath(model), device)
    options = transcriber.options(steps=steps, threshold=threshold, trace=trace)
    many = isinstance(recording, list | tuple)
    sources: Sequence[Any] = recording if isinstance(recording, list | tuple) else [recording]
    transcripts: list[Transcript] = []
    for part in parts(sources, group_size(batch_size)):
        short: dict[int, Audio] = {}
        found: dict[int, Transcript] = {}
        for index, source in enumerate(part):
            if is_long_file(source) and word_times:
                found[index] = transcriber.read(
                    source, options, decoder=decoder, channel=channel, batch_size=batch_size
                )
            else:
                short[index] = load_audio(source, rate=rate, target_rate=transcriber.rate, channel=channel)
        heard = transcriber(
            list(short.values()), options, decoder=decoder, batch_size=batch_size, word_times=word_times
        )
        found |= zip(short, heard, strict=True)
        transcripts += [found[index] for index in range(len(part))]
    return transcripts if many else transcripts[0]


def is_long_file(source: Any) -> bool:
    """A sound file that is better not read whole."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():  # opening a pipe could wait for ever
        return False
    return header_seconds(Path(source)) > LONG


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions:
    """Write down what is said in sound files (wav, flac, ogg, opus, mp3): results on stdout, in the files' order."""

    files: tuple[Path, ...]
    """Sound files."""
    model: Path | None = None
    """A checkpoint folder, such as OUT/final; by default the small English model in the package."""
    decoder: DecoderName | None = None
    """ctc: the CTC head alone, fastest; by default the model's own decoder."""
    steps: int | None = None
    """Refinement steps at most; by default what suits the model."""
    threshold: float | None = None
    """Refine tokens of less confidence (0 to 1); by default what suits the model."""
    format: Literal["text", "jsonl"] = "text"
    """text: the words, a line a file, empty for one that failed; jsonl: an object a file with id, path, text,
    duration, confidence and refinement steps, or with id, path and error."""
    batch_size: int = 8
    """Files decoded together."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; by default CUDA where there is one."""


def main(argv: list[str]) -> int:
    """`narspeech transcribe`: 0 all files transcribed, 1 some failed (the others are written), 2 bad usage."""
    # Python callers of this module need not pay for what only the command uses.
    import tyro
    from rich.console import Console
    from rich.progress import Progress

    options = tyro.cli(
        TranscribeOptions, args=argv, prog="narspeech transcribe", config=(tyro.conf.PositionalRequiredArgs,)
    )
    if not options.files:
        raise NarspeechError("expected at least one sound file, received none: name files after `narspeech transcribe`")
    size = group_size(options.batch_size)
    transcriber = Transcriber(options.model, device=options.device)
    failed = 0
    # Rich would send what is printed meanwhile to stderr.
    bar = Progress(
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task("transcribing", total=len(options.files))
    for paths in parts(options.files, size):
        with bar:  # it is gone while results are printed
            outcomes = transcribe_files(transcriber, paths, options, lambda: bar.advance(task))
        for path, outcome in zip(paths, outcomes, strict=True):
            failed += isinstance(outcome, AudioError)
            for remark in remarks(path, outcome):
                print("narspeech:", " ".join(remark.splitlines()), file=sys.stderr)
            print(outcome_line(path, outcome, options.format), flush=True)
    if failed:
        print(f"narspeech: {failed} of {len(options.files)} files failed", file=sys.stderr)
    return 1 if failed else 0


def transcribe_files(
    transcriber: Transcriber, paths: Sequence[Path], options: TranscribeOptions, advance: Callable[[], None]
) -> list[Transcript | AudioError]:
    """For every path its transcript, or the reason why there is none; `advance` is called whenever one is done."""
    decoding = transcriber.options(steps=options.steps, threshold=options.threshold)
    outcomes: dict[int, Transcript | AudioError] = {}
    recordings: dict[int, Audio] = {}
    for index, path in enumerate(paths):
        try:
            recordings[index] = load_audio(path, target_rate=transcriber.rate)
        except AudioError as error:
            outcomes[index] = error
            advance()
    places = list(recordings)
    done = transcriber.stream(
        list(recordings.values()), decoding, decoder=options.decoder, batch_size=options.batch_size
    )
    for place, transcript in done:
        outcomes[places[place]] = transcript
        advance()
    return [outcomes[index] for index in range(len(paths))]


def remarks(path: Path, outcome: Transcript | AudioError) -> list[str]:
    """What stderr should say of a file."""
    if isinstance(outcome, AudioError):
        return [str(outcome)]
    return [f"{path}: {warning}" for warning in outcome.warnings]


def outcome_line(path: Path, outcome: Transcript | AudioError, form: Literal["text", "jsonl"]) -> str:
    """What goes to stdout for a file. In plain text a failed one has an empty line, so that lines still match files."""
    if form == "text":
        return "" if isinstance(outcome, AudioError) else outcome.text
    found = {"error": str(outcome)} if isinstance(outcome, AudioError) else record(outcome)
    entry = {"id": path.stem, "path": str(path), **found}
    # Bytes of a file name that are no UTF-8 cannot be written as they are, but as escapes.
    as_it_is = not any("\ud800" <= character <= "\udfff" for character in str(path))
    return json.dumps(entry, ensure_ascii=not as_it_is)


def record(transcript: Transcript) -> dict[str, Any]:
    """The part of a JSON line that a transcript fills."""
    return {
        "text": transcript.text,
        "duration": round(transcript.duration, 3),
        "confidence": round(transcript.confidence, 4),
        "steps": transcript.steps,
    }
