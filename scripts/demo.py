"""What the bundled model hears: the sample recording and, where a LibriSpeech part is at hand, a few real utterances.

Usage: python scripts/demo.py samples/demo.flac [--data LibriSpeech/dev-clean]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import narspeech
from narspeech.errors import NarspeechError


class Utterance(NamedTuple):
    """A recording and the words that its reader was given."""

    audio: Path
    reference: str


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Transcribe a sample recording and a few real utterances.")
    parser.add_argument("sample", type=Path, help="the sample recording")
    parser.add_argument("--data", type=Path, help="a part of LibriSpeech, such as dev-clean")
    arguments = parser.parse_args(argv)
    try:
        print(f"{arguments.sample} (a synthetic voice)\n  {narspeech.transcribe(arguments.sample).text}")
        if arguments.data is not None:
            show_utterances(one_per_speaker(arguments.data, 3))
    except NarspeechError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def show_utterances(utterances: list[Utterance]) -> None:
    """Print each reference above what CTC alone and Mask-CTC make of the sound."""
    audio = [utterance.audio for utterance in utterances]
    drafts = narspeech.transcribe(audio, decoder="ctc")
    refined = narspeech.transcribe(audio, decoder="mask_ctc")
    for utterance, draft, final in zip(utterances, drafts, refined, strict=True):
        print(f"\n{utterance.audio.name} (a real voice)")
        print(f"  reference  {utterance.reference}")
        print(f"  CTC        {draft.text}")
        print(f"  Mask-CTC   {final.text}")


def one_per_speaker(part: Path, count: int) -> list[Utterance]:
    """The first utterance of some speakers, spread evenly over the part; empty where it is no LibriSpeech layout."""
    speakers = sorted(part.glob("*/"))
    chosen = speakers[:: max(1, len(speakers) // count)][:count]
    return [utterance for speaker in chosen for utterance in islice(read_speaker(speaker), 1)]


def read_speaker(folder: Path) -> Iterator[Utterance]:
    """The utterances of one speaker that have sound, by id; the sound may have any suffix."""
    for transcript in sorted(folder.glob("*/*.trans.txt")):
        for line in transcript.read_text(encoding="utf-8").splitlines():
            name, _, words = line.partition(" ")
            audio = next(transcript.parent.glob(f"{name}.*"), None)
            if audio is not None:
                yield Utterance(audio, words.lower())


if __name__ == "__main__":
    sys.exit(main())
