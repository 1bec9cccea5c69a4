"""A refinement as a picture: one row of token boxes for the draft and for each step, coloured by confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from narspeech.errors import NarspeechError
from narspeech.tokenizer import BLANK, MASK, SPECIAL_PIECES

LETTER, PADDING, GAP, HEIGHT, LABEL = 8.4, 6, 4, 26, 64
# Not sure at all, half sure, sure: purple, white and green, which readers with any colour vision tell apart.
COLOURS = ((178, 171, 210), (247, 247, 247), (127, 201, 174))
UNDECIDED = "#d9d9d9"


class Cell(NamedTuple):
    """A token as it is shown, and its probability; None: not decided yet."""

    text: str
    confidence: float | None


def check_svg(path: Path) -> None:
    """Raises NarspeechError for a name that promises another kind of picture."""
    if path.suffix.lower() != ".svg":
        raise NarspeechError(f"expected --picture to end in .svg, received {path}: name it so")


def draw_trace(rows: Sequence[Sequence[Cell]]) -> str:
    """The rows, the draft first, as an SVG document; a box whose token is not the one above has a heavy frame.

    Rows of one length stand in columns; where edits change the length, each row flows for itself.
    """
    widths = [[len(cell.text) * LETTER + 2 * PADDING for cell in row] for row in rows]
    if len({len(row) for row in rows}) == 1:
        widths = [[max(column) for column in zip(*widths, strict=True)]] * len(rows)
    width = LABEL + max((sum(row) + GAP * len(row) for row in widths), default=0)
    height = (HEIGHT + GAP) * len(rows) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        'font-family="monospace" font-size="14">',
        f'<rect width="{width:.0f}" height="{height}" fill="white"/>',
    ]
    above: Sequence[Cell] = ()
    for number, (row, sizes) in enumerate(zip(rows, widths, strict=True)):
        top = GAP + number * (HEIGHT + GAP)
        parts.append(_text(GAP, top, f"step {number}" if number else "draft", "start", "#555"))
        left = float(LABEL)
        for cell, old, size in zip_longest(row, above[: len(row)], sizes):
            changed = number > 0 and (old is None or _token(old) != _token(cell))
            parts.append(
                f'<rect x="{left:.1f}" y="{top}" width="{size:.1f}" height="{HEIGHT}" rx="4" '
                f'fill="{colour(cell.confidence)}" stroke="#333" stroke-width="{2 if changed else 0.4}"/>'
            )
            parts.append(_text(left + size / 2, top, cell.text, "middle", "#111"))
            left += size + GAP
        above = row
    return "\n".join([*parts, "</svg>\n"])


def cells(tokens: Sequence[str], scores: Sequence[float]) -> list[Cell]:
    """Pieces and their log-probabilities as cells: a mask is not decided yet, a blank of a path is a dot."""
    shown = {SPECIAL_PIECES[BLANK]: "·"}
    return [
        Cell("?", None)
        if token == SPECIAL_PIECES[MASK]
        else Cell(shown.get(token, token.replace("▁", "_")), math.exp(score))
        for token, score in zip(tokens, scores, strict=True)
    ]


def _token(cell: Cell) -> tuple[str, bool]:
    """What a box shows but for how sure it is; a question mark may be a token as well."""
    return cell.text, cell.confidence is None


def _text(x: float, top: float, text: str, anchor: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{top + 18}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def colour(confidence: float | None) -> str:
    """What a confidence looks like: between the three colours."""
    if confidence is None or not math.isfinite(confidence):
        return UNDECIDED
    place = 2 * min(max(confidence, 0.0), 1.0)
    low, high = (COLOURS[0], COLOURS[1]) if place < 1 else (COLOURS[1], COLOURS[2])
    share = place - (place >= 1)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))
