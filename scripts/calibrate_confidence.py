"""Learn how much a model's word scores are worth, and draw it.

    python scripts/calibrate_confidence.py MODEL MANIFEST --picture docs/reliability.png --write

MANIFEST: JSONL of speech that the model was not trained on, with speakers. The weights are fitted on one half of the
speakers and judged on the other, and the other way round; with --write those of the first half go into MODEL.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from speakers import chosen, first_half

from narspeech import checkpoint
from narspeech.align import rows
from narspeech.batch import Padded
from narspeech.calibration import Calibration, Values, calibration_error, fit_weights, reliability
from narspeech.data.audio import load_audio
from narspeech.data.example import Example, read_manifest
from narspeech.evaluate.error_rate import alignment
from narspeech.model import Model
from narspeech.train.curves import new_figure, save_figure


class Judged(NamedTuple):
    """Words that were decoded: evidence (W, 6), which were right (W,), and which belong to the first half (W,)."""

    evidence: Values
    right: NDArray[np.bool_]
    first: NDArray[np.bool_]

    def half(self, first: bool) -> tuple[Values, NDArray[np.bool_]]:
        chosen = self.first == first
        return self.evidence[chosen], self.right[chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibrate the confidence of words.")
    parser.add_argument("model", type=Path, help="a checkpoint folder")
    parser.add_argument("manifest", type=Path, help="held-out speech, with speakers")
    parser.add_argument("--limit", type=int, help="take about so many utterances, as many of every speaker")
    parser.add_argument("--picture", type=Path, help="where the reliability picture goes (PNG)")
    parser.add_argument("--write", action="store_true", help="store what the first half taught in the model's folder")
    arguments = parser.parse_args()
    model = checkpoint.load(arguments.model)
    words = judge(model, chosen(read_manifest(arguments.manifest), arguments.limit))
    print(f"{len(words.right)} words, {words.right.mean():.1%} right")
    found = {}
    for first in (True, False):
        evidence, right = words.half(not first)
        fitted = Calibration(weights=fit_weights(*words.half(first)))
        found[first] = fitted.confidence(evidence), right
        before = calibration_error(Calibration().confidence(evidence), right)
        after = calibration_error(*found[first])
        print(
            f"fitted on half {2 - first}, judged on the other: expected calibration error {before:.3f} -> {after:.3f}"
        )
    if arguments.picture:
        draw(words, found[True], arguments.picture)
    if arguments.write:
        store(arguments.model, model, words)


@torch.inference_mode()
def judge(model: Model, examples: Sequence[Example]) -> Judged:
    """Decode the utterances by the model's own settings; every second speaker belongs to the first half."""
    half = first_half(examples)
    evidence, right, first = [], [], []
    for example in examples:
        audio = load_audio(
            example.audio, target_rate=model.config.frontend.rate, start=example.start, duration=example.duration
        )
        source = Padded.pack([torch.from_numpy(audio.samples)])
        encoded = model.encode(source)
        if encoded.ctc is None:
            raise SystemExit("expected a model with a CTC head: without it there is nothing to calibrate")
        (row,) = rows(model, model.decode(source, encoded=encoded), encoded.ctc)
        edits = alignment(example.text, " ".join(row.texts))
        evidence.append(row.evidence)
        right += [edit.reference == edit.hypothesis for edit in edits if edit.hypothesis is not None]
        first += [str(example.speaker) in half] * len(row.texts)
    return Judged(np.concatenate(evidence), np.array(right), np.array(first))


def draw(words: Judged, after: tuple[Values, NDArray[np.bool_]], target: Path) -> None:
    """Share of right words against confidence, before and after, on the half that the weights were not fitted on."""
    figure = new_figure(9, 4.5)
    evidence, right = words.half(False)
    before = Calibration().confidence(evidence), right
    for axes, name, (confidence, truth) in zip(
        figure.subplots(1, 2, sharey=True), ("weakest token", "calibrated"), (before, after), strict=True
    ):
        bins = reliability(confidence, truth)
        axes.plot([0, 1], [0, 1], color="#999", linewidth=1)
        axes.plot([one.confidence for one in bins], [one.right for one in bins], marker="o", color="#3b6ea5")
        for one in bins:
            axes.annotate(f"{one.words}", (one.confidence, one.right), (5, -12), textcoords="offset points", fontsize=8)
        error = calibration_error(confidence, truth)
        axes.set(xlabel="confidence of the words (beside each point: how many)", xlim=(0, 1), ylim=(0, 1))
        axes.set_title(f"{name}: calibration error {error:.3f}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share that was right")
    save_figure(figure, target)


def store(folder: Path, model: Model, words: Judged) -> None:
    evidence, right = words.half(True)
    weights = fit_weights(evidence, right)
    typical = float(Calibration(weights=weights).confidence(evidence).mean())
    rounded = tuple(round(weight, 4) for weight in weights)
    calibration = replace(model.config.calibration or Calibration(), weights=rounded, typical=round(typical, 4))
    checkpoint.save_config(folder, replace(model.config, calibration=calibration))
    print(f"{folder}: {calibration}")


if __name__ == "__main__":
    main()
