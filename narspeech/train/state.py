"""What a killed run needs to go on as if nothing had happened: a folder of safetensors and JSON that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from narspeech.checkpoint import WEIGHTS, read_weights, save, write_json
from narspeech.errors import CheckpointError
from narspeech.files import write_atomic
from narspeech.model import Model

OPTIMIZER, POSITION = "optimizer.safetensors", "position.json"
PREFIX = "resume-"


@dataclass(kw_only=True)
class Position:
    """How far a training has come. Batches, augmentation and dropout are functions of the seed and these numbers, so there is
    no random state to keep. best: (score, epoch) of the kept epoch checkpoints, best first."""

    epoch: int = 0
    step: int = 0
    update: int = 0
    skipped: int = 0
    infeasible: int = 0
    best: list[tuple[float, int]] = field(default_factory=list)


def save_state(folder: Path, model: Model, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write `folder`/resume-<update>, then remove older ones. A kill at any moment leaves a complete one behind."""
    target = folder / f"{PREFIX}{position.update:08d}"
    if target.exists():  # the same update was reached before a kill: what stands is equal to what would be written
        return
    partial = folder / f".{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    save(partial, model)
    moments: dict[str, Tensor] = {}
    for number, state in optimizer.state_dict()["state"].items():
        moments |= {f"{number}.{name}": x.detach().cpu().contiguous() for name, x in state.items()}
    write_atomic(partial / OPTIMIZER, safetensors.torch.save(moments))
    write_json(partial / POSITION, asdict(position))
    os.replace(partial, target)
    for older in saved(folder)[:-1]:
        shutil.rmtree(older)


def saved(folder: Path) -> list[Path]:
    """Complete states, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / POSITION).is_file())


def load_state(folder: Path, model: Model, optimizer: torch.optim.Optimizer) -> Position:
    """Put the newest state of `folder` into model and optimizer; a fresh Position where there is none."""
    states = saved(folder)
    if not states:
        return Position()
    path = states[-1]
    try:
        model.load_state_dict(read_weights(path / WEIGHTS))
    except RuntimeError as error:
        raise CheckpointError(
            f"expected {path} to fit the configured model, received other weights ({str(error).splitlines()[0]}): "
            "resume with the settings of the run, or choose another --out"
        ) from None
    moments: dict[int, dict[str, Tensor]] = {}
    for name, x in read_weights(path / OPTIMIZER).items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = x
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    content = json.loads((path / POSITION).read_text(encoding="utf-8"))
    content["best"] = [(float(score), int(epoch)) for score, epoch in content["best"]]
    return Position(**content)
