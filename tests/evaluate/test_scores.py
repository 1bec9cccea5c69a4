"""Scores of a corpus joined by id, and how one utterance is shown."""

from __future__ import annotations

import pytest

from narspeech.errors import ManifestError
from narspeech.evaluate.error_rate import ErrorRate
from narspeech.evaluate.scores import sample_lines, score, score_each


def test_ids_must_agree_and_at_most_five_are_named() -> None:
    references = {f"u{index}": "a" for index in range(12)}
    with pytest.raises(ManifestError, match=r"no hypothesis for u0, u1, u2, u3, u4, \.\.\. \(12 in all\)") as caught:
        score(references, {})
    assert "u5" not in str(caught.value)
    with pytest.raises(ManifestError, match=r"no reference for stray \(1\)"):
        score(references, {**references, "stray": "a"})
    with pytest.raises(ManifestError, match=r"no hypothesis for u11 \(1\) and no reference for stray \(1\)"):
        score(references, {**{f"u{index}": "a" for index in range(11)}, "stray": "a"})


def test_score_joins_by_id_not_by_order() -> None:
    scores = score({"u1": "a b", "u2": "c", "u3": ""}, {"u3": "x", "u2": "c", "u1": "a"})
    assert scores.word == ErrorRate(deletions=1, insertions=1, reference=3)
    assert scores.character == ErrorRate(deletions=2, insertions=1, reference=4)
    assert (scores.utterances, scores.sentence_errors) == (3, 2)
    assert scores.to_dict()["word"]["rate"] == pytest.approx(2 / 3)


def test_score_compares_as_given_unless_told() -> None:
    assert score({"u": "Don't, stop!"}, {"u": "don\u2019t stop"}).word.errors == 2
    assert score({"u": "Don't, stop!"}, {"u": "don\u2019t stop"}, normalise="basic").word.errors == 0
    each = score_each({"u": "A."}, {"u": "b"}, normalise="basic")
    assert (each[0].reference, each[0].hypothesis) == ("a", "b")
    assert score_each({}, {}).total().word == ErrorRate()


def test_table_is_aligned() -> None:
    table = score({"u": "a b c d"}, {"u": "a x c"}).table().split("\n")
    assert len(table) == 4
    assert len({len(row) for row in table}) == 1
    assert table[1].split() == ["word", "50.00", "2", "1", "1", "0", "4"]
    assert table[3].split() == ["sentence", "100.00", "1", "1"]


def test_sample_lines_show_every_kind_of_error() -> None:
    assert sample_lines("the cat  sat on the old mat", "the bat sat the old mat again") == (
        "ref  the cat sat on the old mat\nhyp  the {cat>bat} sat {-on} the old mat {+again}  (S 1, D 1, I 1 of 7)"
    )
    assert sample_lines("", "") == "ref  \nhyp   (S 0, D 0, I 0 of 0)"


def test_both_alignments_and_their_sentences() -> None:
    # Two substitutions cost 8 by sclite's weights, two deletions beside an insertion 9, with one more word right 6.
    references, hypotheses = {"u": "a b", "v": "c"}, {"u": "b c", "v": "c"}
    plain, weighted = (score(references, hypotheses, alignment=how) for how in ("jiwer", "sclite"))
    assert weighted.word == ErrorRate(deletions=1, insertions=1, reference=3)
    assert plain.word.errors == 2
    assert plain.sentence_errors == weighted.sentence_errors == 1
    assert plain.sentence_rate == 0.5
