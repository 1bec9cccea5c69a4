"""metrics.jsonl: one object a line, of kind "train" (means over the updates since the last line) or "scores"."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from narspeech.errors import NarspeechError
from narspeech.files import write_atomic
from narspeech.train import distributed

FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All complete lines; a last line cut short by a kill is left out. Raises NarspeechError on one that is no JSON."""
    path = folder / FILE
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise NarspeechError(
                f"expected a JSON object on line {number} of {path}, received {error}: remove the line"
            ) from None
    return entries


class MetricsLog:
    """Sums stay on the device between lines, so that logging costs no host sync. Only rank 0 writes.

    update, epoch: how far the training has come; what a killed run wrote beyond will happen again, and is dropped.
    """

    def __init__(self, folder: Path, update: int, epoch: int, *, rank: int, tensorboard: bool = False) -> None:
        self.path, self.rank, self.started = folder / FILE, rank, time.monotonic()
        self.sums: dict[str, Tensor] = {}
        self.board = None
        if rank != 0:
            return
        kept = [entry for entry in read_metrics(folder) if not _beyond(entry, update, epoch)]
        write_atomic(self.path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()

    def flush(self) -> dict[str, float]:
        """The sums over all processes since the last flush. Every process must call it at the same update."""
        total: dict[str, float] = {}
        names = list(self.sums)
        values = torch.stack([self.sums[name].cpu() for name in names]).tolist() if names else []
        for part in distributed.gather(dict(zip(names, values, strict=True))):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        self.sums = {}
        return total

    def write(self, kind: str, entry: dict[str, Any], message: str) -> None:
        """A line of the file, `message` on stderr, and every finite number on the board."""
        if self.rank != 0:
            return
        entry = {"kind": kind, **entry}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self.board is not None:
            for name, value in entry.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self.board.add_scalar(f"{kind}/{name}", value, entry["update"])
        print(message, file=sys.stderr, flush=True)

    def elapsed(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        seconds, self.started = now - self.started, now
        return seconds

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _beyond(entry: dict[str, Any], update: int, epoch: int) -> bool:
    """Whether a line tells of what lies ahead: scores come after an epoch's last update, and count it as done."""
    return bool(entry["update"] > update or (entry["kind"] == "scores" and entry["epoch"] > epoch))
