"""Text in, text of another language out, both in one vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from narspeech.data.pairs import Pair, PairDataset, read_pairs, write_pairs
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.tasks.base import Input, Setting
from narspeech.tokenizer import Tokenizer
from narspeech.train.aligner import learn
from narspeech.translator import Translator, record


class Text(Input[Pair]):
    noun, unit, together = "pairs", "characters", 2048.0

    def read(self, manifest: Path) -> list[Pair]:
        return read_pairs(manifest)

    def write(self, manifest: Path, examples: Sequence[Pair]) -> None:
        write_pairs(manifest, examples)

    def length(self, example: Pair) -> float:
        return max(len(example.source), len(example.target))

    def reference(self, example: Pair) -> str:
        return example.target

    def with_reference(self, example: Pair, text: str) -> Pair:
        return replace(example, target=text)

    def texts(self, examples: Sequence[Pair]) -> list[str]:
        return [text for example in examples for text in (example.source, example.target)]

    def dataset(self, examples: Sequence[Pair], tokenizer: Tokenizer, name: str) -> PairDataset:  # noqa: ARG002
        return PairDataset(examples, tokenizer)

    def training_set(
        self,
        examples: Sequence[Pair],
        tokenizer: Tokenizer,
        init: Path | None,  # noqa: ARG002
    ) -> PairDataset:
        if self.config.model.ctc is not None and self.config.model.ctc.guided > 0:
            raise ConfigError(
                "expected --model.ctc.guided 0 for text, received more: only sound has times to be guided by"
            )
        return PairDataset(examples, tokenizer, guides=self._fertilities(examples, tokenizer))

    def _fertilities(self, examples: Sequence[Pair], tokenizer: Tokenizer) -> dict[str, list[int]] | None:
        if not self.config.data.fertilities:
            return None
        sources = tokenizer.encode_batch([example.source for example in examples])
        targets = tokenizer.encode_batch([example.target for example in examples])
        counts = learn(sources, targets).fertilities(sources, targets)
        return {example.id: row.tolist() for example, row in zip(examples, counts, strict=True)}

    def decode(
        self,
        model: Model,
        examples: Sequence[Pair],
        name: str,  # noqa: ARG002
        ways: Sequence[Setting],
    ) -> Iterator[tuple[Setting, list[dict[str, Any]]]]:
        translators = {way.teacher: Translator(model, teacher=way.teacher) for way in ways}
        sources, size = [example.source for example in examples], self.config.decode.batch_size
        for way in ways:
            found = translators[way.teacher](sources, way.options, decoder=way.decoder, batch_size=size)
            yield (
                way,
                [
                    {"id": example.id, "source": example.source, **record(translation, model.tokenizer)}
                    for example, translation in zip(examples, found, strict=True)
                ],
            )
