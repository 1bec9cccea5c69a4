"""`narspeech.inspect()`: from a recording to a page that shows what became of it."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import soundfile

from narspeech.data.audio import Audio, AudioSource, load_audio
from narspeech.decoders.ctc import BEAM
from narspeech.errors import NarspeechError
from narspeech.inspection.findings import find
from narspeech.inspection.page import About, page
from narspeech.inspection.panel import draw, picture
from narspeech.model import Model
from narspeech.page import data_uri
from narspeech.transcriber import LONG, DecoderName, Hearing, Transcriber, find_transcriber

# Bytes of sound in a page at most: a minute of speech has about one million.
MAX_SOUND = 4 << 20


class Pages(NamedTuple):
    """html: the page; svg: its panel as a picture; remarks: what is left out, in sentences."""

    html: str
    svg: str
    remarks: tuple[str, ...]


def inspect(
    recording: AudioSource,
    *,
    start: float = 0.0,
    end: float | None = None,
    sound: bool = True,
    rate: int | None = None,
    channel: int | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    device: str | None = None,
    decoder: DecoderName | None = None,
    steps: int | None = None,
    threshold: float | None = None,
    lm: str | os.PathLike[str] | None = None,
    lm_weight: float | None = None,
    beam: int | None = None,
    hotwords: Sequence[str] = (),
) -> str:
    """One HTML page, whole in itself, that shows what a model did with a recording, or with a minute of it at most.

    start, end: the stretch, in seconds, by default the first minute; sound: put it into the page; the rest as in
    `transcribe`. Raises AudioError for a recording that cannot be heard and NarspeechError for what does not fit.
    """
    check_stretch(start, end)
    transcriber = find_transcriber(model, device, lm)
    options = transcriber.options(steps=steps, threshold=threshold, beam=beam, lm_weight=lm_weight, decoder=decoder)
    hearing = transcriber.hearing(options, decoder, hotwords)
    settings = told_settings(transcriber, hearing, lm, hotwords)
    stretch = load_stretch(recording, transcriber.rate, start, end, rate=rate, channel=channel)
    name = os.fspath(recording) if isinstance(recording, str | os.PathLike) else "recording"
    return make(transcriber, hearing, stretch, name, settings, sound=sound).html


class Stretch(NamedTuple):
    """A part of a recording that begins at `start` seconds; more: whether the recording goes on behind it unasked."""

    audio: Audio
    start: float
    more: bool


def check_stretch(start: float, end: float | None) -> None:
    """Raises NarspeechError unless a recording may have such a part, and a page may show it."""
    last = start + LONG if end is None else end
    if not (math.isfinite(start) and start >= 0 and math.isfinite(last) and last > start):
        raise NarspeechError(
            f"expected a start of 0 s or more and an end behind it, received {start:g} and {last:g}: mend the two"
        )
    if last - start > LONG + 1e-6:
        raise NarspeechError(
            f"expected a stretch of at most {LONG:g} s, received {last - start:g} s: move --start and --end together"
        )


def load_stretch(
    source: AudioSource,
    target_rate: int,
    start: float,
    end: float | None,
    *,
    rate: int | None = None,
    channel: int | None = None,
) -> Stretch:
    """The part of a recording between two moments, a minute where `end` is None. Raises AudioError."""
    # A little more than is shown tells whether there is more.
    seconds = LONG + 1.0 if end is None else end - start
    audio = load_audio(source, rate=rate, target_rate=target_rate, channel=channel, start=start, duration=seconds)
    if end is not None or audio.duration <= LONG:
        return Stretch(audio, start, more=False)
    return Stretch(replace(audio, samples=audio.samples[: round(LONG * target_rate)], duration=LONG), start, more=True)


def make(
    transcriber: Transcriber,
    hearing: Hearing,
    stretch: Stretch,
    name: str,
    settings: Sequence[tuple[str, str]],
    *,
    sound: bool,
) -> Pages:
    """Hear the stretch and write down all there is to see."""
    audio, start, more = stretch
    remarks = []
    if more:
        remarks.append(
            f"The recording goes on: this is {LONG:g} s of it from {start:g} s on; choose another with --start, --end."
        )
    uri = None
    if sound:
        data = flac(audio)
        if len(data) <= MAX_SOUND:
            uri = data_uri("audio/flac", data)
        else:
            remarks.append(
                f"The sound is left out: it has {len(data) / 1e6:.1f} MB, and a page holds at most "
                f"{MAX_SOUND / 1e6:.1f} MB; choose a shorter stretch with --start and --end."
            )
    findings = find(transcriber, audio, hearing)
    panel = draw(findings, start)
    about = About(name, start, tuple(remarks), tuple(settings), uri)
    return Pages(page(findings, panel, about), picture(panel), tuple(remarks) + findings.transcript.warnings)


def flac(audio: Audio) -> bytes:
    """What was heard, in 16 bits: FLAC, which every browser plays."""
    file = io.BytesIO()
    soundfile.write(file, audio.samples, audio.rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def told_settings(
    transcriber: Transcriber, hearing: Hearing, lm: str | os.PathLike[str] | None, hotwords: Sequence[str]
) -> list[tuple[str, str]]:
    """How the recording is heard, as a table."""
    options, config = hearing.options, transcriber.model.config
    calibration, decoder = config.calibration, hearing.decoder or config.decoder.kind
    searched = decoder == "flashlight" or (decoder == "ctc" and hearing.scorer is not None)
    return [
        ("model", transcriber.name or "given from Python"),
        ("decoder", decoder),
        ("steps", f"{options.steps} at most"),
        ("threshold", f"{options.threshold:g}"),
        ("beam", str(BEAM if searched and options.beam == 1 else options.beam)),
        ("candidates", str(options.candidates)),
        ("language model", "none" if lm is None else f"{os.fspath(lm)}, weight {options.lm_weight:g}"),
        ("hotwords", ", ".join(hotwords) or "none"),
        ("device", str(transcriber.device)),
        ("calibration", "none" if calibration is None else f"lead {calibration.lead:g} s, hold {calibration.hold:g} s"),
    ]
