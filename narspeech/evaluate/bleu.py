"""BLEU (Papineni et al. 2002) and chrF (Popovic 2015) of translations, as sacrebleu computes them (Post 2018).

Texts are compared as they are: detokenised, cased, one reference each. sacrebleu comes with the extra `mt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from narspeech.errors import ConfigError, NarspeechError
from narspeech.evaluate.error_rate import Bootstrap

Metric = Literal["bleu", "chrf"]
METRICS: tuple[Metric, ...] = ("bleu", "chrf")
NAMES = {"bleu": "BLEU", "chrf": "chrF"}


@dataclass(frozen=True, kw_only=True)
class TranslationScore:
    """score: 0 to 100, higher is better; signature: what one must know to compute it again."""

    score: float
    signature: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_installed() -> None:
    """Raise NarspeechError where sacrebleu is missing."""
    for name in METRICS:
        _metric(name)


def score_translations(
    references: Sequence[str], hypotheses: Sequence[str], metrics: Sequence[Metric] = METRICS
) -> dict[str, TranslationScore]:
    """The scores of a whole corpus by metric. Raises NarspeechError where there is nothing to compare."""
    _check(references, hypotheses)
    scores: dict[str, TranslationScore] = {}
    for name in metrics:
        metric = _metric(name)
        value = metric.corpus_score(list(hypotheses), [list(references)]).score
        scores[name] = TranslationScore(score=float(value), signature=str(metric.get_signature()))
    return scores


def paired_bootstrap(
    references: Sequence[str],
    system_a: Sequence[str],
    system_b: Sequence[str],
    metric: Metric,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Is a better than b? Sentences are drawn with replacement, the same ones for both (Koehn 2004).

    The difference a - b is in points, above 0 where a is better; interval and p are those of `error_rate`. The same
    seed gives the same result. Raises NarspeechError as `score_translations`, and on samples or a seed out of range.
    """
    _check(references, system_a)
    _check(references, system_b)
    if samples < 1 or seed < 0:
        raise NarspeechError(
            f"expected at least one sample and a seed of 0 or more, received {samples} and {seed}: correct them"
        )
    scorer = _metric(metric)
    # What a sentence adds to the corpus' counts: sacrebleu's own way to resample, in its significance.py.
    counts = [
        np.array(scorer._extract_corpus_statistics(list(system), [list(references)]), dtype=np.float64)
        for system in (system_a, system_b)
    ]

    def delta(drawn: Any) -> float:
        first, second = (scorer._compute_score_from_stats(part[drawn].sum(0).tolist()).score for part in counts)
        return float(first - second)

    generator = np.random.default_rng(seed)
    deltas = np.array([delta(generator.integers(0, len(references), len(references))) for _ in range(samples)])
    return Bootstrap.of(delta(slice(None)), deltas)


def table(scores: Mapping[str, TranslationScore]) -> str:
    """A line a metric for people, with its signature."""
    return "\n".join(f"{NAMES[name]:5} {value.score:6.2f}  {value.signature}" for name, value in scores.items())


def _metric(name: Metric) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise NarspeechError(
            'expected sacrebleu to score translations, received an environment without it: pip install "narspeech[mt]"'
        ) from None
    classes: dict[str, Any] = {"bleu": BLEU, "chrf": CHRF}
    if name not in classes:
        raise ConfigError(f"expected a metric among {', '.join(METRICS)}, received {name!r}: choose one of them")
    return classes[name]()


def _check(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if not references or len(references) != len(hypotheses):
        raise NarspeechError(
            "expected a translation for each of at least one reference, "
            f"received {len(references)} references and {len(hypotheses)} translations: join them by id first"
        )
