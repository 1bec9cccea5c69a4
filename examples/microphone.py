"""What you say, while you say it: python examples/microphone.py [MODEL]

Needs a microphone and `pip install sounddevice`. Ctrl-C ends it.
"""

from __future__ import annotations

import queue
import sys
from typing import Any

import numpy as np

from narspeech.streaming import Heard, Streamer
from narspeech.transcriber import Transcriber

CHUNK = 0.1  # seconds


def show(heard: Heard) -> None:
    """A partial text is written over by what follows, a final one stays."""
    width = 100
    if heard.final:
        print(f"\r{heard.text:<{width}}" if heard.text else f"\r{'':<{width}}", end="\n" if heard.text else "\r")
    else:
        print(f"\r{heard.text[-width:]:<{width}}", end="", flush=True)


def main() -> None:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio is not installed
        raise SystemExit(
            f"expected a microphone through sounddevice, received: {error}; pip install sounddevice"
        ) from None
    transcriber = Transcriber(sys.argv[1] if len(sys.argv) > 1 else None)
    rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
    streamer = Streamer(transcriber, rate)
    chunks: queue.Queue[np.ndarray[Any, Any]] = queue.Queue()

    def receive(samples: np.ndarray[Any, Any], *_: Any) -> None:
        chunks.put(samples.copy())

    try:
        with sounddevice.InputStream(rate, int(rate * CHUNK), channels=1, dtype="float32", callback=receive):
            print("listening", file=sys.stderr)
            while True:
                for heard in streamer.push(chunks.get()):
                    show(heard)
    except KeyboardInterrupt:
        for heard in streamer.finish():
            show(heard)


if __name__ == "__main__":
    main()
