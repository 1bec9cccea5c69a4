"""`narspeech compare`: finished runs side by side, quality and speed, as one table and one picture."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from narspeech import checkpoint
from narspeech.config import from_dict
from narspeech.errors import ConfigError
from narspeech.evaluate.texts import read_texts
from narspeech.files import write_atomic
from narspeech.model import Model
from narspeech.recipe import TASKS, spread
from narspeech.search.rescore import find_teacher
from narspeech.tasks.base import Input, RecipeConfig, Setting, settings
from narspeech.train.curves import new_figure, save_figure
from narspeech.train.experiment import read_settings


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare finished runs: the quality of what they decoded, and how fast they decode, measured in turns on this
    machine so that its moods slow all alike. Writes comparison.json, comparison.md and comparison.png."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs (--out of narspeech run) whose stages decode and score are done."""
    out: Path
    """The folder for the table and the picture."""
    baseline: str
    """What speeds are relative to, as RUN/SETTING, such as ar/ar-beam5."""
    part: str | None = None
    """The decoded part to compare on, such as multi30k-en-de-test_2016_flickr; needed where runs have several."""
    batch_sizes: tuple[int, ...] = (1, 8, 64)
    """How many are decoded together."""
    examples: int = 128
    """How many of the part, spread over it evenly, are decoded for a measurement."""
    rounds: int = 5
    """Measurements of everything; the median counts."""
    threads: int = 2
    """Processor threads."""
    device: str | None = None
    """cpu, cuda, ...; by default CUDA where there is one."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of decoding with one run's model. figures: quality by name; steps: mean refinement steps an example;
    speeds: examples a second by batch size; ratios: the same over the baseline's, medians over the rounds."""

    run: str
    setting: str
    distilled: bool
    parameters: int
    figures: dict[str, float]
    steps: float
    speeds: dict[int, float]
    ratios: dict[int, float]


class Entrant:
    """A finished run, loaded once, and the part that it is tested on, which needs no name where there is one. Raises
    ConfigError where the folder holds no run or no such part."""

    def __init__(self, folder: Path, part: str | None = None, device: str | None = None) -> None:
        stored = read_settings(folder)
        if not stored:
            raise ConfigError(f"expected the folder of a run, received {folder}: name an --out of narspeech run")
        self.folder, self.distilled = folder, stored.get("distilled") is not None
        self.config = from_dict(RecipeConfig, stored["recipe"])
        parts = {
            f"{name}-{part}": (name, part) for name, source in stored["sources"].items() for part in source["test"]
        }
        chosen = part or next(iter(parts), "")
        if chosen not in parts or (part is None and len(parts) > 1):
            raise ConfigError(
                f"expected a part of {folder} ({', '.join(parts)}), received {part or 'none'}: give --part"
            )
        corpus, name = parts[chosen]
        read, judge = TASKS[self.config.task]
        self.part, self.measure = chosen, judge()
        self.input: Input[Any] = read(self.config, folder)
        self.examples: list[Any] = self.input.read(folder / "manifests" / corpus / f"{name}.jsonl")
        self.model: Model = checkpoint.ready(folder / "final", device)
        self.ways = settings(self.config, self.model.config.decoding)
        if self.config.decode.teacher is not None:  # loaded once, so that no time is taken by that
            teacher = find_teacher(self.config.decode.teacher, self.model)
            self.ways = [way if way.teacher is None else way._replace(teacher=teacher) for way in self.ways]

    def quality(self, way: Setting) -> tuple[dict[str, float], float]:
        """The figures of what the run decoded, and its mean steps."""
        path = self.folder / "decode" / f"{self.part}.{way.name}.jsonl"
        if not path.is_file():
            raise ConfigError(f"expected {path}, received none: run the stage decode of {self.folder}")
        references = {example.id: self.input.reference(example) for example in self.examples}
        figures = self.measure.score(references, read_texts(path)).figures
        steps = [json.loads(line)["steps"] for line in path.read_text(encoding="utf-8").splitlines()]
        return figures, statistics.fmean(steps)

    def seconds(self, way: Setting, batch_size: int, count: int) -> float:
        """How long `count` examples take, read and ready."""
        few = [self.examples[index] for chunk in spread(len(self.examples), total=count) for index in chunk]
        config = replace(self.config, decode=replace(self.config.decode, batch_size=batch_size))
        found = type(self.input)(config, self.folder).decode(self.model, few, self.part, [way])
        start = time.perf_counter()
        next(found)
        return time.perf_counter() - start


