"""From text to text: `translate()` for Python, `narspeech translate` for the shell."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch

from narspeech.batch import Padded
from narspeech.checkpoint import ready
from narspeech.data.batching import by_length
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import CheckpointError, ConfigError, NarspeechError, complain
from narspeech.files import write_atomic
from narspeech.model import Model
from narspeech.picture import cells, check_svg, draw_trace
from narspeech.result import Hypothesis, Translation
from narspeech.search.rescore import decode_with, find_teacher
from narspeech.tokenizer import Tokenizer

# English to German; beside the package, not in it: only a copy of the repository has it.
BUNDLED = Path(__file__).parents[1] / "models" / "en-de"
STDIN = Path("-")
# Tokens, padding included, that are translated together: one long line among others would take gigabytes.
MOST = 8192


class Translator:
    """A loaded model that translates: load it once, call it often.

    model: a checkpoint folder, a Model (which is put into evaluation mode), or None for the English to German one of
    the repository; device: "cpu", "cuda", ..., or None for where a given Model is, else CUDA where there is one;
    teacher: an autoregressive model, or its folder, that chooses among the candidates (noisy parallel decoding).
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        device: str | None = None,
        teacher: str | os.PathLike[str] | Model | None = None,
    ) -> None:
        self.model = ready(bundled() if model is None else model, device)
        self.device = self.model.device
        if self.model.config.frontend.rate:
            raise ConfigError("expected a model that reads text, received one that hears sound: transcribe with it")
        self.teacher = None if teacher is None else find_teacher(teacher, self.model)

    def options(
        self,
        *,
        steps: int | None = None,
        threshold: float | None = None,
        candidates: int | None = None,
        beam: int | None = None,
        trace: bool = False,
    ) -> DecodeOptions:
        """The model's own decoding settings, with what is given here in their place."""
        own = self.model.config.decoding
        return own.but(steps=steps, threshold=threshold, candidates=candidates, beam=beam, trace=trace)

    def __call__(
        self,
        texts: Sequence[str],
        options: DecodeOptions | None = None,
        *,
        decoder: Literal["ctc"] | None = None,
        batch_size: int = 32,
    ) -> list[Translation]:
        """Translations in the order of the texts; batches hold texts of like length, fewer where they are long. A text
        without a token, such as an empty one, has an empty translation. decoder "ctc" reads the CTC head alone."""
        if batch_size < 1:
            raise NarspeechError(f"expected a batch size of at least 1, received {batch_size}: 32 is usual")
        if decoder not in (None, "ctc"):
            raise NarspeechError(f"expected ctc or none as the decoder, received {decoder!r}: name no other")
        check_texts(texts)
        found = [Translation(text="")] * len(texts)
        tokens = self.model.tokenizer.encode_batch([" ".join(text.split()) for text in texts])
        for chosen in by_length({index: len(ids) for index, ids in enumerate(tokens) if ids}, batch_size, MOST):
            source = Padded.pack([torch.tensor(tokens[index]) for index in chosen]).to(self.device)
            hypotheses = decode_with(self.teacher, self.model, source, options, decoder)
            for index, hypothesis in zip(chosen, hypotheses, strict=True):
                found[index] = to_translation(hypothesis, self.model.tokenizer)
        return found


def check_texts(texts: object) -> None:
    """Raises NarspeechError for what is no list of texts of whole characters."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise NarspeechError(f"expected a list of texts, received {type(texts).__name__}: put the texts in a list")
    for text in texts:
        if not isinstance(text, str):
            raise NarspeechError(f"expected texts, received {type(text).__name__} among them: decode or leave it out")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise NarspeechError(f"expected text of whole characters, received {text!r}: read it as UTF-8")


def bundled() -> Path:
    """The folder of the repository's model. Raises CheckpointError where there is none."""
    if not BUNDLED.is_dir():
        raise CheckpointError(
            f"expected a model to translate with, received none, and the bundled one is not at {BUNDLED}: "
            "name a checkpoint folder (--model OUT/final)"
        )
    return BUNDLED


