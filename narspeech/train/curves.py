"""Pictures of a training: loss and validation scores against updates."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narspeech.errors import NarspeechError
from narspeech.files import write_atomic
from narspeech.train.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = ("loss", "ctc", "intermediate", "decoder", "consistency")


def draw_curves(folder: Path, target: Path) -> None:
    """Read `folder`/metrics.jsonl and write a PNG: training losses above, validation error rates below, or BLEU and
    chrF of translations."""
    figure = new_figure(8, 7)
    entries = read_metrics(folder)
    losses, rates = figure.subplots(2, 1, sharex=True)
    training = [entry for entry in entries if entry["kind"] == "train"]
    scores = [entry for entry in entries if entry["kind"] == "scores"]
    for name in LOSSES:
        _line(losses, training, name)
    names = {name for entry in scores for name in entry}
    translation = any(name.endswith("_bleu") for name in names)
    for name in sorted(name for name in names if name.endswith(("wer", "cer", "_bleu", "_chrf"))):
        _line(rates, scores, name, marker=".")
    positive = any(entry.get("loss", 0) > 0 for entry in training)
    losses.set(ylabel="training loss a token", yscale="log" if positive else "linear")
    rates.set(xlabel="updates", ylim=(0, 100 if translation else 1))
    rates.set(ylabel="validation score" if translation else "validation error rate")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, target)


def new_figure(width: float, height: float) -> Figure:
    """An empty one, in inches. Raises NarspeechError without matplotlib, which the extra `train` brings."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NarspeechError(
            'expected matplotlib to draw, received an environment without it: pip install "narspeech[train]"'
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, target: Path) -> None:
    """As PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomic(target, picture.getvalue())


def _line(axes: Any, entries: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    points = [(entry["update"], entry[name]) for entry in entries if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=name, **style)
