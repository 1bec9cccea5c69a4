"""What a recipe must know of a task: every number of the experiment, and what the examples are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from narspeech.data.split import Named
from narspeech.decoders.base import DecodeOptions
from narspeech.evaluate.measure import Measure
from narspeech.model import DECODERS, Model, ModelConfig
from narspeech.search.rescore import check_choice
from narspeech.tokenizer import Tokenizer
from narspeech.train.trainer import TrainConfig, TrainingSet
from narspeech.train.vocabulary import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """held_out: about so many training utterances, at most a fifth and whole speakers where there are at least five,
    are kept aside to choose epochs and decoding settings; where a corpus names a dev part, so many of that at most;
    longest: longer training examples (seconds of sound, characters of text) are left out, and counted; speeds:
    perturbation factors of sound; fertilities: align the training pairs of text, and tell the decoder how many target
    tokens each source token gives, as NAT that copies by fertility needs."""

    held_out: int = 200
    longest: float = 30.0
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    fertilities: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """steps, beams, candidates: the test parts are decoded and scored at each combination, at the model's own steps
    where there are none; thresholds: among them one is chosen on the held-out part, with the largest budget;
    batch_size: utterances decoded together; teacher_beam: with which the stage distill decodes; teacher: the checkpoint
    folder of an autoregressive model, which then also chooses where there are several candidates or beams."""

    steps: tuple[int, ...] = (1, 5, 10)
    beams: tuple[int, ...] = (1,)
    candidates: tuple[int, ...] = (1,)
    thresholds: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
    batch_size: int = 16
    teacher_beam: int = 5
    teacher: Path | None = None


TaskName = Literal["recognition", "translation", "speech_translation"]


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Every number of an experiment; OUT/config.json holds it. fine_tuning: it is nothing without a checkpoint to start
    from, and is refused without one."""

    task: TaskName = "recognition"
    fine_tuning: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


class Setting(NamedTuple):
    """One way in which the test parts are decoded; its name is part of a file's."""

    name: str
    decoder: Literal["ctc"] | None
    options: DecodeOptions
    teacher: Path | Model | None = None


def settings(config: RecipeConfig, own: DecodeOptions) -> list[Setting]:
    """CTC, where there is a head, and the model's decoder at every budget, where there are several hypotheses with the
    teacher's choice too; `own`: what the model is decoded with. Raises ConfigError for a teacher without a choice."""
    kind, decode = config.model.decoder.kind, config.decode
    several = () if kind == "ctc" else DECODERS[kind].several  # the head is decoded in one way
    if decode.teacher is not None:
        check_choice(kind, several, own.but(beam=max(decode.beams), candidates=max(decode.candidates)))
    # The beam that suits the model's decoder says nothing of the one that suits the head.
    found = [] if config.model.ctc is None else [Setting("ctc", "ctc", own if kind == "ctc" else own.but(beam=1))]
    if kind == "ctc":
        return found
    for steps, beam, candidates in product(decode.steps or (None,), decode.beams, decode.candidates):
        name = kind if steps is None else f"{kind}-{steps}"
        name += f"-beam{beam}" * (beam > 1) + f"-candidates{candidates}" * (candidates > 1)
        options = own.but(steps=steps, beam=beam, candidates=candidates)
        found.append(Setting(name, None, options))
        if decode.teacher is not None and any(getattr(options, setting) > 1 for setting in several):
            found.append(Setting(f"{name}-teacher", None, options, decode.teacher))
    return found


Example = TypeVar("Example", bound=Named)


class Input(ABC, Generic[Example]):
    """The examples of a task: what is read, how it becomes tensors, and how whole parts of it are decoded.

    noun, unit: what an example and its length are called; together: padded length of a batch that is only decoded.
    """

    noun: ClassVar[str]
    unit: ClassVar[str]
    together: ClassVar[float]

    def __init__(self, config: RecipeConfig, out: Path) -> None:
        self.config, self.out = config, out

    @abstractmethod
    def read(self, manifest: Path) -> list[Example]:
        """The examples of a part. Raises ManifestError."""

    @abstractmethod
    def write(self, manifest: Path, examples: Sequence[Example]) -> None:
        """The inverse of `read`."""

    @abstractmethod
    def length(self, example: Example) -> float:
        """In the unit that `DataConfig.longest` counts."""

    @abstractmethod
    def reference(self, example: Example) -> str:
        """The text that should come out."""

    @abstractmethod
    def with_reference(self, example: Example, text: str) -> Example:
        """The same example with another text to learn, as a teacher wrote it."""

    @abstractmethod
    def texts(self, examples: Sequence[Example]) -> list[str]:
        """What the vocabulary is made of."""

    @abstractmethod
    def dataset(self, examples: Sequence[Example], tokenizer: Tokenizer, name: str) -> TrainingSet:
        """The examples as they are; `name` may name a cache."""

    @abstractmethod
    def training_set(self, examples: Sequence[Example], tokenizer: Tokenizer, init: Path | None) -> TrainingSet:
        """The examples as they are trained on, augmented, with what guides the training from checkpoint `init`."""

    @abstractmethod
    def decode(
        self, model: Model, examples: Sequence[Example], name: str, ways: Sequence[Setting]
    ) -> Iterator[tuple[Setting, list[dict[str, Any]]]]:
        """For each way of decoding part `name` a record with id and text for every example, in order."""


class Task(NamedTuple):
    """What goes in, and how what comes out is judged."""

    input: Input[Any]
    measure: Measure
