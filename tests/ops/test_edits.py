"""Edits against plain Python: dynamic programming a cell at a time, and enumeration of all subsequences."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narspeech.batch import Padded
from narspeech.ops.edits import common, fit, insert, keep, missing_counts
from narspeech.tokenizer import MASK, PAD

A, B, C = 6, 7, 8
ROWS = st.lists(st.lists(st.sampled_from([A, B, C]), max_size=6), min_size=4, max_size=4)


def packed(rows: list[list[int]]) -> Padded:
    """The padding is full of a letter that may be met by mistake."""
    return Padded.pack([torch.tensor(row).long() for row in rows], A)


def plain_path(source: list[int], target: list[int]) -> tuple[list[bool], list[bool]]:
    """The kept and met tokens by the textbook table, from the ends: a match, else a deletion, else an insertion."""
    longest = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for n, token in enumerate(source, 1):
        for u, other in enumerate(target, 1):
            same = longest[n - 1][u - 1] + 1 if token == other else 0
            longest[n][u] = max(longest[n - 1][u], longest[n][u - 1], same)
    kept, met = [False] * len(source), [False] * len(target)
    n, u = len(source), len(target)
    while n:
        if u and source[n - 1] == target[u - 1]:
            n, u = n - 1, u - 1
            kept[n] = met[u] = True
        elif longest[n][u] == longest[n - 1][u]:
            n -= 1
        else:
            u -= 1
    return kept, met


def longest_common(source: list[int], target: list[int]) -> int:
    """By enumeration of all subsequences."""
    subsequences = [{s for k in range(len(x) + 1) for s in combinations(x, k)} for x in (source, target)]
    return max(len(s) for s in subsequences[0] & subsequences[1])


@given(ROWS, ROWS)
def test_common_is_the_plain_path_and_a_longest_one(sources: list[list[int]], targets: list[list[int]]) -> None:
    found = common(packed(sources), packed(targets))
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        kept, met = plain_path(source, target)
        padding = [False] * 6
        assert found.kept[row].tolist() == (kept + padding)[: found.kept.shape[1]]
        assert found.met[row].tolist() == (met + padding)[: found.met.shape[1]]
        stays = [token for token, stands in zip(source, kept, strict=True) if stands]
        assert stays == [token for token, stands in zip(target, met, strict=True) if stands]
        assert len(stays) == longest_common(source, target)


@given(ROWS, ROWS)
def test_the_edits_lead_to_the_target(sources: list[list[int]], targets: list[list[int]]) -> None:
    source, target = packed(sources), packed(targets)
    found = common(source, target)
    met = Padded(found.met, target.lengths)
    left = keep(source, found.kept, PAD)
    counts = missing_counts(met)
    # What is left and the gaps belong together, and the placeholders stand where the target is not met.
    assert torch.equal(left.lengths, found.met.sum(-1))
    assert counts.shape == (4, target.data.shape[1] + 1)
    gaps = columns(counts, left.data.shape[1] + 1)
    opened = insert(left, gaps, target.data.shape[1], MASK)
    assert torch.equal(opened.lengths, target.lengths)
    expected = target.data.where(found.met, MASK)
    assert torch.equal(opened.data[target.mask], expected[target.mask])


def columns(counts: torch.Tensor, width: int) -> torch.Tensor:
    """counts with exactly `width` columns: those that are cut off count nothing."""
    assert not counts[:, width:].any()
    return torch.nn.functional.pad(counts, (0, width - counts.shape[1]))


def test_neither_side_may_be_there() -> None:
    none, some = packed([[], []]), packed([[A], [A, B]])
    assert common(none, some).met.tolist() == [[False, False]] * 2
    assert common(some, none).kept.tolist() == [[False, False]] * 2
    assert common(none, none).kept.shape == (2, 0)
    assert missing_counts(Padded(common(none, some).met, some.lengths)).tolist() == [[1, 0, 0], [2, 0, 0]]


def test_missing_counts() -> None:
    met = torch.tensor([[False, True, False, False, True], [True, True, False, False, False]])
    counts = missing_counts(Padded(met, torch.tensor([5, 3])))
    assert counts.tolist() == [[1, 2, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_keep() -> None:
    x = packed([[A, B, C, A], [B, C]])
    kept = torch.tensor([[False, True, False, True], [True, False, False, False]])
    found = keep(x, kept, PAD)
    assert found.data.tolist() == [[B, A, PAD, PAD], [B, PAD, PAD, PAD]]
    assert found.lengths.tolist() == [2, 1]
    assert x.data.tolist() == [[A, B, C, A], [B, C, A, A]]


def test_insert() -> None:
    x = packed([[A, B], [C], []])
    counts = torch.tensor([[1, 0, 2], [0, 1, 0], [3, 0, 0]])
    found = insert(x, counts, 5, MASK)
    assert found.data.tolist() == [[MASK, A, B, MASK, MASK], [C, MASK, MASK, MASK, MASK], [MASK] * 5]
    assert found.lengths.tolist() == [5, 2, 3]


@pytest.mark.parametrize(
    ("room", "expected"), [(9, [2, 0, 3, 1]), (5, [2, 0, 3, 0]), (4, [2, 0, 2, 0]), (0, [0] * 4), (-3, [0] * 4)]
)
def test_fit(room: int, expected: list[int]) -> None:
    assert fit(torch.tensor([[2, 0, 3, 1]]), torch.tensor([room])).tolist() == [expected]
