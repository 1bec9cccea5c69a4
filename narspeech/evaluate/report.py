"""Scoring files of text against each other: read by id, joined, reported. `main` is `narspeech evaluate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from narspeech.errors import ConfigError, ManifestError, NarspeechError
from narspeech.evaluate import bleu
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
from narspeech.evaluate.texts import check_ids, read_lines, read_texts
from narspeech.files import write_atomic


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


def score(references: Mapping[str, str], hypotheses: Mapping[str, str], *, normalise: Normalisation = "none") -> Scores:
    """The corpus scores of texts joined by id. Raises ManifestError if an id is on one side only."""
    return total(score_each(references, hypotheses, normalise=normalise))


def score_each(
    references: Mapping[str, str], hypotheses: Mapping[str, str], *, normalise: Normalisation = "none"
) -> list[UtteranceScore]:
    """The scores of each utterance, in the order of the references. ManifestError if an id is on one side only."""
    check_ids(references, hypotheses)
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
    """Score hypotheses against references over a whole corpus, joined by id: word and character error rates of
    transcripts, BLEU and chrF of translations.

    Every file holds lines of `id text`, or JSON objects with id and text (a manifest, or the output of
    `narspeech transcribe --format jsonl`). Exit codes: 0 scored, 2 usage or bad input.
    """

    ref: Path
    """The references."""
    hyp: Path
    """The hypotheses to score."""
    versus: Path | None = None
    """Hypotheses of another system: adds its scores and a paired bootstrap of the difference."""
    metric: str = "wer"
    """What to compute, with commas between: wer (and CER), bleu, chrf (both by sacrebleu)."""
    lines: bool = False
    """Files hold a text a line and nothing else, as `narspeech translate` writes: line n belongs to line n."""
    normalise: Normalisation | None = None
    """basic: NFKC, lower case, no punctuation but apostrophes inside words; none: texts are compared as they are. By
    default basic for wer, and none for bleu and chrf."""
    format: Literal["text", "json"] = "text"
    """A table in per cent for people, or one JSON object with error rates as fractions, BLEU and chrF as points."""
    per_utterance: Path | None = None
    """Also write the errors of each utterance there, one JSON object a line."""
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


class Report(NamedTuple):
    """What is found, for machines and for people."""

    result: dict[str, Any]
    text: str


def evaluate(options: EvaluateOptions) -> str:
    """Read, score and write what the options say; returns the report. Raises NarspeechError, and OSError on writing."""
    metrics = _metrics(options)
    _check_output(options)
    references, hypotheses = _read(options.ref, options), _read(options.hyp, options)
    rival = None if options.versus is None else _read(options.versus, options)
    reports = []
    if "wer" in metrics:
        reports.append(_error_rates(options, references, hypotheses, rival))
    translation = [metric for metric in bleu.METRICS if metric in metrics]
    if translation:
        reports.append(_translation(options, translation, references, hypotheses, rival))
    if options.format == "json":
        return json.dumps({name: value for report in reports for name, value in report.result.items()})
    return "\n\n".join(report.text for report in reports)


def _metrics(options: EvaluateOptions) -> list[str]:
    metrics = [name.strip() for name in options.metric.split(",")]
    known = ("wer", *bleu.METRICS)
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ConfigError(f"expected metrics among {', '.join(known)}, received {', '.join(map(repr, unknown))}")
    if options.per_utterance is not None and "wer" not in metrics:
        raise ConfigError(
            f"expected the metric wer with --per-utterance, received {options.metric}: BLEU is a corpus's, not a text's"
        )
    return metrics


def _read(path: Path, options: EvaluateOptions) -> dict[str, str]:
    return read_lines(path) if options.lines else read_texts(path, failed_as_empty=options.failed_as_empty)


def _check_output(options: EvaluateOptions) -> None:
    path = options.per_utterance
    if path is None:
        return
    if path.resolve() in {given.resolve() for given in (options.ref, options.hyp, options.versus) if given is not None}:
        raise ManifestError(f"expected a new file for the scores of each utterance, received {path}, which is an input")
    if path.is_dir() or not path.parent.is_dir():
        raise ManifestError(f"expected a file name in a folder that exists, received {path}: make the folder first")


def _error_rates(
    options: EvaluateOptions,
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    rival: Mapping[str, str] | None,
) -> Report:
    how = options.normalise or "basic"
    each = score_each(references, hypotheses, normalise=how)
    scores = total(each)
    result = {"normalise": how, **scores.to_dict()}
    lines = [f"{options.hyp} against {options.ref} (normalise: {how})", scores.table()]
    if rival is not None:
        others = score_each(references, rival, normalise=how)
        rival_scores = total(others)
        texts = ([one.reference for one in each], [one.hypothesis for one in each], [one.hypothesis for one in others])
        bootstrap = paired_bootstrap(*texts, samples=options.samples, seed=options.seed)
        result["versus"] = rival_scores.to_dict()
        result["bootstrap"] = {**bootstrap.to_dict(), "unit": "word", "samples": options.samples, "seed": options.seed}
        lines += [
            f"\nversus {options.versus}",
            rival_scores.table(),
            f"\nWER difference {_difference(bootstrap, 'below', 100)}",
            f"paired bootstrap over utterances, {options.samples} samples, seed {options.seed}",
        ]
    if options.per_utterance is not None:
        records = (json.dumps(one.to_dict(), ensure_ascii=False) + "\n" for one in each)
        # A lone surrogate, which JSON can carry but UTF-8 cannot, becomes the \udXXX that JSON writes for it.
        write_atomic(options.per_utterance, "".join(records).encode("utf-8", errors="backslashreplace"))
    return Report(result, "\n".join(lines))


def _translation(
    options: EvaluateOptions,
    metrics: Sequence[bleu.Metric],
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    rival: Mapping[str, str] | None,
) -> Report:
    how = options.normalise or "none"
    systems = [hypotheses] if rival is None else [hypotheses, rival]
    for system in systems:
        check_ids(references, system)
    truth = [normalised(text, how) for text in references.values()]
    texts = [[normalised(system[name], how) for name in references] for system in systems]
    scores = [bleu.score_translations(truth, system, metrics) for system in texts]
    result: dict[str, Any] = {"utterances": len(truth)}
    lines = [f"{options.hyp} against {options.ref} (normalise: {how})", bleu.table(scores[0])]
    if rival is not None:
        lines += [f"\nversus {options.versus}", bleu.table(scores[1]), ""]
    for metric in metrics:
        result[metric] = {"normalise": how, **scores[0][metric].to_dict()}
        if rival is not None:
            first, second = texts
            bootstrap = bleu.paired_bootstrap(truth, first, second, metric, samples=options.samples, seed=options.seed)
            result[metric] |= {"versus": scores[1][metric].score, "bootstrap": bootstrap.to_dict()}
            lines.append(f"{bleu.NAMES[metric]} difference {_difference(bootstrap, 'above', 1)}")
    if rival is not None:
        lines.append(f"paired bootstrap over sentences, {options.samples} samples, seed {options.seed}")
    return Report(result, "\n".join(lines))


def _difference(bootstrap: Bootstrap, better: str, scale: float) -> str:
    delta, low, high = (scale * value for value in (bootstrap.delta, bootstrap.low, bootstrap.high))
    return (
        f"{delta:+.2f} points ({better} 0: the first is better), "
        f"95 % interval [{low:+.2f}, {high:+.2f}], p = {bootstrap.p:.4f}"
    )
