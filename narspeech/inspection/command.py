"""`narspeech inspect`: the page of a recording, in the shell."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from narspeech.errors import AudioError, CheckpointError, ConfigError, NarspeechError, complain
from narspeech.files import write_atomic
from narspeech.hearing_options import HearingOptions
from narspeech.inspection.inspector import check_stretch, load_stretch, make, told_settings
from narspeech.picture import check_svg


@dataclass(frozen=True, kw_only=True)
class InspectOptions(HearingOptions):
    """Write an HTML page that shows what a model did with a recording: its features, the probabilities of CTC, words
    in time, and the refinement step by step. The page is one file, plays the sound, and needs no network.

    Exit codes: 0 written; 1 the recording cannot be heard or the page not be written; 2 bad usage; 3 the model cannot
    be loaded."""

    file: tyro.conf.Positional[str]
    """A sound file of any kind that `narspeech transcribe` reads; - for stdin."""
    start: float = 0.0
    """Show the recording from this second on."""
    end: float | None = None
    """Show it up to this second, at most a minute from --start; by default that minute."""
    out: Path | None = None
    """The page; by default the name of the file with .html, in the working directory."""
    picture: Path | None = None
    """Also draw the panel with the time axis into this SVG file."""
    overwrite: bool = False
    """Replace what is there already."""
    sound: bool = True
    """Without the sound, which is otherwise in the page, to be played there."""


def main(argv: list[str]) -> int:
    """`narspeech inspect`; `InspectOptions` tells the exit codes."""
    options = tyro.cli(InspectOptions, args=argv, prog="narspeech inspect", config=(tyro.conf.FlagCreatePairsOff,))
    check_stretch(options.start, options.end)
    name = "stdin" if options.file == "-" else options.file
    out = options.out or Path(Path(name).stem + ".html")
    if options.picture is not None and os.path.realpath(options.picture) == os.path.realpath(out):
        raise NarspeechError(f"expected two files for page and picture, received {out} for both: name another")
    if options.picture is not None:
        check_svg(options.picture)
    for path in (out, options.picture):
        check_target(path, options)
    try:
        transcriber = options.transcriber()
    except (CheckpointError, ConfigError) as error:
        complain(str(error))
        return 3
    hearing = options.hearing(transcriber)
    settings = told_settings(transcriber, hearing, options.lm, options.hotword)
    source = sys.stdin.buffer if options.file == "-" else options.file
    try:
        stretch = load_stretch(source, transcriber.rate, options.start, options.end)
    except AudioError as error:
        complain(str(error))
        return 1
    pages = make(transcriber, hearing, stretch, name, settings, sound=options.sound)
    for remark in pages.remarks:
        complain(remark)
    for path, text in ((out, pages.html), (options.picture, pages.svg)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
            print(path)
    return 0


def check_target(path: Path | None, options: InspectOptions) -> None:
    """Raises NarspeechError where a file must not be written."""
    if path is None:
        return
    if os.path.realpath(path) == os.path.realpath(options.file):
        raise NarspeechError(f"expected to write beside the recording, received {path} for both: take another --out")
    if path.is_dir() or (path.exists() and not options.overwrite):
        raise NarspeechError(
            f"expected a file that is not there yet, received {path}: give --overwrite to replace it, or another name"
        )
