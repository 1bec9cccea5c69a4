"""`narspeech transcribe`: many recordings in the shell, to stdout or into a tree of files."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from narspeech.data.audio import Audio
from narspeech.data.inputs import Recording, find_recordings, named_file, read_names
from narspeech.data.voice import VadName
from narspeech.errors import AudioError, CheckpointError, ConfigError, NarspeechError, complain
from narspeech.files import write_atomic
from narspeech.hearing_options import HearingOptions
from narspeech.outcomes import group_size, in_order, outcomes, tracked
from narspeech.result import Failure, Transcript
from narspeech.transcriber import Transcriber, load_sound
from narspeech.writers import STREAMS, WRITERS, WriteOptions, to_json

# After these no other file can be written either.
FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions(HearingOptions):
    """Write down what is said in sound files (wav, flac, ogg, opus, mp3, and with the extra `media` m4a, mp4, webm and
    more): to stdout, in the files' order, or with --out into a folder, where a file for each format is written that
    mirrors the path of the sound. Files that are there already are kept and their recordings skipped, so the same
    command goes on where it was stopped.

    Exit codes: 0 all done or skipped; 1 some failed, and the others are written; 2 bad usage; 3 the model cannot be
    loaded; 130 interrupted; 141 the reader of stdout went away."""

    files: tuple[str, ...]
    """Sound files; - for stdin; folders (with -r); patterns in quotes, as "talks/**/*.flac"; manifests (*.jsonl)."""
    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Go through folders, and the folders in them, for sound files."""
    files_from: str | None = None
    """A file with a name of a sound file on every line, - for stdin."""
    null: bool = False
    """In --files-from, names end with NUL, as find -print0 writes them, and not with a line."""
    vad: VadName = "energy"
    """What tells voice from silence in recordings of more than a minute: how loud they are, or Silero's network, which
    tells it from music too (pip install narspeech[vad])."""
    format: str = "txt"
    """txt, json, jsonl, srt, vtt, tsv, ctm, trn or TextGrid; with --out also several, such as srt,json. On stdout txt
    is a line a file, empty for one that failed, and jsonl an object a file with id, path and error for one that failed;
    the formats that cannot follow one another (json, srt, vtt, tsv, TextGrid) are for one file there."""
    out: Path | None = None
    """The folder to write to; it is made if need be."""
    root: Path | None = None
    """With --out: files lie there as they lie below this folder. By default what was found in a folder lies as in that
    folder, and another file at its own path."""
    overwrite: bool = False
    """Transcribe again what --out has already, and replace it."""
    line_width: int = 42
    """Characters on a line of subtitles at most."""
    lines: int = 2
    """Lines of a subtitle at most."""
    batch_size: int = 8
    """Files decoded together."""


class OutputError(NarspeechError):
    """What was heard cannot be written, of one recording."""


Emit = Callable[[Recording, Transcript | AudioError], None]


