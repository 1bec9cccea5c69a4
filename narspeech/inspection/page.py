"""The findings as one HTML file that works offline: the text, the panel on its time axis, the steps, the settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from narspeech.inspection.findings import Findings, Row, Token, masked
from narspeech.inspection.panel import GUTTER, SCALE, STYLE, Panel, shown
from narspeech.page import document, safe, table
from narspeech.picture import Cell, colour, draw_trace
from narspeech.result import Word

# Labels that are named for a moment, and tokens that are named for a step.
NAMED, TOLD = 5, 40
# Words less confident than this look so without colour as well.
DOUBTFUL = 0.5

_FOLDER = Path(__file__).parent


class About(NamedTuple):
    """What a page tells beside the findings: the recording's name; the second of it at which the stretch begins;
    remarks: sentences on what is left out; settings: names and values; sound: a data URI, or None."""

    name: str
    start: float
    remarks: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    sound: str | None = None


def page(findings: Findings, panel: Panel, about: About) -> str:
    """The whole page. All text is escaped; it asks for nothing from outside."""
    transcript = findings.transcript
    end = about.start + transcript.duration
    parts = [
        f"<h1>{safe(about.name)}</h1><p>{about.start:.2f} to {end:.2f} s</p>",
        _list(about.remarks, ""),
        _list(transcript.warnings, ' class=warnings aria-label="warnings"'),
        f"<h2>Text</h2>{_text(findings, about)}",
        f"<h2>In time</h2>{_panel(findings, panel, about.start)}",
        f"<h2>Step by step</h2>{_steps(findings, about.start)}",
        f"<h2>Words</h2>{_words(findings, about.start)}",
        f"<h2>Segments</h2>{_segments(findings, about.start)}",
        _others(findings),
        f"<h2>Settings</h2>{table([('setting', 'value'), *about.settings])}",
        f'<script type="application/json" id=data>{_data(findings, about.start)}</script>',
    ]
    style = STYLE + _FOLDER.joinpath("page.css").read_text("utf-8")
    return document(about.name, "\n".join(parts), style=style, script=_FOLDER.joinpath("page.js").read_text("utf-8"))


def _text(findings: Findings, about: About) -> str:
    words = findings.transcript.words
    if not words:
        text = "<p>No words were heard.</p>"
    else:
        buttons = " ".join(
            f"<button type=button class={_look(word)} data-word={number} "
            f'aria-label="{safe(detail(word, tokens, about.start))}" style="background:{colour(word.confidence)}">'
            f"{safe(word.text)}</button>"
            for number, (word, tokens) in enumerate(zip(words, findings.words, strict=True))
        )
        text = f"<p class=text>{buttons}</p>"
    sound = f'<audio controls preload=auto src="{about.sound}"></audio>' if about.sound else ""
    played = " Choose a word to play from there, with Shift to play it alone." if about.sound else ""
    stops = ", ".join(colour(share) for share in (0.0, 0.5, 1.0))
    return (
        f"{text}<p id=detail class=status></p>{sound}<p><small>Confidence: 0 <span class=scale role=img "
        f'aria-label="from violet over white to green" style="background:linear-gradient(to right, {stops})"></span> '
        f"1; a dashed border: below {DOUBTFUL}.{played}</small></p>"
    )


def _look(word: Word) -> str:
    return "word" if word.confidence >= DOUBTFUL else '"word doubtful"'


def detail(word: Word, tokens: Sequence[Token], start: float) -> str:
    """A word in a sentence: its time in the recording, its confidence and its tokens."""
    parts = []
    for token in tokens:
        ctc = "" if token.ctc is None else f" (CTC {token.ctc:.2f})"
        parts.append(f"{token.text} {_sure(token)}{ctc}")
    return f"{word.text}: {_span(word, start)}confidence {word.confidence:.2f}; tokens {', '.join(parts)}"


def _span(word: Word, start: float) -> str:
    if word.start is None or word.end is None:
        return ""
    return f"{start + word.start:.2f} to {start + word.end:.2f} s, "


def _sure(token: Token) -> str:
    return "masked" if token.confidence is None else f"{token.confidence:.2f}"


def _panel(findings: Findings, panel: Panel, start: float) -> str:
    size, end = f'height="{panel.height:.0f}"', findings.transcript.duration
    lines = ["<dt>words<dd>where each word is spoken, as confident as its colour; dashed lines carry its edges down"]
    lines.append("<dt>spectrogram<dd>the log-mel features that the model reads")
    if panel.labels:
        more = f", {len(panel.labels)} labels of {len(panel.labels) + panel.unshown}" if panel.unshown else ""
        lines.append(
            f"<dt>labels<dd>their probability at each frame of {1000 * findings.frame:.0f} ms as CTC gives it (the "
            f"darker the more; square root){more}; a frame: what CTC spends on a token of the text. CTC is late and "
            "brief: words begin a little before their labels"
        )
    if findings.posteriors is not None:
        lines.append("<dt>CTC, draft, steps<dd>the tokens, ? being masked; heavy: what a step has written")
    return (
        f'<p id=moment class=status></p><div class=panel><svg {size} width="{GUTTER}" aria-hidden=true>'
        f'{panel.gutter}</svg><div class=scroll><svg class=plot {size} width="{panel.width:.0f}" tabindex=0 '
        f'role=slider aria-valuemin="{start:.2f}" aria-valuemax="{start + end:.2f}" aria-valuenow="{start:.2f}" '
        f'aria-label="{safe(summary(findings, start))}">{panel.plot}'
        f'<line class=cursor x1="-9" x2="-9" y1="0" y2="{panel.height:.0f}"></line></svg></div></div>'
        f"<details><summary>How to read it</summary><dl>{''.join(lines)}</dl><p>Point at a moment to see the likeliest "
        "labels; with the keyboard, go to the panel and use the left and right arrows.</p></details>"
    )


def summary(findings: Findings, start: float) -> str:
    """The panel in words, for who does not see it."""
    end = start + findings.transcript.duration
    parts = [f"{len(findings.transcript.words)} words", "the log-mel spectrogram"]
    if findings.posteriors is not None:
        parts += ["the probabilities that CTC gives to each label", f"{len(findings.rows)} rows of tokens"]
    return (
        f"One time axis from {start:.2f} to {end:.2f} s, and on it from top to bottom: {', '.join(parts)}. "
        "Words and steps stand below as text; left and right arrows go through the frames."
    )


def _steps(findings: Findings, start: float) -> str:
    """The rows as a list of sentences, and as a picture where nothing tells their times."""
    drawn = ""
    if findings.posteriors is None:
        rows = [[Cell(token.text, token.confidence) for token in row.tokens] for row in findings.rows]
        drawn = f"<div class=scroll role=img aria-label='the tokens of every step, told below'>{draw_trace(rows)}</div>"
    items = "".join(f"<li>{safe(sentence)}" for sentence in told(findings.rows, start))
    return f"{drawn}<p>Refinement steps: {findings.transcript.steps}.</p><ul>{items}</ul>"


def told(rows: Sequence[Row], start: float) -> Iterator[str]:
    """Each row in a sentence: how much of it is masked, and what a step has written."""
    for row in rows:
        fresh = [token for token in row.tokens if token.changed]
        written = ", ".join(f"{token.text} {_sure(token)}{_when(token, start)}" for token in fresh[:TOLD])
        more = f" and {len(fresh) - TOLD} more" if len(fresh) > TOLD else ""
        hidden = masked(row)
        left = f"{hidden} of {len(row.tokens)} tokens masked" if hidden else f"{len(row.tokens)} tokens"
        yield f"{row.name}: {f'wrote {written}{more}; ' if fresh else ''}{left}"


def _when(token: Token, start: float) -> str:
    return "" if token.start is None else f" at {start + token.start:.2f} s"


def _words(findings: Findings, start: float) -> str:
    if not findings.words:
        return "<p>None.</p>"
    rows = [("word", "start", "end", "confidence", "tokens, their probability, and CTC's")]
    for word, tokens in zip(findings.transcript.words, findings.words, strict=True):
        first, last = ("" if time is None else f"{start + time:.2f}" for time in (word.start, word.end))
        ctc = ["" if token.ctc is None else f" ({token.ctc:.2f})" for token in tokens]
        parts = "  ".join(f"{token.text} {_sure(token)}{heard}" for token, heard in zip(tokens, ctc, strict=True))
        rows.append((word.text, first, last, f"{word.confidence:.2f}", parts))
    return f"<details><summary>{len(findings.words)} words</summary><div class=scroll>{table(rows)}</div></details>"


def _segments(findings: Findings, start: float) -> str:
    rows = [("text", "start", "end", "words", "confidence")]
    for segment in findings.transcript.segments:
        times = (f"{start + segment.start:.2f}", f"{start + segment.end:.2f}")
        rows.append((segment.text, *times, str(len(segment.words)), f"{segment.confidence:.2f}"))
    return f"<div class=scroll>{table(rows)}</div>"


def _others(findings: Findings) -> str:
    if not findings.others:
        return ""
    rows = [("text", "mean log-probability of a token"), *((text, f"{score:.3f}") for text, score in findings.others)]
    return f"<h2>Other texts that were considered</h2><div class=scroll>{table(rows)}</div>"


def _list(sentences: Sequence[str], attributes: str) -> str:
    items = "".join(f"<li>{safe(sentence)}" for sentence in sentences)
    return f"<ul{attributes}>{items}</ul>" if sentences else ""


def _data(findings: Findings, start: float) -> str:
    """What the script reads, as JSON that cannot end its element."""
    posteriors = findings.posteriors if findings.posteriors is not None else np.zeros((0, 1))
    best = np.argsort(-posteriors, axis=-1, kind="stable")[:, :NAMED]
    percents = np.take_along_axis(posteriors, best, -1) * 100
    frames = [
        [[label, round(percent)] for label, percent in zip(labels, values, strict=True) if percent >= 0.5]
        for labels, values in zip(best.tolist(), percents.tolist(), strict=True)
    ]
    data = {
        "start": start,
        "duration": findings.transcript.duration,
        "scale": SCALE,
        "frame": findings.frame,
        "words": [
            None if word.start is None or word.end is None else [round(word.start, 3), round(word.end, 3)]
            for word in findings.transcript.words
        ],
        "names": {label: shown(findings.pieces[label]) for frame in frames for label, _ in frame},
        "frames": frames,
    }
    return json.dumps(data).replace("<", "\\u003c")
