"""Many random pairs: totals, and how they split, are jiwer's, pair by pair and over the corpus; and where sclite's
weights make others of them."""

from __future__ import annotations

import jiwer
import pytest

from narspeech.evaluate.alignment import Unit, counts
from narspeech.evaluate.error_rate import ErrorRate
from tests.evaluate.test_error_rate import random_pairs


@pytest.mark.soak
@pytest.mark.parametrize(("unit", "process"), [("word", jiwer.process_words), ("character", jiwer.process_characters)])
def test_equal_to_jiwer_on_10000_pairs(unit: Unit, process: object) -> None:
    assert callable(process)
    pairs = random_pairs(10_000, seed=21)
    references, hypotheses = [reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs]
    found = counts(references, hypotheses, unit=unit)
    for row, pair in zip(found.tolist(), pairs, strict=True):
        theirs = process(*pair)
        assert row == [theirs.substitutions, theirs.deletions, theirs.insertions, row[3]]
    whole, ours = process(references, hypotheses), ErrorRate.of(found)
    assert (ours.substitutions, ours.deletions, ours.insertions) == (
        whole.substitutions, whole.deletions, whole.insertions,
    )  # fmt: skip
    rate = whole.wer if unit == "word" else whole.cer
    assert ours.rate == pytest.approx(rate, abs=1e-12)


@pytest.mark.soak
def test_how_often_sclites_weights_differ_on_20000_pairs() -> None:
    references, hypotheses = map(list, zip(*random_pairs(20_000, seed=12), strict=True))
    plain, weighted = (counts(references, hypotheses, alignment=how)[:, :3] for how in ("jiwer", "sclite"))
    assert (weighted.sum(1) >= plain.sum(1)).all()
    # What docs/evaluate.md says.
    assert (weighted.sum(1) > plain.sum(1)).sum() == 140
    assert (weighted != plain).any(1).sum() == 1725
