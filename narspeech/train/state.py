"""What a killed run needs to go on as if nothing had happened: a folder that appears whole or not at all."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from narspeech.checkpoint import WEIGHTS, read_weights, save, write_json
from narspeech.errors import CheckpointError
from narspeech.files import sync_folder, write_atomic
from narspeech.model import Model

OPTIMIZER, POSITION = "optimizer.safetensors", "position.json"
PREFIX = "resume-"


@dataclass(kw_only=True)
class Position:
    """How far a training has come. Batches, augmentation and dropout are functions of the seed and these numbers, so
    there is no random state to keep.

    step: of the epoch; skipped, failures: non-finite updates in all, and in a row up to now; infeasible: targets that
    their frames could not spell; best: (score, epoch) of the kept epochs, best first.
    """

    epoch: int = 0
    step: int = 0
    update: int = 0
    skipped: int = 0
    failures: int = 0
    infeasible: int = 0
    best: list[tuple[float, int]] = field(default_factory=list)


class State(NamedTuple):
    """A state as it was read: the model's weights, the optimizer's numbers by parameter, and the position."""

    weights: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    position: Position


def save_state(folder: Path, model: Model, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write `folder`/resume-<update>-<epoch>, then remove older ones. A kill at any moment leaves a complete one.

    The epoch is part of the name: the last update of an epoch may be saved both before and after its evaluation.
    """
    target = folder / f"{PREFIX}{position.update:08d}-{position.epoch:04d}"
    # What earlier kills left half-written, files of `write_atomic` included: nobody else writes here now.
    for stray in folder.glob(".*"):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
    partial = folder / f".{target.name}"
    save(partial, model)
    moments: dict[str, Tensor] = {}
    for number, state in optimizer.state_dict()["state"].items():
        moments |= {f"{number}.{name}": x.detach().cpu().contiguous() for name, x in state.items()}
    write_atomic(partial / OPTIMIZER, safetensors.torch.save(moments))
    write_json(partial / POSITION, asdict(position))
    if target.exists():  # one that could not be read: this run went on from an older one
        shutil.rmtree(target)
    partial.rename(target)
    sync_folder(folder)
    for other in saved(folder):
        if other != target:
            shutil.rmtree(other)


def saved(folder: Path) -> list[Path]:
    """Complete states, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / POSITION).is_file())


def read_state(folder: Path) -> State | None:
    """The newest state of `folder` that can be read, or None where there is none; damaged ones are named on stderr.

    Raises CheckpointError if there are states and none of them can be read.
    """
    states = saved(folder)
    for path in reversed(states):
        try:
            return _read(path)
        except CheckpointError as error:
            print(f"narspeech: left out {path}: {error}", file=sys.stderr)
    if states:
        raise CheckpointError(
            f"expected a state to resume from in {folder}, received {len(states)} that cannot be read: "
            "restore one, or choose another --out"
        )
    return None


def load_state(folder: Path, model: Model, optimizer: torch.optim.Optimizer) -> Position:
    """Put the newest state of `folder` into model and optimizer; a fresh Position where there is none.

    Raises CheckpointError if the state does not fit the model, or none of several can be read.
    """
    state = read_state(folder)
    if state is None:
        return Position()
    try:
        model.load_state_dict(state.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"expected the state in {folder} to fit the configured model, received other weights ({reason}): "
            "resume with the settings of the run, or choose another --out"
        ) from None
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state.moments})
    return state.position


def epoch_weights(folder: Path, epoch: int) -> Path:
    """Where the weights after `epoch` epochs are kept, as long as they are among the best."""
    return folder / f"epoch-{epoch:04d}.safetensors"


def best_weights(folder: Path) -> list[Path]:
    """The weights of the best epochs so far, best first."""
    state = read_state(folder)
    return [] if state is None else [epoch_weights(folder, epoch) for _, epoch in state.position.best]


def _read(path: Path) -> State:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, x in read_weights(path / OPTIMIZER).items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = x
    try:
        content = json.loads((path / POSITION).read_text(encoding="utf-8"))
        content["best"] = [(float(score), int(epoch)) for score, epoch in content["best"]]
        position = Position(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"expected {path / POSITION} to tell how far the run has come: {error}") from None
    return State(read_weights(path / WEIGHTS), moments, position)
