from __future__ import annotations

import math
from itertools import groupby, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.ctc import (
    at_labels,
    collapse,
    ctc_loss,
    greedy,
    guided_path,
    path_loss,
    required_frames,
    spelled_loss,
    spelling,
    token_starts,
)
from narspeech.tokenizer import BLANK

GARBAGE = [0.0, float("nan"), float("inf"), -float("inf"), 1e30]


def spelled(path: tuple[int, ...]) -> list[int]:
    """What a path of labels says: runs merged, then blanks dropped."""
    return [label for label, _ in groupby(path) if label != BLANK]


def summed_paths(log_probs: Tensor, target: list[int]) -> Tensor:
    """-log of the probability of `target`, by listing every path over log_probs (T, V)."""
    frames, size = log_probs.shape
    paths = [path for path in product(range(size), repeat=frames) if spelled(path) == target]
    if not paths:
        return torch.tensor(float("inf"))
    scores = [sum((log_probs[t, label] for t, label in enumerate(path)), log_probs.new_zeros(())) for path in paths]
    return -torch.stack(scores).logsumexp(0)


def targets(size: int, longest: int) -> list[list[int]]:
    return [list(ids) for length in range(longest + 1) for ids in product(range(1, size), repeat=length)]


def packed(rows: list[list[int]]) -> Padded:
    return Padded.pack([torch.tensor(row, dtype=torch.long) for row in rows])


class TestRequiredFrames:
    @given(st.lists(st.lists(st.integers(1, 3), max_size=5), min_size=1, max_size=4), st.integers(0, 3))
    def test_counts_repeats(self, rows: list[list[int]], extra: int) -> None:
        target = packed([*rows, [1] * (max(map(len, rows)) + extra)])  # padding of equal neighbours
        expected = [len(row) + sum(a == b for a, b in pairwise(row)) for row in rows]
        assert required_frames(target).tolist()[:-1] == expected

    def test_is_the_shortest_path(self) -> None:
        for target in targets(3, 3):
            needed = int(required_frames(packed([target])))
            assert any(spelled(path) == target for path in product(range(3), repeat=needed))
            assert (
                not any(spelled(path) == target for path in product(range(3), repeat=max(0, needed - 1))) or not needed
            )

    def test_padding_says_nothing(self) -> None:
        assert required_frames(Padded(torch.tensor([[1, 2, 2, 2]]), torch.tensor([2]))).tolist() == [2]


