"""A recipe: where the data comes from and how a model is trained on it, as stages that each resume and each run alone."""

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
from narspeech.data.batching import make_batches
from narspeech.data.dataset import SpeechDataset, collate
from narspeech.data.example import Example, read_manifest
from narspeech.data.split import split
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import ConfigError, NarspeechError, TrainingError
from narspeech.evaluate.error_rate import corpus
from narspeech.evaluate.report import read_texts, sample_lines, score
from narspeech.files import write_atomic
from narspeech.model import Model, ModelConfig
from narspeech.tokenizer import Tokenizer
from narspeech.train import distributed
from narspeech.train.curves import draw_curves
from narspeech.train.trainer import TrainConfig, Trainer
from narspeech.transcriber import Transcriber, record


class Prepare(Protocol):
    """Writes a manifest for each of `parts` of the corpus in `data` and returns their paths by part."""

    def __call__(self, data: Path, out: Path, parts: Sequence[str], *, download: bool) -> dict[str, Path]: ...


class Source(NamedTuple):
    """A corpus: its name (also of its folder under --data, if it has one there), its prepare function, and the parts that
    are trained and tested on."""

    name: str
    prepare: Prepare
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """held_out: about so many training utterances, whole speakers, are kept aside to choose epochs and decoding settings;
    longest: longer training utterances (seconds) are left out, and counted; speeds: perturbation factors."""

    held_out: int = 200
    longest: float = 30.0
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """size counts the special tokens; characters ignores it."""

    kind: Literal["characters", "unigram", "bpe"] = "unigram"
    size: int = 256


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """The budgets at which a refining decoder is decoded and scored, and the thresholds among which one is chosen on the
    held-out part, with the last budget."""

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
    """A recipe at work in folder `out`, on the corpora under `data`."""

    def __init__(
        self, recipe: Recipe, data: Path, out: Path, *, download: bool = True, init: Path | None = None
    ) -> None:
        self.sources, self.config = recipe
        self.data, self.out, self.download, self.init = data, out, download, init
        self.final = out / "final"

    # --- stages, in order

    def prepare(self) -> None:
        """Manifests of every part, and the configuration."""
        self._check_config()
        for source in self.sources:
            parts = tuple(dict.fromkeys(source.train + source.test))
            source.prepare(self.data, self.out / "manifests" / source.name, parts, download=self.download)

    def train(self) -> None:
        """From scratch, from `init`, or from where this run was interrupted."""
        rank, _ = distributed.start()
        config = self.config
        train, held_out = self._training_examples()
        tokenizer = self._tokenizer(train)
        torch.manual_seed(config.train.seed)
        model = Model(config.model, tokenizer)
        if rank == 0:  # one process decodes the sound, the others find it decoded
            self._dataset(train, tokenizer, "train")
        distributed.wait()
        dataset = self._dataset(train, tokenizer, "train", config.data.speeds)
        evaluation = partial(evaluate_epoch, examples=held_out, data=self._dataset(held_out, tokenizer, "held-out"))
        if self.init is not None:
            fresh = checkpoint.initialise(model, self.init)
            print(
                f"initialised from {self.init}; {len(fresh)} weights keep their own start: {fresh[:5]}", file=sys.stderr
            )
        else:
            model.frontend.fit(collate([dataset[0, index] for index in chunk]).source for chunk in spread(len(dataset)))
        Trainer(model, config.train, dataset, self.out, evaluation).train()
        if rank == 0:
            draw_curves(self.out, self.out / "curves.png")

    def average(self) -> None:
        """final/: the mean of the best epochs, with the threshold that is best on the held-out part."""
        tokenizer = tokenizers.load(self.out / "tokenizer")
        _, held_out = self._training_examples()
        dataset = self._dataset(held_out, tokenizer, "held-out")
        evaluation = partial(evaluate_epoch, examples=held_out, data=dataset)
        model = Trainer(
            Model(self.config.model, tokenizer), self.config.train, dataset, self.out, evaluation
        ).averaged()
        model.config = replace(model.config, decoding=self._choose_decoding(model, held_out, dataset))
        checkpoint.save(self.final, model)

    def decode(self) -> None:
        """decode/<part>.<setting>.jsonl for every test part: CTC, and the model's decoder at every step budget."""
        transcriber = Transcriber(self.final)
        for part, manifest in self._manifests("test").items():
            examples = read_manifest(manifest)
            recordings = self._dataset(examples, transcriber.model.tokenizer, part)
            audio = [
                Audio(recordings[0, index].samples.numpy(), transcriber.rate, example.duration)
                for index, example in enumerate(examples)
            ]
            for name, decoder, steps in self._settings():
                transcripts = transcriber(
                    audio, transcriber.options(steps=steps), decoder=decoder, batch_size=self.config.decode.batch_size
                )
                lines = [
                    json.dumps({"id": example.id, "path": example.audio, **record(transcript)}, ensure_ascii=False)
                    for example, transcript in zip(examples, transcripts, strict=True)
                ]
                path = self.out / "decode" / f"{part}.{name}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, "".join(line + "\n" for line in lines).encode())

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

    def _check_config(self) -> None:
        """One folder is one experiment: other settings would mix with what an earlier run left there."""
        path = self.out / "config.json"
        content = {"format": checkpoint.FORMAT, "recipe": to_dict(self.config)}
        if path.exists():
            earlier = from_dict(RecipeConfig, json.loads(path.read_text(encoding="utf-8"))["recipe"])
            if replace(earlier, decode=self.config.decode) != self.config:
                changed = differences(to_dict(earlier), to_dict(self.config))
                raise ConfigError(
                    f"expected the settings of the run in {self.out}, received other {', '.join(changed[:5])}: "
                    "choose another --out, or give the same settings"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(path, content)

    def _manifests(self, use: Literal["train", "test"]) -> dict[str, Path]:
        """<corpus>-<part> and its manifest, for every part of that use."""
        return {
            f"{source.name}-{part}": self.out / "manifests" / source.name / f"{part}.jsonl"
            for source in self.sources
            for part in getattr(source, use)
        }

    def _training_examples(self) -> tuple[list[Example], list[Example]]:
        config = self.config.data
        examples = [example for path in self._manifests("train").values() for example in read_manifest(path)]
        train, held_out = split(examples, count=config.held_out, seed=config.seed)
        kept = [example for example in train if example.duration <= config.longest]
        if len(kept) < len(train):
            print(f"left out {len(train) - len(kept)} utterances longer than {config.longest:g} s", file=sys.stderr)
        return kept, held_out

    def _tokenizer(self, examples: Sequence[Example]) -> Tokenizer:
        """Trained once on the training texts; a resumed run reads it again, a fine-tuned one takes its predecessor's."""
        config, folder = self.config.tokenizer, self.out / "tokenizer"
        if distributed.start()[0] == 0 and not (folder / "tokenizer.json").exists():
            texts = (example.text for example in examples)
            tokenizer: Tokenizer
            if config.kind == "characters":
                tokenizer = tokenizers.train_characters(texts)
            else:
                tokenizer = tokenizers.train_sentencepiece(texts, size=config.size, model_type=config.kind)
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer.save(folder)
        distributed.wait()
        return tokenizers.load(folder)

    def _dataset(
        self, examples: Sequence[Example], tokenizer: Tokenizer, name: str, speeds: tuple[float, ...] = (1.0,)
    ) -> SpeechDataset:
        config = self.config
        cache = self.out / "cache" / name
        rate = config.model.frontend.rate
        return SpeechDataset(examples, tokenizer, rate=rate, speeds=speeds, seed=config.train.seed, cache=cache)

    def _settings(self) -> list[tuple[str, Literal["ctc"] | None, int | None]]:
        """Name, decoder and step budget of everything that is decoded."""
        kind = self.config.model.decoder.kind
        refined = [] if kind == "ctc" else [(f"{kind}-{steps}", None, steps) for steps in self.config.decode.steps]
        return [("ctc", "ctc", None), *refined]

    def _choose_decoding(self, model: Model, examples: Sequence[Example], dataset: SpeechDataset) -> DecodeOptions:
        config = self.config.decode
        options = replace(model.config.decoding, steps=max(config.steps))
        if self.config.model.decoder.kind == "ctc":
            return options
        trials = [replace(options, threshold=threshold) for threshold in config.thresholds]
        rates = [word_error_rate(model, examples, dataset, trial) for trial in trials]
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


def spread(count: int, chunk: int = 16, total: int = 512) -> list[list[int]]:
    """Up to `total` indices spread evenly over `count`, in chunks."""
    chosen = list(range(0, count, max(1, count // total)))
    return [chosen[start : start + chunk] for start in range(0, len(chosen), chunk)]


def decode_texts(
    model: Model,
    examples: Sequence[Example],
    data: SpeechDataset,
    options: DecodeOptions | None,
    decoder: Literal["ctc"] | None,
) -> list[tuple[str, str]]:
    """Reference and hypothesis of every example."""
    pairs: dict[int, tuple[str, str]] = {}
    for batch in make_batches(data.durations(0), max_seconds=240.0, seed=0, epoch=0):
        source = collate([data[0, index] for index in batch]).source.to(model.device)
        for index, hypothesis in zip(batch, model.decode(source, options, decoder), strict=True):
            pairs[index] = (examples[index].text, model.tokenizer.decode(hypothesis.tokens))
    return [pairs[index] for index in range(len(examples))]


def word_error_rate(
    model: Model, examples: Sequence[Example], data: SpeechDataset, options: DecodeOptions | None
) -> float:
    return corpus(decode_texts(model, examples, data, options, None)).rate


def evaluate_epoch(model: Model, *, examples: Sequence[Example], data: SpeechDataset) -> dict[str, float]:
    """Error rates on the held-out part by CTC and by the model's decoder, with a look at three utterances on stderr."""
    scores: dict[str, float] = {}
    names: dict[str, Literal["ctc"] | None] = {"ctc": "ctc", model.config.decoder.kind: None}
    if model.config.decoder.kind == "ctc":
        names = {"ctc": None}
    for name, decoder in names.items():
        pairs = decode_texts(model, examples, data, None, decoder)
        words, characters = corpus(pairs), corpus(pairs, "character")
        reference = max(words.reference, 1)
        scores |= {
            f"{name}_wer": words.rate,
            f"{name}_cer": characters.rate,
            f"{name}_substitutions": words.substitutions / reference,
            f"{name}_deletions": words.deletions / reference,
            f"{name}_insertions": words.insertions / reference,
        }
        for reference_text, hypothesis in pairs[:: max(1, len(pairs) // 3)][:3]:
            print(f"[{name}]\n{sample_lines(reference_text, hypothesis)}", file=sys.stderr)
    # Words are all wrong for a while at first; characters tell the epochs apart.
    scores["score"] = scores[f"{model.config.decoder.kind}_wer"] + 1e-3 * scores[f"{model.config.decoder.kind}_cer"]
    return scores


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Dotted names at which two plain configurations differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [key for key in [*first, *(key for key in second if key not in first)]]
        return [x for key in keys for x in differences(first.get(key), second.get(key), f"{name}.{key}".lstrip("."))]
    return [] if first == second else [name]


def load_profile(reference: str) -> Recipe:
    """The recipe that `path/recipe.py:profile` names: the file is run, the function called."""
    path, _, profile = reference.partition(":")
    module = load_file(Path(path))
    profiles: dict[str, Callable[[], Recipe]] = module.PROFILES
    if profile not in profiles:
        raise ConfigError(f"expected a profile of {path} ({', '.join(profiles)}), received {profile!r}")
    return profiles[profile]()


def load_file(path: Path) -> ModuleType:
    """A Python file as a module; recipes load their prepare.py, or another recipe's, so."""
    if not path.is_file():
        raise ConfigError(
            f"expected a recipe file, received {path}: name it as recipes/librispeech/recipe.py:mini_mask_ctc"
        )
    name = "narspeech_recipe_" + re.sub(r"\W", "_", str(path.resolve()))
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Prepare, train, average, decode and score by a recipe. Any setting follows as --its.dotted.name value, for example
    --train.epochs 10 --model.encoder.depth 8."""

    recipe: tyro.conf.Positional[str]
    """path/recipe.py:profile"""
    data: Path
    """The folder that holds the corpora, or where they are downloaded to."""
    out: Path
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
    """`narspeech run`: 0 when every stage is done, 2 for bad usage or input."""
    options, rest = tyro.cli(RunOptions, args=argv, prog="narspeech run", return_unknown_args=True)
    recipe = load_profile(options.recipe)
    recipe = recipe._replace(config=override(recipe.config, dotted(rest)))
    if options.print_config:
        print(json.dumps(to_dict(recipe.config), indent=2))
        return 0
    unknown = [name for name in options.stages.split(",") if name not in STAGES]
    if unknown:
        raise ConfigError(f"expected stages among {', '.join(STAGES)}, received {', '.join(unknown)}")
    run = Run(recipe, options.data, options.out, download=options.download, init=options.init)
    try:
        for name in options.stages.split(","):
            print(f"narspeech: {name}", file=sys.stderr)
            STAGES[name](run)
    finally:
        distributed.stop()
    return 0


def dotted(arguments: Sequence[str]) -> dict[str, str]:
    """["--train.epochs", "3", "--data.seed=1"] -> {"train.epochs": "3", "data.seed": "1"}."""
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, joined, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise NarspeechError(f"expected a setting such as --train.epochs 10, received {name!r}")
        if not joined:
            if not rest:
                raise NarspeechError(f"expected a value after {name}, received the end of the command")
            value = rest.pop(0)
        values[name[2:]] = value
    return values
