"""Compare the two beam searches through CTC, ours and flashlight's (extra `lm`), on the same posteriors.

    python scripts/compare_searches.py MANIFEST --examples 100 --beams 16 32 64 --batch-sizes 8 1

MANIFEST: JSONL of utterances with texts in the model's own spelling, of which `--examples`, spread evenly, are heard
once; then each search decodes them with the language model, in turns. Seconds are of the processor, one thread, medians
over the rounds, without the encoder.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from narspeech.batch import Encoded, Padded
from narspeech.data.audio import load_audio
from narspeech.data.example import read_manifest
from narspeech.evaluate.alignment import counts
from narspeech.evaluate.error_rate import ErrorRate
from narspeech.recipe import spread
from narspeech.transcriber import DecoderName, Transcriber

SEARCHES: tuple[DecoderName, ...] = ("ctc", "flashlight")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare beam searches through CTC.")
    parser.add_argument("manifest", type=Path, help="utterances with texts")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lm", default="bundled")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--beams", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transcriber = Transcriber(arguments.model, device="cpu", lm=arguments.lm)
    listed = read_manifest(arguments.manifest)
    (places,) = spread(len(listed), arguments.examples, arguments.examples)
    examples = sorted((listed[place] for place in places), key=lambda example: example.duration or 0.0)
    texts, posteriors = [example.text for example in examples], []
    for example in examples:
        sound = load_audio(example.audio, target_rate=transcriber.rate, start=example.start, duration=example.duration)
        with torch.inference_mode():
            encoded = transcriber.model.encode(Padded.pack([torch.from_numpy(sound.samples)]))
        assert encoded.ctc is not None
        posteriors.append(encoded.ctc.data[0])
    for search in SEARCHES:  # language models are read once
        transcriber.hearing(decoder=search)
    for size in arguments.batch_sizes:
        batches = [batch(posteriors[start : start + size]) for start in range(0, len(posteriors), size)]
        for beam in arguments.beams:
            seconds: dict[str, list[float]] = {search: [] for search in SEARCHES}
            found: dict[str, list[str]] = {}
            for _ in range(arguments.rounds):
                for search in SEARCHES:
                    began = time.process_time()
                    found[search] = decoded(transcriber, search, beam, batches)
                    seconds[search].append(time.process_time() - began)
            for search in SEARCHES:
                word, letter = (
                    100 * ErrorRate.of(counts(texts, found[search], unit=unit)).rate for unit in ("word", "character")
                )
                median = statistics.median(seconds[search])
                print(f"{search}, beam {beam}, batches of {size}: WER {word:.2f} CER {letter:.2f}, {median:.2f} s")


def batch(posteriors: list[torch.Tensor]) -> Encoded:
    ctc = Padded.pack(posteriors)
    states = Padded(ctc.data[..., :1], ctc.lengths)  # no search reads them
    return Encoded(states, states, ctc=ctc)


def decoded(transcriber: Transcriber, search: DecoderName, beam: int, batches: list[Encoded]) -> list[str]:
    hearing = transcriber.hearing(transcriber.options(beam=beam), search)
    model = transcriber.model
    with torch.inference_mode():
        heard = [model.decode(one.states, hearing.options, hearing.head, hearing.scorer, one) for one in batches]
    return [model.tokenizer.decode(hypothesis.tokens) for one in heard for hypothesis in one]


if __name__ == "__main__":
    main()
