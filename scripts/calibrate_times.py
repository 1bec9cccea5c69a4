"""Learn how a model's CTC moves words in time, from synthetic speech whose times are known.

    python scripts/calibrate_times.py MODEL SENTENCES --write

SENTENCES: a text file, a sentence a line in the model's spelling. espeak-ng, which must be installed with its library,
speaks them in several voices and says when each word begins; the true text is then aligned. Every second sentence
teaches, the others judge.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from narspeech import checkpoint
from narspeech.align import align
from narspeech.batch import Padded
from narspeech.calibration import Calibration
from narspeech.data.audio import load_audio
from narspeech.data.sound_file import Samples
from narspeech.model import Model
from narspeech.result import Hypothesis

VOICES = ("en-us", "en-gb-x-rp", "en-us+f3", "en-029+f2", "en-us+m3", "en-gb-x-rp+m7")
SPEEDS = (130, 150, 170, 190)  # words a minute
NOISE = (0.0, 0.001, 0.004)
SYNCHRONOUS, PHONEME_EVENTS, CHARACTERS_UTF8, POSITION_CHARACTER, RATE_PARAMETER = 2, 1, 1, 1, 1
WORD, PHONEME = 1, 7
LEADS, HOLDS = np.arange(-0.04, 0.2, 0.005), np.arange(0.02, 0.4, 0.01)


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


class Spoken(NamedTuple):
    """A sentence's samples at the model's rate, and the seconds at which its words begin and end, where known."""

    text: str
    samples: Samples
    starts: dict[int, float]
    ends: dict[int, float]


class Voice:
    """espeak-ng's library, which tells the times that its command does not."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 500, None, PHONEME_EVENTS)
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
        self.callback = kind(self._receive)
        self.library.espeak_SetSynthCallback(self.callback)
        self.blocks: list[Any] = []
        self.events: list[tuple[int, int, float, bytes]] = []

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self.blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in itertools.takewhile(lambda event: event.type, (events[index] for index in itertools.count())):
            self.events.append((event.type, event.position, event.sample / self.rate, event.name))
        return 0

    def say(self, words: Sequence[str], voice: str, speed: int, rate: int) -> Spoken:
        """words may end in a comma, which makes a pause."""
        self.blocks, self.events = [], []
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise SystemExit(f"expected espeak-ng to have the voice {voice}, received an error: install its data")
        self.library.espeak_SetParameter(RATE_PARAMETER, speed, 0)
        text = " ".join(words).encode()
        size = ctypes.c_size_t(len(text) + 1)
        self.library.espeak_Synth(text, size, 0, POSITION_CHARACTER, 0, CHARACTERS_UTF8, None, None)
        sound = load_audio(np.concatenate(self.blocks), rate=self.rate, target_rate=rate)
        place = {offset + 1: index for index, offset in enumerate(offsets(words))}
        starts = {
            place[position]: time for kind, position, time, _ in self.events if kind == WORD and position in place
        }
        pauses = [time for kind, _, time, name in self.events if kind == PHONEME and name.startswith(b"_:")]
        ends = {}
        # espeak speaks "in the" as one: a word's end is known where the next one's beginning is, or a pause between.
        for index, start in starts.items():
            following = starts.get(index + 1, sound.duration if index == len(words) - 1 else None)
            if following is not None:
                ends[index] = min([time for time in pauses if start < time < following], default=following)
        return Spoken(" ".join(words).replace(",", ""), sound.samples, starts, ends)


def offsets(words: Sequence[str]) -> list[int]:
    """Where each of the words, joined by spaces, begins."""
    return list(itertools.accumulate((len(word) + 1 for word in words[:-1]), initial=0))


def speak(sentences: Sequence[str], rate: int) -> Iterator[Spoken]:
    """Voices in turn, with some noise and a comma behind every eighth word or so."""
    voice, generator, noise = Voice(), random.Random(0), np.random.default_rng(0)
    for index, sentence in enumerate(sentences):
        words = [word + "," * (generator.random() < 1 / 8) for word in sentence.split()]
        spoken = voice.say(words, VOICES[index % len(VOICES)], generator.choice(SPEEDS), rate)
        hiss = generator.choice(NOISE) * noise.standard_normal(len(spoken.samples))
        yield spoken._replace(samples=(spoken.samples + hiss).astype(np.float32))


class Heard(NamedTuple):
    """The posteriors of a sentence, (1, T, V), beside its truth."""

    spoken: Spoken
    ctc: Padded
    duration: float


@torch.inference_mode()
def hear(model: Model, spoken: Spoken) -> Heard:
    ctc = model.encode(Padded.pack([torch.from_numpy(spoken.samples)])).ctc
    if ctc is None:
        raise SystemExit("expected a model with a CTC head: without it words have no times")
    return Heard(spoken, ctc, len(spoken.samples) / model.config.frontend.rate)


def deviations(model: Model, heard: Sequence[Heard]) -> tuple[Samples, Samples]:
    """How much too late words begin and end, in seconds, over all whose times are known."""
    late: tuple[list[float], list[float]] = ([], [])
    for spoken, ctc, duration in heard:
        tokens = tuple(model.tokenizer.encode(spoken.text))
        (found,) = align(model, [Hypothesis(tokens=tokens, scores=(0.0,) * len(tokens))], ctc, [duration])
        for index, word in enumerate(found.words):
            assert word.start is not None
            assert word.end is not None
            late[0].extend([word.start - spoken.starts[index]] if index in spoken.starts else [])
            late[1].extend([word.end - spoken.ends[index]] if index in spoken.ends else [])
    return np.array(late[0]), np.array(late[1])


def fit(model: Model, heard: Sequence[Heard]) -> Calibration:
    """lead and hold with the least mean distance to the true times, the one after the other."""
    best = model.config.calibration or Calibration()
    for name, choices, side in (("lead", LEADS, 0), ("hold", HOLDS, 1)):
        errors = []
        for value in choices.tolist():
            best = replace(best, **{name: round(value, 3)})
            model.config = replace(model.config, calibration=best)
            errors.append(float(np.abs(deviations(model, heard)[side]).mean()))
        best = replace(best, **{name: round(choices.tolist()[int(np.argmin(errors))], 3)})
    model.config = replace(model.config, calibration=best)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibrate the times of words.")
    parser.add_argument("model", type=Path, help="a checkpoint folder")
    parser.add_argument("sentences", type=Path, help="a text file, a sentence a line")
    parser.add_argument("--write", action="store_true", help="store what was learnt in the model's folder")
    arguments = parser.parse_args()
    model = checkpoint.load(arguments.model)
    sentences = arguments.sentences.read_text(encoding="utf-8").splitlines()
    heard = [hear(model, spoken) for spoken in speak(sentences, model.config.frontend.rate)]
    before = deviations(model, heard[1::2])
    calibration = fit(model, heard[::2])
    after = deviations(model, heard[1::2])
    for name, old, new in zip(("beginnings", "ends"), before, after, strict=True):
        print(
            f"{name}: {len(new)} words, median error {1000 * np.median(abs(old)):.0f} -> "
            f"{1000 * np.median(abs(new)):.0f} ms, 90 % within {1000 * np.quantile(abs(new), 0.9):.0f} ms"
        )
    print(calibration)
    if arguments.write:
        checkpoint.save_config(arguments.model, model.config)


if __name__ == "__main__":
    main()
