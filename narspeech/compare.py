"""`narspeech compare`: finished runs side by side, quality and speed, as one table and one picture."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
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
    machine so that its moods slow all alike. Writes comparison.json, comparison.md and comparison.png. Where --out has
    a comparison already, of the same part, baseline and settings, its rows of other runs stay."""

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
    speeds: examples a second by batch size on `machine`; ratios: the same over the baseline's, medians over the rounds.
    """

    run: str
    setting: str
    distilled: bool
    parameters: int
    figures: dict[str, float]
    steps: float
    speeds: dict[int, float]
    ratios: dict[int, float]
    machine: str

    @property
    def family(self) -> str:
        """The run's name up to the first hyphen: ctc of ctc-raw and of ctc-long."""
        return self.run.partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that can stand in one table: figures of one part, speeds relative to one baseline."""

    part: str
    baseline: str
    batch_sizes: tuple[int, ...]
    examples: int
    rounds: int
    rows: tuple[Row, ...] = ()

    @staticmethod
    def read(path: Path) -> Comparison:
        """Raises ConfigError where `path` does not hold one."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = tuple(
                Row(**row | {name: _by_size(row[name]) for name in ("speeds", "ratios")}) for row in content["rows"]
            )
            return Comparison(**content | {"batch_sizes": tuple(content["batch_sizes"]), "rows": rows})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"expected a comparison in {path}, received {error!r}: name another --out") from error

    def with_rows_of(self, earlier: Comparison) -> Comparison:
        """With the rows of an earlier comparison of the same shape whose runs are not in this one; those of a family
        stand together, in the earlier order.

        Raises ConfigError where the two cannot stand in one table.
        """
        names = [one.name for one in fields(self) if one.name != "rows"]
        differing = [name for name in names if getattr(earlier, name) != getattr(self, name)]
        if differing:
            wanted, given = (", ".join(f"{name} {getattr(one, name)}" for name in differing) for one in (earlier, self))
            raise ConfigError(
                f"expected the settings of the comparison that stands in --out, {wanted}, received {given}: "
                "give the same, or name another --out"
            )
        fresh = {row.run for row in self.rows}
        rows = (*(row for row in earlier.rows if row.run not in fresh), *self.rows)
        families = list(dict.fromkeys(row.family for row in (*earlier.rows, *self.rows)))
        return replace(self, rows=tuple(sorted(rows, key=lambda row: families.index(row.family))))


def _by_size(values: dict[str, float]) -> dict[int, float]:
    """JSON's keys are text."""
    return {int(size): value for size, value in values.items()}


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
                f"expected a part of {folder} ({', '.join(parts)}), received {part or 'none'}: name one (--part)"
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
        steps = [json.loads(line)["steps"] for line in path.read_bytes().splitlines()]
        return figures, statistics.fmean(steps)

    def seconds(self, way: Setting, batch_size: int, count: int) -> float:
        """How long `count` examples take, read and ready."""
        few = [self.examples[index] for chunk in spread(len(self.examples), total=count) for index in chunk]
        config = replace(self.config, decode=replace(self.config.decode, batch_size=batch_size))
        found = type(self.input)(config, self.folder).decode(self.model, few, self.part, [way])
        start = time.perf_counter()
        next(found)
        return time.perf_counter() - start


def compare(entrants: Sequence[Entrant], plan: Comparison) -> Comparison:
    """The plan with a row for every setting that a run decoded in; a run has its folder's name.

    Raises ConfigError for a run of another part, two of one name, one that was not decoded, and where there is no such
    baseline.
    """
    tested = {entrant.part for entrant in entrants}
    if tested != {plan.part}:
        raise ConfigError(
            f"expected runs tested on {plan.part}, received {', '.join(sorted(tested))}: compare each alone"
        )
    ways = {f"{entrant.folder.name}/{way.name}": (entrant, way) for entrant in entrants for way in entrant.ways}
    if plan.baseline not in ways:
        raise ConfigError(
            f"expected a baseline among {', '.join(ways)}, received {plan.baseline}: name one, or give its run, too"
        )
    if len(ways) < sum(len(entrant.ways) for entrant in entrants):
        raise ConfigError("expected runs in folders of different names, received one name twice: rename a folder")
    quality = {name: entrant.quality(way) for name, (entrant, way) in ways.items()}
    times = _times(ways, plan)
    rows = []
    for name, (entrant, way) in ways.items():
        figures, steps = quality[name]
        decoded = min(plan.examples, len(entrant.examples))
        rows.append(
            Row(
                run=entrant.folder.name,
                setting=way.name,
                distilled=entrant.distilled,
                parameters=sum(weight.numel() for weight in entrant.model.parameters()),
                figures=figures,
                steps=steps,
                speeds={size: decoded / statistics.median(taken) for size, taken in times[name].items()},
                ratios={
                    size: statistics.median(
                        one / other for one, other in zip(times[plan.baseline][size], taken, strict=True)
                    )
                    for size, taken in times[name].items()
                },
                machine=_machine(entrant.model.device),
            )
        )
    return replace(plan, rows=tuple(rows))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads}"


