"""Ten minutes without a word in them, made up of silence, noise, tones and music: hardly a word is heard."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from narspeech.transcriber import Transcriber
from tests.soak.no_speech import KINDS, RATE, Minute


@pytest.mark.soak
def test_at_most_a_word_a_minute(tmp_path: Path) -> None:
    seconds = 600 / len(KINDS)
    path = tmp_path / "nothing.wav"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for number in range(len(KINDS)):
            file.write(Minute(number, seconds).samples)
    transcriber = Transcriber(device="cpu")
    transcript = transcriber.read(path, transcriber.hearing())
    assert transcript.duration == pytest.approx(600, abs=1)
    heard = [(f"{word.start:.1f}", word.text) for word in transcript.words]
    assert len(heard) <= 10, heard
