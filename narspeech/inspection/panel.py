"""A recording on one time axis, as SVG: words, features, posteriors and refinement, one above another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from narspeech import png
from narspeech.calibration import Values
from narspeech.frontends.fbank import mel
from narspeech.inspection.findings import Findings, Row
from narspeech.page import data_uri, safe
from narspeech.picture import colour
from narspeech.result import Word
from narspeech.tokenizer import BLANK, SPECIAL_PIECES, UNK

# Pixels a second: a token of speech has room for its letters.
SCALE = 240.0
GUTTER, GAP, AXIS, WORD, FEATURES, LABEL, STEP = 84, 14, 18, 26, 130, 13, 22
# Labels that have a line of their own; the others share one.
MAX_LABELS = 64
TICK = 0.5
HERTZ = (500, 1000, 2000, 4000, 8000)
STYLE = """
.panel text { font: 11px ui-monospace, "DejaVu Sans Mono", monospace; fill: var(--ink); }
.panel .faint { fill: var(--faint); }
.panel line { stroke: var(--line); }
.panel .box text { fill: #111; }
.panel .box rect { stroke: #5b6470; stroke-width: .5; }
.panel .same rect { opacity: .5; }
.panel .same text { opacity: .75; }
.panel .changed rect { stroke: #111; stroke-width: 2; }
.panel .word text { font-size: 13px; }
.panel .span { fill: var(--mark); fill-opacity: 0; stroke: var(--faint); stroke-opacity: .7; stroke-width: .75;
  stroke-dasharray: 3 3; }
.panel .path { fill: none; stroke: var(--path); stroke-width: 1.5; pointer-events: none; }
.panel image { image-rendering: pixelated; }
"""
LIGHT = {"--ink": "#1b1f24", "--paper": "#ffffff", "--faint": "#667080", "--line": "#d5dae1", "--mark": "#f59e0b"}
LIGHT |= {"--path": "#c2410c"}


class Panel(NamedTuple):
    """SVG for the names of the lanes and for the lanes themselves, in pixels; labels: the ids of the posteriors' lines,
    unshown: how many more share the last one."""

    gutter: str
    plot: str
    width: float
    height: float
    labels: tuple[int, ...]
    unshown: int


def draw(findings: Findings, start: float = 0.0) -> Panel:
    """All lanes; start: seconds in the recording at which what was heard begins, for the axis."""
    words = [word for word in findings.transcript.words if word.start is not None]
    duration = len(findings.audio.samples) / findings.audio.rate
    labels, unshown = shown_labels(findings)
    names: list[str] = []
    parts: list[str] = []
    top = 0.0

    def lane(height: float) -> float:
        nonlocal top
        here, top = top, top + height
        return here

    parts += _axis(lane(AXIS), start, duration)
    word_top = lane(WORD + 4) if words else 0.0
    if words:
        names.append(_name(word_top, WORD, "words"))
    if len(findings.features):
        names += _hertz(findings, spectrum := lane(FEATURES))
        parts.append(_spectrogram(findings, spectrum))
        lane(GAP)
    if findings.posteriors is not None and len(findings.posteriors):
        probabilities, titles = _lines(findings, labels, unshown)
        heat = lane(LABEL * len(titles))
        names += [_name(heat + LABEL * place, LABEL, title) for place, title in enumerate(titles)]
        parts += _heat(findings, probabilities, heat)
        parts += _text_path(findings, labels, heat)
        lane(GAP)
    boxes: list[str] = []
    if findings.posteriors is not None:
        for number, row in enumerate(findings.rows):
            names.append(_name(here := lane(STEP), STEP, row.name))
            boxes += _tokens(row, here, plain=number == 0 or row.name in ("draft", "text"))
    spans = _words(words, word_top, top)
    return Panel("".join(names), "".join([*parts, *spans, *boxes]), duration * SCALE, top + 4, labels, unshown)


def picture(panel: Panel) -> str:
    """The panel as an SVG document that stands alone, in light colours."""
    style = re.sub(r"var\((--\w+)\)", lambda match: LIGHT[match[1]], STYLE)
    width, height = GUTTER + panel.width + GAP, panel.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" class="panel">'
        f'<style>{style}</style><rect width="{width:.0f}" height="{height:.0f}" fill="{LIGHT["--paper"]}"/>'
        f'{panel.gutter}<g transform="translate({GUTTER} 0)">{panel.plot}</g></svg>\n'
    )


def shown_labels(findings: Findings) -> tuple[tuple[int, ...], int]:
    """The labels of CTC's best path and of all rows in the order of their greatest posteriors, and how many more than
    MAX_LABELS there were: the text's own stay first, then those with the most probability in all. Blanks do not count.
    """
    if findings.posteriors is None or not len(findings.posteriors):
        return (), 0
    met = {int(label) for label in findings.posteriors.argmax(-1)}
    met |= {token.id for row in findings.rows for token in row.tokens}
    met = {label for label in met if label >= UNK}
    text = {token.id for word in findings.words for token in word}
    mass = findings.posteriors.sum(0)
    kept = sorted(met, key=lambda label: (label not in text, -mass[label]))[:MAX_LABELS]
    peak = findings.posteriors.argmax(0)
    return tuple(sorted(kept, key=lambda label: (int(peak[label]), label))), len(met) - len(kept)


def _lines(findings: Findings, labels: Sequence[int], unshown: int) -> tuple[Values, list[str]]:
    """(lines, T) probabilities, the blank first and the rest of the vocabulary last, and the names of the lines."""
    assert findings.posteriors is not None
    lines = findings.posteriors[:, [BLANK, *labels]].T
    rest = np.clip(1 - lines.sum(0, keepdims=True), 0, 1)
    titles = [shown(findings.pieces[label]) for label in (BLANK, *labels)] + [
        f"+{unshown}, rest" if unshown else "rest"
    ]
    return np.concatenate([lines, rest]), titles


def _heat(findings: Findings, probabilities: Values, top: float) -> Iterator[str]:
    height, width = LABEL * len(probabilities), probabilities.shape[1] * findings.frame * SCALE
    for place in range(len(probabilities) + 1):
        yield f'<line x1="0" x2="{width:.1f}" y1="{top + LABEL * place:.1f}" y2="{top + LABEL * place:.1f}"/>'
    # The square root shows what is improbable and not impossible.
    pixels = np.clip(np.sqrt(probabilities) * 255, 0, 255).round().astype(np.uint8)
    yield _image(pixels, png.veil("2563eb"), top, width, height)


def _text_path(findings: Findings, labels: Sequence[int], top: float) -> Iterator[str]:
    """Where the text goes through the posteriors: a frame around what CTC spends on each of its tokens."""
    lines = {label: place for place, label in enumerate(labels, 1)}
    step = findings.frame * SCALE
    for token in (token for word in findings.words for token in word if token.id in lines):
        if token.frames is not None:
            x, y = token.frames.start * step, top + LABEL * lines[token.id] + 0.5
            width = len(token.frames) * step
            yield f'<rect class="path" x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{LABEL - 1}" rx="2"/>'


def _spectrogram(findings: Findings, top: float) -> str:
    features = findings.features
    low, high = np.percentile(features, [1, 99.5])
    scaled = (features - low) / max(high - low, 1e-6)
    pixels = np.clip(scaled * 255, 0, 255).round().astype(np.uint8).T[::-1]
    return _image(pixels, png.viridis(), top, len(features) * findings.hop * SCALE, FEATURES)


def _hertz(findings: Findings, top: float) -> Iterator[str]:
    """Names at the heights of round frequencies."""
    low, high, *marks = mel(torch.tensor([findings.low_hz, findings.top_hz, *HERTZ])).tolist()
    for hertz, mark in zip(HERTZ, marks, strict=True):
        share = (mark - low) / (high - low)
        if 0 < share < 0.97:
            yield _name(top + FEATURES * (1 - share) - 6, 12, f"{hertz:,} Hz")


def _axis(top: float, start: float, duration: float) -> Iterator[str]:
    """A mark at every half second of the recording."""
    first, last = int(np.ceil(start / TICK - 1e-6)), int(np.floor((start + duration) / TICK + 1e-6))
    for number in range(first, last + 1):
        x = (number * TICK - start) * SCALE
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + AXIS - 4}" y2="{top + AXIS}"/>'
        anchor = "start" if x < 10 else "end" if x > duration * SCALE - 20 else "middle"
        yield f'<text class="faint" x="{x:.1f}" y="{top + AXIS - 6}" text-anchor="{anchor}">{number * TICK:g} s</text>'


def _words(words: Sequence[Word], top: float, bottom: float) -> Iterator[str]:
    for number, word in enumerate(words):
        assert word.start is not None
        assert word.end is not None
        x, width = word.start * SCALE, (word.end - word.start) * SCALE
        across = f'x="{x:.2f}" width="{width:.2f}"'
        yield (
            f'<g class="word" data-word="{number}"><title>{safe(word.text)}</title>'
            f'<rect class="span" {across} y="{top + WORD:.1f}" height="{bottom - top - WORD:.1f}"/>'
            f'<g class="box"><rect {across} y="{top:.1f}" height="{WORD}" rx="3" fill="{colour(word.confidence)}"/>'
            f"{_fitted(word.text, x, top, width, WORD, 7.9)}</g></g>"
        )


def _tokens(row: Row, top: float, *, plain: bool) -> Iterator[str]:
    """Boxes of a row; what did not change is paler, but in a `plain` row, which nothing went before."""
    height = STEP - 3
    for token in row.tokens:
        if token.start is None or token.end is None:
            continue
        look = "box" if plain else "box changed" if token.changed else "box same"
        x, width = token.start * SCALE, (token.end - token.start) * SCALE
        box = f'x="{x:.2f}" y="{top:.1f}" width="{width:.2f}" height="{height}" rx="3"'
        sure = "masked" if token.confidence is None else f"{token.confidence:.2f}"
        yield (
            f'<g class="{look}"><title>{safe(token.text)} {sure}</title><rect {box} fill="{colour(token.confidence)}"/>'
            f"{_fitted(token.text, x, top, width, height, 6.7)}</g>"
        )


def _fitted(text: str, x: float, top: float, width: float, height: float, letter: float) -> str:
    """Text in the middle of a box, squeezed where it is longer."""
    room = width - 4
    if room < 4:
        return ""
    squeeze = f' textLength="{room:.1f}" lengthAdjust="spacingAndGlyphs"' if len(text) * letter > room else ""
    middle = f'x="{x + width / 2:.2f}" y="{top + height / 2 + 4:.1f}" text-anchor="middle"'
    return f"<text {middle}{squeeze}>{safe(text)}</text>"


def _name(top: float, height: float, text: str) -> str:
    return f'<text class="faint" x="{GUTTER - 6}" y="{top + height / 2 + 4:.1f}" text-anchor="end">{safe(text)}</text>'


def _image(pixels: NDArray[np.uint8], palette: png.Bytes, top: float, width: float, height: float) -> str:
    return (
        f'<image x="0" y="{top:.1f}" width="{width:.2f}" height="{height:.1f}" preserveAspectRatio="none" '
        f'href="{data_uri("image/png", png.encode(pixels, palette))}"/>'
    )


def shown(piece: str) -> str:
    """The name of a label."""
    if piece == SPECIAL_PIECES[BLANK]:
        return "blank"
    return piece.replace("▁", "_") if piece.strip("▁ ") else "space"
