"""BLEU and chrF are sacrebleu's, and so is what the bootstrap adds up."""

from __future__ import annotations

import sys

import pytest
import sacrebleu

from narspeech.errors import ConfigError, NarspeechError
from narspeech.evaluate.bleu import METRICS, Metric, paired_bootstrap, score_translations, table

REFERENCES = [
    "Ein Mann schläft in einem grünen Raum auf einem Sofa.",
    "Zwei Hunde spielen im Schnee, und ein Kind sieht zu.",
    "Eine Frau kocht.",
    "Der Junge trägt Kopfhörer und sitzt auf den Schultern einer Frau.",
] * 5
GOOD = [text.replace("Ein ", "Der ").replace("spielen", "laufen") for text in REFERENCES]
BAD = [" ".join(text.lower().split()[::-1]) for text in REFERENCES]


def test_scores_are_those_of_sacrebleu() -> None:
    found = score_translations(REFERENCES, GOOD)
    assert found["bleu"].score == pytest.approx(sacrebleu.corpus_bleu(GOOD, [REFERENCES]).score)
    assert found["chrf"].score == pytest.approx(sacrebleu.corpus_chrf(GOOD, [REFERENCES]).score)
    assert 50 < found["bleu"].score < 100
    assert "case:mixed" in found["bleu"].signature
    assert "tok:13a" in found["bleu"].signature
    assert "nc:6" in found["chrf"].signature
    assert score_translations(REFERENCES, REFERENCES, ["bleu"])["bleu"].score == pytest.approx(100)
    assert score_translations(["a"], [""])["bleu"].score == 0
    rows = table(found).split("\n")
    assert rows[0].startswith(f"BLEU   {found['bleu'].score:.2f}  nrefs:1|")
    assert rows[1].startswith("chrF ")


@pytest.mark.parametrize("metric", METRICS)
def test_the_bootstrap_tells_systems_apart(metric: Metric) -> None:
    scores = [score_translations(REFERENCES, system)[metric].score for system in (GOOD, BAD)]
    found = paired_bootstrap(REFERENCES, GOOD, BAD, metric, samples=200, seed=3)
    assert found.delta == pytest.approx(scores[0] - scores[1])
    assert found.low <= found.delta <= found.high
    assert found.p == pytest.approx(2 / 201)
    assert found == paired_bootstrap(REFERENCES, GOOD, BAD, metric, samples=200, seed=3)
    assert found != paired_bootstrap(REFERENCES, GOOD, BAD, metric, samples=200, seed=4)
    back = paired_bootstrap(REFERENCES, BAD, GOOD, metric, samples=200, seed=3)
    assert (back.delta, back.low, back.high) == pytest.approx((-found.delta, -found.high, -found.low))
    same = paired_bootstrap(REFERENCES, GOOD, GOOD, metric, samples=50)
    assert (same.delta, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_one_mistake_among_many_sentences_is_no_certain_difference() -> None:
    other = [*REFERENCES[:-1], "Ganz etwas anderes."]
    found = paired_bootstrap(REFERENCES, other, REFERENCES, "bleu", samples=300)
    assert found.delta < 0
    assert found.p > 0.05  # the sentence is not drawn in a third of the samples
    assert found.high == 0


def test_what_cannot_be_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NarspeechError, match="received 0 references and 0 translations"):
        score_translations([], [])
    with pytest.raises(NarspeechError, match="received 2 references and 1 translations"):
        paired_bootstrap(["a", "b"], ["a", "b"], ["a"], "bleu")
    for samples, seed in ((0, 0), (10, -1)):
        with pytest.raises(NarspeechError, match="at least one sample"):
            paired_bootstrap(["a"], ["a"], ["a"], "bleu", samples=samples, seed=seed)
    with pytest.raises(ConfigError, match="expected a metric among bleu, chrf, received 'ter'"):
        score_translations(["a"], ["a"], ["ter"])  # type: ignore[list-item]
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(NarspeechError, match=r"narspeech\[mt\]"):
        score_translations(["a"], ["a"])