def to_translation(hypothesis: Hypothesis, tokenizer: Tokenizer) -> Translation:
    """A hypothesis and its alternatives as text."""
    return Translation(
        text=tokenizer.decode(hypothesis.tokens),
        tokens=pieces(hypothesis.tokens, tokenizer),
        scores=hypothesis.scores,
        steps=hypothesis.steps,
        trace=hypothesis.trace,
        alternatives=tuple(to_translation(other, tokenizer) for other in hypothesis.alternatives),
    )


def pieces(tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[str, ...]:
    return tuple(tokenizer.pieces[token] for token in tokens)


@lru_cache(maxsize=1)
def shared_translator(model: str | None, device: str | None, teacher: str | None) -> Translator:
    """The last model used stays loaded, so that calling `translate` in a loop loads it once."""
    return Translator(model, device=device, teacher=teacher)


class Settings(TypedDict, total=False):
    """The settings of `translate`, for its overloads."""

    model: str | os.PathLike[str] | Model | None
    device: str | None
    teacher: str | os.PathLike[str] | Model | None
    decoder: Literal["ctc"] | None
    steps: int | None
    threshold: float | None
    candidates: int | None
    beam: int | None
    batch_size: int
    trace: bool


# A str is a Sequence of str, but the first overload that fits wins.
@overload
def translate(text: str, **settings: Unpack[Settings]) -> Translation: ...  # type: ignore[overload-overlap]
@overload
def translate(text: Sequence[str], **settings: Unpack[Settings]) -> list[Translation]: ...
def translate(
    text: str | Sequence[str],
    *,
    model: str | os.PathLike[str] | Model | None = None,
    device: str | None = None,
    teacher: str | os.PathLike[str] | Model | None = None,
    decoder: Literal["ctc"] | None = None,
    steps: int | None = None,
    threshold: float | None = None,
    candidates: int | None = None,
    beam: int | None = None,
    batch_size: int = 32,
    trace: bool = False,
) -> Translation | list[Translation]:
    """The translation of a sentence; several sentences give a list, in order.

    model: a checkpoint folder or Model, None for the repository's English to German one; teacher: an autoregressive
    one that chooses among the candidates; decoder: "ctc" reads the CTC head alone; steps, threshold, candidates, beam:
    see `DecodeOptions`, by default the model's own; trace: keep every refinement step. Raises NarspeechError.
    """
    if isinstance(model, Model) or isinstance(teacher, Model):
        translator = Translator(model, device=device, teacher=teacher)
    else:
        path, judge = (None if x is None else os.fspath(x) for x in (model, teacher))
        translator = shared_translator(path, device, judge)
    options = translator.options(steps=steps, threshold=threshold, candidates=candidates, beam=beam, trace=trace)
    texts = [text] if isinstance(text, str) else text
    translations = translator(texts, options, decoder=decoder, batch_size=batch_size)
    return translations[0] if isinstance(text, str) else translations


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """Translate text: a line out for every line in, in their order. Without text or --input, stdin is read."""

    text: tuple[str, ...]
    """Sentences, each an argument; - alone stands for stdin."""
    input: Path | None = None
    """A UTF-8 file with a sentence a line; - for stdin."""
    model: Path | None = None
    """A checkpoint folder, such as OUT/final; by default models/en-de of the repository."""
    decoder: Literal["ctc"] | None = None
    """ctc: the CTC head alone; by default the model's own decoder."""
    steps: int | None = None
    """Refinement steps at most; by default what suits the model."""
    threshold: float | None = None
    """Of models with a CTC head: tokens less confident than this are refined; by default what suits the model."""
    candidates: int | None = None
    """Hypotheses refined side by side, such as lengths; by default what suits the model."""
    beam: int | None = None
    """Hypotheses that a search keeps; by default what suits the model."""
    teacher: Path | None = None
    """The checkpoint folder of an autoregressive model that chooses among the candidates."""
    format: Literal["text", "jsonl"] = "text"
    """text: the translation, empty for an empty line; jsonl: an object a line with id (the line's number), source,
    text, score (mean log-probability of a token), tokens, scores, steps, and alternatives where there are some."""
    trace: bool = False
    """With jsonl: also the tokens after the draft and after every step."""
    picture: Path | None = None
    """Also draw the refinement of the one sentence given into this SVG file."""
    batch_size: int = 32
    """Sentences translated together."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; by default CUDA where there is one."""


def main(argv: list[str]) -> int:
    """`narspeech translate`: 0 when everything is translated, 3 where the model cannot be loaded. Raises NarspeechError
    on bad usage or input."""
    # Python callers of this module need not pay for what only the command uses.
    import tyro

    config = (tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff)
    options = tyro.cli(TranslateOptions, args=argv, prog="narspeech translate", config=config)
    if options.text and options.input is not None:
        raise NarspeechError("expected text or --input, received both: give one of them")
    if options.text == ("-",):
        options = replace(options, text=(), input=STDIN)
    if options.picture is not None and len(options.text) != 1:
        raise NarspeechError("expected one sentence as an argument for --picture, received none or several: give one")
    if options.picture is not None:
        check_svg(options.picture)
    if options.trace and options.format != "jsonl":
        raise NarspeechError("expected --format jsonl with --trace, received text, which has no room for it: add it")
    try:
        translator = Translator(options.model, device=options.device, teacher=options.teacher)
    except (CheckpointError, ConfigError) as error:
        complain(str(error))
        return 3
    trace = options.trace or options.picture is not None
    decoding = translator.options(
        steps=options.steps,
        threshold=options.threshold,
        candidates=options.candidates,
        beam=options.beam,
        trace=trace,
    )
    number = 0
    with contextlib.ExitStack() as files:
        lines, together = _open(options, files)
        while group := list(islice(lines, together)):
            found = translator(group, decoding, decoder=options.decoder, batch_size=options.batch_size)
            for source, translation in zip(group, found, strict=True):
                number += 1
                line = translation.text
                if options.format == "jsonl":
                    entry = {"id": str(number), "source": source, **record(translation, translator.model.tokenizer)}
                    line = json.dumps(entry, ensure_ascii=False)
                print(line)
                if options.picture is not None:
                    options.picture.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(options.picture, picture(translation, translator.model.tokenizer).encode())
            sys.stdout.flush()
    return 0


def _open(options: TranslateOptions, files: contextlib.ExitStack) -> tuple[Iterator[str], int]:
    """The lines to translate, and how many to wait for: several batches, so that like lengths can be put together."""
    together = 16 * max(options.batch_size, 1)
    if options.text:
        return iter(options.text), together
    if options.input is None or options.input == STDIN:
        # Who types is answered line by line.
        return decoded(sys.stdin.buffer, "stdin"), 1 if sys.stdin.isatty() else together
    try:
        return decoded(files.enter_context(options.input.open("rb")), str(options.input)), together
    except OSError as error:
        raise NarspeechError(f"expected a readable file of sentences, received {error}: check --input") from None


def decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines of UTF-8 without their ends; only \\n ends a line. Raises NarspeechError."""
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise NarspeechError(f"expected UTF-8 text on line {number} of {name}, received {error}") from None


def picture(translation: Translation, tokenizer: Tokenizer) -> str:
    """The trace as an SVG document; what was decoded in one pass has one row."""
    rows = [(pieces(step.tokens, tokenizer), step.scores) for step in translation.trace]
    rows = rows or [(translation.tokens, translation.scores)]
    return draw_trace([cells(tokens, scores) for tokens, scores in rows])


def record(translation: Translation, tokenizer: Tokenizer) -> dict[str, Any]:
    """The part of a JSON line that a translation fills."""
    entry: dict[str, Any] = {
        "text": translation.text,
        "score": round(translation.score, 4),
        "steps": translation.steps,
        "tokens": translation.tokens,
        "scores": [round(score, 4) for score in translation.scores],
    }
    if translation.alternatives:
        entry["alternatives"] = [
            {"text": other.text, "score": round(other.score, 4)} for other in translation.alternatives
        ]
    if translation.trace:
        entry["trace"] = [pieces(step.tokens, tokenizer) for step in translation.trace]
    return entry
