"""The training loop: every model, one or many processes, killable at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from narspeech.batch import Batch, Loss, TrainStep
from narspeech.checkpoint import weights_to_bytes
from narspeech.data.batching import make_batches, shard, steps
from narspeech.data.dataset import Item, collate
from narspeech.errors import ConfigError, TrainingError
from narspeech.files import write_atomic
from narspeech.model import Model
from narspeech.train import distributed
from narspeech.train.metrics import MetricsLog
from narspeech.train.optim import OptimConfig, adamw, learning_rate
from narspeech.train.state import epoch_weights, load_state, save_state

MAX_FAILURES = 20


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """max_seconds: a micro-batch, padding included: seconds of sound, or of text the tokens of the longer side;
    accumulate: micro-batches an update, over all processes; short_first: that many epochs go from short to long
    examples; save_every, log_every: updates; evaluate_every: epochs; keep: epochs whose weights are averaged in the
    end, the best by the validation score; threads: of the CPU, fixed because sums depend on it; workers: loading
    processes; freeze: parts of the model, such as "encoder" and "ctc", that stay as they are."""

    epochs: int = 60
    max_seconds: float = 120.0
    max_utterances: int | None = None
    accumulate: int = 1
    short_first: int = 1
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    save_every: int = 500
    log_every: int = 50
    evaluate_every: int = 1
    keep: int = 10
    threads: int | None = None
    workers: int = 0
    freeze: tuple[str, ...] = ()
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "save_every", "log_every", "evaluate_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, received {getattr(self, name)}: raise it")


class TrainingSet(Protocol):
    """What the trainer asks of its data: examples addressed by (epoch, index), and their seconds, or tokens, in an
    epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int], /) -> Item: ...

    def durations(self, epoch: int) -> list[float]: ...


# Scores a model after an epoch: "score" (lower is better) chooses what is averaged; everything goes to the metrics.
Evaluation = Callable[[Model], dict[str, float]]