def compare(
    entrants: Sequence[Entrant],
    *,
    baseline: str,
    batch_sizes: Sequence[int] = (1, 8, 64),
    examples: int = 128,
    rounds: int = 5,
) -> list[Row]:
    """Every run in every setting that it decoded in; `baseline` is RUN/SETTING, a run being its folder's name.

    Raises ConfigError for runs of different parts or of one name, for one that was not decoded, and where there is no
    such baseline.
    """
    tested = {entrant.part for entrant in entrants}
    if len(tested) > 1:
        raise ConfigError(f"expected runs tested on one part, received {', '.join(sorted(tested))}: compare each alone")
    ways = {f"{entrant.folder.name}/{way.name}": (entrant, way) for entrant in entrants for way in entrant.ways}
    if baseline not in ways:
        raise ConfigError(f"expected a baseline among {', '.join(ways)}, received {baseline}: name one of them")
    if len(ways) < sum(len(entrant.ways) for entrant in entrants):
        raise ConfigError("expected runs in folders of different names, received one name twice: rename a folder")
    quality = {name: entrant.quality(way) for name, (entrant, way) in ways.items()}
    times = _times(ways, batch_sizes, examples, rounds)
    rows = []
    for name, (entrant, way) in ways.items():
        figures, steps = quality[name]
        decoded = min(examples, len(entrant.examples))
        rows.append(
            Row(
                run=entrant.folder.name,
                setting=way.name,
                distilled=entrant.distilled,
                parameters=sum(weight.numel() for weight in entrant.model.parameters()),
                figures=figures,
                steps=steps,
                speeds={size: decoded / statistics.median(times[name][size]) for size in batch_sizes},
                ratios={
                    size: statistics.median(
                        one / other for one, other in zip(times[baseline][size], times[name][size], strict=True)
                    )
                    for size in batch_sizes
                },
            )
        )
    return rows


def _times(
    ways: dict[str, tuple[Entrant, Setting]], batch_sizes: Sequence[int], examples: int, rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Seconds of every way at every batch size, round by round."""
    times: dict[str, dict[int, list[float]]] = {name: {size: [] for size in batch_sizes} for name in ways}
    for turn in range(rounds + 1):
        for name, (entrant, way) in ways.items():
            for size in batch_sizes:
                taken = entrant.seconds(way, size, examples)
                if turn:  # the first warms up
                    times[name][size].append(taken)
    return times


def table(rows: Sequence[Row], baseline: str) -> str:
    """The rows in Markdown."""
    sizes, figures = list(rows[0].speeds), list(rows[0].figures)
    head = ["run", "setting", "trained on", "parameters", *figures, "steps"]
    head += [f"a second, batch {size}" for size in sizes] + [f"x {baseline}, batch {size}" for size in sizes]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for row in rows:
        lines.append(
            [row.run, row.setting, "distilled" if row.distilled else "raw", f"{row.parameters / 1e6:.1f} M"]
            + [f"{value:.2f}" for value in row.figures.values()]
            + [f"{row.steps:.1f}"]
            + [f"{row.speeds[size]:.1f}" for size in sizes]
            + [f"{row.ratios[size]:.2f}" for size in sizes]
        )
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def draw(rows: Sequence[Row], falling: bool, target: Path) -> None:
    """Quality against speed one by one: a line for each run, filled marks where it learnt from a teacher."""
    size, figure_name = min(rows[0].speeds), next(iter(rows[0].figures))
    figure = new_figure(9, 6)
    axes = figure.subplots()
    for number, (run, points) in enumerate(_by_run(rows)):
        color = f"C{number % 10}"
        axes.plot(
            [row.speeds[size] for row in points],
            [row.figures[figure_name] for row in points],
            marker="os^Dv"[number // 10 % 5],
            color=color,
            fillstyle="full" if points[0].distilled else "none",
            label=run,
        )
    axes.set(xscale="log", xlabel=f"examples a second, batch {size}", ylabel=figure_name)
    if falling:
        axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    save_figure(figure, target)


def _by_run(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for run in dict.fromkeys(row.run for row in rows):
        yield run, sorted((row for row in rows if row.run == run), key=lambda row: min(row.speeds.items())[1])


def main(argv: list[str]) -> int:
    """`narspeech compare`: 0 when all is measured. Raises NarspeechError."""
    options = tyro.cli(CompareOptions, args=argv, prog="narspeech compare")
    if not options.runs or min(options.batch_sizes, default=0) < 1 or options.examples < 1 or options.rounds < 1:
        raise ConfigError("expected runs, and batch sizes, examples and rounds of at least 1, received less")
    torch.set_num_threads(options.threads)
    entrants = [Entrant(folder, options.part, options.device) for folder in options.runs]
    rows = compare(
        entrants,
        baseline=options.baseline,
        batch_sizes=options.batch_sizes,
        examples=options.examples,
        rounds=options.rounds,
    )
    machine = f"{entrants[0].model.device.type}, {options.threads} threads of {os.cpu_count()}, {platform.machine()}"
    content = {"machine": machine, "examples": options.examples, "rounds": options.rounds}
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(options.out / "comparison.json", {**content, "rows": [asdict(row) for row in rows]})
    text = table(rows, options.baseline)
    note = f"\nSpeed on {machine}: medians of {options.rounds} rounds over {options.examples} examples.\n"
    write_atomic(options.out / "comparison.md", (text + note).encode())
    draw(rows, entrants[0].measure.falling, options.out / "comparison.png")
    print(text, end="")
    return 0
