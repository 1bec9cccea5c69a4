"""Your own recordings: a JSONL, CSV or TSV listing becomes checked train and dev manifests.

python recipes/manifest/prepare.py --data my.csv --out DIR
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from narspeech.data.corpus import command_line, describe, measure, names_in, refuse, tidy
from narspeech.data.example import Example, read_manifest, write_manifest
from narspeech.data.split import split
from narspeech.errors import ManifestError

COLUMNS = ("audio", "text", "id", "start", "duration", "speaker")
SUFFIXES = (".jsonl", ".csv", ".tsv")
# Listings round their times; an end this much beyond the recording, in seconds, is cut back without a word.
TOLERANCE = 0.1


class Row(NamedTuple):
    """One line of a listing, its numbers read but nothing filled in yet."""

    where: str
    id: str
    audio: Path
    text: str
    start: float
    duration: float | None
    speaker: str | None


def prepare(
    data: Path,
    out: Path,
    parts: Sequence[str] = ("train", "dev"),
    *,
    held_out: float = 0.05,
    seed: int = 0,
    lower: bool = True,
) -> dict[str, Path]:
    """Write `out`/<part>.jsonl for every part and return their paths by part.

    data: a listing, or a folder with one named after each part (train.csv, dev.csv, ...). Where "dev" has no listing
    of its own, a share `held_out` of "train" becomes it, whole speakers where speakers are known, always the same
    ones for a `seed`; 0 holds nothing out. lower: lower-case the texts. Raises ManifestError or AudioError that name
    what is wrong.
    """
    if not 0 <= held_out < 1:
        raise ManifestError(f"expected held_out from 0 to below 1, received {held_out}")
    listings = _listings(data)
    splits = "train" in listings and "dev" not in listings and held_out > 0
    offered = [*listings, "dev"] if splits else list(listings)
    for part in parts:
        if part not in offered:
            raise ManifestError(f"expected parts among {offered} of {data}, received {part!r}; add a listing for it")
        if out.absolute() / f"{part}.jsonl" in (path.absolute() for path in listings.values()):
            raise ManifestError(f"expected out to differ from the folder of the listings, received {out} for both")
    wanted = {"train" if splits and part == "dev" else part for part in parts}
    examples = {part: _examples(listings[part], lower) for part in listings if part in wanted}
    if splits and "train" in examples:
        speakers = {example.speaker for example in examples["train"]}
        by_speaker = None not in speakers and len(speakers) > 1
        kept, aside = split(examples["train"], share=held_out, seed=seed, by="speaker" if by_speaker else "utterance")
        examples |= {"train": kept, "dev": aside}
    return {part: _write(out / f"{part}.jsonl", examples[part]) for part in dict.fromkeys(parts)}


def _listings(data: Path) -> dict[str, Path]:
    """The listing of every part; a single file is "train"."""
    if data.is_file():
        if data.suffix.lower() not in SUFFIXES:
            raise ManifestError(
                f"expected a listing ending in {', '.join(SUFFIXES)}, received {data}; rename or convert it"
            )
        return {"train": data}
    found: dict[str, Path] = {}
    for path in sorted(data.glob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            if path.stem in found:
                raise ManifestError(
                    f"expected one listing a part, received {found[path.stem]} and {path.name}; remove one"
                )
            found[path.stem] = path
    if not found:
        raise ManifestError(f"expected a .jsonl, .csv or .tsv listing, or a folder of them, received {data}")
    return found


def _examples(listing: Path, lower: bool) -> list[Example]:
    """The examples of a listing, checked and with everything filled in that it left out."""
    rows = _rows(listing)
    if not rows:
        raise ManifestError(f"expected utterances in {listing}, received none")
    sounds = list(dict.fromkeys(row.audio for row in rows))
    seconds = dict(zip(sounds, measure(sounds), strict=True))
    problems = [
        f"{row.where} ({row.start + (row.duration or 0):.2f} s of {seconds[row.audio]:.2f} s)"
        for row in rows
        if row.start >= seconds[row.audio] or row.start + (row.duration or 0) > seconds[row.audio] + TOLERANCE
    ]
    refuse(problems, f"times of {listing} within their recordings", "beyond the end")
    ids = _ids(rows)
    twice = [f"{name} ({number} times)" for name, number in Counter(ids).items() if number > 1]
    refuse(twice, f"every id of {listing} once", "repeated")
    return [
        Example(
            id=name,
            audio=str(row.audio),
            text=tidy(row.text, lower=lower),
            duration=round(min(row.duration or math.inf, seconds[row.audio] - row.start), 6),
            start=row.start,
            speaker=row.speaker,
        )
        for name, row in zip(ids, rows, strict=True)
    ]


def _ids(rows: Sequence[Row]) -> list[str]:
    """The ids, where one is missing the sound's name, numbered when several utterances would share it."""
    names = ["_".join(row.audio.stem.split()) for row in rows]
    shared = Counter(name for name, row in zip(names, rows, strict=True) if not row.id)
    number: Counter[str] = Counter()
    ids: list[str] = []
    for name, row in zip(names, rows, strict=True):
        if row.id:
            ids.append(row.id)
            continue
        number[name] += 1
        ids.append(name if shared[name] == 1 else f"{name}-{number[name]:04d}")
    return ids


