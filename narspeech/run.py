"""`narspeech run`: a recipe at work, with any of its settings changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from narspeech.config import override, to_dict
from narspeech.errors import ConfigError
from narspeech.profile import load_profile
from narspeech.recipe import STAGES, USUAL, Run
from narspeech.train import distributed


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Prepare, train, average, decode and score by a recipe. Any setting follows by its dotted name, for example
    --train.epochs 10 --model.encoder.depth 8; --print-config shows them all."""

    recipe: tyro.conf.Positional[str]
    """path/recipe.py:profile"""
    data: Path | None = None
    """The folder that holds the corpora, or where they are downloaded to; a listing of your own recordings."""
    out: Path | None = None
    """The folder of this experiment; a run that was interrupted goes on from there."""
    stages: str = ",".join(USUAL)
    """Which stages, in order, with commas; distill lets final/ write the training texts anew, into OUT/distilled."""
    init: Path | None = None
    """A checkpoint folder to fine-tune from."""
    init_decoder: Path | None = None
    """The checkpoint folder whose decoder and vocabulary are taken, where that is another: for speech translation a
    model of text."""
    distilled: Path | None = None
    """The distilled/ of a teacher's run: train on what it wrote."""
    download: bool = True
    """Fetch official archives of missing parts."""
    print_config: bool = False
    """Print every setting and stop."""


def main(argv: list[str]) -> int:
    """`narspeech run`: 0 when every stage is done. Raises NarspeechError on bad settings or input."""
    settings, rest = dotted(argv)
    options = tyro.cli(RunOptions, args=rest, prog="narspeech run")
    recipe = load_profile(options.recipe)
    recipe = recipe._replace(config=override(recipe.config, settings))
    if options.print_config:
        print(json.dumps(to_dict(recipe.config), indent=2))
        return 0
    names = [name.strip() for name in options.stages.split(",")]
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise ConfigError(f"expected stages among {', '.join(STAGES)}, received {', '.join(unknown)}")
    if options.out is None:
        raise ConfigError("expected --out, received none: name the folder of this experiment")
    if options.data is None and "prepare" in names:
        raise ConfigError("expected --data for the stage prepare, received none: name the folder of the corpora")
    try:
        run = Run(
            recipe,
            options.data,
            options.out,
            download=options.download,
            init=options.init,
            init_decoder=options.init_decoder,
            distilled=options.distilled,
        )
        run.stages(names)
    finally:
        distributed.stop()
    return 0


def dotted(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Settings by name, and the other words: ["x", "--train.epochs", "3", "--data.seed=1"] gives
    {"train.epochs": "3", "data.seed": "1"} and ["x"]."""
    values: dict[str, str] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, joined, value = word.partition("=")
        if not name.startswith("--") or "." not in name:
            others.append(word)
            continue
        if not joined:
            if not rest:
                raise ConfigError(f"expected a value after {name}, received the end of the command: give one")
            value = rest.pop(0)
        values[name.removeprefix("--")] = value
    return values, others
