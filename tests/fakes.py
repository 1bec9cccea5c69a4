"""Tiny stand-ins that every test may use: a tokenizer, models of one or two layers, sung sentences, batches.

A sentence is sung: every letter has a pitch of its own. That is speech enough for a tiny model to learn in seconds. On
the text side it is in cipher: every letter stands for another.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import numpy as np
import soundfile
import torch
from torch import Tensor

from narspeech.batch import Batch, Padded
from narspeech.encoders.conformer import ConformerConfig
from narspeech.encoders.transformer import TransformerConfig
from narspeech.frontends.fbank import FbankConfig
from narspeech.frontends.text import TextConfig
from narspeech.model import CTCConfig, Model, ModelConfig
from narspeech.ops.scorer import Window
from narspeech.tokenizer import NUM_SPECIAL, PAD, CharacterTokenizer

RATE = 8000
LETTERS = "abcd "
TOKENIZER = CharacterTokenizer(LETTERS)
SENTENCES = ("abad", "cab", "da da", "a", "bad cab", "dab", "cc", "ab dc")
# What a decoder's config may be told to keep it tiny, where it has such a field.
TINY = {"depth": 2, "width": 16, "heads": 2, "feed_forward": 32, "dropout": 0.0, "label_smoothing": 0.0}


Side = Literal["speech", "text"]


class Moment(NamedTuple):
    """One refinement step of one row, as a naive reference sees it."""

    tokens: list[int]
    scores: list[float]


def model_config(kind: str = "mask_ctc", side: Side = "speech", **settings: Any) -> ModelConfig:
    """A tiny model around a decoder of that kind; settings replace fields of the ModelConfig."""
    classes = get_args(get_type_hints(ModelConfig)["decoder"])
    chosen = next(cls for cls in classes if cls.kind == kind)
    names = {field.name for field in dataclasses.fields(chosen)}
    config = ModelConfig(
        frontend=FbankConfig(rate=RATE, num_mels=12, normalise="utterance"),
        encoder=ConformerConfig(
            depth=2, width=16, heads=2, feed_forward=32, kernel=3, dropout=0.0, channels=4, subsampling="depthwise4"
        ),
        decoder=chosen(**{name: value for name, value in TINY.items() if name in names}),
        ctc=CTCConfig(weight=0.5, intermediate=0.0),
    )
    if side == "text":
        encoder = TransformerConfig(depth=2, width=16, heads=2, feed_forward=32, dropout=0.0, upsample=3)
        config = replace(config, frontend=TextConfig(width=16), encoder=encoder)
    return replace(config, **settings)


def tiny_model(
    kind: str = "mask_ctc", side: Side = "speech", *, seed: int = 0, varied: bool = True, **settings: Any
) -> Model:
    """A model with random weights in evaluation mode; a `varied` one hears many letters in noise, else hardly any."""
    torch.manual_seed(seed)
    model = Model(model_config(kind, side, **settings), TOKENIZER).eval()
    if varied and model.ctc is not None:
        with torch.no_grad():
            states = model.encode(noise([RATE]) if side == "speech" else nonsense([200])).states.data.flatten(0, 1)
            deviation = states.std(0)
            model.ctc.output.weight.div_(0.2 * deviation)
            model.ctc.output.bias.copy_(-model.ctc.output.weight @ states.mean(0))
            for name, weight in model.decoder.named_parameters():
                if name.endswith(("cross_attention.output.weight", "hear.weight")):
                    weight.mul_(3)  # what is decoded depends on what is heard
    return model


def sing(text: str, *, seconds: float = 0.12, seed: int = 0) -> Tensor:
    """(N,) samples: a tone for each letter, with a faint noise and a gap that parts equal neighbours."""
    time = torch.arange(int(seconds * RATE)) / RATE
    fade = torch.sin(math.pi * time / seconds)
    pitches = [300.0 * 1.6 ** LETTERS.index(letter) for letter in text]
    tones = [0.3 * fade * torch.sin(2 * math.pi * pitch * time) for pitch in pitches]
    samples = torch.cat([torch.zeros(RATE // 20), *tones, torch.zeros(RATE // 20)])
    return samples + 1e-3 * torch.randn(len(samples), generator=torch.Generator().manual_seed(seed))


def cipher(text: str) -> list[int]:
    """Tokens in which every letter stands for the one before it in the alphabet."""
    return [NUM_SPECIAL + (LETTERS.index(letter) + 1) % len(LETTERS) for letter in text]


def batch(sentences: Sequence[str] = SENTENCES, side: Side = "speech") -> Batch:
    """Sung sentences, or sentences in cipher, with their tokens."""
    target = Padded.pack([torch.tensor(TOKENIZER.encode(text)).long() for text in sentences], PAD)
    if side == "speech":
        source = Padded.pack([sing(text, seed=number) for number, text in enumerate(sentences)])
    else:
        source = Padded.pack([torch.tensor(cipher(text)).long() for text in sentences], PAD)
    return Batch(tuple(sentences), source, target)


def noise(lengths: Sequence[int], seed: int = 0) -> Padded:
    """Random samples (B, N), the padding much louder than the sound."""
    generator = torch.Generator().manual_seed(seed)
    source = Padded(torch.randn(len(lengths), max(lengths), generator=generator), torch.tensor(lengths))
    return Padded(source.data.where(source.mask, 100 * source.data), source.lengths)


def nonsense(lengths: Sequence[int], seed: int = 0) -> Padded:
    """Random letters (B, L), beyond the lengths too."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(len(LETTERS), (len(lengths), max(lengths)), generator=generator)
    return Padded(NUM_SPECIAL + letters, torch.tensor(lengths))


def write_wav(path: Path, samples: Tensor | np.ndarray[Any, Any], rate: int = RATE) -> Path:
    soundfile.write(path, np.asarray(samples), rate)
    return path


def write_noises(folder: Path) -> list[Path]:
    """Noises of falling and rising length, so that sorting by length must be undone; 16 bits, so that text is as heard
    from the file."""
    noises = noise([9000, 2000, 6000, 4000, 8000]).unpack()
    return [write_wav(folder / f"{name}.wav", 0.1 * samples) for name, samples in zip("edcba", noises, strict=True)]


def train(model: Model, data: Batch, *, updates: int, rate: float = 1e-2) -> list[float]:
    """The loss a token at every update of plain AdamW on one batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=updates)
    losses = []
    model.train()
    for _ in range(updates):
        optimizer.zero_grad()
        loss = model(data)
        value = loss.total / loss.count
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    model.eval()
    return losses


class Favourite(Window):
    """A scorer that gives one token a bonus, wherever it stands."""

    context = 0

    def __init__(self, token: int, bonus: float) -> None:
        self.token, self.bonus = token, bonus

    def __call__(self, context: Tensor, candidates: Tensor) -> Tensor:  # noqa: ARG002
        return (candidates == self.token) * self.bonus


def read_png(data: bytes) -> np.ndarray[Any, Any]:
    """The colours (H, W, 4) of a PNG whose pixels are places in a palette, each line stored as it is."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + 8 + size]
        assert struct.unpack_from(">I", data, place + 8 + size) == (zlib.crc32(kind + content),)
        chunks[kind] = content
        place += 12 + size
    assert list(chunks) == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width)
    assert not lines[:, 0].any()
    colours = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    return np.column_stack([colours, np.frombuffer(chunks[b"tRNS"], np.uint8)])[lines[:, 1:]]


def put(folder: Path, name: str, content: str) -> Path:
    """A file of text."""
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def lines(*records: Any) -> str:
    """JSON, a record a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
