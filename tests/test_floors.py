"""The house stands: every file imports only from floors below its own, and nothing imports in a circle.

The floors, lowest first. A file may import from every lower floor and from its own room; rooms of one floor do not know
each other, except among the values. `data`, `evaluate` and `train` stand beside the line: BESIDE says what they may
import and from which floor on they may be imported. Imports inside functions and for type checkers count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from narspeech import _LAZY

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("errors", "files", "batch", "result", "tokenizer", "config", "calibration", "page", "memory"),
    ("ops",),
    ("nn",),
    ("frontends", "encoders", "decoders"),
    ("refine",),
    ("model",),
    ("checkpoint",),
    ("search", "align", "picture", "png", "writers"),
    ("longform", "outcomes"),
    ("transcriber", "translator", "lm"),
    ("distill", "export", "serve", "streaming", "hearing_options"),
    ("tasks",),
    ("profile",),
    ("recipe",),
    ("run", "compare", "transcription", "inspection"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
VALUES, OPS, CHECKPOINT = FLOOR["errors"], FLOOR["ops"], FLOOR["checkpoint"]


class Beside(NamedTuple):
    """A room beside the line: it imports floors up to `top` and the rooms `also`; floors from `users` on import it."""

    top: int
    also: frozenset[str]
    users: int


BESIDE = {
    "data": Beside(OPS, frozenset(), FLOOR["longform"]),
    "evaluate": Beside(OPS, frozenset(), FLOOR["longform"]),
    "train": Beside(CHECKPOINT, frozenset({"data", "evaluate"}), FLOOR["distill"]),
}
BAGS = {"utils", "util", "helpers", "helper", "common", "misc"}
OUTSIDE = {"benchmarks", "recipes", "scripts", "tests"}  # stand on the package; it must not know them


class Import(NamedTuple):
    """A line of a file and the module of ours that it imports."""

    line: int
    target: str


def problems(sources: Mapping[str, str]) -> list[str]:
    """Everything wrong with a package given as path -> source, one sentence each; empty when the house stands."""
    modules = {_module_name(path): path for path in sources}
    found, graph = [], {}
    for module, path in modules.items():
        if BAGS & {*Path(path).with_suffix("").parts}:
            found.append(f"{path} is a bag of helpers: name the file by its noun")
        if module != "narspeech" and _room(module) not in {*FLOOR, *BESIDE}:
            found.append(f"{path} stands on no known floor: give '{_room(module)}' one or move the file")
            continue
        used = list(imports(module, sources[path], modules))
        faults = ((line, fault(module, target)) for line, target in used)
        found += [f"{path}:{line} {text}" for line, text in faults if text]
        if module != "narspeech":  # the lazy table of the face makes no circle
            graph[module] = {target for _, target in used if target != "narspeech"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"imports run in a circle: {' -> '.join(reversed(error.args[1]))}")
    return found


def imports(module: str, source: str, modules: Mapping[str, str]) -> Iterator[Import]:
    """What a module imports of ours, wherever the statement stands; `modules` maps them all to their paths."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node, modules)
            names = [_home(origin, alias.name, modules) for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [str(value.value) for value in node.args[:1] if isinstance(value, ast.Constant)]
        else:
            continue
        yield from (Import(node.lineno, name) for name in names if name.partition(".")[0] in {"narspeech", *OUTSIDE})


def _origin(module: str, node: ast.ImportFrom, modules: Mapping[str, str]) -> str:
    """The absolute name of what stands between `from` and `import`."""
    parts = module.split(".")
    is_package = modules[module].endswith("__init__.py")
    base = parts[: len(parts) + is_package - node.level] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def _home(origin: str, name: str, modules: Mapping[str, str]) -> str:
    """The module that `from origin import name` reads: a submodule, the home of a lazy name, or the origin itself."""
    if origin == "narspeech" and name in _LAZY:
        return _LAZY[name]
    return f"{origin}.{name}" if f"{origin}.{name}" in modules else origin


def fault(module: str, target: str) -> str | None:
    """What is wrong with `module` importing `target`, or None."""
    importer, imported = _room(module), _room(target)
    if target.partition(".")[0] in OUTSIDE:
        return f"imports {target}: the package must not know what stands on it"
    if target == "narspeech":
        return "imports the whole package: import what is needed from its own file"
    if module == "narspeech":
        return None if target in _LAZY.values() else f"imports {target}: the face imports nothing but its lazy names"
    return None if allowed(importer, imported) else f"imports {target}: '{importer}' may not know '{imported}'"


def allowed(importer: str, imported: str) -> bool:
    """Whether a file in one room may import from another."""
    if importer == imported:
        return True
    if importer in BESIDE:
        rule = BESIDE[importer]
        return imported in rule.also or FLOOR.get(imported, len(FLOORS)) <= rule.top
    if imported in BESIDE:
        return FLOOR[importer] >= BESIDE[imported].users
    # A room that is on no floor is reported where its file is read.
    return FLOOR.get(imported, -1) < FLOOR[importer] or FLOOR[imported] == FLOOR[importer] == VALUES


def _module_name(path: str) -> str:
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def _room(module: str) -> str:
    """`narspeech.decoders.ctc` lives in the room `decoders`, the package itself in the nameless one."""
    return f"{module}.".split(".")[1]


def test_the_house_stands() -> None:
    files = sorted(ROOT.glob("narspeech/**/*.py"))
    assert files
    assert problems({path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in files}) == []


def test_recipes_hold_no_bags() -> None:
    assert [path for path in ROOT.glob("recipes/**/*.py") if path.stem in BAGS] == []


def check(sources: Mapping[str, str]) -> list[str]:
    """The problems of a made-up package: "decoders/ctc" stands for narspeech/decoders/ctc.py."""
    return problems({f"narspeech/{name}.py": source for name, source in sources.items()})


@pytest.mark.parametrize(
    "statement",
    [
        "from narspeech.decoders.ctc import CTCDecoder",
        "from narspeech.decoders import ctc",
        "from ..decoders import ctc",
        "from ..decoders.ctc import CTCDecoder",
        "import narspeech.decoders.ctc as ctc",
        "def later():\n    from narspeech.decoders import ctc",
        "class Some:\n    def later(self):\n        import narspeech.decoders.ctc",
        "if TYPE_CHECKING:\n    from narspeech.decoders import ctc",
        "import importlib\nimportlib.import_module('narspeech.decoders.ctc')",
    ],
)
def test_an_upward_import_is_caught(statement: str) -> None:
    (problem,) = check({"nn/attention": statement, "decoders/ctc": ""})
    assert f"narspeech/nn/attention.py:{statement.count(chr(10)) + 1} " in problem
    assert "'nn' may not know 'decoders'" in problem


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("decoders/ctc", "encoders/conformer"),
        ("encoders/conformer", "frontends/fbank"),
        ("frontends/fbank", "decoders/ctc"),
        ("search/ctc_beam", "align"),
        ("errors", "ops/ctc"),
        ("data/audio", "nn/attention"),
        ("data/audio", "evaluate/report"),
        ("evaluate/report", "train/trainer"),
        ("train/trainer", "search/lm"),
        ("train/trainer", "transcriber"),
        ("transcriber", "train/trainer"),
        ("checkpoint", "data/audio"),
        ("model", "evaluate/report"),
        ("recipe", "cli"),
    ],
)
def test_forbidden_neighbours(importer: str, imported: str) -> None:
    assert len(check({importer: f"import narspeech.{imported.replace('/', '.')}", imported: ""})) == 1


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("decoders/ctc", "decoders/base"),
        ("decoders/ctc", "errors"),
        ("tokenizer", "files"),
        ("files", "tokenizer"),
        ("data/audio", "errors"),
        ("evaluate/report", "ops/edits"),
        ("train/trainer", "data/dataset"),
        ("train/trainer", "evaluate/report"),
        ("train/trainer", "checkpoint"),
        ("train/trainer", "decoders/base"),
        ("longform", "data/audio"),
        ("transcriber", "checkpoint"),
        ("recipe", "train/trainer"),
        ("cli", "recipe"),
        ("__main__", "cli"),
    ],
)
def test_permitted_neighbours(importer: str, imported: str) -> None:
    assert check({importer: f"import narspeech.{imported.replace('/', '.')}", imported: ""}) == []


