"""Real utterances joined to one sound file, with silences of random length between them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from narspeech.data.audio import load_audio
from narspeech.data.example import Example
from narspeech.files import write_atomic

RATE = 16000


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """minutes of sound; pause: silences last up to so many seconds, evenly distributed; hiss: the level of noise
    everywhere, in dB of full scale, None for digital silence; seed: of the order and the silences."""

    minutes: float
    pause: float = 3.0
    hiss: float | None = None
    seed: int = 0


class Piece(NamedTuple):
    """An utterance in the file, from `start` to `end` seconds."""

    id: str
    text: str
    start: float
    end: float


def build(path: Path, examples: Sequence[Example], config: JoinConfig) -> list[Piece]:
    """The joined file, and what is said in it when."""
    plan = path.with_suffix(".pieces.json")
    described = {"config": asdict(config), "utterances": [example.id for example in examples]}
    if path.exists() and plan.exists() and (known := json.loads(plan.read_text("utf-8")))["made"] == described:
        return [Piece(*piece) for piece in known["pieces"]]
    generator, noise = random.Random(config.seed), np.random.default_rng(config.seed)
    pieces: list[Piece] = []
    length = 0
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for example in endless(examples, generator):
            if length >= 60 * config.minutes * RATE:
                break
            audio = load_audio(example.audio, target_rate=RATE, start=example.start, duration=example.duration)
            silence = np.zeros(round(generator.uniform(0, config.pause) * RATE), np.float32)
            samples = np.concatenate([silence, audio.samples])
            if config.hiss is not None:
                samples += (10 ** (config.hiss / 20) * noise.standard_normal(len(samples))).astype(np.float32)
            file.write(samples)
            length += len(samples)
            pieces.append(Piece(example.id, example.text, length / RATE - audio.duration, length / RATE))
    write_atomic(plan, json.dumps({"made": described, "pieces": pieces}).encode())
    return pieces


def endless(examples: Sequence[Example], generator: random.Random) -> Iterator[Example]:
    """All of them in random order, again and again in another one."""
    while True:
        yield from generator.sample(examples, len(examples))
