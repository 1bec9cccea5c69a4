"""From recordings to transcripts: `transcribe()` for Python, `narspeech transcribe` for the shell."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import torch
import tyro

from narspeech.batch import Padded
from narspeech.checkpoint import load
from narspeech.data.audio import Audio, AudioSource, load_audio
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import AudioError, NarspeechError
from narspeech.model import Model
from narspeech.result import Hypothesis, Transcript, Word
from narspeech.tokenizer import Tokenizer

BUNDLED = Path(__file__).parent / "models" / "english"

DecoderName = Literal["ctc", "mask_ctc"]


class Transcriber:
    """A loaded model that transcribes: load it once, call it often.

    model: a checkpoint folder, a Model, or None for the small English model in the package; device: "cpu", "cuda", ..., or
    None for CUDA where there is one.
    """

    def __init__(self, model: str | os.PathLike[str] | Model | None = None, *, device: str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = (model if isinstance(model, Model) else load(model or BUNDLED)).to(self.device).eval()
        self.rate = self.model.config.frontend.rate

    def options(
        self, *, steps: int | None = None, threshold: float | None = None, trace: bool = False
    ) -> DecodeOptions:
        """The model's own decoding settings, with what is given here in their place."""
        given = {"steps": steps, "threshold": threshold, "trace": trace}
        return replace(self.model.config.decoding, **{name: x for name, x in given.items() if x is not None})

    def __call__(
        self,
        recordings: Sequence[Audio],
        options: DecodeOptions | None = None,
        *,
        decoder: DecoderName | None = None,
        batch_size: int = 8,
    ) -> list[Transcript]:
        """Transcripts of recordings at the model's rate, in their order; batches hold recordings of like length."""
        order = sorted(range(len(recordings)), key=lambda index: len(recordings[index].samples))
        transcripts: dict[int, Transcript] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            samples = [torch.from_numpy(recordings[index].samples) for index in chosen]
            source = Padded.pack(samples).to(self.device)
            hypotheses = self.model.decode(source, options, "ctc" if decoder == "ctc" else None)
            for index, hypothesis in zip(chosen, hypotheses, strict=True):
                transcripts[index] = to_transcript(hypothesis, recordings[index], self.model.tokenizer)
        return [transcripts[index] for index in range(len(recordings))]


def to_transcript(hypothesis: Hypothesis, audio: Audio, tokenizer: Tokenizer) -> Transcript:
    """Text, words and confidence: a token's is exp(score), a word's the least of its tokens', the whole's their mean."""
    confidence = [math.exp(score) for score in hypothesis.scores]
    words = tuple(
        Word(text=text, confidence=min(confidence[place], default=0.0))
        for text, place in tokenizer.words(hypothesis.tokens)
    )
    return Transcript(
        text=" ".join(word.text for word in words),
        words=words,
        duration=audio.duration,
        confidence=sum(word.confidence for word in words) / len(words) if words else 0.0,
        steps=hypothesis.steps,
        trace=hypothesis.trace,
        warnings=audio.warnings,
    )


@lru_cache(maxsize=1)
def shared_transcriber(model: str | None, device: str | None) -> Transcriber:
    """The last model used stays loaded, so that calling `transcribe` in a loop loads it once."""
    return Transcriber(model, device=device)


