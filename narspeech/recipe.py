"""A recipe: where the data comes from and how a model is trained on it, in stages that also run alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch

from narspeech import checkpoint
from narspeech import tokenizer as tokenizers
from narspeech.config import from_dict, to_dict
from narspeech.data.corpus import refuse
from narspeech.data.dataset import collate
from narspeech.data.split import Split, split
from narspeech.decoders.base import DecodeOptions
from narspeech.distill import Teacher, check_distilled
from narspeech.errors import ConfigError, NarspeechError
from narspeech.evaluate.measure import Bleu, ErrorRates, Measure
from narspeech.evaluate.texts import read_texts
from narspeech.files import write_atomic
from narspeech.model import Model
from narspeech.profile import Recipe
from narspeech.tasks.base import Input, RecipeConfig, Task, TaskName, settings
from narspeech.tasks.speech import Speech
from narspeech.tasks.translation import Text
from narspeech.tokenizer import Tokenizer
from narspeech.train import distributed
from narspeech.train.average import average
from narspeech.train.curves import draw_curves
from narspeech.train.experiment import read_settings, refuse_changes, write_settings
from narspeech.train.state import best_weights, saved
from narspeech.train.trainer import Trainer, TrainingSet
from narspeech.train.validation import best_threshold, evaluate_epoch
from narspeech.train.vocabulary import keep_tokenizer, make_tokenizer

# What a run may begin with.
STARTS = ("init", "init_decoder", "distilled")
# Fewer speakers than these cannot spare one.
FEW_SPEAKERS = 5

TASKS: dict[TaskName, tuple[type[Input[Any]], type[Measure]]] = {
    "recognition": (Speech, ErrorRates),
    "translation": (Text, Bleu),
    "speech_translation": (Speech, Bleu),
}


class Run:
    """A recipe at work in folder `out`, on the corpora under `data`, which only the first stage needs.

    One folder is one experiment: raises ConfigError where an earlier run left other settings. It remembers `init`, the
    checkpoint that it starts from, `init_decoder`, that whose decoder and vocabulary it takes instead of that one's (as
    for speech translation from a model of text), and `distilled`, the folder of the texts that a teacher wrote for it
    to learn.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path | None,
        out: Path,
        *,
        download: bool = True,
        init: Path | None = None,
        init_decoder: Path | None = None,
        distilled: Path | None = None,
    ) -> None:
        self.sources, self.config = recipe
        self.data, self.out, self.download = data, out, download
        self.init, self.init_decoder, self.distilled = init, init_decoder, distilled
        self.checkpoints, self.final = out / "checkpoints", out / "final"
        self.rank, _ = distributed.start()
        settings(self.config, self.config.model.decoding)  # refuses what would be refused after the training
        self._claim()

    @cached_property
    def task(self) -> Task:
        read, judge = TASKS[self.config.task]
        return Task(read(self.config, self.out), judge())

    def stages(self, names: Sequence[str]) -> None:
        """One stage after the other; under torchrun all processes train, and the first alone does the rest.

        Raises NarspeechError before the first where a package is missing that a later one needs.
        """
        if not SCORING.isdisjoint(names):  # else it would show after the first epoch
            self.task.measure.check_installed()
        for name in names:
            if self.rank == 0:
                print(f"narspeech: {name}", file=sys.stderr)
            if self.rank == 0 or name == "train":
                STAGES[name](self)
            distributed.wait()

    # --- stages, in order

    def prepare(self) -> None:
        """Manifests of every part."""
        if self.data is None:
            raise ConfigError("expected --data for the stage prepare, received none: name the folder of the corpora")
        for source in self.sources:
            parts = tuple(dict.fromkeys(source.train + source.test + source.dev))
            source.prepare(self.data, self.out / "manifests" / source.name, parts, download=self.download)

    def train(self) -> None:
        """From scratch, from `init`, or from where this run was interrupted."""
        config, task = self.config, self.task
        train, held_out = self._training_examples()
        tokenizer = self._tokenizer(train)
        train = self._rewritten(train)  # after the vocabulary, so that teacher and students share it
        if self.rank > 0:  # one process decodes the sound and aligns it, the others find that done
            distributed.wait()
        dataset = task.input.training_set(train, tokenizer, self.init)
        evaluation = partial(
            evaluate_epoch,
            references=[task.input.reference(example) for example in held_out],
            data=task.input.dataset(held_out, tokenizer, "held-out"),
            together=task.input.together,
            measure=task.measure,
        )
        if self.rank == 0:
            distributed.wait()
        torch.manual_seed(config.train.seed)
        model = Model(config.model, tokenizer)
        if not saved(self.checkpoints):  # else the trainer takes everything from there
            self._start(model, dataset)
        Trainer(model, config.train, dataset, self.out, evaluation).train()
        if self.rank == 0:
            self._draw()

    def average(self) -> None:
        """final/: the mean of the best epochs, with the threshold that is best on the held-out part."""
        tokenizer = tokenizers.load(self.out / "tokenizer")
        model = Model(self.config.model, tokenizer)
        model.load_state_dict(average(best_weights(self.checkpoints)))
        model = model.to(distributed.device()).eval()
        model.config = replace(model.config, decoding=self._choose_decoding(model))
        checkpoint.save(self.final, model)

    def decode(self) -> None:
        """decode/<part>.<setting>.jsonl for every test part: CTC, and the model's decoder at every budget."""
        model = checkpoint.load(self.final, device=distributed.device())
        folder = self.out / "decode"
        folder.mkdir(exist_ok=True)
        for part, manifest in self._manifests("test").items():
            ways = settings(self.config, model.config.decoding)
            for way, entries in self.task.input.decode(model, self.task.input.read(manifest), part, ways):
                content = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
                write_atomic(folder / f"{part}.{way.name}.jsonl", content.encode())

    def score(self) -> None:
        """scores.json: WER and CER, or BLEU and chrF, of every decoded part and setting; a table on stdout."""
        scores: dict[str, Any] = {}
        for part, manifest in self._manifests("test").items():
            references = {example.id: self.task.input.reference(example) for example in self.task.input.read(manifest)}
            for way in settings(self.config, self.config.model.decoding):
                hypotheses = read_texts(self.out / "decode" / f"{part}.{way.name}.jsonl")
                scored = self.task.measure.score(references, hypotheses)
                scores.setdefault(part, {})[way.name] = scored.result
                print(f"{part:24} {way.name:20} {scored.shown}")
        checkpoint.write_json(self.out / "scores.json", scores)

    def distill(self) -> None:
        """distilled/: what final/ writes for the training parts, for students to learn (`--distilled`)."""
        read, folder = self.task.input, self.out / "distilled"
        teacher = Teacher(self.final, beam=self.config.decode.teacher_beam, device=distributed.device())
        for part, manifest in self._manifests("train").items():
            examples = read.read(manifest)
            data = read.dataset(examples, teacher.model.tokenizer, part)
            write = partial(self._write_distilled, folder / f"{part}.jsonl", examples)
            teacher.distill(folder, part, [example.id for example in examples], data, read.together, write)

    # --- what the stages share

    def _claim(self) -> None:
        """Note the settings in config.json, or compare them with those there; how is decoded and tested may change."""
        earlier = read_settings(self.out)
        settings: dict[str, Any] = {
            "format": checkpoint.FORMAT,
            "recipe": to_dict(self.config),
            "sources": {source.name: source.parts() for source in self.sources},
        }
        for name in STARTS:
            path = getattr(self, name)
            settings[name] = earlier.get(name) if path is None else str(path.absolute())
        if earlier:
            recipe = to_dict(from_dict(RecipeConfig, earlier["recipe"]))
            refuse_changes(self.out, {**settings, **earlier, "recipe": recipe}, settings, may_change)
        for path in (self.init, self.init_decoder):
            if path is not None:
                checkpoint.read_config(path)  # a wrong path shows now and not after an hour of preparation
        if self.distilled is not None:
            check_distilled(self.distilled)
        if self.config.fine_tuning and settings["init"] is None:
            raise ConfigError(
                "expected --init CHECKPOINT for a profile that only fine-tunes, received none: "
                "name a model of the language, such as narspeech/models/english"
            )
        for name in STARTS:
            setattr(self, name, None if settings[name] is None else Path(settings[name]))
        if self.rank == 0 and settings != earlier:
            write_settings(self.out, settings)

    def _manifests(self, use: Literal["train", "test", "dev"]) -> dict[str, Path]:
        """<corpus>-<part> and its manifest, for every part of that use."""
        return {
            f"{source.name}-{part}": self.out / "manifests" / source.name / f"{part}.jsonl"
            for source in self.sources
            for part in getattr(source, use)
        }

    def _examples(self, use: Literal["train", "test", "dev"]) -> list[Any]:
        return [example for path in self._manifests(use).values() for example in self.task.input.read(path)]

    def _training_examples(self) -> Split[Any]:
        """What is trained on, and what is held out."""
        config, read = self.config.data, self.task.input
        examples, dev = self._examples("train"), self._examples("dev")
        if dev:
            places = spread(len(dev), total=config.held_out)
            train, held_out = examples, [dev[place] for chunk in places for place in chunk]
        else:
            speakers = {example.speaker or example.id for example in examples}
            train, held_out = split(
                examples,
                count=min(config.held_out, max(1, len(examples) // 5)),
                seed=config.seed,
                by="speaker" if len(speakers) >= FEW_SPEAKERS else "utterance",
            )
        kept = [example for example in train if read.length(example) <= config.longest]
        if self.rank == 0 and len(kept) < len(train):
            number = len(train) - len(kept)
            print(f"left out {number} {read.noun} longer than {config.longest:g} {read.unit}", file=sys.stderr)
        return Split(kept, held_out)

    def _tokenizer(self, examples: Sequence[Any]) -> Tokenizer:
        """Made once, on the training texts; a resumed run reads it again."""
        folder = self.out / "tokenizer"
        if self.rank == 0 and not (folder / "tokenizer.json").exists():
            texts = self.task.input.texts(examples)
            if self.init_decoder is None:
                tokenizer = make_tokenizer(self.config.tokenizer, texts, self.init)
            else:
                kept = tokenizers.load(self.init_decoder)
                tokenizer = keep_tokenizer(kept, self.init_decoder, texts, "do without --init-decoder")
            tokenizer.save(folder)
        distributed.wait()
        return tokenizers.load(folder)

    def _rewritten(self, examples: Sequence[Any]) -> list[Any]:
        """The examples with the texts that a teacher wrote, if there is one. It may have read what is heard here."""
        if self.distilled is None:
            return list(examples)
        paths = [self.distilled / f"{part}.jsonl" for part in self._manifests("train")]
        if not all(path.is_file() for path in paths):  # the teacher's corpus is another, of the same ids
            paths = sorted(self.distilled.glob("*.jsonl"))
        written = {name: text for path in paths for name, text in read_texts(path).items()}
        refuse(
            [example.id for example in examples if example.id not in written],
            f"every training example in {self.distilled}",
            "that are not there",
        )
        return [self.task.input.with_reference(example, written[example.id]) for example in examples]

    def _write_distilled(self, path: Path, examples: Sequence[Any], texts: Sequence[str]) -> None:
        """An example of which the teacher made nothing stays as it was."""
        read = self.task.input
        pairs = zip(examples, texts, strict=True)
        read.write(path, [read.with_reference(example, text) if text else example for example, text in pairs])

    def _start(self, model: Model, dataset: TrainingSet) -> None:
        """The weights before the first update: those of `init` and `init_decoder`, and the data's statistics where they
        give none."""
        taken = set() if self.init_decoder is None else {"decoder"}
        fresh = set(model.state_dict())
        for path, parts in ((self.init, checkpoint.PARTS - taken), (self.init_decoder, taken)):
            if path is not None:
                fresh &= set(checkpoint.initialise(model, path, parts))
                if self.rank == 0:
                    print(f"initialised from {path}: {', '.join(sorted(parts))}", file=sys.stderr)
        if self.rank == 0 and len(fresh) < len(model.state_dict()):
            print(f"{len(fresh)} weights start anew: {', '.join(sorted(fresh)[:5])}", file=sys.stderr)
        if any(name.startswith("frontend.") for name in fresh):
            chunks = spread(len(dataset))
            model.frontend.fit(collate([dataset[0, index] for index in chunk]).source for chunk in chunks)

    def _draw(self) -> None:
        """Pictures are worth having, but no reason to stop before the weights are averaged."""
        try:
            draw_curves(self.out, self.out / "curves.png")
        except NarspeechError as error:
            print(f"narspeech: no curves.png: {error}", file=sys.stderr)

    def _choose_decoding(self, model: Model) -> DecodeOptions:
        """The largest budget of those that are tested, with the best threshold."""
        config, read, measure = self.config.decode, self.task.input, self.task.measure
        ways = settings(self.config, model.config.decoding)
        if ways[-1].decoder == "ctc":
            return model.config.decoding
        if not config.thresholds:
            return ways[-1].options
        _, held_out = self._training_examples()
        references = [read.reference(example) for example in held_out]
        data = read.dataset(held_out, model.tokenizer, "held-out")
        trials = [replace(ways[-1].options, threshold=threshold) for threshold in config.thresholds]
        return best_threshold(model, trials, references, data, read.together, measure)


STAGES: dict[str, Callable[[Run], None]] = {
    "prepare": Run.prepare,
    "train": Run.train,
    "average": Run.average,
    "decode": Run.decode,
    "score": Run.score,
    "distill": Run.distill,
}
USUAL = ("prepare", "train", "average", "decode", "score")
# These judge texts.
SCORING = frozenset({"train", "average", "score"})


def may_change(name: str) -> bool:
    """Whether runs into the same folder may differ in this setting."""
    return name.startswith("recipe.decode.") or (name.startswith("sources.") and name.endswith(".test"))


def spread(count: int, chunk: int = 16, total: int = 512) -> list[list[int]]:
    """Up to `total` indices spread evenly over `count`, in chunks."""
    chosen = sorted({count * place // total for place in range(total)})
    return [chosen[start : start + chunk] for start in range(0, len(chosen), chunk)]
