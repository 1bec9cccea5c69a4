"""Both alignments: what is counted is what is aligned; sclite's against brute force, and against sclite itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narspeech.errors import NarspeechError
from narspeech.evaluate import alignment
from narspeech.evaluate.alignment import Edit, aligned, counts
from narspeech.evaluate.error_rate import ErrorRate, word_errors
from narspeech.evaluate.error_rate import alignment as side_by_side
from tests.evaluate.test_error_rate import TEXTS, random_pairs, split

SCLITE = shutil.which("sclite") or shutil.which("sclite", path="/usr/lib/sctk/bin")


def sclite_by_brute_force(reference: list[str], hypothesis: list[str]) -> list[Edit]:
    """Cell by cell: a pair where it is as cheap as anything, else a deletion where it is cheaper than an insertion."""
    table: dict[tuple[int, int], tuple[int, list[Edit]]] = {(0, 0): (0, [])}
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            options: dict[str, tuple[int, list[Edit]]] = {}
            for name, (di, dj), price in (("pair", (1, 1), 4), ("deletion", (1, 0), 3), ("insertion", (0, 1), 3)):
                if (i - di, j - dj) in table:
                    cost, edits = table[i - di, j - dj]
                    edit = Edit(reference[i - 1] if di else None, hypothesis[j - 1] if dj else None)
                    options[name] = (cost + (0 if edit[0] == edit[1] else price), [*edits, edit])
            if not options:
                continue
            least = min(cost for cost, _ in options.values())
            order = ("pair", "insertion", "deletion")
            table[i, j] = next(options[name] for name in order if name in options and options[name][0] == least)
    return table[len(reference), len(hypothesis)][1]


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_alignment_spells_both_texts_and_counts_alike(reference: str, hypothesis: str) -> None:
    edits = side_by_side(reference, hypothesis)
    assert [edit.reference for edit in edits if edit.reference is not None] == reference.split()
    assert [edit.hypothesis for edit in edits if edit.hypothesis is not None] == hypothesis.split()
    deletions = sum(edit.hypothesis is None for edit in edits)
    insertions = sum(edit.reference is None for edit in edits)
    substitutions = sum(edit.reference != edit.hypothesis for edit in edits) - deletions - insertions
    assert (substitutions, deletions, insertions) == split(word_errors(reference, hypothesis))


def test_alignment_of_each_kind() -> None:
    assert side_by_side("a b c", "x b c d") == [Edit("a", "x"), Edit("b", "b"), Edit("c", "c"), Edit(None, "d")]
    assert side_by_side("a b", "b") == [Edit("a", None), Edit("b", "b")]
    assert side_by_side("", "") == []


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_sclite_alignment_equals_brute_force(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = list(aligned(references, hypotheses, "sclite"))
    assert found == [sclite_by_brute_force(r.split(), h.split()) for r, h in pairs]
    for row, edits in zip(counts(references, hypotheses, alignment="sclite").tolist(), found, strict=True):
        deletions, insertions = sum(e.hypothesis is None for e in edits), sum(e.reference is None for e in edits)
        wrong = sum(e.reference != e.hypothesis for e in edits)
        assert row == [wrong - deletions - insertions, deletions, insertions, len(edits) - insertions]


def test_sclite_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    references, hypotheses = map(list, zip(*random_pairs(200, seed=11), strict=True))
    whole = counts(references, hypotheses, alignment="sclite")
    characters = counts(references, hypotheses, unit="character", alignment="sclite")
    monkeypatch.setattr(alignment, "_CELLS_AT_ONCE", 300)
    assert (counts(references, hypotheses, alignment="sclite") == whole).all()
    assert (counts(references, hypotheses, unit="character", alignment="sclite") == characters).all()
    assert (characters[:, 3] == [len(text) for text in references]).all()


def test_a_total_can_be_higher_by_sclites_weights() -> None:
    # Three substitutions cost 12; two words right instead need two deletions and two insertions, which cost as much.
    reference, hypothesis = "a b c x y", "x y d e f"
    assert word_errors(reference, hypothesis).errors == 5
    assert word_errors(reference, hypothesis, "sclite") == ErrorRate(deletions=3, insertions=3, reference=5)


def test_texts_too_long_for_sclite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "_MOST_CELLS", 100)
    with pytest.raises(NarspeechError, match="received one of 11 against 10 words"):
        counts(["a " * 11], ["a " * 10], alignment="sclite")
    assert counts(["a " * 10, ""], ["a " * 10, "b"], alignment="sclite").tolist() == [[0, 0, 0, 10], [0, 0, 1, 0]]


def test_no_utterances() -> None:
    for how in ("jiwer", "sclite"):
        assert counts([], [], alignment=how).shape == (0, 4)
        assert list(aligned([], [], how)) == []


@pytest.mark.skipif(SCLITE is None, reason="needs sclite (Debian's sctk)")
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.soak)])
def test_equal_to_sclite_itself(tmp_path: Path, count: int) -> None:
    pairs = random_pairs(count, seed=12)
    # sclite knows neither an empty transcript nor bytes beyond ASCII.
    pairs = [(r.encode("ascii", "ignore").decode(), h.encode("ascii", "ignore").decode()) for r, h in pairs]
    pairs = [(r, h) for r, h in pairs if r.split() and h.split()]
    for name, column in (("r", 0), ("h", 1)):
        lines = [f"{pair[column]} (s-{number:04})\n" for number, pair in enumerate(pairs)]
        (tmp_path / name).write_text("".join(lines))
    command = [str(SCLITE), "-s", "-i", "spu_id", "-r", "r", "trn", "-h", "h", "trn", "-o", "pralign", "stdout"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"id: \(s-(\d+)\)\nScores: \(#C #S #D #I\) \d+ (\d+) (\d+) (\d+)", printed)
    assert len(found) == len(pairs)
    ours = counts([r for r, _ in pairs], [h for _, h in pairs], alignment="sclite")[:, :3].tolist()
    assert {int(number): list(map(int, figures)) for number, *figures in found} == dict(enumerate(ours))
