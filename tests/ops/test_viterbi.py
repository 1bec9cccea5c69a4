from __future__ import annotations

from itertools import groupby, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.functional import forced_align

from narspeech.batch import Padded
from narspeech.ops.ctc import path_loss, token_starts
from narspeech.ops.viterbi import forced_path
from narspeech.tokenizer import BLANK

GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e30]


def spelled(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in groupby(path) if label != BLANK]


def packed(rows: list[list[int]]) -> Padded:
    return Padded.pack([torch.tensor(row, dtype=torch.long) for row in rows])


@pytest.mark.parametrize(("frames", "size"), [(1, 3), (2, 4), (4, 3), (5, 3)])
def test_is_the_best_of_all_paths(frames: int, size: int) -> None:
    rows = [list(ids) for length in range(4) for ids in product(range(1, size), repeat=length)]
    log_probs = torch.randn(len(rows), frames, size).log_softmax(-1)
    spare = torch.full((len(rows), 2, size), 3.0)
    found, fits = forced_path(Padded(torch.cat([log_probs, spare], 1), torch.full((len(rows),), frames)), packed(rows))
    for row, target in enumerate(rows):
        paths = [path for path in product(range(size), repeat=frames) if spelled(path) == target]
        assert fits[row] == bool(paths)
        if paths:
            scores = [sum(float(log_probs[row, t, label]) for t, label in enumerate(path)) for path in paths]
            assert found[row, :frames].tolist() == list(paths[scores.index(max(scores))])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**30))
def test_agrees_with_torchaudio(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = (3 * torch.randn(4, 23, 5, generator=generator)).log_softmax(-1)
    lengths = torch.tensor([23, 12, 17, 9])
    target = Padded(torch.randint(1, 5, (4, 6), generator=generator), torch.tensor([6, 6, 1, 3]))
    found, fits = forced_path(Padded(log_probs, lengths), target)
    assert fits.all()
    for row, (frames, length) in enumerate(zip(lengths, target.lengths, strict=True)):
        expected = forced_align(log_probs[row : row + 1, :frames], target.data[row : row + 1, :length], blank=BLANK)[0]
        alone = Padded(log_probs[row : row + 1], lengths[row : row + 1])
        # Two paths may be equally good.
        torch.testing.assert_close(path_loss(alone, found[row : row + 1]), path_loss(alone, padded(expected, 23)))
    starts = (found != BLANK) & (found != torch.cat([torch.zeros(4, 1), found[:, :-1]], 1))
    for row, places in enumerate(token_starts(Padded(log_probs, lengths), target).tolist()):
        length = int(target.lengths[row])
        assert starts[row, : lengths[row]].nonzero().flatten().tolist() == places[:length]


def padded(path: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(path, (0, width - path.shape[1])).long()


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_is_never_read(garbage: float) -> None:
    clean = torch.randn(2, 6, 5).log_softmax(-1)
    dirty = clean.clone()
    dirty[1, 3:] = garbage
    target = Padded(torch.tensor([[1, 2, 2], [3, -100, 10**9]]), torch.tensor([3, 1]))
    lengths = torch.tensor([6, 3])
    (one, _), (other, _) = (forced_path(Padded(data, lengths), target) for data in (clean, dirty))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1, :3], other[1, :3])
    alone, _ = forced_path(Padded(clean[1:, :3], lengths[1:]), Padded(target.data[1:, :1], target.lengths[1:]))
    assert torch.equal(alone[0], one[1, :3])


def test_what_does_not_fit_is_told_and_stays_in_the_vocabulary() -> None:
    log_probs = Padded(torch.randn(4, 4, 4).log_softmax(-1), torch.tensor([4, 2, 0, 0]))
    found, fits = forced_path(log_probs, packed([[1, 1, 1], [1, 2, 3], [], [1]]))
    assert fits.tolist() == [False, False, True, False]
    assert found.shape == (4, 4)
    assert ((found >= 0) & (found < 4)).all()


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5)])
def test_no_frame_at_all(shape: tuple[int, int, int]) -> None:
    none = torch.zeros(shape[0], dtype=torch.long)
    found, fits = forced_path(Padded(torch.zeros(shape), none), Padded(torch.ones(shape[0], 2, dtype=torch.long), none))
    assert found.shape == shape[:2]
    assert fits.all()


def test_half_precision_and_no_gradient() -> None:
    logits = torch.randn(2, 30, 6).bfloat16().requires_grad_()
    log_probs = logits.float().log_softmax(-1).bfloat16()
    target, lengths = packed([[1, 2, 3, 3], [5, 4]]), torch.tensor([30, 20])
    found, _ = forced_path(Padded(log_probs, lengths), target)
    exact, _ = forced_path(Padded(log_probs.float(), lengths), target)
    assert not found.requires_grad
    assert torch.equal(found, exact)