def test_the_whole_package_hides_what_is_used() -> None:
    assert "whole package" in check({"nn/layers": "import narspeech"})[0]
    assert "whole package" in check({"nn/layers": "from narspeech import *"})[0]
    assert "'nn' may not know 'checkpoint'" in check({"nn/layers": "from narspeech import load"})[0]
    assert check({"nn/layers": "from narspeech import __version__"}) == []


def test_the_face_imports_only_its_lazy_names() -> None:
    lazy = "if TYPE_CHECKING:\n    from narspeech.checkpoint import load"
    assert check({"__init__": lazy, "checkpoint": ""}) == []
    assert "face" in check({"__init__": "from narspeech.model import Model", "model": ""})[0]


@pytest.mark.parametrize("statement", ["from recipes.librispeech import recipe", "import tests.fakes"])
def test_the_package_does_not_know_what_stands_on_it(statement: str) -> None:
    assert "stands on it" in check({"recipe": statement})[0]


def test_a_circle_inside_a_room_is_caught() -> None:
    (problem,) = check(
        {
            "nn/a": "from narspeech.nn import b",
            "nn/b": "def later():\n    from .c import thing",
            "nn/c": "import narspeech.nn.a",
        }
    )
    assert problem.startswith("imports run in a circle: ")
    names = problem.partition(": ")[2].split(" -> ")
    assert names[0] == names[-1]
    pairs = {(one[-1], other[-1]) for one, other in pairwise(names)}
    assert pairs == {("a", "b"), ("b", "c"), ("c", "a")}


def test_a_circle_through_a_folders_own_file_is_caught() -> None:
    (problem,) = check({"nn/__init__": "from .a import thing", "nn/a": "from narspeech.nn import thing"})
    assert "circle" in problem
    assert check({"nn/__init__": "from .a import thing", "nn/a": "from narspeech.nn import b", "nn/b": ""}) == []


def test_a_circle_among_the_values_is_caught() -> None:
    assert "circle" in check({"files": "from narspeech import config", "config": "from narspeech import files"})[0]


@pytest.mark.parametrize("name", ["nn/utils", "helpers", "common/ctc"])
def test_a_bag_of_helpers_is_caught(name: str) -> None:
    assert "bag of helpers" in check({name: ""})[0]


def test_a_file_on_no_floor_is_caught() -> None:
    assert "no known floor" in check({"attic": ""})[0]
    assert "no known floor" in check({"attic/box": "", "errors": ""})[0]


def test_other_packages_are_free() -> None:
    assert check({"errors": "import torch, os.path\nfrom narspeechless import cli\nimport_module(name)"}) == []
