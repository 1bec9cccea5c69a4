from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narspeech.batch import Batch, Draft, Padded

ROWS = st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=5)


@given(ROWS)
def test_unpack_undoes_pack(rows: list[list[int]]) -> None:
    padded = Padded.pack([torch.tensor(row, dtype=torch.long) for row in rows], fill=9)
    assert [row.tolist() for row in padded.unpack()] == rows
    assert padded.data.shape == (len(rows), max(map(len, rows)))
    assert padded.lengths.dtype == torch.int64
    assert (padded.data[~padded.mask] == 9).all()
    assert padded.mask.sum(-1).tolist() == [len(row) for row in rows]


def test_pack_keeps_trailing_dimensions_and_type() -> None:
    padded = Padded.pack([torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(0, 3, dtype=torch.bfloat16)])
    assert padded.data.shape == (2, 2, 3)
    assert padded.data.dtype == torch.bfloat16


def test_pack_nothing() -> None:
    with pytest.raises(ValueError, match="expected at least one sequence"):
        Padded.pack([])


def test_widened_makes_room_and_changes_no_row() -> None:
    padded = Padded.pack([torch.tensor([1, 2]), torch.tensor([3])], fill=9)
    wider = padded.widened(4, fill=7)
    assert wider.data.tolist() == [[1, 2, 7, 7], [3, 9, 7, 7]]
    assert wider.lengths.tolist() == [2, 1]
    assert padded.widened(1).data.tolist() == padded.data.tolist()
    assert Padded(torch.ones(2, 0, 3), torch.zeros(2).long()).widened(1).data.eq(0).sum() == 2 * 3


def test_a_draft_with_nothing_to_decide() -> None:
    draft = Draft.decided(Padded.pack([torch.tensor([6, 7]), torch.tensor([8])]), -torch.ones(2, 2))
    assert draft.owner.tolist() == [0, 1]
    assert draft.undecided.tolist() == [0, 0]


def test_rows_and_repeat() -> None:
    padded = Padded.pack([torch.tensor(row) for row in ([1.0], [2.0, 3.0], [4.0, 5.0, 6.0])])
    picked = padded.rows(torch.tensor([2, 0, 2]))
    assert [row.tolist() for row in picked.unpack()] == [[4, 5, 6], [1], [4, 5, 6]]
    twice = padded.repeat(2)
    assert [row.tolist() for row in twice.unpack()] == [[1], [1], [2, 3], [2, 3], [4, 5, 6], [4, 5, 6]]


@pytest.mark.parametrize("trailing", [(), (2,), (2, 3)])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_zeroed_whatever_the_padding_holds(trailing: tuple[int, ...], garbage: float) -> None:
    data = torch.full((3, 4, *trailing), garbage)
    lengths = torch.tensor([4, 2, 0])
    for row, length in enumerate(lengths.tolist()):
        data[row, :length] = row + 1
    before = data.clone()
    zeroed = Padded(data, lengths).zeroed()
    assert [int(x.sum()) for x in zeroed.data[:, :, ...].flatten(1).ne(0)] == [
        length * data[0, 0].numel() for length in lengths.tolist()
    ]
    assert zeroed.data.isfinite().all()
    torch.testing.assert_close(data, before, equal_nan=True)  # its argument stays as it was


def test_zeroed_integers() -> None:
    assert Padded(torch.tensor([[3, 4], [5, 6]]), torch.tensor([1, 2])).zeroed().data.tolist() == [[3, 0], [5, 6]]


def test_draft_rows() -> None:
    tokens = Padded(torch.tensor([[7, 8], [9, 1]]), torch.tensor([2, 1]))
    draft = Draft(tokens, torch.tensor([[-0.1, -0.2], [-0.3, 0.0]]), torch.tensor([0, 1]), torch.tensor([5, 6]))
    picked = draft.rows(torch.tensor([1]))
    assert picked.tokens.unpack()[0].tolist() == [9]
    assert picked.scores[0, 0].item() == pytest.approx(-0.3)
    assert picked.owner.tolist() == [1]
    assert picked.undecided.tolist() == [6]


def test_moving_moves_every_part() -> None:
    padded = Padded(torch.zeros(1, 2), torch.tensor([2]))
    batch = Batch(("a",), padded, padded, guide=padded).to("meta")
    for part in (batch.source, batch.target, batch.guide):
        assert part is not None
        assert part.data.device.type == part.lengths.device.type == "meta"
    assert Batch(("a",), padded, padded).to("meta").guide is None
