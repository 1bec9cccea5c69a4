"""A recipe: where the data comes from and how a model is trained on it, in stages that also run alone."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import torch
import tyro

from narspeech import checkpoint
from narspeech import tokenizer as tokenizers
from narspeech.config import from_dict, override, to_dict
from narspeech.data.audio import Audio
from narspeech.data.dataset import SpeechDataset, collate
from narspeech.data.example import Example, read_manifest
from narspeech.data.split import Split, split
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import ConfigError, NarspeechError
from narspeech.evaluate.report import read_texts, score
from narspeech.files import write_atomic
from narspeech.model import Model, ModelConfig
from narspeech.tokenizer import Tokenizer
from narspeech.train import distributed
from narspeech.train.average import average
from narspeech.train.curves import draw_curves
from narspeech.train.experiment import read_settings, refuse_changes, write_settings
from narspeech.train.guide import Starts, guide
from narspeech.train.state import best_weights, saved
from narspeech.train.trainer import TrainConfig, Trainer
from narspeech.train.validation import evaluate_epoch, word_error_rate
from narspeech.train.vocabulary import TokenizerConfig, make_tokenizer
from narspeech.transcriber import Transcriber, record

# Fewer speakers than these cannot spare one.
FEW_SPEAKERS = 5
# Test utterances held in memory at a time.
DECODED_TOGETHER = 512


class Prepare(Protocol):
    """Writes a manifest for each of `parts` of the corpus in `data` and returns their paths by part."""

    def __call__(self, data: Path, out: Path, parts: Sequence[str], *, download: bool) -> dict[str, Path]: ...


class Source(NamedTuple):
    """A corpus: its name, its prepare function, and the parts that are trained and tested on."""

    name: str
    prepare: Prepare
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """held_out: about so many training utterances, at most a fifth and whole speakers where there are at least five,
    are kept aside to choose epochs and decoding settings; longest: longer training utterances (seconds) are left out,
    and counted; speeds: perturbation factors."""

    held_out: int = 200
    longest: float = 30.0
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """steps: the budgets at which a refining decoder is decoded and scored; thresholds: among them one is chosen on the
    held-out part, with the largest budget; batch_size: utterances decoded together."""

    steps: tuple[int, ...] = (1, 5, 10)
    thresholds: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Every number of an experiment; OUT/config.json holds it."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


class Recipe(NamedTuple):
    """What a profile function of a recipe.py returns."""

    sources: tuple[Source, ...]
    config: RecipeConfig


class Run:
    """A recipe at work in folder `out`, on the corpora under `data`, which only the first stage needs.

    One folder is one experiment: raises ConfigError where an earlier run left other settings. It remembers `init`.
    """

    def __init__(
        self, recipe: Recipe, data: Path | None, out: Path, *, download: bool = True, init: Path | None = None
    ) -> None:
        self.sources, self.config = recipe
        self.data, self.out, self.download, self.init = data, out, download, init
        self.checkpoints, self.final = out / "checkpoints", out / "final"
        self.rank, _ = distributed.start()
        self._claim()

    def stages(self, names: Sequence[str]) -> None:
        """One stage after the other; under torchrun all processes train, and the first alone does the rest."""
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
            parts = tuple(dict.fromkeys(source.train + source.test))
            source.prepare(self.data, self.out / "manifests" / source.name, parts, download=self.download)

    def train(self) -> None:
        """From scratch, from `init`, or from where this run was interrupted."""
        config = self.config
        train, held_out = self._training_examples()
        tokenizer = self._tokenizer(train)
        if self.rank > 0:  # one process decodes the sound and aligns it, the others find that done
            distributed.wait()
        dataset = self._dataset(train, tokenizer, "train", config.data.speeds, self._guide(train))
        evaluation = partial(evaluate_epoch, examples=held_out, data=self._dataset(held_out, tokenizer, "held-out"))
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
        """decode/<part>.<setting>.jsonl for every test part: CTC, and the model's decoder at every step budget."""
        transcriber = Transcriber(self.final)
        folder = self.out / "decode"
        folder.mkdir(exist_ok=True)
        for part, manifest in self._manifests("test").items():
            examples = read_manifest(manifest)
            recordings = self._dataset(examples, transcriber.model.tokenizer, part)
            for name, decoder, steps in self._settings():
                lines: dict[int, str] = {}
                for chosen in by_length(examples, DECODED_TOGETHER):
                    transcripts = transcriber(
                        [
                            Audio(recordings[0, i].source.numpy(), transcriber.rate, examples[i].duration)
                            for i in chosen
                        ],
                        transcriber.options(steps=steps),
                        decoder=decoder,
                        batch_size=self.config.decode.batch_size,
                    )
                    for i, transcript in zip(chosen, transcripts, strict=True):
                        entry = {"id": examples[i].id, "path": examples[i].audio, **record(transcript)}
                        lines[i] = json.dumps(entry, ensure_ascii=False) + "\n"
                content = "".join(lines[i] for i in range(len(examples)))
                write_atomic(folder / f"{part}.{name}.jsonl", content.encode())

    def score(self) -> None:
        """scores.json: WER and CER of every decoded part and setting; a table on stdout."""
        scores: dict[str, Any] = {}
        for part, manifest in self._manifests("test").items():
            references = read_texts(manifest)
            for name, _, _ in self._settings():
                result = score(references, read_texts(self.out / "decode" / f"{part}.{name}.jsonl"))
                scores.setdefault(part, {})[name] = result.to_dict()
                print(f"{part:24} {name:16} WER {100 * result.word.rate:6.2f}  CER {100 * result.character.rate:6.2f}")
        checkpoint.write_json(self.out / "scores.json", scores)

    # --- what the stages share

    def _claim(self) -> None:
        """Note the settings in config.json, or compare them with those there; how is decoded and tested may change."""
        earlier = read_settings(self.out)
        init = earlier.get("init") if self.init is None else str(self.init.absolute())
        settings: dict[str, Any] = {
            "format": checkpoint.FORMAT,
            "recipe": to_dict(self.config),
            "sources": {name: {"train": list(train), "test": list(test)} for name, _, train, test in self.sources},
            "init": init,
        }
        if earlier:
            recipe = to_dict(from_dict(RecipeConfig, earlier["recipe"]))
            refuse_changes(self.out, {**settings, **earlier, "recipe": recipe}, settings, may_change)
        if self.init is not None:
            checkpoint.read_config(self.init)  # a wrong path shows now and not after an hour of preparation
        self.init = None if init is None else Path(init)
        if self.rank == 0 and settings != earlier:
            write_settings(self.out, settings)

    def _manifests(self, use: Literal["train", "test"]) -> dict[str, Path]:
        """<corpus>-<part> and its manifest, for every part of that use."""
        return {
            f"{source.name}-{part}": self.out / "manifests" / source.name / f"{part}.jsonl"
            for source in self.sources
            for part in getattr(source, use)
        }

    def _training_examples(self) -> Split:
        """What is trained on, and what is held out."""
        config = self.config.data
        examples = [example for path in self._manifests("train").values() for example in read_manifest(path)]
        speakers = {example.speaker or example.id for example in examples}
        train, held_out = split(
            examples,
            count=min(config.held_out, max(1, len(examples) // 5)),
            seed=config.seed,
            by="speaker" if len(speakers) >= FEW_SPEAKERS else "utterance",
        )
        kept = [example for example in train if example.duration <= config.longest]
        if self.rank == 0 and len(kept) < len(train):
            print(f"left out {len(train) - len(kept)} utterances longer than {config.longest:g} s", file=sys.stderr)
        return Split(kept, held_out)

    def _tokenizer(self, examples: Sequence[Example]) -> Tokenizer:
        """Made once, on the training texts; a resumed run reads it again."""
        folder = self.out / "tokenizer"
        if self.rank == 0 and not (folder / "tokenizer.json").exists():
            texts = [example.text for example in examples]
            make_tokenizer(self.config.tokenizer, texts, self.init).save(folder)
        distributed.wait()
        return tokenizers.load(folder)

    def _start(self, model: Model, dataset: SpeechDataset) -> None:
        """The weights before the first update: those of `init`, and the data's statistics where it gives none."""
        fresh = sorted(model.state_dict())
        if self.init is not None:
            fresh = checkpoint.initialise(model, self.init)
            if self.rank == 0:
                some = ", ".join(fresh[:5])
                print(f"initialised from {self.init}; {len(fresh)} weights start anew: {some}", file=sys.stderr)
        if any(name.startswith("frontend.") for name in fresh):
            chunks = spread(len(dataset))
            model.frontend.fit(collate([dataset[0, index] for index in chunk]).source for chunk in chunks)

    def _guide(self, examples: Sequence[Example]) -> Starts | None:
        """When each character is spoken, by the model that the training starts from, if it is to be guided."""
        if self.config.model.ctc is None or self.config.model.ctc.guided == 0:
            return None
        if self.init is None:
            raise ConfigError(
                "expected --init CHECKPOINT for a guided training, received none: "
                "train the profile warm first, or give --model.ctc.guided 0"
            )
        sound = self._dataset(examples, tokenizers.load(self.init), "train")
        return guide(self.out / "starts.json", self.init, examples, sound)

    def _draw(self) -> None:
        """Pictures are worth having, but no reason to stop before the weights are averaged."""
        try:
            draw_curves(self.out, self.out / "curves.png")
        except NarspeechError as error:
            print(f"narspeech: no curves.png: {error}", file=sys.stderr)

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

    def _settings(self) -> list[tuple[str, Literal["ctc"] | None, int | None]]:
        """Name, decoder and step budget of everything that is decoded."""
        kind = self.config.model.decoder.kind
        refined = [] if kind == "ctc" else [(f"{kind}-{steps}", None, steps) for steps in self.config.decode.steps]
        return [("ctc", "ctc", None), *refined]

    def _choose_decoding(self, model: Model) -> DecodeOptions:
        config = self.config.decode
        if self.config.model.decoder.kind == "ctc":
            return model.config.decoding
        options = replace(model.config.decoding, steps=max(config.steps))
        _, held_out = self._training_examples()
        dataset = self._dataset(held_out, model.tokenizer, "held-out")
        trials = [replace(options, threshold=threshold) for threshold in config.thresholds]
        rates = [word_error_rate(model, held_out, dataset, trial) for trial in trials]
        for trial, rate in zip(trials, rates, strict=True):
            print(f"held-out part: threshold {trial.threshold:g} WER {100 * rate:.2f}", file=sys.stderr)
        return trials[rates.index(min(rates))]


STAGES: dict[str, Callable[[Run], None]] = {
    "prepare": Run.prepare,
    "train": Run.train,
    "average": Run.average,
    "decode": Run.decode,
    "score": Run.score,
}


def may_change(name: str) -> bool:
    """Whether runs into the same folder may differ in this setting."""
    return name.startswith("recipe.decode.") or (name.startswith("sources.") and name.endswith(".test"))


def spread(count: int, chunk: int = 16, total: int = 512) -> list[list[int]]:
    """Up to `total` indices spread evenly over `count`, in chunks."""
    chosen = sorted({count * place // total for place in range(total)})
    return [chosen[start : start + chunk] for start in range(0, len(chosen), chunk)]


def by_length(examples: Sequence[Example], chunk: int) -> list[list[int]]:
    """The indices of the examples from short to long, in chunks."""
    order = sorted(range(len(examples)), key=lambda index: examples[index].duration)
    return [order[start : start + chunk] for start in range(0, len(order), chunk)]


def load_profile(reference: str) -> Recipe:
    """The recipe that `path/recipe.py:profile` names: the file is run, the function called."""
    path, colon, profile = reference.rpartition(":")
    if not colon:
        path, profile = reference, ""
    profiles: dict[str, Callable[[], Recipe]] = getattr(load_file(Path(path)), "PROFILES", {})
    if profile not in profiles:
        raise ConfigError(
            f"expected a profile of {path} ({', '.join(profiles)}), received {profile!r}: name it as {path}:profile"
        )
    return profiles[profile]()


def load_file(path: Path) -> ModuleType:
    """A Python file as a module, run once; recipes load their prepare.py, or another's recipe.py, so."""
    if not path.is_file():
        raise ConfigError(
            f"expected a recipe file, received {path}: name it as recipes/librispeech/recipe.py:mini_mask_ctc"
        )
    name = "narspeech_recipe_" + re.sub(r"\W", "_", str(path.resolve()))
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"expected a recipe file ending in .py, received {path}: rename it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def command(file: str, words: Sequence[str]) -> list[str]:
    """What `narspeech` is asked when the recipe `file` itself is started: `python recipe.py profile ...`."""
    profile, *rest = words or ["--help"]
    return ["run", *([profile] if profile.startswith("-") else [f"{file}:{profile}"]), *rest]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Prepare, train, average, decode and score by a recipe. Any setting follows by its dotted name, for example
    --train.epochs 10 --model.encoder.depth 8; --print-config shows them all."""

    recipe: tyro.conf.Positional[str]
    """path/recipe.py:profile"""
    data: Path | None = None
    """The folder that holds the corpora, or where they are downloaded to; a listing of your own recordings."""
    out: Path | None = None
    """The folder of this experiment; a run that was interrupted goes on from there."""
    stages: str = ",".join(STAGES)
    """Which stages, in order, with commas."""
    init: Path | None = None
    """A checkpoint folder to fine-tune from."""
    download: bool = True
    """Fetch official archives of missing parts."""
    print_config: bool = False
    """Print every setting and stop."""


def main(argv: list[str]) -> int:
    """`narspeech run`: 0 when every stage is done. Raises NarspeechError on bad settings or input."""
    settings, rest = dotted(argv)
    options = tyro.cli(RunOptions, args=rest, prog="narspeech run")
    recipe = load_profile(options.recipe)
    recipe = recipe._replace(config=override(recipe.config, settings))
    if options.print_config:
        print(json.dumps(to_dict(recipe.config), indent=2))
        return 0
    names = [name.strip() for name in options.stages.split(",")]
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise ConfigError(f"expected stages among {', '.join(STAGES)}, received {', '.join(unknown)}")
    if options.out is None:
        raise ConfigError("expected --out, received none: name the folder of this experiment")
    if options.data is None and "prepare" in names:
        raise ConfigError("expected --data for the stage prepare, received none: name the folder of the corpora")
    try:
        Run(recipe, options.data, options.out, download=options.download, init=options.init).stages(names)
    finally:
        distributed.stop()
    return 0


def dotted(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Settings by name, and the other words: ["x", "--train.epochs", "3", "--data.seed=1"] gives
    {"train.epochs": "3", "data.seed": "1"} and ["x"]."""
    values: dict[str, str] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, joined, value = word.partition("=")
        if not name.startswith("--") or "." not in name:
            others.append(word)
            continue
        if not joined:
            if not rest:
                raise ConfigError(f"expected a value after {name}, received the end of the command: give one")
            value = rest.pop(0)
        values[name.removeprefix("--")] = value
    return values, others
