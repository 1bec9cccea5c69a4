"""Files of texts to be scored: read by id or by line, joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from narspeech.errors import ManifestError
from narspeech.evaluate.formats import Form, Line, form_of, records
from narspeech.evaluate.timed import by_recording, by_segment, read_ctm, read_stm

_NAMED_AT_MOST = 5


def read_texts(path: Path, *, form: Form | None = None, failed_as_empty: bool = False) -> dict[str, str]:
    """The texts of a file by utterance id, in the order of the file.

    Forms, told apart by their content unless `form` says which: lines of `id text` (Kaldi's text, LibriSpeech's
    .trans.txt; the text may be empty); JSON objects with `id` and `text` (a manifest, or what `narspeech transcribe
    --format jsonl` writes) or `target` (a manifest of pairs); tab-separated columns with a header that names id and
    text; sclite's trn (`text (id)`), stm and ctm, these two by recording. `lines`, a text a line by its number, is
    never guessed. An object with an `error` is an utterance that could not be transcribed: refused, or with
    `failed_as_empty` read as the empty text, so that each of its words counts as deleted.

    Raises ManifestError if the file cannot be read, is empty or malformed, or has an id twice.
    """
    if form == "lines":
        return read_lines(path)
    lines = _numbered(path)
    form = form or form_of(lines, Path(path))
    if form in ("stm", "ctm"):
        return by_recording(read_stm(lines, path) if form == "stm" else read_ctm(lines, path), path)
    texts: dict[str, str] = {}
    repeated: list[str] = []
    failed: list[str] = []
    for name, text in records(lines, form, path):
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


def read_pair(
    references: Path, hypotheses: Path, forms: tuple[Form | None, Form | None], *, failed_as_empty: bool = False
) -> tuple[dict[str, str], dict[str, str]]:
    """References and hypotheses by id, joined: words of a ctm file go to the segments of an stm file by their times.

    A ctm has no line for a recording without words: with `failed_as_empty` an id that it lacks is read as empty.

    Raises ManifestError as `read_texts`, and if an id is on one side only.
    """
    timed = False
    if "lines" not in forms:
        lines = _numbered(references), _numbered(hypotheses)
        told = forms[0] or form_of(lines[0], Path(references)), forms[1] or form_of(lines[1], Path(hypotheses))
        if told == ("stm", "ctm"):
            return by_segment(read_stm(lines[0], references), read_ctm(lines[1], hypotheses), references)
        timed = told[1] == "ctm"
    truth = read_texts(references, form=forms[0], failed_as_empty=failed_as_empty)
    found = read_texts(hypotheses, form=forms[1], failed_as_empty=failed_as_empty)
    if timed and failed_as_empty:
        found |= {name: "" for name in truth if name not in found}
    check_ids(truth, found, timed=timed)
    return truth, found


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


def check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str], *, timed: bool = False) -> None:
    """Raises ManifestError if an id is on one side only; `timed` says that the hypotheses are of a ctm."""
    lacking = [name for name in references if name not in hypotheses]
    unknown = [name for name in hypotheses if name not in references]
    if lacking or unknown:
        parts = [f"no hypothesis for {_some(lacking)}"] if lacking else []
        parts += [f"no reference for {_some(unknown)}"] if unknown else []
        # Where an id is unknown the option would hide what is wrong: the names do not match.
        ctm = ", or, as a ctm has no line for a recording without words, score these as empty (--failed-as-empty)"
        raise ManifestError(
            f"expected the same ids on both sides, received {' and '.join(parts)}: "
            f"score a whole set against its own references{ctm if timed and not unknown else ''}"
        )


def _numbered(path: Path) -> list[Line]:
    lines = [Line(number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    if not lines:
        raise ManifestError(
            f"expected lines of `id text` or JSON objects in {path}, received none: is it the right file?"
        )
    return lines


def _lines(path: Path) -> list[str]:
    try:
        # utf-8-sig drops the mark that some editors put first. Only \n ends a line: splitlines would cut at U+2028 too,
        # and read_text at a carriage return, which crawled sentences have inside.
        with Path(path).open(encoding="utf-8-sig", newline="\n") as file:
            return file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected a readable UTF-8 file of texts at {path}, received: {error}") from error


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    rest = f", ... ({len(names)} in all)" if len(names) > _NAMED_AT_MOST else f" ({len(names)})"
    return shown + rest