@dataclass(kw_only=True)
class Tally:
    """What has become of the recordings so far; seconds: of the sound of those that are done."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def count(self, result: Transcript | AudioError) -> None:
        if isinstance(result, AudioError):
            self.failed += 1
        else:
            self.done += 1
            self.seconds += result.duration

    def summary(self) -> str:
        speed = self.seconds / max(time.perf_counter() - self.began, 1e-9)
        return (
            f"{self.done} done, {self.skipped} skipped, {self.failed} failed; "
            f"{self.seconds / 3600:.3f} hours of sound at {speed:.1f} times real time"
        )


def main(argv: list[str]) -> int:
    """`narspeech transcribe`; `TranscribeOptions` tells the exit codes."""
    config = (tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff)
    options = tyro.cli(TranscribeOptions, args=argv, prog="narspeech transcribe", config=config)
    check(options)
    formats = chosen_formats(options.format)
    style = WriteOptions(line_width=options.line_width, lines=options.lines)
    recordings = given_recordings(options)
    emit: Emit
    if options.out is None:
        check_stdout(formats, len(recordings))
        todo, emit = recordings, partial(print_result, form=formats[0], style=style)
    else:
        tree = Tree(options.out, formats, style, overwrite=options.overwrite)
        tree.check(recordings)
        todo, emit = [recording for recording in recordings if tree.due(recording)], tree.write
    tally = Tally(skipped=len(recordings) - len(todo))
    try:
        # What is all done needs no model.
        transcriber = options.transcriber() if todo else None
    except (CheckpointError, ConfigError) as error:
        complain(str(error))
        return 3
    if transcriber is not None:
        run(transcriber, todo, options, emit, tally)
    complain(tally.summary())
    return 1 if tally.failed else 0


def check(options: TranscribeOptions) -> None:
    """Raises NarspeechError for options that make no sense together."""
    group_size(options.batch_size)
    if options.out is None and (options.overwrite or options.root is not None):
        raise NarspeechError("expected --out with --overwrite and --root, received none: name a folder to write to")
    if options.null and options.files_from is None:
        raise NarspeechError("expected --files-from with --null, received none: name a list of files, or - for stdin")
    if (options.files_from, *options.files).count("-") > 1:
        raise NarspeechError("expected stdin (-) once, received it again: give one list or one sound there")


def given_recordings(options: TranscribeOptions) -> list[Recording]:
    listed = [] if options.files_from is None else read_names(options.files_from, null=options.null)
    recordings = find_recordings(options.files, recursive=options.recursive, root=options.root)
    recordings += [named_file(name, options.root) for name in listed]
    if not recordings:
        raise NarspeechError(
            "expected at least one sound file, received none: name files after `narspeech transcribe`, or --files-from"
        )
    return recordings


def chosen_formats(names: str) -> tuple[str, ...]:
    """The formats in a list with commas, whatever the case of their letters. Raises NarspeechError."""
    known = {name.lower(): name for name in WRITERS}
    given = [name.strip().lower() for name in names.split(",")]
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise NarspeechError(f"expected --format to be of {', '.join(WRITERS)}, received {unknown!r}: take one of them")
    return tuple(dict.fromkeys(known[name] for name in given))


def check_stdout(formats: Sequence[str], num_recordings: int) -> None:
    """Raises NarspeechError for what one stream cannot hold."""
    if len(formats) > 1:
        raise NarspeechError(f"expected one format for stdout, received {','.join(formats)}: give --out FOLDER")
    if num_recordings > 1 and formats[0] not in STREAMS:
        raise NarspeechError(
            f"expected one file to write as {formats[0]} to stdout, received {num_recordings}: give --out FOLDER, "
            f"or a format of {', '.join(sorted(STREAMS))}"
        )


def run(
    transcriber: Transcriber, recordings: Sequence[Recording], options: TranscribeOptions, emit: Emit, tally: Tally
) -> None:
    """Transcribe the recordings, emit what becomes of them in their order, and count it."""
    hearing = options.hearing(transcriber, options.vad)

    def load(recording: Recording) -> Audio | Transcript:
        if recording.is_file:
            return load_sound(transcriber, recording.path, hearing, batch_size=options.batch_size)
        return recording.load(transcriber.rate)

    decode = partial(transcriber.batch, hearing=hearing)
    # Lines of text on the same terminal are progress enough, and would run into a bar.
    bar = sys.stderr.isatty() and not (options.out is None and sys.stdout.isatty())
    found = outcomes(recordings, load, decode, options.batch_size, transcriber.most)
    tally.began = time.perf_counter()
    try:
        for _, recording, result in in_order(tracked(found, len(recordings), bar)):
            for remark in remarks(recording, result):
                complain(remark)
            try:
                emit(recording, result)
            except OutputError as error:
                complain(f"{recording.path}: {error}")
                tally.failed += 1
                continue
            tally.count(result)
    except BaseException:
        complain(tally.summary())
        raise


def remarks(recording: Recording, result: Transcript | AudioError) -> list[str]:
    """What stderr should say of a recording."""
    if isinstance(result, AudioError):
        return [str(result)]
    return [f"{recording.path}: {warning}" for warning in result.warnings]


def print_result(recording: Recording, result: Transcript | AudioError, *, form: str, style: WriteOptions) -> None:
    """To stdout, at once. In plain text a failed one has an empty line, so that lines still match files."""
    if isinstance(result, Transcript):
        text = rendered(recording, result, form, style)
    elif form == "jsonl":
        failure = Failure(path=str(recording.path), reason=str(result))
        text = to_json(failure, labelled(style, recording))
    else:
        text = "\n" if form == "txt" else ""
    print(text, end="", flush=True)


def rendered(recording: Recording, transcript: Transcript, form: str, style: WriteOptions) -> str:
    """The transcript in a format. Raises OutputError where it lacks what the format needs."""
    try:
        return WRITERS[form](transcript, labelled(style, recording))
    except NarspeechError as error:
        raise OutputError(str(error)) from error


def labelled(style: WriteOptions, recording: Recording) -> WriteOptions:
    return replace(style, id=recording.id, path=str(recording.path))


class Tree:
    """A folder with a file for every recording and format, at the recording's place."""

    def __init__(self, folder: Path, formats: Sequence[str], style: WriteOptions, *, overwrite: bool) -> None:
        self.folder, self.formats, self.style, self.overwrite = folder, formats, style, overwrite

    def target(self, recording: Recording, form: str) -> Path:
        place = self.folder / recording.place
        return place.with_name(f"{place.name}.{form}")

    def due(self, recording: Recording) -> list[str]:
        """The formats that are to be written."""
        return [form for form in self.formats if self.overwrite or not os.path.isfile(self.target(recording, form))]

    def check(self, recordings: Sequence[Recording]) -> None:
        """Raises NarspeechError where one would write what another writes, or over a recording."""
        inputs = {os.path.realpath(recording.path): recording.path for recording in recordings}
        owners: dict[Path, Recording] = {}
        for recording in recordings:
            for target in (self.target(recording, form) for form in self.formats):
                other = owners.setdefault(target, recording)
                if other is not recording:
                    raise NarspeechError(
                        f"expected an output of its own for every file, received {other.path} and {recording.path}, "
                        f"which would both write {target}: rename one, or transcribe them into different folders"
                    )
                if os.path.realpath(target) in inputs:
                    raise NarspeechError(
                        f"expected to write beside the recordings, received {recording.path}, whose output would be "
                        f"the recording {target}: take another --out"
                    )

    def write(self, recording: Recording, result: Transcript | AudioError) -> None:
        """All formats that are due, or none where one cannot be made. Raises OutputError, and OSError where no other
        file could be written either."""
        if isinstance(result, AudioError):
            return
        due = self.due(recording)
        texts = {self.target(recording, form): rendered(recording, result, form, self.style) for form in due}
        for path, text in texts.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, text.encode())
            except OSError as error:
                if error.errno in FATAL:
                    raise
                raise OutputError(f"expected to write {path}, received {error}") from error
