"""Measure what the weight of hotwords finds, and what it makes up, with a language model and without one.

    python scripts/compare_hotwords.py MANIFEST --limit 160 --half 1

MANIFEST: JSONL of utterances with speakers, and texts in the model's own spelling. About `--limit` of them, as many of
every speaker, are heard by the decoder ctc in batches of eight. A batch is given as hotwords the three words of each of
its utterances that are rarest in MANIFEST (ties go by the alphabet) and 50 other words of MANIFEST that nobody says in
the batch, all of at least `--letters` letters. For every weight, where 0 stands for no hotwords: the share of hotwords
said that are found, how often a hotword stands where it was not said, and WER.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from speakers import chosen, first_half

from narspeech.data.audio import Audio, load_audio
from narspeech.data.example import Example, read_manifest
from narspeech.decoders.base import DecodeOptions
from narspeech.evaluate.alignment import aligned, counts
from narspeech.evaluate.error_rate import ErrorRate
from narspeech.transcriber import Transcriber

BATCH, RAREST, OTHERS = 8, 3, 50


class Batch(NamedTuple):
    """What is heard together, what is said there, and what is favoured."""

    sounds: list[Audio]
    texts: list[str]
    hotwords: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare weights of hotwords.")
    parser.add_argument("manifest", type=Path, help="utterances with texts and speakers")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lm", default="bundled")
    parser.add_argument("--limit", type=int, help="take about so many utterances, as many of every speaker")
    parser.add_argument("--half", type=int, choices=(1, 2), help="of the speakers; by default all are heard")
    parser.add_argument("--weights", type=float, nargs="+", default=[0, 0.5, 1, 1.5, 2, 3])
    parser.add_argument("--letters", type=int, default=4, help="of a hotword, at least")
    parser.add_argument("--beam", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the other words")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transcribers = {lm: Transcriber(arguments.model, device="cpu", lm=lm) for lm in (arguments.lm, None)}
    listed = read_manifest(arguments.manifest)
    first = first_half(listed)
    half = [one for one in listed if arguments.half in (None, 1 if str(one.speaker) in first else 2)]
    batches = prepared(listed, chosen(half, arguments.limit), arguments, transcribers[None].rate)
    hotwords = sum(len(batch.hotwords) for batch in batches) / len(batches)
    print(f"{sum(len(batch.texts) for batch in batches)} utterances, {hotwords:.1f} hotwords a batch")
    for lm, transcriber in transcribers.items():
        for weight in arguments.weights:
            options = transcriber.options(beam=arguments.beam).but(hotword_weight=weight)
            heard = [hear(transcriber, batch if weight else batch._replace(hotwords=[]), options) for batch in batches]
            print(f"language model {lm}, weight {weight:g}: {judged(batches, heard)}", flush=True)


def prepared(
    listed: Sequence[Example], examples: Sequence[Example], arguments: argparse.Namespace, rate: int
) -> list[Batch]:
    """The examples in batches, each with the rarest words of its utterances, and with others that none of them says."""
    generator = random.Random(arguments.seed)
    frequencies = Counter(word for example in listed for word in example.text.split())
    long = {word for word in frequencies if len(word) >= arguments.letters}
    batches = []
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        said = [set(example.text.split()) for example in some]
        rarest = [sorted(words & long, key=lambda word: (frequencies[word], word))[:RAREST] for words in said]
        others = generator.sample(sorted(long.difference(*said)), OTHERS)
        sounds = [load_audio(one.audio, target_rate=rate, start=one.start, duration=one.duration) for one in some]
        batches.append(Batch(sounds, [one.text for one in some], [*sorted(set().union(*rarest)), *others]))
    return batches


def hear(transcriber: Transcriber, batch: Batch, options: DecodeOptions) -> list[str]:
    found = transcriber(batch.sounds, options, decoder="ctc", hotwords=batch.hotwords, word_times=False)
    return [transcript.text for transcript in found]


def judged(batches: Sequence[Batch], heard: Sequence[Sequence[str]]) -> str:
    said, found, false, errors, utterances = 0, 0, 0, ErrorRate(), 0
    for batch, texts in zip(batches, heard, strict=True):
        hotwords = set(batch.hotwords)
        edits = [edit for text in aligned(batch.texts, texts) for edit in text]
        said += sum(edit.reference in hotwords for edit in edits)
        found += sum(edit.reference in hotwords and edit.reference == edit.hypothesis for edit in edits)
        false += sum(edit.hypothesis in hotwords and edit.reference != edit.hypothesis for edit in edits)
        errors += ErrorRate.of(counts(batch.texts, texts))
        utterances += len(texts)
    return (
        f"{100 * found / said:.1f} % of {said} found, {100 * false / utterances:.1f} false per 100 utterances, "
        f"WER {100 * errors.rate:.2f}"
    )


if __name__ == "__main__":
    main()
