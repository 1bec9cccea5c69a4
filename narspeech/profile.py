"""What the recipe.py of a data set holds: profiles, functions that each return a Recipe; and how they are found."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol

from narspeech.errors import ConfigError
from narspeech.tasks.base import RecipeConfig
from narspeech.tasks.families import FAMILIES, Size, describe


class Prepare(Protocol):
    """Writes a manifest for each of `parts` of the corpus in `data` and returns their paths by part."""

    def __call__(self, data: Path, out: Path, parts: Sequence[str], *, download: bool) -> dict[str, Path]: ...


class Source(NamedTuple):
    """A corpus: its name, its prepare function, and the parts that are trained and tested on; dev: parts to choose
    epochs and decoding settings on, in place of what would be held out of the training parts."""

    name: str
    prepare: Prepare
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()

    def parts(self) -> dict[str, list[str]]:
        """The names of its parts by use, the dev ones where there are some."""
        parts = {"train": list(self.train), "test": list(self.test)}
        return {**parts, "dev": list(self.dev)} if self.dev else parts


class Recipe(NamedTuple):
    """What a profile function of a recipe.py returns."""

    sources: tuple[Source, ...]
    config: RecipeConfig


def family_profiles(
    source: Source, size: Size, config: Callable[[str], RecipeConfig], *, suffix: str = "", remark: str = ""
) -> dict[str, Callable[[], Recipe]]:
    """For every family of translation models the profile family + `suffix`: `config(family)` on `source`.

    Its docstring describes the family at `size`, then comes the `remark`.
    """

    def profile(family: str) -> Callable[[], Recipe]:
        def recipe() -> Recipe:
            return Recipe((source,), config(family))

        recipe.__name__, recipe.__doc__ = f"{family}{suffix}", f"{describe(family, size)}{remark}"
        return recipe

    return {f"{family}{suffix}": profile(family) for family in FAMILIES}


def load_profile(reference: str) -> Recipe:
    """The recipe that `path/recipe.py:profile` names: the file is run, the function called."""
    path, colon, profile = reference.rpartition(":")
    if not colon:
        path, profile = reference, ""
    profiles: dict[str, Callable[[], Recipe]] = getattr(load_file(Path(path)), "PROFILES", {})
    if profile not in profiles:
        raise ConfigError(
            f"expected a profile of {path} ({', '.join(profiles)}), received {profile!r}: name it as {path}:profile"
        )
    return profiles[profile]()


def load_file(path: Path) -> ModuleType:
    """A Python file as a module, run once; recipes load their prepare.py, or another's recipe.py, so."""
    if not path.is_file():
        raise ConfigError(
            f"expected a recipe file, received {path}: name it as recipes/librispeech/recipe.py:mini_mask_ctc"
        )
    name = "narspeech_recipe_" + re.sub(r"\W", "_", str(path.resolve()))
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"expected a recipe file ending in .py, received {path}: rename it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def command(file: str, words: Sequence[str]) -> list[str]:
    """What `narspeech` is asked when the recipe `file` itself is started: `python recipe.py profile ...`."""
    profile, *rest = words or ["--help"]
    return ["run", *([profile] if profile.startswith("-") else [f"{file}:{profile}"]), *rest]