def _times(ways: dict[str, tuple[Entrant, Setting]], plan: Comparison) -> dict[str, dict[int, list[float]]]:
    """Seconds of every way at every batch size, round by round."""
    times: dict[str, dict[int, list[float]]] = {name: {size: [] for size in plan.batch_sizes} for name in ways}
    for turn in range(plan.rounds + 1):
        for name, (entrant, way) in ways.items():
            for size in plan.batch_sizes:
                taken = entrant.seconds(way, size, plan.examples)
                if turn:  # the first warms up
                    times[name][size].append(taken)
    return times


def table(comparison: Comparison) -> str:
    """The rows in Markdown, and on which machines they were measured."""
    rows, baseline = comparison.rows, comparison.baseline
    sizes, figures = comparison.batch_sizes, list(rows[0].figures)
    machines = list(dict.fromkeys(row.machine for row in rows))
    head = ["run", "setting", "trained on", "parameters", *figures, "steps"]
    head += [f"a second, batch {size}" for size in sizes] + [f"x {baseline}, batch {size}" for size in sizes]
    lines = [[*head, "machine"], ["---"] * 3 + ["---:"] * (len(head) - 2)]
    for row in rows:
        lines.append(
            [row.run, row.setting, "distilled" if row.distilled else "raw", f"{row.parameters / 1e6:.1f} M"]
            + [f"{value:.2f}" for value in row.figures.values()]
            + [f"{row.steps:.1f}"]
            + [f"{row.speeds[size]:.1f}" for size in sizes]
            + [f"{row.ratios[size]:.2f}" for size in sizes]
            + [str(machines.index(row.machine) + 1)]
        )
    kinds = "; ".join(f"{number}: {machine}" for number, machine in enumerate(machines, 1))
    note = f"{comparison.part}. Speeds: medians of {comparison.rounds} rounds over {comparison.examples} examples"
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines) + f"\n{note}; machine {kinds}.\n"


def draw(comparison: Comparison, falling: bool, target: Path) -> None:
    """Quality against relative speed one by one, a line for each run and a colour for each family; marks are filled
    where a run learnt from a teacher, and hollow on a dashed line where not."""
    rows = comparison.rows
    size, figure_name = min(comparison.batch_sizes), next(iter(rows[0].figures))
    figure = new_figure(11, 6)
    axes = figure.subplots()
    families = list(dict.fromkeys(row.family for row in rows))
    for run, points in _by_run(rows):
        number, distilled = families.index(points[0].family), points[0].distilled
        axes.plot(
            [row.ratios[size] for row in points],
            [row.figures[figure_name] for row in points],
            marker="os^Dv"[number // 10 % 5],
            color=f"C{number % 10}",
            linestyle="-" if distilled else "--",
            fillstyle="full" if distilled else "none",
            label=run,
        )
    axes.set(xscale="log", xlabel=f"speed over that of {comparison.baseline}, batch {size}", ylabel=figure_name)
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:g}")
    if falling:
        axes.invert_yaxis()
    axes.grid(which="both", alpha=0.3)
    figure.legend(fontsize="small", loc="outside right center")
    save_figure(figure, target)


def _by_run(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for run in dict.fromkeys(row.run for row in rows):
        yield run, sorted((row for row in rows if row.run == run), key=lambda row: min(row.ratios.items())[1])


def main(argv: list[str]) -> int:
    """`narspeech compare`: 0 when all is measured. Raises NarspeechError."""
    options = tyro.cli(CompareOptions, args=argv, prog="narspeech compare")
    least = min(*options.batch_sizes, options.examples, options.rounds, options.threads)
    if not options.runs or not options.batch_sizes or least < 1:
        raise ConfigError("expected runs, and batch sizes, examples, rounds and threads of at least 1, received less")
    torch.set_num_threads(options.threads)
    entrants = [Entrant(folder, options.part, options.device) for folder in options.runs]
    plan = Comparison(
        part=entrants[0].part,
        baseline=options.baseline,
        batch_sizes=options.batch_sizes,
        examples=options.examples,
        rounds=options.rounds,
    )
    target = options.out / "comparison.json"
    earlier = Comparison.read(target) if target.is_file() else plan
    plan.with_rows_of(earlier)  # refused now, and not after the hours that this can take
    comparison = compare(entrants, plan).with_rows_of(earlier)
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(comparison)
    checkpoint.write_json(target, asdict(comparison))
    write_atomic(target.with_suffix(".md"), text.encode())
    draw(comparison, entrants[0].measure.falling, target.with_suffix(".png"))
    print(text, end="")
    return 0
