"""Compare a model's word times with those of another aligner on real speech: pip install pocketsphinx, and then

    python scripts/compare_times.py MODEL MANIFEST

Both are given the true text. Utterances with a word that pocketsphinx cannot pronounce are left out, and counted.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from narspeech import checkpoint
from narspeech.align import align
from narspeech.batch import Padded
from narspeech.data.audio import Audio, load_audio
from narspeech.data.example import read_manifest
from narspeech.model import Model
from narspeech.result import Hypothesis

RATE = 16000  # of pocketsphinx's own model


def other_times(library: Any, audio: Audio, text: str) -> list[tuple[float, float]] | None:
    """Beginning and end of each word in seconds by pocketsphinx, None where it cannot align them all."""
    decoder = library.Decoder(samprate=RATE, loglevel="FATAL", bestpath=False)
    if any(decoder.lookup_word(word) is None for word in text.split()):
        return None
    decoder.set_align_text(text)
    decoder.start_utt()
    decoder.process_raw((np.clip(audio.samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    found = [part for part in decoder.seg() or () if part.word[0] not in "<[("]
    if [part.word.partition("(")[0] for part in found] != text.split():
        return None
    return [(part.start_frame / 100, (part.end_frame + 1) / 100) for part in found]


@torch.inference_mode()
def own_times(model: Model, audio: Audio, text: str) -> list[tuple[float, float]]:
    tokens = tuple(model.tokenizer.encode(text))
    ctc = model.encode(Padded.pack([torch.from_numpy(audio.samples)])).ctc
    (found,) = align(model, [Hypothesis(tokens=tokens, scores=(0.0,) * len(tokens))], ctc, [audio.duration])
    return [(word.start or 0.0, word.end or 0.0) for word in found.words]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare word times with pocketsphinx's.")
    parser.add_argument("model", type=Path, help="a checkpoint folder")
    parser.add_argument("manifest", type=Path, help="speech with texts")
    arguments = parser.parse_args()
    model, library = checkpoint.load(arguments.model), import_module("pocketsphinx")
    late: list[tuple[float, float]] = []
    examples, skipped = read_manifest(arguments.manifest), 0
    for example in examples:
        audio = load_audio(example.audio, target_rate=RATE, start=example.start, duration=example.duration)
        reference = other_times(library, audio, example.text)
        if reference is None:
            skipped += 1
            continue
        pairs = zip(own_times(model, audio, example.text), reference, strict=True)
        late += [(own[0] - other[0], own[1] - other[1]) for own, other in pairs]
    for name, values in zip(("beginnings", "ends"), np.array(late).T * 1000, strict=True):
        print(
            f"{name}: {len(values)} words, median difference {np.median(abs(values)):.0f} ms, "
            f"90 % within {np.quantile(abs(values), 0.9):.0f} ms, ours later by {np.median(values):.0f} ms"
        )
    print(f"{skipped} of {len(examples)} utterances left out")


if __name__ == "__main__":
    main()
