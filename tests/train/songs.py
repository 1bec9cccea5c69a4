"""Sung sentences as training data, and a training that stops where it is told to."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch

from narspeech.data.dataset import Item
from narspeech.encoders.conformer import ConformerConfig
from narspeech.model import Model
from narspeech.train.optim import OptimConfig
from narspeech.train.trainer import TrainConfig, Trainer
from tests.fakes import RATE, TOKENIZER, model_config, sing, write_wav

ENCODER = ConformerConfig(
    depth=2, width=16, heads=2, feed_forward=32, kernel=3, dropout=0.0, channels=4, subsampling="depthwise4"
)


class Songs:
    """`count` sung sentences; in odd epochs every one is sung faster, as speed perturbation would have it."""

    def __init__(self, count: int, seed: int = 0) -> None:
        letters = random.Random(seed)
        self.texts = ["".join(letters.choices("abcd", k=letters.randint(2, 6))) for _ in range(count)]
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        self.asked.append(key)
        epoch, index = key
        samples = sing(self.texts[index], seconds=0.12 if epoch % 2 == 0 else 0.1, seed=index)
        return Item(f"song-{index}", samples, torch.tensor(TOKENIZER.encode(self.texts[index])))

    def durations(self, epoch: int) -> list[float]:
        return [len(self[epoch, index].source) / RATE for index in range(len(self))]


def config(**settings: object) -> TrainConfig:
    """Two epochs of small batches on one thread; settings replace fields."""
    defaults: dict[str, object] = {
        "epochs": 2,
        "max_seconds": 2.0,
        "optim": OptimConfig(learning_rate=5e-3, warmup=5),
        "save_every": 3,
        "log_every": 2,
        "threads": 1,
    }
    return TrainConfig(**(defaults | settings))  # type: ignore[arg-type]


def new_model(*, dropout: float = 0.0, decoder: str = "mask_ctc", seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(model_config(decoder, encoder=replace(ENCODER, dropout=dropout)), TOKENIZER)


def score(model: Model) -> dict[str, float]:
    """A validation score that depends on the weights and costs nothing."""
    return {"score": float(model.ctc.output.weight.detach().abs().mean())}


def trainer(folder: Path, settings: TrainConfig, *, count: int = 12, dropout: float = 0.0) -> Trainer:
    return Trainer(new_model(dropout=dropout), settings, Songs(count), folder, score)


WORDS = ("bad", "cab", "dab", "abba", "add", "cad", "ab")


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 3))) for _ in range(count)]


def write_librispeech(folder: Path, *, speakers: int = 6, each: int = 4) -> Path:
    """Sung train-clean-5 and dev-clean-2 in LibriSpeech's layout, in `folder`/LibriSpeech."""
    for part, first, count in (("train-clean-5", 100, speakers), ("dev-clean-2", 200, 2)):
        for speaker in range(first, first + count):
            chapter = folder / "LibriSpeech" / part / str(speaker) / "1"
            chapter.mkdir(parents=True)
            lines = []
            for number, text in enumerate(sentences(each, speaker)):
                name = f"{speaker}-1-{number:04d}"
                write_wav(chapter / f"{name}.wav", sing(text, seconds=0.1, seed=speaker + number))
                lines.append(f"{name} {text.upper()}\n")
            (chapter / f"{speaker}-1.trans.txt").write_text("".join(lines))
    return folder


def arguments(**settings: object) -> list[str]:
    """What makes any profile of the recipes tiny and quick; names are dotted with two underscores."""
    tiny: dict[str, object] = {
        "model__frontend__rate": RATE,
        "model__frontend__num_mels": 12,
        "model__frontend__augment": "none",
        "model__encoder__depth": 2,
        "model__encoder__width": 16,
        "model__encoder__heads": 2,
        "model__encoder__feed_forward": 32,
        "model__encoder__kernel": 3,
        "model__encoder__channels": 4,
        "model__encoder__taps": "1",
        "model__encoder__subsampling": "depthwise4",
        "model__ctc__guided": 0.0,
        "data__held_out": 4,
        "train__epochs": 1,
        "train__max_seconds": 3,
        "train__threads": 1,
        "train__save_every": 3,
        "train__log_every": 1,
        "decode__steps": "1,2",
        "decode__thresholds": "0.5,0.9",
    }
    return [word for name, value in (tiny | settings).items() for word in (f"--{name.replace('__', '.')}", str(value))]


# For profiles with a masked decoder and pieces.
REFINING: dict[str, object] = {
    "model__decoder__depth": 1,
    "model__decoder__width": 16,
    "model__decoder__heads": 2,
    "model__decoder__feed_forward": 32,
    "tokenizer__size": 16,
}
