"""Scoring files of text against each other: read by id, joined, reported. `main` is `narspeech evaluate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from narspeech.errors import ManifestError, NarspeechError
from narspeech.evaluate.error_rate import (
    Bootstrap,
    ErrorRate,
    Normalisation,
    alignment,
    character_errors,
    normalised,
    paired_bootstrap,
    word_errors,
)
from narspeech.files import write_atomic

_NAMED_AT_MOST = 5


@dataclass(frozen=True, kw_only=True)
class UtteranceScore:
    """One utterance, its texts as they were compared."""

    id: str
    reference: str
    hypothesis: str
    word: ErrorRate
    character: ErrorRate

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "word": self.word.to_dict(), "character": self.character.to_dict()}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The errors of a whole corpus; sentence_errors counts the utterances with at least one word error."""

    word: ErrorRate
    character: ErrorRate
    utterances: int
    sentence_errors: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "utterances": self.utterances,
            "sentence_errors": self.sentence_errors,
            "word": self.word.to_dict(),
            "character": self.character.to_dict(),
        }

    def table(self) -> str:
        """Aligned columns for people; rates in per cent."""
        sentence_rate = self.sentence_errors / max(self.utterances, 1)
        rows: list[tuple[str, ...]] = [("", "rate %", "errors", "sub", "del", "ins", "reference")]
        for name, value in (("word", self.word), ("character", self.character)):
            counts = (value.errors, value.substitutions, value.deletions, value.insertions, value.reference)
            rows.append((name, f"{100 * value.rate:.2f}", *map(str, counts)))
        rows.append(
            ("sentence", f"{100 * sentence_rate:.2f}", str(self.sentence_errors), "", "", "", str(self.utterances))
        )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            row[0].ljust(widths[0])
            + "".join(cell.rjust(2 + width) for cell, width in zip(row[1:], widths[1:], strict=True))
            for row in rows
        )


def read_texts(path: Path, *, failed_as_empty: bool = False) -> dict[str, str]:
    """The texts of a file by utterance id, in the order of the file.

    Two forms, told apart by the first line that is not blank: lines of `id text` (Kaldi's text, LibriSpeech's
    .trans.txt; the text may be empty), or JSON objects with `id` and `text` (a manifest, or what
    `narspeech transcribe --format jsonl` writes). An object with an `error` is an utterance that could not be
    transcribed: refused, or with `failed_as_empty` read as the empty text, so that each of its words counts as deleted.

    Raises ManifestError if the file cannot be read, is empty or malformed, or has an id twice.
    """
    try:
        # utf-8-sig drops the mark that some editors put first. Only \n ends a line: splitlines would cut at U+2028 too.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"expected a readable UTF-8 file of texts at {path}, received: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
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


def score(references: Mapping[str, str], hypotheses: Mapping[str, str], *, normalise: Normalisation = "none") -> Scores:
    """The corpus scores of texts joined by id. Raises ManifestError if an id is on one side only."""
    return total(score_each(references, hypotheses, normalise=normalise))


def score_each(
    references: Mapping[str, str], hypotheses: Mapping[str, str], *, normalise: Normalisation = "none"
) -> list[UtteranceScore]:
    """The scores of each utterance, in the order of the references. ManifestError if an id is on one side only."""
    lacking = [name for name in references if name not in hypotheses]
    unknown = [name for name in hypotheses if name not in references]
    if lacking or unknown:
        parts = [f"no hypothesis for {_some(lacking)}"] if lacking else []
        parts += [f"no reference for {_some(unknown)}"] if unknown else []
        raise ManifestError(
            f"expected the same ids on both sides, received {' and '.join(parts)}: "
            "score a whole set against its own references"
        )
    scores = []
    for name in references:
        reference, hypothesis = normalised(references[name], normalise), normalised(hypotheses[name], normalise)
        word, character = word_errors(reference, hypothesis), character_errors(reference, hypothesis)
        scores.append(
            UtteranceScore(id=name, reference=reference, hypothesis=hypothesis, word=word, character=character)
        )
    return scores


def total(scores: Sequence[UtteranceScore]) -> Scores:
    """The corpus scores of utterances scored one by one."""
    return Scores(
        word=sum((each.word for each in scores), ErrorRate()),
        character=sum((each.character for each in scores), ErrorRate()),
        utterances=len(scores),
        sentence_errors=sum(each.word.errors > 0 for each in scores),
    )


