"""Scoring files of text against each other: read by id, joined, reported. `main` is `narspeech evaluate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from narspeech.errors import ConfigError, ManifestError, NarspeechError
from narspeech.evaluate import bleu
from narspeech.evaluate.alignment import Alignment
from narspeech.evaluate.breakdown import Breakdown
from narspeech.evaluate.error_rate import Bootstrap, bootstrap
from narspeech.evaluate.formats import Form
from narspeech.evaluate.normalise import Normalisation, normalised
from narspeech.evaluate.page import page
from narspeech.evaluate.scores import Corpus, Scores, score_each, signature
from narspeech.evaluate.texts import read_pair
from narspeech.files import write_atomic

Texts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score hypotheses against references over a whole corpus, joined by id: word, character and sentence error rates
    of transcripts, BLEU and chrF of translations.

    Files hold lines of `id text` (Kaldi's text, LibriSpeech's .trans.txt), JSON objects with id and text, columns of a
    tsv file, or sclite's trn, stm and ctm: the content tells which. Exit codes: 0 scored, 1 scored but worse than
    --max-wer, 2 usage or bad input.
    """

    ref: Path
    """The references."""
    hyp: Path
    """The hypotheses to score."""
    versus: Path | None = None
    """Hypotheses of another system: adds its scores and a paired bootstrap of the difference."""
    metric: str = "wer"
    """What to compute, with commas between: wer (and CER and SER), bleu, chrf (both by sacrebleu)."""
    ref_format: Form | None = None
    """The form of the references, where their content should not tell it."""
    hyp_format: Form | None = None
    """The form of the hypotheses, where their content should not tell it."""
    lines: bool = False
    """Files hold a text a line and nothing else, as `narspeech translate` writes: line n belongs to line n."""
    normalise: Normalisation | None = None
    """basic: NFKC, lower case, no punctuation but apostrophes inside words; none: texts are compared as they are;
    whisper-english: Whisper's for English. By default basic for wer, and none for bleu and chrf."""
    alignment: Alignment = "jiwer"
    """jiwer: every error costs 1; sclite: a substitution 4, a deletion or an insertion 3, so that totals and their
    parts are those of `sclite -s`."""
    format: Literal["text", "json"] = "text"
    """A table in per cent for people, or one JSON object with error rates as fractions, BLEU and chrF as points."""
    details: bool = False
    """Also show the errors by speaker and by length, and the words confused most."""
    speaker: str | None = None
    """A regular expression whose first group is the speaker in an id; by default what stands before the first hyphen,
    else the first underscore."""
    max_wer: float | None = None
    """The highest word error rate that passes, in per cent; above it the exit code is 1."""
    json: Path | None = None
    """Also write everything there as one JSON object: scores, details, and each utterance."""
    html: Path | None = None
    """Also write a report there that a browser shows, with aligned errors in colour."""
    per_utterance: Path | None = None
    """Also write the errors of each utterance there, one JSON object a line."""
    failed_as_empty: bool = False
    """Score as empty an utterance that has an error in place of a text, or of which a ctm has no word; else it is
    refused."""
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
        report = evaluate(options)
    except (NarspeechError, OSError) as error:
        print(f"narspeech evaluate: {error}", file=sys.stderr)
        return 2
    print(report.text.encode("utf-8", "backslashreplace").decode())  # half of a surrogate pair cannot be printed
    if report.too_high is not None:
        print(f"narspeech evaluate: {report.too_high}", file=sys.stderr)
        return 1
    return 0


class Report(NamedTuple):
    """What is found, for machines and for people, and what is said where the WER is above the highest that passes."""

    result: dict[str, Any]
    text: str
    too_high: str | None = None


def evaluate(options: EvaluateOptions) -> Report:
    """Read, score and write what the options say. Raises NarspeechError, and OSError on writing."""
    metrics = _metrics(options)
    _check_outputs(options)
    references, hypotheses = _read(options.hyp, options)
    rival = None if options.versus is None else _read(options.versus, options)[1]
    reports = []
    if "wer" in metrics:
        reports.append(_error_rates(options, references, hypotheses, rival))
    translation = [metric for metric in bleu.METRICS if metric in metrics]
    if translation:
        reports.append(_translation(options, translation, references, hypotheses, rival))
    result = {name: value for report in reports for name, value in report.result.items()}
    text = json.dumps(result) if options.format == "json" else "\n\n".join(report.text for report in reports)
    return Report(result, text, reports[0].too_high)


def _metrics(options: EvaluateOptions) -> list[str]:
    metrics = [name.strip() for name in options.metric.split(",")]
    known = ("wer", *bleu.METRICS)
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ConfigError(f"expected metrics among {', '.join(known)}, received {', '.join(map(repr, unknown))}")
    need = ("per_utterance", "json", "html", "max_wer", "speaker", "details", "alignment")
    given = [f"--{name.replace('_', '-')}" for name in need if getattr(options, name) != getattr(EvaluateOptions, name)]
    if given and "wer" not in metrics:
        raise ConfigError(
            f"expected the metric wer with {given[0]}, which is about word errors, received {options.metric}: "
            f"add wer (--metric {options.metric},wer), or leave {given[0]} out"
        )
    if options.max_wer is not None and not 0 <= options.max_wer < float("inf"):
        raise ConfigError(f"expected a WER in per cent of 0 or more as --max-wer, received {options.max_wer}")
    if options.lines and (options.ref_format or options.hyp_format):
        raise ConfigError("expected --lines or forms of files, received both: leave one out")
    return metrics


