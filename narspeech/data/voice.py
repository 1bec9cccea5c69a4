"""Voice activity: in which frames of a recording somebody speaks.

A detector goes through a recording once, from front to back, and what it says does not depend on the blocks that the
recording comes in.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from narspeech.data.sound_file import Samples
from narspeech.errors import ConfigError

FRAMES_PER_SECOND = 50
MEMORY = 10 * FRAMES_PER_SECOND  # frames whose quietest and loudest tell silence from voice
# In dB: the difference between the quietest and the loudest that is still silence, and the share of it that is voice.
LEAST_DIFFERENCE, SHARE = 3.0, 0.25

VadName = Literal["energy", "silero"]


class Detector(Protocol):
    """Takes the samples (n * hop,) of the next whole frames, and the levels (m,) in dB of those frames that are due:
    the earliest that it has not spoken of. Says of these, (m,), whether they have voice.

    A frame is due when the two that follow it are known, or at the end of the recording.
    """

    def __call__(self, samples: Samples, levels: NDArray[np.float64], /) -> NDArray[np.bool_]: ...


class Energy:
    """A frame has voice where its level is nearer to the loudest than to the quietest of the last ten seconds: more
    than SHARE of the way, and LEAST_DIFFERENCE at least. So a steady noise or tone is silence, however loud."""

    def __init__(self) -> None:
        self.past = np.zeros(0)

    def __call__(self, _samples: Samples, levels: NDArray[np.float64], /) -> NDArray[np.bool_]:
        if not len(levels):
            return np.zeros(0, bool)
        history = np.concatenate([self.past, levels])
        window = np.concatenate([np.full(max(0, MEMORY - len(self.past)), history[0]), history])
        views = sliding_window_view(window, MEMORY)[-len(levels) :]
        quietest, loudest = views.min(1), views.max(1)
        self.past = history[-MEMORY:]
        voiced: NDArray[np.bool_] = levels > quietest + np.maximum(SHARE * (loudest - quietest), LEAST_DIFFERENCE)
        return voiced


class Silero:
    """Silero VAD (Silero Team 2021), a small recurrent network that knows voice from music and noise; of the extra
    `vad`. It hears windows of 32 ms; a frame is told by the window that its middle lies in.

    rate: 8000 or 16000 Hz. A voice begins at a probability of START and lasts down to STAY, as in Silero's own rule.
    Raises ConfigError for another rate, or where the package is missing.
    """

    START, STAY = 0.5, 0.35

    def __init__(self, rate: int) -> None:
        if rate not in (8000, 16000):
            raise ConfigError(f"expected 8000 or 16000 Hz for Silero VAD, received {rate} Hz: take vad='energy'")
        self.model = load_silero()
        self.rate, self.hop, self.window = rate, rate // FRAMES_PER_SECOND, 512 * rate // 16000
        self.waiting: Samples = np.zeros(0, np.float32)
        self.voiced: list[bool] = []  # of windows, from number `first` on
        self.first = self.told = 0  # told: frames that have been spoken of
        self.voice = False

    def __call__(self, samples: Samples, levels: NDArray[np.float64], /) -> NDArray[np.bool_]:
        self.waiting = np.concatenate([self.waiting, samples])
        whole = len(self.waiting) // self.window * self.window
        self._hear(self.waiting[:whole])
        self.waiting = self.waiting[whole:]
        middles = (np.arange(self.told, self.told + len(levels)) * self.hop + self.hop // 2) // self.window
        if len(levels) and middles[-1] >= self.first + len(self.voiced):  # only at the end of the recording
            self._hear(np.pad(self.waiting, (0, self.window - len(self.waiting))))
        found = np.array(self.voiced, bool)[middles - self.first]
        self.told += len(levels)
        passed = (self.told * self.hop + self.hop // 2) // self.window - self.first
        self.voiced, self.first = self.voiced[passed:], self.first + passed
        return found

    def _hear(self, samples: Samples) -> None:
        with torch.inference_mode():
            for one in torch.from_numpy(samples).reshape(-1, self.window):
                probability = float(self.model(one, self.rate))
                self.voice = probability >= (self.STAY if self.voice else self.START)
                self.voiced.append(self.voice)


def load_silero() -> Any:
    """Silero's network with a memory of its own. Raises ConfigError where the package is missing."""
    if importlib.util.find_spec("silero_vad") is None:
        raise ConfigError("expected Silero VAD for vad='silero', received none: pip install narspeech[vad]")
    threads = torch.get_num_threads()
    try:
        from silero_vad import load_silero_vad
    finally:
        torch.set_num_threads(threads)  # importing it leaves torch with one thread
    model = load_silero_vad()
    model.reset_states()
    return model


def detector(name: VadName, rate: int) -> Detector:
    """A detector for one recording. Raises ConfigError."""
    if name == "energy":
        return Energy()
    if name == "silero":
        return Silero(rate)
    raise ConfigError(f"expected vad to be 'energy' or 'silero', received {name!r}: take one of them")
