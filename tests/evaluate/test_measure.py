"""Both measures answer the same questions: rates for a training, an error to choose by, scores for a report."""

from __future__ import annotations

import json

import pytest

from narspeech.errors import ManifestError
from narspeech.evaluate.measure import Bleu, ErrorRates, Measure

TEXTS = [
    ("the cat sat on the old mat", "the bat sat the old mat again"),
    ("a dog runs by the sea", "a dog runs by the sea"),
]


def test_error_rates() -> None:
    rates = ErrorRates().rates(TEXTS)
    assert rates["wer"] == pytest.approx(3 / 13)
    assert rates["wer"] == pytest.approx(rates["substitutions"] + rates["deletions"] + rates["insertions"])
    assert ErrorRates().errors(rates) == (rates["wer"], rates["cer"])
    assert ErrorRates().shown(rates) == "WER 23.08"
    assert "{cat>bat}" in ErrorRates().sample(*TEXTS[0])


def test_bleu_is_an_error_when_turned_round() -> None:
    rates = Bleu().rates(TEXTS)
    assert rates.keys() == {"bleu", "chrf"}
    coarse, fine = Bleu().errors(rates)
    assert coarse == pytest.approx(1 - rates["bleu"] / 100)
    assert 0 < fine < coarse < 1
    assert Bleu().errors(Bleu().rates(TEXTS[1:]))[0] == pytest.approx(0)
    assert Bleu().shown({"bleu": 31.256, "chrf": 50.0}) == "BLEU 31.26"
    assert Bleu().sample("a", "b") == "ref  a\nhyp  b"


@pytest.mark.parametrize(("measure", "names"), [(ErrorRates(), {"word", "character"}), (Bleu(), {"bleu", "chrf"})])
def test_scores_join_by_id(measure: Measure, names: set[str]) -> None:
    references = {"one": "a dog runs by the sea", "two": "the cat sat"}
    result, figures = scored = measure.score(references, dict(reversed(references.items())))
    assert names <= result.keys()
    assert result["utterances"] == 2
    assert json.dumps(result)
    best = 0 if measure.falling else 100
    assert list(figures.values()) == pytest.approx([best, best])
    assert all(f"{name} {value:6.2f}" in scored.shown for name, value in figures.items())
    with pytest.raises(ManifestError, match="no hypothesis for two"):
        measure.score(references, {"one": "a"})
