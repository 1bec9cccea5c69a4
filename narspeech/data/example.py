"""One utterance with its reference text, and the JSONL manifests that list them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narspeech.errors import ManifestError
from narspeech.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class Example:
    """An utterance: the part [start, start + duration) seconds of a sound file, and the words spoken there."""

    id: str
    audio: str
    text: str
    duration: float
    start: float = 0.0
    speaker: str | None = None


# What each field must hold; bool is no number here although Python says so.
_FIELDS: dict[str, str] = {
    "id": "a non-empty string",
    "audio": "a non-empty string",
    "text": "a string",
    "duration": "a positive number of seconds",
    "start": "a number of seconds, 0 or more",
    "speaker": "a string or null",
}
_REQUIRED = ("id", "audio", "text", "duration")
_MEND = "let recipes/manifest/prepare.py write the manifest, or, to transcribe, name the sound files instead"


def read_manifest(path: str | os.PathLike[str]) -> list[Example]:
    """The examples of a JSONL manifest, one object a line with the fields of `Example` (start and speaker optional).

    A relative audio path is meant from the manifest's own folder. Blank lines are skipped. Raises ManifestError, naming
    the file and line, on anything malformed and on an id that occurs twice.
    """
    path = Path(path)
    folder = path.absolute().parent
    objects = read_objects(path, _FIELDS, required=_REQUIRED, mend=_MEND)
    return [_parse(fields, where, folder) for where, fields in objects]


def read_objects(
    path: Path, known: Mapping[str, str], *, required: Sequence[str], mend: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a JSONL manifest that has the `required` and only `known` fields (name: what it holds), and where
    it stands; its id occurs once. Raises ManifestError; where a field is missing it says how to `mend` that."""
    first_seen: dict[object, int] = {}
    for number, line in enumerate(_read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = _object(line, where, known, required, mend)
        yield where, fields  # the reader has checked the values when it asks for the next
        if fields["id"] in first_seen:
            raise ManifestError(
                f"{where}: expected every id once, received {fields['id']!r} again "
                f"(first on line {first_seen[fields['id']]}); rename or remove one of them"
            )
        first_seen[fields["id"]] = number


def _read_lines(path: Path) -> Iterator[str]:
    """One by one: a manifest of millions need not fit in memory as text, too. Only \\n ends a line."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected a readable UTF-8 manifest at {path}, received: {error}") from error


def write_manifest(path: str | os.PathLike[str], examples: Iterable[Example]) -> None:
    """Write a JSONL manifest atomically; audio below its folder is named relative to it, so that both can move.

    Raises ManifestError when two examples share an id.
    """
    path = Path(path)
    folder = path.absolute().parent
    seen: set[str] = set()
    lines: list[str] = []
    for example in examples:
        if example.id in seen:
            raise ManifestError(f"expected every id once for {path}, received {example.id!r} twice; rename one of them")
        seen.add(example.id)
        audio = Path(example.audio).absolute()
        written = audio.relative_to(folder) if audio.is_relative_to(folder) else audio
        fields = dataclasses.asdict(dataclasses.replace(example, audio=str(written)))
        lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(lines).encode())


def _object(line: str, where: str, known: Mapping[str, str], required: Sequence[str], mend: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: expected one JSON object, received {shorten(line)} ({error})") from error
    if not isinstance(fields, dict):
        raise ManifestError(f"{where}: expected one JSON object, received {shorten(line)}")
    missing = [f"{name!r} ({known[name]})" for name in required if name not in fields]
    if missing:
        named = f"the field{'s' * (len(missing) > 1)} {', '.join(missing)}"
        raise ManifestError(f"{where}: expected {named}, received only {sorted(fields)}: {mend}")
    for name in fields:
        if name not in known:
            # An ignored misspelling ("strat") would quietly train on the wrong part of a recording.
            raise ManifestError(
                f"{where}: expected only the fields {list(known)}, received {name!r}; remove or rename it"
            )
    return fields


def _parse(fields: dict[str, Any], where: str, folder: Path) -> Example:
    for name, value in fields.items():
        if not _valid(name, value):
            raise ManifestError(f"{where}: expected {name!r} to be {_FIELDS[name]}, received {shorten(repr(value))}")
    return Example(
        id=fields["id"],
        audio=str(folder / fields["audio"]),
        text=fields["text"],
        duration=float(fields["duration"]),
        start=float(fields.get("start", 0.0)),
        speaker=fields.get("speaker"),
    )


def _valid(name: str, value: Any) -> bool:
    if name in ("id", "audio"):
        return isinstance(value, str) and bool(value.strip())
    if name == "text":
        return isinstance(value, str)
    if name == "speaker":
        return value is None or isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    seconds = float(value) if abs(value) < 1e300 else math.inf
    return math.isfinite(seconds) and (seconds > 0 if name == "duration" else seconds >= 0)


def shorten(text: str) -> str:
    """What an error shows of a text."""
    return text if len(text) <= 80 else text[:77] + "..."