class Trainer:
    """Trains `model` into `folder`: metrics.jsonl, and checkpoints/ with the newest state and the best epochs' weights.

    Where checkpoints/ holds a state, the training goes on from there, whatever the model's weights were.
    """

    def __init__(
        self, model: Model, config: TrainConfig, data: TrainingSet, folder: Path, evaluate: Evaluation
    ) -> None:
        if len(data) == 0:
            raise TrainingError("expected at least one training example, received none: check the manifest")
        self.config, self.data, self.evaluate = config, data, evaluate
        self.rank, self.world = distributed.start()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = distributed.device()
        self.model = model.to(self.device)
        self.frozen = [frozen_part(model, name) for name in config.freeze]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError(f"expected something left to train, received train.freeze {', '.join(config.freeze)}")
        self.optimizer = adamw(model, config.optim)
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.position = position = load_state(self.checkpoints, model, self.optimizer)
        self.log = MetricsLog(folder, position.update, position.epoch, rank=self.rank, tensorboard=config.tensorboard)

    def train(self) -> None:
        """From where the last checkpoint stands to the end."""
        while self.position.epoch < self.config.epochs:
            self._epoch()
        self.log.close()
        distributed.wait()

    def _epoch(self) -> None:
        config, position = self.config, self.position
        plan = self._plan()
        shards = [shard(step, self.rank, self.world) for step in plan[position.step :]]
        loader = self._load([micro for step in shards for micro in step])
        with self._progress() as bar:
            task = bar.add_task(f"epoch {position.epoch + 1} of {config.epochs}", total=len(shards))
            for step in shards:
                progress = (position.epoch + position.step / len(plan)) / config.epochs
                self._update([next(loader) for _ in step], progress)
                position.step += 1
                position.update += 1
                due = position.update % config.save_every == 0
                # Every state stands at a line of the metrics: a resumed run has no sums to remember.
                if due or position.update % config.log_every == 0 or position.step == len(plan):
                    self._log(progress)
                if due:
                    self._save()
                bar.advance(task)
        position.epoch, position.step = position.epoch + 1, 0
        if position.epoch % config.evaluate_every == 0 or position.epoch == config.epochs:
            self._evaluate()
        self._save()
        self.log.elapsed()  # the evaluation's seconds are not the next updates'

    def _plan(self) -> list[list[list[int]]]:
        """The micro-batches of every update of this epoch, over all processes."""
        config, position = self.config, self.position
        order: Literal["random", "short_first"] = "short_first" if position.epoch < config.short_first else "random"
        batches = make_batches(
            self.data.durations(position.epoch),
            max_seconds=config.max_seconds,
            max_utterances=config.max_utterances,
            seed=config.seed,
            epoch=position.epoch,
            order=order,
        )
        return steps(batches, config.accumulate)

    def _progress(self) -> Progress:
        """A bar of the epoch's updates, where someone can see it."""
        console = Console(stderr=True)
        return Progress(console=console, transient=True, disable=self.rank != 0 or not console.is_terminal)

    def _load(self, batches: Sequence[list[int]]) -> Iterator[Batch]:
        epoch = self.position.epoch
        keys = [[(epoch, index) for index in batch] for batch in batches]
        loader: DataLoader[Item] = DataLoader(
            self.data,  # type: ignore[arg-type]  # only __getitem__ is asked of it
            batch_sampler=keys,
            collate_fn=collate,
            num_workers=self.config.workers,
            pin_memory=self.device.type == "cuda",
        )
        return iter(loader)

    def _update(self, batches: Sequence[Batch], progress: float) -> None:
        """One optimizer step over this process's micro-batches and everyone else's."""
        config, position = self.config, self.position
        self.model.train()
        for part in self.frozen:  # their dropout and statistics rest, too
            part.eval()
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, and what it is divided by
        reports: list[dict[str, Tensor]] = []
        for number, batch in enumerate(batches):
            loss = self._loss(batch, number * self.world + self.rank, progress)
            torch.autograd.backward(loss.total)
            total = loss.total.detach()
            sums += torch.stack([total.double(), loss.count.double()])
            reports.append({"loss": total, "count": loss.count, **loss.parts})
        distributed.sum_values(sums)
        distributed.sum_gradients(self.parameters)
        for p in self.parameters:
            if p.grad is not None:
                p.grad.div_(sums[1].clamp(min=1))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.optim.clip)
        # Sums over all processes: they all decide alike.
        if not bool(torch.isfinite(norm + sums[0])):
            self._skip()
            return
        position.failures = 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optim, position.update, progress)
        self.optimizer.step()
        for report in reports:
            self.log.add(report)

    def _loss(self, batch: Batch, place: int, progress: float) -> Loss:
        config = self.config
        torch.manual_seed(draw_seed(config.seed, self.position.update, place))
        bf16 = config.precision == "bf16" or (config.precision == "auto" and self.device.type == "cuda")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            loss: Loss = self.model(batch.to(self.device), TrainStep(progress=progress))
        return loss

    def _log(self, progress: float) -> None:
        position = self.position
        sums = self.log.flush()
        count = max(sums.pop("count", 0.0), 1.0)
        infeasible = int(sums.pop("infeasible", 0.0))
        position.infeasible += infeasible
        means = {name: value / count for name, value in sums.items()}
        rate = learning_rate(self.config.optim, position.update - 1, progress)
        entry = {
            "update": position.update,
            "epoch": position.epoch + 1,
            "learning_rate": rate,
            "tokens_per_second": count / max(self.log.elapsed(), 1e-9),
        }
        counters = {"infeasible": infeasible, "skipped": position.skipped}
        shown = " ".join(f"{name} {value:.3f}" for name, value in means.items())
        warned = "".join(f" {name} {value}" for name, value in counters.items() if value)
        message = f"epoch {position.epoch + 1} update {position.update} {shown} lr {rate:.2e}{warned}"
        self.log.write("train", entry | means | counters, message)

    def _skip(self) -> None:
        self.position.skipped += 1
        self.position.failures += 1
        if self.position.failures >= MAX_FAILURES:
            raise TrainingError(
                f"expected finite gradients, received {MAX_FAILURES} non-finite updates in a row: "
                "lower optim.learning_rate or look at the newest batches"
            )

    def _evaluate(self) -> None:
        position = self.position
        distributed.average_buffers(self.model.buffers())
        if self.rank == 0:
            scores = self.evaluate(self.model.eval())
            entry = {"update": position.update, "epoch": position.epoch, **scores}
            shown = " ".join(f"{name} {value:.4f}" for name, value in scores.items())
            self.log.write("scores", entry, f"epoch {position.epoch}: {shown}")
            weights = weights_to_bytes(self.model.state_dict())
            write_atomic(epoch_weights(self.checkpoints, position.epoch), weights)
            ranked = sorted([*position.best, (scores["score"], position.epoch)])
            position.best = ranked[: self.config.keep]
        distributed.wait()

    def _save(self) -> None:
        distributed.average_buffers(self.model.buffers())
        if self.rank == 0:
            save_state(self.checkpoints, self.model, self.optimizer, self.position)
            kept = {epoch_weights(self.checkpoints, epoch) for _, epoch in self.position.best}
            for path in set(self.checkpoints.glob("epoch-*.safetensors")) - kept:
                path.unlink()
        distributed.wait()


def frozen_part(model: nn.Module, name: str) -> nn.Module:
    """The part of that name, which will have no gradients."""
    parts = dict(model.named_modules())
    if not name or name not in parts:
        known = ", ".join(name for name, _ in model.named_children())
        raise ConfigError(f"expected train.freeze to name parts of the model, such as {known}, received {name!r}")
    part: nn.Module = parts[name].requires_grad_(False)
    return part


def draw_seed(seed: int, update: int, place: int) -> int:
    """The seed of dropout, masks and augmentation for the micro-batch at `place` of an update.

    A function of the plan alone: a resumed run, another number of processes and another Python draw the same.
    """
    return int(np.random.SeedSequence([seed, update, place]).generate_state(1, np.uint64)[0] >> np.uint64(1))