@overload
def transcribe(recording: AudioSource, **settings: Any) -> Transcript: ...
@overload
def transcribe(recording: list[AudioSource] | tuple[AudioSource, ...], **settings: Any) -> list[Transcript]: ...
def transcribe(
    recording: AudioSource | list[AudioSource] | tuple[AudioSource, ...],
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
) -> Transcript | list[Transcript]:
    """The words in a recording, in lower case; a list of recordings gives a list, in order.

    recording: a path, bytes, a file object, or samples as a numpy array or tensor with their `rate` in Hz; channel: which one
    to hear, None for the mean of all; model: a checkpoint folder or Model, None for the bundled English one; decoder: "ctc"
    reads the CTC head alone; steps, threshold: refinement budget and the confidence under which a token is refined, by default
    the model's own. Raises AudioError for the first recording that cannot be read.
    """
    if isinstance(model, Model):
        transcriber = Transcriber(model, device=device)
    else:
        transcriber = shared_transcriber(None if model is None else os.fspath(model), device)
    options = transcriber.options(steps=steps, threshold=threshold, trace=trace)
    many = isinstance(recording, list | tuple)
    sources: Sequence[Any] = recording if many else [recording]
    audio = [load_audio(source, rate=rate, target_rate=transcriber.rate, channel=channel) for source in sources]
    transcripts = transcriber(audio, options, decoder=decoder, batch_size=batch_size)
    return transcripts if many else transcripts[0]


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions:
    """Write down what is said in sound files (wav, flac, ogg, opus, mp3): results on stdout, in the order of the files."""

    files: tyro.conf.Positional[tuple[Path, ...]]
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
    """text: the words, a line a file; jsonl: an object a file with id, path, text, duration, confidence."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Files decoded together."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; by default CUDA where there is one."""


def main(argv: list[str]) -> int:
    """`narspeech transcribe`: 0 all files transcribed, 1 some failed (the others are written), 2 bad usage."""
    options = tyro.cli(TranscribeOptions, args=argv, prog="narspeech transcribe")
    if not options.files:
        raise NarspeechError("expected at least one sound file, received none: name files after `narspeech transcribe`")
    if options.batch_size < 1:
        raise NarspeechError(f"expected --batch-size of at least 1, received {options.batch_size}")
    transcriber = Transcriber(options.model, device=options.device)
    failed = 0
    # A few batches at a time: like lengths can be put together, and results come while later files wait.
    group = 4 * options.batch_size
    for start in range(0, len(options.files), group):
        for path, outcome in transcribe_files(transcriber, options.files[start : start + group], options):
            if isinstance(outcome, AudioError):
                failed += 1
                print(f"narspeech: {outcome}", file=sys.stderr)
            else:
                for warning in outcome.warnings:
                    print(f"narspeech: {path}: {warning}", file=sys.stderr)
            line = outcome_line(path, outcome, options.format)
            if line is not None:
                print(line, flush=True)
    if failed:
        print(f"narspeech: {failed} of {len(options.files)} files failed", file=sys.stderr)
    return 1 if failed else 0


def transcribe_files(
    transcriber: Transcriber, paths: Iterable[Path], options: TranscribeOptions
) -> Iterator[tuple[Path, Transcript | AudioError]]:
    """Every path with its transcript, or with the reason why there is none."""
    loaded: list[tuple[Path, Audio | AudioError]] = []
    for path in paths:
        try:
            loaded.append((path, load_audio(path, target_rate=transcriber.rate)))
        except AudioError as error:
            loaded.append((path, error))
    decoding = transcriber.options(steps=options.steps, threshold=options.threshold)
    recordings = [audio for _, audio in loaded if isinstance(audio, Audio)]
    transcripts = iter(
        transcriber(recordings, decoding, decoder=options.decoder, batch_size=options.batch_size) if recordings else []
    )
    for path, audio in loaded:
        yield path, next(transcripts) if isinstance(audio, Audio) else audio


def outcome_line(path: Path, outcome: Transcript | AudioError, form: Literal["text", "jsonl"]) -> str | None:
    """What goes to stdout for a file; nothing for a failed one in plain text."""
    if form == "text":
        return None if isinstance(outcome, AudioError) else outcome.text
    entry: dict[str, Any] = {"id": path.stem, "path": str(path)}
    if isinstance(outcome, AudioError):
        return json.dumps(entry | {"error": str(outcome)}, ensure_ascii=False)
    return json.dumps(entry | record(outcome), ensure_ascii=False)


def record(transcript: Transcript) -> dict[str, Any]:
    """The part of a JSON line that a transcript fills."""
    return {
        "text": transcript.text,
        "duration": round(transcript.duration, 3),
        "confidence": round(transcript.confidence, 4),
    }
