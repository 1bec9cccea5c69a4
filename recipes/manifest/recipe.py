"""Your own recordings: train on a listing of them, or teach them to a model that knows the language already.

narspeech run recipes/manifest/recipe.py:small --data my.csv --out DIR --init narspeech/models/english
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from narspeech.cli import main
from narspeech.profile import Recipe, Source, command, load_file

librispeech = load_file(Path(__file__).parents[1] / "librispeech" / "recipe.py")
listing = load_file(Path(__file__).with_name("prepare.py"))


def prepare(data: Path, out: Path, parts: Sequence[str], *, download: bool) -> dict[str, Path]:  # noqa: ARG001
    """There is nothing to download: `data` is a listing, or a folder of listings."""
    paths: dict[str, Path] = listing.prepare(data, out, parts)
    return paths


SOURCE = Source("own", prepare, train=("train",), test=("dev",))


def warm() -> Recipe:
    """Letters first, where there is no model to start `small` from; see LibriSpeech's `warm`."""
    return Recipe((SOURCE._replace(test=()),), librispeech.warm().config)


def small() -> Recipe:
    """Mask-CTC with 7 million parameters. Start it from a model of the language, or from `warm`."""
    return Recipe((SOURCE,), librispeech.small_mask_ctc().config)


def tune() -> Recipe:
    """A light touch for an hour or less of recordings: `small` with fewer epochs at a lower rate. Needs --init."""
    sources, config = small()
    train = replace(config.train, epochs=10, optim=replace(config.train.optim, learning_rate=3e-4, warmup=100))
    model = replace(config.model, ctc=replace(config.model.ctc, guided=0.0))
    return Recipe(sources, replace(config, fine_tuning=True, model=model, train=train))


PROFILES = {profile.__name__: profile for profile in (warm, small, tune)}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