class TestLoss:
    @pytest.mark.parametrize(("frames", "size"), [(1, 4), (2, 4), (3, 4), (4, 3), (5, 3), (5, 4)])
    def test_equals_the_sum_over_all_paths(self, frames: int, size: int) -> None:
        """Loss and gradient of every target of up to three tokens, all in one batch with frames to spare."""
        rows = targets(size, 2 if (frames, size) == (5, 4) else 3)
        logits = torch.randn(len(rows), frames, size, dtype=torch.float64, requires_grad=True)
        log_probs = logits.log_softmax(-1)
        spare = torch.full((len(rows), 2, size), 3.0, dtype=torch.float64)
        lengths = torch.full((len(rows),), frames)
        losses, fits = ctc_loss(Padded(torch.cat([log_probs, spare], 1), lengths), packed(rows))
        (gradient,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
        expected = torch.stack([summed_paths(log_probs[row], target) for row, target in enumerate(rows)])
        assert fits.tolist() == expected.isfinite().tolist()
        torch.testing.assert_close(losses[fits].double(), expected[fits], atol=1e-5, rtol=1e-5)
        (wanted,) = torch.autograd.grad(expected[fits].sum(), logits)
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)
        assert losses.dtype == torch.float32

    def test_labels_need_not_be_all_there_are(self) -> None:
        """The gradient too is that of the log-probabilities, whatever they sum to."""
        rows = targets(4, 2)
        log_probs = torch.randn(len(rows), 3, 4, dtype=torch.float64, requires_grad=True)
        losses, fits = ctc_loss(Padded(log_probs, torch.full((len(rows),), 3)), packed(rows))
        assert fits.all()
        expected = torch.stack([summed_paths(log_probs[row], target) for row, target in enumerate(rows)])
        torch.testing.assert_close(losses.double(), expected, atol=1e-5, rtol=1e-5)
        found, wanted = (torch.autograd.grad(loss.sum(), log_probs)[0] for loss in (losses, expected))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    def test_a_spelling_is_enough(self) -> None:
        rows = [[5, 3, 5, 5], [], [2], [4, 4, 2]]
        log_probs, lengths, target = torch.randn(4, 7, 6).log_softmax(-1), torch.tensor([7, 3, 4, 5]), packed(rows)
        labels, spelled = spelling(target)
        assert [labels[row, places].tolist() for row, places in enumerate(spelled.unpack())] == rows
        assert [row.tolist() for row in spelled.unpack()] == [[1, 2, 1, 1], [], [1], [1, 1, 3]]
        everything = Padded(log_probs, lengths)
        for found, wanted in zip(
            spelled_loss(at_labels(everything, labels), spelled), ctc_loss(everything, target), strict=True
        ):
            assert torch.equal(found, wanted)

    def test_what_does_not_fit_costs_nothing_and_is_told(self) -> None:
        logits = torch.randn(5, 4, 4, requires_grad=True)
        target = packed([[1, 1, 1], [1, 2, 3], [1, 1], [], [1]])
        lengths = torch.tensor([4, 2, 2, 0, 0])
        losses, fits = ctc_loss(Padded(logits.log_softmax(-1), lengths), target)
        assert fits.tolist() == [False, False, False, True, False]
        assert losses.tolist() == [0.0] * 5  # the fourth row says nothing in no frames, which is certain
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert (gradient == 0).all()

    def test_a_row_that_does_not_fit_leaves_the_others_alone(self) -> None:
        logits = torch.randn(2, 4, 4, requires_grad=True)
        target = packed([[1, 1, 1], [2, 1]])
        losses, _ = ctc_loss(Padded(logits.log_softmax(-1), torch.tensor([4, 3])), target)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        alone = logits[1:, :3].detach().requires_grad_()
        loss, _ = ctc_loss(
            Padded(alone.log_softmax(-1), torch.tensor([3])), Padded(torch.tensor([[2, 1]]), torch.tensor([2]))
        )
        (wanted,) = torch.autograd.grad(loss.sum(), alone)
        torch.testing.assert_close(losses[1:], loss)
        torch.testing.assert_close(gradient[1:, :3], wanted)
        assert (gradient[0] == 0).all()
        assert (gradient[1, 3] == 0).all()

    def test_an_empty_target_is_all_blanks(self) -> None:
        log_probs = torch.randn(2, 3, 4).log_softmax(-1)
        losses, fits = ctc_loss(
            Padded(log_probs, torch.tensor([3, 1])),
            Padded(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long)),
        )
        assert fits.all()
        torch.testing.assert_close(losses, -torch.stack([log_probs[0, :, BLANK].sum(), log_probs[1, 0, BLANK]]))

    @pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5)])
    def test_no_frame_at_all(self, shape: tuple[int, int, int]) -> None:
        log_probs = torch.zeros(shape, requires_grad=True)
        none = torch.zeros(shape[0], dtype=torch.long)
        losses, fits = ctc_loss(Padded(log_probs, none), Padded(torch.ones(shape[0], 2, dtype=torch.long), none))
        assert fits.all()
        assert losses.tolist() == [0.0] * shape[0]
        losses.sum().backward()  # type: ignore[no-untyped-call]
        _, fits = ctc_loss(Padded(log_probs, none), Padded(torch.ones(shape[0], 2, dtype=torch.long), none + 2))
        assert not fits.any()

    @pytest.mark.parametrize("garbage", GARBAGE)
    def test_padding_is_never_read(self, garbage: float) -> None:
        clean = torch.randn(2, 4, 5).log_softmax(-1)
        lengths = torch.tensor([4, 2])
        dirty = clean.clone()
        dirty[1, 2:] = garbage
        target = Padded(torch.tensor([[1, 2, 2], [3, -100, 10**9]]), torch.tensor([3, 1]))
        outcomes = []
        for data in (clean, dirty):
            leaf = data.clone().requires_grad_()
            losses, fits = ctc_loss(Padded(leaf, lengths), target)
            assert fits.all()
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            assert (gradient[1, 2:] == 0).all()
            outcomes.append(torch.cat([losses.detach(), gradient.flatten()]))
        assert torch.equal(*outcomes)


def plain_collapse(labels: list[int], scores: list[float]) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    best: list[float] = []
    previous = BLANK
    for label, score in zip(labels, scores, strict=True):
        if label != BLANK and label != previous:
            tokens.append(label)
            best.append(score)
        elif label != BLANK:
            best[-1] = max(best[-1], score)
        previous = label
    return tokens, best


FRAMES = st.lists(st.tuples(st.sampled_from([BLANK, 6, 7, 8]), st.floats(-20, 0, width=32)), max_size=12)


class TestCollapse:
    @given(st.lists(FRAMES, min_size=1, max_size=5), st.integers(0, 4), st.sampled_from(GARBAGE), st.integers(0, 9))
    def test_equals_a_plain_loop(
        self, rows: list[list[tuple[int, float]]], extra: int, garbage: float, label: int
    ) -> None:
        width = max(map(len, rows)) + extra
        labels, scores = torch.full((len(rows), width), label), torch.full((len(rows), width), garbage)
        for row, frames in enumerate(rows):
            labels[row, : len(frames)] = torch.tensor([frame[0] for frame in frames], dtype=torch.long)
            scores[row, : len(frames)] = torch.tensor([frame[1] for frame in frames])
        before = labels.clone()
        tokens, best, _ = collapse(Padded(labels, torch.tensor([len(row) for row in rows])), scores)
        assert torch.equal(labels, before)
        expected = [plain_collapse([x for x, _ in row], [y for _, y in row]) for row in rows]
        assert [row.tolist() for row in tokens.unpack()] == [ids for ids, _ in expected]
        assert [row.tolist() for row in Padded(best, tokens.lengths).unpack()] == [values for _, values in expected]
        assert tokens.data.shape == best.shape == (len(rows), max(len(ids) for ids, _ in expected))
        assert (best[~tokens.mask] == 0).all()

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
    def test_nothing(self, shape: tuple[int, int]) -> None:
        path = Padded(torch.zeros(shape, dtype=torch.long), torch.zeros(shape[0], dtype=torch.long))
        tokens, best, _ = collapse(path, torch.zeros(shape))
        assert tokens.data.shape == best.shape == (shape[0], 0)
        assert tokens.lengths.tolist() == [0] * shape[0]


