"""Forms of files with texts: told apart by their content, and read into records of id and text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from narspeech.errors import ManifestError

Form = Literal["text", "trn", "stm", "ctm", "jsonl", "tsv", "lines"]
FORMS: tuple[Form, ...] = get_args(Form)

# What a header of tab-separated columns calls the id and the text: ours first, then Common Voice's and others'.
_ID_COLUMNS = ("id", "utterance", "utterance_id", "utt_id", "audio_id", "file", "path")
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "hypothesis", "reference")
_JSON = re.compile(r"\s*\{(?!\s+[^\s\"])")  # sclite's alternatives begin with a brace too
_TRN = re.compile(r"(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*")
_NUMBER = r"\d*\.?\d+"
# waveform, channel, speaker, begin, end, <label>, transcript; waveform, channel, begin, duration, word, confidence.
# To be taken for one of the two, a line needs a time with decimals: digits may be the words of a text.
_STM = re.compile(rf"(?=.*\d\.\d)\S+\s+\S+\s+\S+\s+{_NUMBER}\s+{_NUMBER}(\s+(?![\d.]+\s*$).*|\s*)")
_CTM = re.compile(rf"(?=.*\d\.\d)\S+\s+\S+\s+{_NUMBER}\s+{_NUMBER}\s+\S+(\s+(-?{_NUMBER}|NA)(\s+\S+)*)?\s*")
_ALTERNATIVES = re.compile(r"(^|\s)\{\s(.*\s)?/\s.*\}(\s|$)|<ALT(_BEGIN)?>", re.IGNORECASE)


class Line(NamedTuple):
    """A line that is not blank, and its number in the file."""

    number: int
    content: str


class Record(NamedTuple):
    """The text of an utterance; None if an error stands in its place."""

    id: str
    text: str | None


def form_of(lines: Sequence[Line], path: Path) -> Form:
    """The form of a file by its lines that are not blank: jsonl, tsv (by its header), trn, stm, ctm, or else text.

    Lines of plain text without ids are never guessed. sclite's comments (;;) do not count. What would be text is tsv
    where the file's name says so and its first line has a tab: else an unknown header would be scored as an utterance.
    """
    first = lines[0].content
    if _JSON.match(first):
        return "jsonl"
    if _columns(first) is not None:
        return "tsv"
    told = [line.content for line in lines if not line.content.startswith(";;")]
    tests: tuple[tuple[Form, re.Pattern[str]], ...] = (("trn", _TRN), ("stm", _STM), ("ctm", _CTM))
    rest: Form = "tsv" if path.suffix.lower() == ".tsv" and "\t" in first else "text"
    return next((form for form, pattern in tests if told and all(map(pattern.fullmatch, told))), rest)


def records(lines: Sequence[Line], form: Form, path: object) -> Iterator[Record]:
    """The records of a file of one utterance a line. Raises ManifestError where a line is not of that form."""
    if form == "tsv":
        yield from _tsv(lines, path)
        return
    parse = {"text": _text, "trn": _trn, "jsonl": _jsonl}[form]
    for number, content in lines:
        if form != "trn" or not content.startswith(";;"):
            yield parse(content, f"{path}, line {number}")


def refuse_alternatives(text: str, where: str) -> None:
    """Raises ManifestError on sclite's alternatives, { a / b }: one of them would have to be chosen in silence."""
    if _ALTERNATIVES.search(text):
        raise ManifestError(
            f"expected one reading of every word at {where}, received alternatives ({text.strip()[:60]}): choose one "
            "of each, for they are not scored here"
        )


def _text(line: str, where: str) -> Record:  # noqa: ARG001 (every line is an id, and a text that may be empty)
    name, *rest = line.split(maxsplit=1)
    return Record(name, rest[0] if rest else "")


def _trn(line: str, where: str) -> Record:
    match = _TRN.fullmatch(line)
    if match is None:
        raise ManifestError(f"expected `text (id)` at {where}, received {line.strip()[:80]}: is it a trn file?")
    refuse_alternatives(match["text"], where)
    return Record(match["id"], match["text"])


def _jsonl(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"expected one JSON object at {where}, received something else: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("id"), str) or not record["id"]:
        raise ManifestError(
            f"expected a JSON object with a non-empty string as id at {where}, received {line.strip()[:80]}"
        )
    if record.get("error") is not None:
        return Record(record["id"], None)
    text = record.get("text", record.get("target"))
    if not isinstance(text, str):
        raise ManifestError(f"expected a string as text at {where}, received {text!r}: is it a file of texts?")
    return Record(record["id"], text)


def _tsv(lines: Sequence[Line], path: object) -> Iterator[Record]:
    header = lines[0].content
    columns = _columns(header)
    width = len(header.split("\t"))
    if width < 2:
        raise ManifestError(f"expected columns with tabs between in {path}, received {header[:80]}: is it a tsv file?")
    if columns is None:
        raise ManifestError(
            f"expected a header in {path} that names an id ({', '.join(_ID_COLUMNS)}) and a text "
            f"({', '.join(_TEXT_COLUMNS)}), received {header.strip()[:80]!r}: rename the columns, or give "
            "--ref-format text or --hyp-format text if there is no header"
        )
    name, text = columns
    for number, line in lines[1:]:
        cells = line.rstrip("\r").split("\t")
        if len(cells) != width or not cells[name].strip():
            raise ManifestError(
                f"expected an id and {width} columns at {path}, line {number}, received {line.strip()[:80]}: "
                "tabs stand between columns and nowhere else"
            )
        yield Record(cells[name].strip(), cells[text])


def _columns(header: str) -> tuple[int, int] | None:
    """Where the id and the text stand by a header line; None if it names no such columns."""
    cells = [cell.strip().lower() for cell in header.split("\t")]
    name = next((cells.index(each) for each in _ID_COLUMNS if each in cells), None)
    text = next((cells.index(each) for each in _TEXT_COLUMNS if each in cells), None)
    return None if name is None or text is None else (name, text)