def sample_lines(reference: str, hypothesis: str) -> str:
    """Two lines that show at a glance what went wrong in one utterance, for a log:

    ref  the cat sat on the old mat
    hyp  the {cat>bat} sat {-on} the old mat {+again}  (S 1, D 1, I 1 of 7)
    """
    shown: list[str] = []
    for before, after in alignment(reference, hypothesis):
        if before == after:
            shown.append(f"{after}")
        elif after is None:
            shown.append(f"{{-{before}}}")
        else:
            shown.append(f"{{+{after}}}" if before is None else f"{{{before}>{after}}}")
    found = word_errors(reference, hypothesis)
    counts = f"(S {found.substitutions}, D {found.deletions}, I {found.insertions} of {found.reference})"
    return f"ref  {' '.join(reference.split())}\nhyp  {' '.join([*shown, f' {counts}'])}"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Word and character error rates of hypotheses against references, over the whole corpus, joined by id.

    Every file holds lines of `id text`, or JSON objects with id and text (a manifest, or the output of
    `narspeech transcribe --format jsonl`). Exit codes: 0 scored, 2 usage or bad input.
    """

    ref: Path
    """The references."""
    hyp: Path
    """The hypotheses to score."""
    versus: Path | None = None
    """Hypotheses of another system: adds its scores and a paired bootstrap of the difference in WER."""
    normalise: Normalisation = "basic"
    """basic: NFKC, lower case, no punctuation but apostrophes inside words; none: texts are compared as they are."""
    format: Literal["text", "json"] = "text"
    """A table in per cent for people, or one JSON object with rates as fractions."""
    per_utterance: Path | None = None
    """Also write the scores of each utterance there, one JSON object a line."""
    failed_as_empty: bool = False
    """Score an utterance that has an error in place of a text as empty; else it is refused."""
    samples: int = 10_000
    """Corpora drawn by the paired bootstrap."""
    seed: int = 0
    """Seed of the paired bootstrap."""


def main(argv: list[str]) -> int:
    """The command `narspeech evaluate`; the report goes to stdout, what is wrong to stderr. Returns the exit code."""
    import tyro

    try:
        options = tyro.cli(
            EvaluateOptions, args=argv, prog="narspeech evaluate", config=(tyro.conf.FlagCreatePairsOff,)
        )
    except SystemExit as stop:  # 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else 2
    try:
        print(evaluate(options))
    except (NarspeechError, OSError) as error:
        print(f"narspeech evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(options: EvaluateOptions) -> str:
    """Read, score and write what the options say; returns the report. Raises NarspeechError, and OSError on writing."""
    _check_output(options)
    references = read_texts(options.ref)
    each = _score_file(references, options.hyp, options)
    scores, rival_scores, bootstrap = total(each), None, None
    if options.versus is not None:
        rival = _score_file(references, options.versus, options)
        texts = ([one.reference for one in each], [one.hypothesis for one in each], [one.hypothesis for one in rival])
        rival_scores, bootstrap = total(rival), paired_bootstrap(*texts, samples=options.samples, seed=options.seed)
    if options.per_utterance is not None:
        lines = (json.dumps(one.to_dict(), ensure_ascii=False) + "\n" for one in each)
        # A lone surrogate, which JSON can carry but UTF-8 cannot, becomes the \udXXX that JSON writes for it.
        write_atomic(options.per_utterance, "".join(lines).encode("utf-8", errors="backslashreplace"))
    report = _json if options.format == "json" else _text
    return report(options, scores, rival_scores, bootstrap)


def _score_file(references: Mapping[str, str], path: Path, options: EvaluateOptions) -> list[UtteranceScore]:
    hypotheses = read_texts(path, failed_as_empty=options.failed_as_empty)
    return score_each(references, hypotheses, normalise=options.normalise)


def _check_output(options: EvaluateOptions) -> None:
    path = options.per_utterance
    if path is None:
        return
    if path.resolve() in {given.resolve() for given in (options.ref, options.hyp, options.versus) if given is not None}:
        raise ManifestError(f"expected a new file for the scores of each utterance, received {path}, which is an input")
    if path.is_dir() or not path.parent.is_dir():
        raise ManifestError(f"expected a file name in a folder that exists, received {path}: make the folder first")


def _json(options: EvaluateOptions, scores: Scores, rival: Scores | None, bootstrap: Bootstrap | None) -> str:
    result = {"normalise": options.normalise, **scores.to_dict()}
    if rival is not None and bootstrap is not None:
        result["versus"] = rival.to_dict()
        result["bootstrap"] = {**bootstrap.to_dict(), "unit": "word", "samples": options.samples, "seed": options.seed}
    return json.dumps(result)


def _text(options: EvaluateOptions, scores: Scores, rival: Scores | None, bootstrap: Bootstrap | None) -> str:
    parts = [f"{options.hyp} against {options.ref} (normalise: {options.normalise})", scores.table()]
    if rival is not None and bootstrap is not None:
        delta, low, high = (100 * value for value in (bootstrap.delta, bootstrap.low, bootstrap.high))
        parts += [
            f"\nversus {options.versus}",
            rival.table(),
            f"\nWER difference {delta:+.2f} points (below 0: the first is better), "
            f"95 % interval [{low:+.2f}, {high:+.2f}], p = {bootstrap.p:.4f}\n"
            f"paired bootstrap over utterances, {options.samples} samples, seed {options.seed}",
        ]
    return "\n".join(parts)


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
    if not isinstance(record.get("text"), str):
        raise ManifestError(
            f"expected a string as text at {where}, received {record.get('text')!r}: is it a file of texts?"
        )
    return record["id"], record["text"]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    rest = f", ... ({len(names)} in all)" if len(names) > _NAMED_AT_MOST else f" ({len(names)})"
    return shown + rest
