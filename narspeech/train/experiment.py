"""One folder is one experiment: its config.json, and the refusal to mix other settings with what it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narspeech.checkpoint import FORMAT, write_json
from narspeech.errors import ConfigError

FILE = "config.json"


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that `folder` was claimed with, nothing where there are none yet. Raises ConfigError."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ConfigError(f"expected settings in {path}, received {error}: choose another --out") from None
    if content and (not isinstance(content, dict) or content.get("format") != FORMAT):
        raise ConfigError(f"expected {path} of format {FORMAT}, received another: choose another --out")
    return dict(content)


def refuse_changes(
    folder: Path, earlier: dict[str, Any], settings: dict[str, Any], free: Callable[[str], bool]
) -> None:
    """Raise ConfigError that names what differs; `free` tells of a dotted name whether it may."""
    changed = [name.removeprefix("recipe.") for name in differences(earlier, settings) if not free(name)]
    if changed:
        some = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        raise ConfigError(
            f"expected the settings of the run in {folder}, received other {some}: "
            "give the same, or choose another --out"
        )


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, settings)


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Dotted names at which two plain configurations differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        return [x for key in keys for x in differences(first.get(key), second.get(key), f"{name}.{key}".lstrip("."))]
    return [] if first == second else [name]
