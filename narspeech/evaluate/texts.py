"""Files of texts to be scored: read by id or by line, joined."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from narspeech.errors import ManifestError

_NAMED_AT_MOST = 5


def read_texts(path: Path, *, failed_as_empty: bool = False) -> dict[str, str]:
    """The texts of a file by utterance id, in the order of the file.

    Two forms, told apart by the first line that is not blank: lines of `id text` (Kaldi's text, LibriSpeech's
    .trans.txt; the text may be empty), or JSON objects with `id` and `text` (a manifest, or what
    `narspeech transcribe --format jsonl` writes) or `target` (a manifest of pairs). An object with an `error` is an
    utterance that could not be transcribed: refused, or with `failed_as_empty` read as the empty text, so that each of
    its words counts as deleted.

    Raises ManifestError if the file cannot be read, is empty or malformed, or has an id twice.
    """
    numbered = [(number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    if not numbered:
        raise ManifestError(
            f"expected lines of `id text` or JSON objects in {path}, received none: is it the right file?"
        )
    is_json = numbered[0][1].lstrip().startswith("{")
    texts: dict[str, str] = {}
    repeated: list[str] = []
    failed: list[str] = []
    for number, line in numbered:
        if is_json:
            name, text = _from_json(line, f"{path}, line {number}")
        else:
            name, *rest = line.split(maxsplit=1)
            text = rest[0] if rest else ""
        if name in texts:
            repeated.append(name)
        if text is None:
            failed.append(name)
        texts[name] = (text or "").strip()
    if repeated:
        raise ManifestError(
            f"expected every id once in {path}, received again {_some(repeated)}: remove the repetitions"
        )
    if failed and not failed_as_empty:
        raise ManifestError(
            f"expected a text for every utterance in {path}, received an error for {_some(failed)}: "
            "transcribe them again, or score them as empty (--failed-as-empty)"
        )
    return texts


def read_lines(path: Path) -> dict[str, str]:
    """The texts of a file with one a line and nothing else, by the number of the line; lines may be empty.

    Raises ManifestError if the file cannot be read or is empty.
    """
    lines = _lines(path)
    if lines[-1] == "":  # what stands after the last line's end
        lines.pop()
    if not lines:
        raise ManifestError(f"expected a text a line in {path}, received none: is it the right file?")
    return {str(number): line.strip() for number, line in enumerate(lines, 1)}


def check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    """Raises ManifestError if an id is on one side only."""
    lacking = [name for name in references if name not in hypotheses]
    unknown = [name for name in hypotheses if name not in references]
    if lacking or unknown:
        parts = [f"no hypothesis for {_some(lacking)}"] if lacking else []
        parts += [f"no reference for {_some(unknown)}"] if unknown else []
        raise ManifestError(
            f"expected the same ids on both sides, received {' and '.join(parts)}: "
            "score a whole set against its own references"
        )


def _lines(path: Path) -> list[str]:
    try:
        # utf-8-sig drops the mark that some editors put first. Only \n ends a line: splitlines would cut at U+2028 too.
        return Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected a readable UTF-8 file of texts at {path}, received: {error}") from error


def _from_json(line: str, where: str) -> tuple[str, str | None]:
    """The id and text of one JSON object; no text if it carries an error."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"expected one JSON object at {where}, received something else: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("id"), str) or not record["id"]:
        raise ManifestError(
            f"expected a JSON object with a non-empty string as id at {where}, received {line.strip()[:80]}"
        )
    if record.get("error") is not None:
        return record["id"], None
    text = record.get("text", record.get("target"))
    if not isinstance(text, str):
        raise ManifestError(f"expected a string as text at {where}, received {text!r}: is it a file of texts?")
    return record["id"], text


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    rest = f", ... ({len(names)} in all)" if len(names) > _NAMED_AT_MOST else f" ({len(names)})"
    return shown + rest
