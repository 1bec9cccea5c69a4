"""Sound without a word in it, made up: silence, noise, tones, chords in several timbres, percussion, small pieces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RATE = 16000
Samples = NDArray[np.float64]
Make = Callable[[int, np.random.Generator], Samples]


def level(samples: Samples, decibels: float) -> Samples:
    """The same sound at a level in dB of full scale."""
    return samples * 10 ** (decibels / 20) / (np.sqrt(np.square(samples).mean()) + 1e-12)


def white(count: int, generator: np.random.Generator) -> Samples:
    return generator.standard_normal(count)


def pink(count: int, generator: np.random.Generator) -> Samples:
    spectrum = np.fft.rfft(generator.standard_normal(count))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)


def noise(make: Make, decibels: float) -> Make:
    return lambda count, generator: level(make(count, generator), decibels)


def gusts(count: int, generator: np.random.Generator) -> Samples:
    """Wind or traffic: pink noise that swells and fades, every few seconds or several times a second."""
    speed = generator.uniform(0.2, 4.0)
    knots = generator.uniform(0.02, 1.0, round(count / RATE * speed) + 3)
    swell = np.interp(np.arange(count) / RATE * speed, np.arange(len(knots)), knots)
    return level(pink(count, generator) * swell**2, generator.uniform(-35, -15))


def tone(count: int, generator: np.random.Generator) -> Samples:
    return level(np.sin(2 * np.pi * generator.uniform(80, 3000) * np.arange(count) / RATE), generator.uniform(-40, -10))


def beeps(count: int, generator: np.random.Generator) -> Samples:
    """A ringing telephone, a truck that drives backwards."""
    time = np.arange(count) / RATE
    on = (time * generator.uniform(0.3, 2.0)) % 1 < 0.4
    first, second = generator.uniform(300, 2000, 2)
    sound = np.sin(2 * np.pi * first * time) + np.sin(2 * np.pi * second * time)
    return level(sound * on, -20) + level(white(count, generator), -60)


# Loudness of harmonics, attack and decay in seconds, vibrato in Hz and depth.
TIMBRES = {
    "organ": ((1, 0.8, 0.6, 0.1, 0.4), 0.02, 50.0, 0.0),
    "piano": ((1, 0.5, 0.3, 0.2, 0.1, 0.05), 0.005, 0.7, 0.0),
    "strings": (tuple(1 / n for n in range(1, 14)), 0.15, 50.0, 0.006),
    "flute": ((1, 0.2, 0.05), 0.06, 50.0, 0.01),
    "bell": ((1, 0, 0.6, 0, 0.4, 0.3), 0.002, 1.5, 0.0),
    "brass": ((0.6, 1, 0.9, 0.8, 0.6, 0.4, 0.3, 0.2), 0.05, 50.0, 0.002),
}


def note(frequency: float, seconds: float, timbre: str, generator: np.random.Generator) -> Samples:
    loudness, attack, decay, depth = TIMBRES[timbre]
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * frequency * (time + depth * np.sin(2 * np.pi * 5.5 * time) / (2 * np.pi * 5.5))
    sound = np.zeros(len(time))
    for number, loud in enumerate(loudness, 1):
        if number * frequency < RATE / 2.2:
            sound += loud * np.sin(number * phase + generator.uniform(0, 6))
    return sound * np.minimum(1, time / attack) * np.exp(-time / decay) * np.clip((seconds - time) / 0.03, 0, 1)


def hit(kind: str, generator: np.random.Generator) -> Samples:
    time = np.arange(RATE // 3) / RATE
    if kind == "kick":
        return np.sin(2 * np.pi * (45 * time - 12 * np.exp(-30 * time))) * np.exp(-time / 0.1)
    if kind == "snare":
        return (0.5 * np.sin(2 * np.pi * 190 * time) + generator.standard_normal(len(time))) * np.exp(-time / 0.07)
    return np.diff(generator.standard_normal(len(time) + 1)) * np.exp(-time / 0.03)  # hat


def add(whole: Samples, part: Samples, second: float) -> None:
    start = round(second * RATE)
    end = min(len(whole), start + len(part))
    whole[start:end] += part[: end - start]


def chords(timbre: str) -> Make:
    def make(count: int, generator: np.random.Generator) -> Samples:
        whole, seconds = np.zeros(count), count / RATE
        beat, begin = generator.uniform(0.4, 2.5), 0.0
        while begin < seconds:
            root = 110 * 2 ** (generator.integers(0, 20) / 12)
            third = generator.choice([3, 4])
            for step in (0, third, 7, 12):
                add(whole, note(root * 2 ** (step / 12), 0.95 * beat, timbre, generator), begin)
            begin += beat * generator.choice([1, 1, 2])
        return level(whole, generator.uniform(-30, -14))

    return make


def melody(timbre: str) -> Make:
    """One voice over a scale, as near to singing as it gets without a word."""

    def make(count: int, generator: np.random.Generator) -> Samples:
        whole, seconds = np.zeros(count), count / RATE
        beat, begin, step = generator.uniform(0.15, 0.5), 0.0, 5
        scale = [0, 2, 4, 5, 7, 9, 11]
        while begin < seconds:
            step = int(np.clip(step + generator.integers(-2, 3), 0, 13))
            frequency = 196 * 2 ** ((12 * (step // 7) + scale[step % 7]) / 12)
            lasts = beat * generator.choice([1, 1, 2, 3])
            if generator.random() < 0.85:
                add(whole, note(frequency, 0.9 * lasts, timbre, generator), begin)
            begin += lasts
        return level(whole, generator.uniform(-30, -14))

    return make


def percussion(count: int, generator: np.random.Generator) -> Samples:
    whole, seconds = np.zeros(count), count / RATE
    beat = generator.uniform(0.12, 0.3)
    pattern = [generator.choice(["kick", "snare", "hat", ""], p=[0.3, 0.2, 0.4, 0.1]) for _ in range(16)]
    for number in range(int(seconds / beat)):
        if kind := pattern[number % 16]:
            add(whole, generator.uniform(0.6, 1.0) * hit(kind, generator), number * beat)
    return level(whole, generator.uniform(-30, -16))


def piece(count: int, generator: np.random.Generator) -> Samples:
    """All at once, as a band plays."""
    tune, under = generator.choice([*TIMBRES], 2)
    parts = melody(tune)(count, generator), chords(under)(count, generator), percussion(count, generator)
    return level(sum(generator.uniform(0.4, 1.0) * part for part in parts), -18)  # type: ignore[arg-type]


KINDS: dict[str, Make] = {
    "silence": lambda count, _: np.zeros(count),
    **{f"white {decibels} dB": noise(white, decibels) for decibels in (-60, -35, -15)},
    **{f"pink {decibels} dB": noise(pink, decibels) for decibels in (-60, -35, -15)},
    "gusts": gusts,
    "tone": tone,
    "beeps": beeps,
    **{f"{timbre} chords": chords(timbre) for timbre in TIMBRES},
    **{f"{timbre} melody": melody(timbre) for timbre in TIMBRES},
    "percussion": percussion,
    "piece": piece,
    "another piece": piece,
}


class Minute:
    """`seconds` of one kind of sound, number `number` of many: the same whenever it is made."""

    def __init__(self, number: int, seconds: float = 60.0) -> None:
        self.kind = [*KINDS][number % len(KINDS)]
        samples = KINDS[self.kind](round(seconds * RATE), np.random.default_rng(number))
        self.samples = np.clip(samples, -1, 1).astype(np.float32)
