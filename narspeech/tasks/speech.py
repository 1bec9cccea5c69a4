"""Sound in, text out: recognition, and translation where the manifest's text is of another language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from narspeech import tokenizer as tokenizers
from narspeech.data.audio import Audio
from narspeech.data.batching import by_length
from narspeech.data.dataset import SpeechDataset
from narspeech.data.example import Example, read_manifest, write_manifest
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.result import Transcript
from narspeech.tasks.base import Input, Setting
from narspeech.tokenizer import Tokenizer
from narspeech.train.guide import Starts, guide
from narspeech.transcriber import Transcriber

# Test utterances held in memory at a time.
DECODED_TOGETHER = 512


class Speech(Input[Example]):
    noun, unit, together = "utterances", "s", 240.0

    def read(self, manifest: Path) -> list[Example]:
        return read_manifest(manifest)

    def write(self, manifest: Path, examples: Sequence[Example]) -> None:
        write_manifest(manifest, examples)

    def length(self, example: Example) -> float:
        return example.duration

    def reference(self, example: Example) -> str:
        return example.text

    def with_reference(self, example: Example, text: str) -> Example:
        return replace(example, text=text)

    def texts(self, examples: Sequence[Example]) -> list[str]:
        return [example.text for example in examples]

    def dataset(self, examples: Sequence[Example], tokenizer: Tokenizer, name: str) -> SpeechDataset:
        return self._dataset(examples, tokenizer, name)

    def training_set(self, examples: Sequence[Example], tokenizer: Tokenizer, init: Path | None) -> SpeechDataset:
        if self.config.data.fertilities:
            raise ConfigError("expected --data.fertilities false for sound, received true: only text is aligned")
        starts = self._guide(examples, init)
        return self._dataset(examples, tokenizer, "train", self.config.data.speeds, starts)

    def decode(
        self, model: Model, examples: Sequence[Example], name: str, ways: Sequence[Setting]
    ) -> Iterator[tuple[Setting, list[dict[str, Any]]]]:
        transcribers = {way.teacher: Transcriber(model, teacher=way.teacher) for way in ways}
        recordings = self._dataset(examples, model.tokenizer, name)
        for way in ways:
            transcriber = transcribers[way.teacher]
            entries: dict[int, dict[str, Any]] = {}
            for chosen in by_length({i: example.duration for i, example in enumerate(examples)}, DECODED_TOGETHER):
                transcripts = transcriber(
                    [Audio(recordings[0, i].source.numpy(), transcriber.rate, examples[i].duration) for i in chosen],
                    way.options,
                    decoder=way.decoder,
                    batch_size=self.config.decode.batch_size,
                    word_times=False,  # nobody asks a run for them
                )
                for i, transcript in zip(chosen, transcripts, strict=True):
                    entries[i] = {"id": examples[i].id, "path": examples[i].audio, **record(transcript)}
            yield way, [entries[i] for i in range(len(examples))]

    def _dataset(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        name: str,
        speeds: tuple[float, ...] = (1.0,),
        starts: Starts | None = None,
    ) -> SpeechDataset:
        cache, seed, rate = self.out / "cache" / name, self.config.train.seed, self.config.model.frontend.rate
        return SpeechDataset(examples, tokenizer, rate=rate, speeds=speeds, seed=seed, cache=cache, starts=starts)

    def _guide(self, examples: Sequence[Example], init: Path | None) -> Starts | None:
        """When each character is spoken, by the model that the training starts from, if it is to be guided."""
        if self.config.model.ctc is None or self.config.model.ctc.guided == 0:
            return None
        if init is None:
            raise ConfigError(
                "expected --init CHECKPOINT for a guided training, received none: "
                "train the profile warm first, or give --model.ctc.guided 0"
            )
        sound = self._dataset(examples, tokenizers.load(init), "train")
        return guide(self.out / "starts.json", init, examples, sound)


def record(transcript: Transcript) -> dict[str, Any]:
    """What a run keeps of a transcript: what the same model makes of the same sound each time."""
    return {
        "text": transcript.text,
        "duration": round(transcript.duration, 3),
        "confidence": round(transcript.confidence, 4),
        "steps": transcript.steps,
    }