def _rows(listing: Path) -> list[Row]:
    rows: list[Row] = []
    problems: list[str] = []
    ignored: set[str] = set()
    exists = cache(os.path.isfile)  # many lines may be pieces of one recording
    for number, fields in _records(listing):
        ignored |= fields.keys() - set(COLUMNS)
        row, problem = _row(listing, number, fields, exists)
        rows.append(row)
        if problem:
            problems.append(f"{row.where} {problem}")
    refuse(problems, f"sound, text and valid times in every line of {listing}", "without")
    if ignored:
        warnings.warn(f"{listing}: ignored {sorted(ignored)}; known are {list(COLUMNS)}", stacklevel=2)
    return rows


def _row(listing: Path, number: int, fields: dict[str, Any], exists: Callable[[Path], bool]) -> tuple[Row, str]:
    """The row and all that is wrong with it, if anything."""
    values = {name: "" if fields.get(name) is None else str(fields[name]).strip() for name in COLUMNS}
    start, duration = _seconds(values["start"] or "0"), _seconds(values["duration"] or "nan")
    row = Row(
        f"line {number}",
        values["id"],
        (listing.parent / values["audio"]).absolute(),
        values["text"],
        start,
        None if math.isnan(duration) else duration,
        values["speaker"] or None,
    )
    problems: list[str] = []
    if not values["audio"]:
        problems.append("has no audio")
    elif not exists(row.audio):
        problems.append(f"names {row.audio}, which does not exist")
    if not values["text"]:
        problems.append("has no text")
    if len(row.id.split()) > 1:
        problems.append(f"has white space in the id {row.id!r}")
    if not 0 <= start < math.inf:
        problems.append(f"has the start {values['start']!r}")
    if values["duration"] and not 0 < duration < math.inf:
        problems.append(f"has the duration {values['duration']!r}")
    return row, " and ".join(problems)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _records(listing: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, fields) of every line that is not blank."""
    try:
        # Excel writes a byte order mark.
        text = listing.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected a readable UTF-8 listing {listing}, received: {error}") from error
    if listing.suffix.lower() == ".jsonl":
        yield from _objects(listing, text)
        return
    tabs = listing.suffix.lower() == ".tsv"
    # In a table with tabs a quotation mark is part of the text.
    reader = csv.reader(
        io.StringIO(text),  # splitlines would also cut at what may stand inside a text
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    try:
        header = [name.strip() for name in next(reader, [])]
        if not {"audio", "text"} <= set(header):
            raise ManifestError(
                f"expected a first line naming at least audio and text in {listing}, received {header[:10]}"
            )
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                raise ManifestError(
                    f"{listing}, line {reader.line_num}: expected {len(header)} columns, received {len(values)}; "
                    "put texts that hold the separator in quotation marks"
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ManifestError(f"{listing}, line {reader.line_num}: expected a table, received: {error}") from error


def _objects(listing: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{listing}, line {number}: expected one JSON object, received: {error}") from error
        if not isinstance(fields, dict):
            raise ManifestError(f"{listing}, line {number}: expected one JSON object, received {line[:80]}")
        yield number, fields


def _write(path: Path, examples: list[Example]) -> Path:
    try:
        if path.exists() and read_manifest(path) == examples:
            return path
    except ManifestError:
        pass
    write_manifest(path, examples)
    return path


def main(
    data: Path,
    out: Path,
    parts: str = "train,dev",
    held_out: float = 0.05,
    seed: int = 0,
    lower: bool = True,
) -> None:
    """Check a listing of your own recordings and write JSONL manifests.

    Args:
        data: a .jsonl, .csv or .tsv listing, or a folder with one named after each part.
        out: folder for the manifests.
        parts: names of parts, with commas between.
        held_out: share of train that becomes dev where dev has no listing.
        seed: another seed holds out others.
        lower: lower-case the texts.
    """
    for manifest in prepare(data, out, names_in(parts), held_out=held_out, seed=seed, lower=lower).values():
        print(describe(manifest))


if __name__ == "__main__":
    command_line(main)