def _read(path: Path, options: EvaluateOptions) -> tuple[Texts, Texts]:
    forms: tuple[Form | None, Form | None] = (options.ref_format, options.hyp_format)
    return read_pair(
        options.ref, path, ("lines", "lines") if options.lines else forms, failed_as_empty=options.failed_as_empty
    )


def _check_outputs(options: EvaluateOptions) -> None:
    inputs = {given.resolve() for given in (options.ref, options.hyp, options.versus) if given is not None}
    seen: set[Path] = set()
    for path in (options.per_utterance, options.json, options.html):
        if path is None:
            continue
        if path.resolve() in inputs | seen:
            which = "an input" if path.resolve() in inputs else "given twice"
            raise ManifestError(f"expected a new file for what is written, received {path}, which is {which}")
        if path.is_dir() or not path.parent.is_dir():
            raise ManifestError(f"expected a file name in a folder that exists, received {path}: make the folder first")
        seen.add(path.resolve())


def _error_rates(options: EvaluateOptions, references: Texts, hypotheses: Texts, rival: Texts | None) -> Report:
    how = options.normalise or "basic"
    each = score_each(references, hypotheses, normalise=how, alignment=options.alignment)
    scores = each.total()
    signed = signature(how, options.alignment) + ("|failed:empty" if options.failed_as_empty else "")
    result: dict[str, Any] = {"normalise": how, "signature": signed, **scores.to_dict()}
    lines = [f"{options.hyp} against {options.ref} (normalise: {how})", scores.table(), signed]
    if rival is not None:
        others = score_each(references, rival, normalise=how, alignment=options.alignment)
        found = bootstrap(each.words, others.words, samples=options.samples, seed=options.seed)
        result["versus"] = others.total().to_dict()
        result["bootstrap"] = {**found.to_dict(), "unit": "word", "samples": options.samples, "seed": options.seed}
        lines += [
            f"\nversus {options.versus}",
            others.total().table(),
            f"\nWER difference {_difference(found, 'below', 100)}",
            f"paired bootstrap over utterances, {options.samples} samples, seed {options.seed}",
        ]
    if options.details or options.speaker is not None or options.json or options.html:
        breakdown = Breakdown.of(each, options.speaker)
        lines += [f"\n{breakdown.table()}"] if options.details else []
        result |= breakdown.to_dict() if options.details else {}
        _write(options, each, breakdown, result, lines)
    if options.per_utterance is not None:
        _put(options.per_utterance, "".join(_json(one.to_dict()) + "\n" for one in each))
    return Report(result, "\n".join(lines), _too_high(scores, options.max_wer))


def _write(
    options: EvaluateOptions, each: Corpus, breakdown: Breakdown, result: Mapping[str, Any], lines: Sequence[str]
) -> None:
    if options.json is not None:
        everything = {**result, **breakdown.to_dict(), "each": [one.to_dict() for one in each]}
        _put(options.json, _json(everything) + "\n")
    if options.html is not None:
        # What stands beside the tables: the files, the signature, and what the bootstrap says.
        notes = [lines[0], *lines[2:3], *(line.strip() for line in lines[3:] if line.startswith("\nWER difference"))]
        _put(options.html, page(f"WER {100 * each.total().word.rate:.2f} %", notes, each, breakdown))


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _put(path: Path, text: str) -> None:
    # A lone surrogate, which JSON can carry but UTF-8 cannot, becomes the \udXXX that JSON writes for it.
    write_atomic(path, text.encode("utf-8", errors="backslashreplace"))


def _too_high(scores: Scores, highest: float | None) -> str | None:
    rate = 100 * scores.word.rate
    if highest is None or rate <= highest:
        return None
    return f"expected a WER of at most {highest:g} %, received {rate:.2f} %"


def _translation(
    options: EvaluateOptions,
    metrics: Sequence[bleu.Metric],
    references: Texts,
    hypotheses: Texts,
    rival: Texts | None,
) -> Report:
    how = options.normalise or "none"
    systems = [hypotheses] if rival is None else [hypotheses, rival]
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
            found = bleu.paired_bootstrap(truth, first, second, metric, samples=options.samples, seed=options.seed)
            result[metric] |= {"versus": scores[1][metric].score, "bootstrap": found.to_dict()}
            lines.append(f"{bleu.NAMES[metric]} difference {_difference(found, 'above', 1)}")
    if rival is not None:
        lines.append(f"paired bootstrap over sentences, {options.samples} samples, seed {options.seed}")
    return Report(result, "\n".join(lines))


def _difference(found: Bootstrap, better: str, scale: float) -> str:
    delta, low, high = (scale * value for value in (found.delta, found.low, found.high))
    return (
        f"{delta:+.2f} points ({better} 0: the first is better), "
        f"95 % interval [{low:+.2f}, {high:+.2f}], p = {found.p:.4f}"
    )