class TestGreedy:
    @given(st.lists(st.integers(0, 8), min_size=1, max_size=4), st.sampled_from(GARBAGE), st.integers(0, 1000))
    def test_equals_a_plain_loop(self, lengths: list[int], garbage: float, seed: int) -> None:
        data = torch.randn(
            len(lengths), max(lengths) + 2, 4, generator=torch.Generator().manual_seed(seed)
        ).log_softmax(-1)
        for row, length in enumerate(lengths):
            data[row, length:] = garbage
        tokens, scores, _ = greedy(Padded(data, torch.tensor(lengths)))
        for row, length in enumerate(lengths):
            frames = data[row, :length].tolist()
            labels = [max(range(4), key=frame.__getitem__) for frame in frames]
            ids, best = plain_collapse(labels, [max(frame) for frame in frames])
            assert tokens.unpack()[row].tolist() == ids
            assert scores[row, : len(ids)].tolist() == best

    def test_score_is_the_highest_of_the_run(self) -> None:
        posteriors = torch.tensor([[[0.1, 0.9], [0.05, 0.95], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]]])
        tokens, scores, _ = greedy(Padded(posteriors.log(), torch.tensor([5])))
        assert tokens.data.tolist() == [[1, 1]]
        assert scores[0].tolist() == pytest.approx([math.log(0.95), math.log(0.7)])


class TestAlignment:
    def test_starts_are_those_of_the_best_path(self) -> None:
        """Against a search over all paths that spell the target."""
        generator = torch.Generator().manual_seed(3)
        for target in ([6, 7], [6, 6], [7], [6, 7, 6]):
            data = torch.randn(1, 6, 8, generator=generator).log_softmax(-1)
            found = token_starts(Padded(data, torch.tensor([6])), Padded.pack([torch.tensor(target)]))
            paths = [path for path in product((BLANK, 6, 7), repeat=6) if spelled(path) == target]
            best = max(paths, key=lambda path: sum(data[0, t, label].item() for t, label in enumerate(path)))
            assert found[0].tolist() == run_starts(best)

    def test_what_cannot_be_aligned_is_spread_evenly(self) -> None:
        data = torch.zeros(3, 4, 8).log_softmax(-1)
        data[1] = float("nan")
        target = Padded.pack([torch.tensor([6, 6, 6]), torch.tensor([6, 7]), torch.tensor([], dtype=torch.long)])
        starts = token_starts(Padded(data, torch.tensor([4, 4, 4])), target)
        assert starts[0].tolist() == [0, 1, 2]
        assert starts[1, :2].tolist() == [0, 2]

    def test_collapsed_tokens_know_their_first_frame(self) -> None:
        path = Padded(torch.tensor([[BLANK, 6, 6, BLANK, 6, 7, 7]]), torch.tensor([6]))
        assert collapse(path, torch.zeros(1, 7)).starts.tolist() == [[1, 4, 5]]

    def test_a_guided_path_holds_each_token_to_the_next_and_not_for_ever(self) -> None:
        target = Padded.pack([torch.tensor([6, 7, 8]), torch.tensor([9])])
        starts = torch.tensor([[1, 3, 4], [0, 0, 0]])
        path = guided_path(target, starts, 9, hold=3)
        assert path.tolist() == [[BLANK, 6, 6, 7, 8, 8, 8, BLANK, BLANK], [9, 9, 9, *[BLANK] * 6]]
        assert guided_path(
            Padded.pack([torch.tensor([], dtype=torch.long)]), torch.zeros(1, 0).long(), 2, 3
        ).tolist() == [[BLANK, BLANK]]

    def test_the_loss_of_a_path_is_its_negative_log_likelihood(self) -> None:
        data = torch.randn(2, 4, 8).log_softmax(-1)
        path = torch.randint(8, (2, 4))
        losses = path_loss(Padded(data, torch.tensor([4, 2])), path)
        for row, length in enumerate((4, 2)):
            expected = -sum(data[row, t, path[row, t]].item() for t in range(length))
            assert losses[row].item() == pytest.approx(expected, abs=1e-5)


def run_starts(path: tuple[int, ...]) -> list[int]:
    return [t for t, label in enumerate(path) if label != BLANK and (t == 0 or path[t - 1] != label)]
