"""Graphs against the enumeration of all their paths."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.dag import best_path, dag_loss, fuzzy_match, link_log_probs, passing_probabilities

GARBAGE = [0.0, float("nan"), float("inf"), -float("inf"), 1e30]
INF = float("inf")


def random_links(batch: int, size: int, *, sharpness: float = 1.0) -> Tensor:
    """(B, L, L) normalised over later vertices."""
    scores = sharpness * torch.randn(batch, size, size, dtype=torch.float64)
    later = torch.ones(size, size).triu(1).bool()
    return scores.masked_fill(~later, -INF).softmax(-1).nan_to_num().log()


def paths(count: int, size: int) -> list[tuple[int, ...]]:
    """Every path of `count` vertices from the first of `size` to the last."""
    if count == 1:
        return [(0,)] if size == 1 else []
    return [(0, *inner, size - 1) for inner in combinations(range(1, size - 1), count - 2)]


def value(path: tuple[int, ...], match: Tensor, links: Tensor) -> Tensor:
    """log P of the target along one path; match (U, L), links (L, L)."""
    terms = [match[i, u] for i, u in enumerate(path)]
    terms += [links[v, u] for v, u in pairwise(path)]
    return torch.stack(terms).sum()


def enumerated(match: Tensor, links: Tensor, count: int, size: int) -> Tensor:
    return -torch.stack([value(path, match, links) for path in paths(count, size)]).logsumexp(0)


CASES = [(count, size) for size in range(1, 8) for count in range(1, size + 1) if paths(count, size)]


class TestLoss:
    @pytest.mark.parametrize("sharpness", [1.0, 40.0])
    def test_equals_the_sum_over_all_paths(self, sharpness: float) -> None:
        """Loss and gradient of every target length in graphs of every size up to 7, all in one batch."""
        counts, lengths = (torch.tensor(x) for x in zip(*CASES, strict=True))
        match = (sharpness * torch.randn(len(CASES), 7, 7, dtype=torch.float64)).requires_grad_()
        # Not normalised over each row's own vertices, which the sum over paths need not be.
        links = random_links(len(CASES), 7, sharpness=sharpness).requires_grad_()
        losses, fits = dag_loss(match, links, counts, lengths)
        expected = torch.stack([enumerated(match[b], links[b], *case) for b, case in enumerate(CASES)])
        assert fits.all()
        torch.testing.assert_close(losses, expected, atol=1e-8, rtol=1e-8)
        weights = torch.rand(len(CASES), dtype=torch.float64)
        found = torch.autograd.grad((weights * losses).sum(), (match, links))
        wanted = torch.autograd.grad((weights * expected).sum(), (match, links))
        for gradient, reference in zip(found, wanted, strict=True):
            assert reference.any()
            torch.testing.assert_close(gradient, reference, atol=1e-8, rtol=1e-8)

    def test_in_float32(self) -> None:
        counts, lengths = (torch.tensor(x) for x in zip(*CASES, strict=True))
        match = torch.randn(len(CASES), 7, 7, requires_grad=True)
        links = random_links(len(CASES), 7).float().requires_grad_()
        losses, _ = dag_loss(match, links, counts, lengths)
        expected = torch.stack([enumerated(match[b], links[b], *case) for b, case in enumerate(CASES)])
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
        for gradient, reference in zip(
            torch.autograd.grad(losses.sum(), (match, links)),
            torch.autograd.grad(expected.sum(), (match, links)),
            strict=True,
        ):
            assert gradient.dtype == torch.float32
            torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-5)

    def test_finite_differences(self) -> None:
        match = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
        scores = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
        counts, lengths = torch.tensor([3, 3]), torch.tensor([5, 4])

        def loss(match: Tensor, scores: Tensor) -> Tensor:
            later = torch.ones(5, 5).triu(1).bool()
            links = scores.masked_fill(~later, -1e4).log_softmax(-1).masked_fill(~later, -INF)
            return dag_loss(match, links, counts, lengths)[0]

        assert torch.autograd.gradcheck(loss, (match, scores))

    def test_a_path_that_begins_badly_and_is_the_only_one_to_end(self) -> None:
        """Its terms are e^-400 of the largest ones, which lead nowhere: far below the range of float32."""
        match = torch.zeros(1, 4, 6)
        match[0, 1, 1] = -400.0
        match[0, 2, 3:] = -1000.0
        links = random_links(1, 6).float()
        links[0, 2:4, 2:5] = -1000.0
        match.requires_grad_()
        losses, fits = dag_loss(match, links, torch.tensor([4]), torch.tensor([6]))
        expected = enumerated(match[0], links[0], 4, 6)
        assert fits.all()
        assert 350 < losses < 450
        torch.testing.assert_close(losses[0], expected)
        torch.testing.assert_close(*(torch.autograd.grad(x, match)[0] for x in (losses[0], expected)))

    def test_probabilities_of_all_texts_sum_to_one(self) -> None:
        """Over one random graph: every text of two letters, of any length, spelt between its ends."""
        size, length = 5, 5
        letters = torch.randn(size, 2, dtype=torch.float64).log_softmax(-1)
        texts = [tuple(int(x) for x in f"{n:0{count}b}") for count in (1, 2, 3) for n in range(2**count)]
        match = torch.zeros(len(texts) + 1, length, size, dtype=torch.float64)
        for row, text in enumerate(texts):
            match[row, 1 : len(text) + 1] = letters[:, list(text)].T
        counts = torch.tensor([len(text) + 2 for text in texts] + [2])
        links = random_links(1, size).expand(len(counts), -1, -1)
        losses, _ = dag_loss(match, links, counts, torch.full_like(counts, size))
        assert (-losses).exp().sum().item() == pytest.approx(1)

    def test_what_does_not_fit_costs_nothing_and_is_told(self) -> None:
        match = torch.randn(4, 6, 5, requires_grad=True)
        links = random_links(4, 5).float()
        links[3, 0] = -INF  # no way out
        links.requires_grad_()
        counts, lengths = torch.tensor([6, 4, 2, 3]), torch.tensor([5, 3, 3, 5])
        losses, fits = dag_loss(match, links, counts, lengths)
        assert fits.tolist() == [False, False, True, False]
        assert losses[[0, 1, 3]].tolist() == [0.0] * 3
        for gradient in torch.autograd.grad(losses.sum(), (match, links)):
            assert gradient.isfinite().all()
            assert (gradient[[0, 1, 3]] == 0).all()
            assert gradient[2].any()
        alone = dag_loss(match[2:3, :2], links[2:3], counts[2:3], lengths[2:3])[0]
        torch.testing.assert_close(losses[2:3], alone)
        assert not dag_loss(match[:2], links[:2], counts[:2], lengths[:2])[1].any()

    def test_a_broken_model_is_not_taken_for_a_long_target(self) -> None:
        match = torch.full((1, 3, 5), float("nan"))
        losses, fits = dag_loss(match, random_links(1, 5).float(), torch.tensor([3]), torch.tensor([5]))
        assert losses.isnan().all()
        assert fits.all()

    @pytest.mark.parametrize("garbage", GARBAGE)
    def test_padding_is_never_read(self, garbage: float) -> None:
        counts, lengths = torch.tensor([5, 3]), torch.tensor([7, 5])
        clean, links = torch.randn(2, 5, 7), random_links(2, 7).float()
        outcomes = []
        for fill in (0.0, garbage):
            match, edges = clean.clone(), links.clone()
            match[1, 3:], match[1, :, 5:], edges[1, 5:], edges[1, :, 5:] = fill, fill, fill, fill
            edges[:, torch.ones(7, 7).tril().bool()] = fill
            leaves = (match.requires_grad_(), edges.requires_grad_())
            losses, fits = dag_loss(*leaves, counts, lengths)
            assert fits.all()
            gradients = torch.autograd.grad(losses.sum(), leaves)
            assert (gradients[0][1, 3:] == 0).all()
            assert (gradients[1][1, 5:] == 0).all()
            path = best_path(*leaves, counts, lengths).float()
            outcomes.append(torch.cat([losses.detach(), path.flatten(), *(g.flatten() for g in gradients)]))
        assert torch.equal(*outcomes)


class TestBestPath:
    def test_is_the_best_of_all_paths(self) -> None:
        """For every target length in graphs of every size up to 7, in one batch with places to spare."""
        counts, lengths = (torch.tensor(x) for x in zip(*CASES, strict=True))
        for _ in range(5):
            match, links = torch.randn(len(CASES), 9, 8), random_links(len(CASES), 8).float()
            found = best_path(match, links, counts, lengths)
            assert found.shape == (len(CASES), 9)
            for b, (count, size) in enumerate(CASES):
                best = max(paths(count, size), key=lambda path: float(value(path, match[b], links[b])))
                assert tuple(found[b, :count].tolist()) == best
                assert found[b, count:].eq(size - 1).all()

    def test_targets_that_do_not_fit_get_places_all_the_same(self) -> None:
        match, links = torch.randn(2, 6, 4), random_links(2, 4).float()
        found = best_path(match, links, torch.tensor([6, 3]), torch.tensor([4, 4]))
        assert ((found >= 0) & (found < 4)).all()
        assert torch.equal(found[1:], best_path(match[1:], links[1:], torch.tensor([3]), torch.tensor([4])))


class TestLinks:
    def test_against_a_plain_loop(self) -> None:
        """Each vertex mixes the heads' softmax over the later real vertices."""
        q, k = torch.randn(2, 2, 3, 6, 4)
        gates, slopes, lengths = torch.randn(2, 6, 3), torch.rand(3), torch.tensor([6, 4])
        found = link_log_probs(q, k, gates, slopes, lengths)
        for b, length in enumerate(lengths.tolist()):
            for v in range(6):
                expected = torch.zeros(6)
                later = list(range(v + 1, length))
                for head, gate in enumerate(gates[b, v].softmax(-1)):
                    if later:
                        scores = torch.stack(
                            [q[b, head, v] @ k[b, head, u] / 2 - slopes[head] * (u - v) for u in later]
                        )
                        expected[later] += gate * scores.softmax(-1)
                torch.testing.assert_close(found[b, v].exp(), expected)
                assert found[b, v].exp().sum().item() == pytest.approx(float(v < length - 1), abs=1e-5)

    def test_gradients_are_finite(self) -> None:
        q, k, gates = (torch.randn(shape, requires_grad=True) for shape in ((2, 2, 5, 4), (2, 2, 5, 4), (2, 5, 2)))
        links = link_log_probs(q, k, gates, torch.ones(2), torch.tensor([5, 2]))
        losses, fits = dag_loss(torch.zeros(2, 3, 5), links, torch.tensor([3, 2]), torch.tensor([5, 2]))
        assert fits.all()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        for x in (q, k, gates):
            assert x.grad is not None
            assert x.grad.isfinite().all()
            assert x.grad[0].any()
            assert x.grad[1].abs().max() < 1e-6  # a graph of two vertices has one path


def every_path(links: Tensor, size: int) -> list[tuple[tuple[int, ...], Tensor]]:
    """All paths of one graph with their probabilities."""
    found = [path for count in range(1, size + 1) for path in paths(count, size)]
    return [(path, torch.stack([links[v, u] for v, u in pairwise(path)]).sum().exp()) for path in found]


class TestFuzzyMatch:
    def test_passing_probabilities(self) -> None:
        lengths = torch.tensor([6, 2, 4])
        links = link_log_probs(*torch.randn(2, 3, 2, 6, 4), torch.randn(3, 6, 2), torch.rand(2), lengths)
        found = passing_probabilities(links, lengths)
        for row, size in enumerate(lengths.tolist()):
            every = every_path(links[row], size)
            assert sum(float(p) for _, p in every) == pytest.approx(1, abs=1e-5)
            expected = [sum(float(p) for path, p in every if u in path) for u in range(6)]
            assert found[row].tolist() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_against_all_paths(self, order: int) -> None:
        """Expected counts by listing the paths; targets with repeated n-grams, spare rows and spare vertices."""
        rows = [[3, 6, 7, 6, 7, 6, 4], [3, 4], [3, 6, 6, 6, 4], [3, 7, 8, 4]]
        target = Padded.pack([torch.tensor(row) for row in rows])
        lengths = torch.tensor([6, 2, 7, 5])  # the first target has no path, and a match all the same
        emissions = torch.randn(4, 7, 9, dtype=torch.float64).log_softmax(-1)
        match = torch.stack([emissions[b][:, target.data[b]].T for b in range(4)])
        match[(target.data == 3) | (target.data == 4)] = 0.0
        scores = torch.randn(4, 7, 7, dtype=torch.float64)
        later = torch.ones(7, 7).triu(1).bool() & (torch.arange(7) < lengths[:, None, None])
        links = scores.masked_fill(~later, -1e4).log_softmax(-1).masked_fill(~later, -INF)
        found = fuzzy_match(match, links, target, lengths, order)
        for b, row in enumerate(rows):
            size = int(lengths[b])

            def says(u: int, token: int, b: int = b, size: int = size) -> float:
                if u in (0, size - 1) or token in (3, 4):
                    return float(token == {0: 3, size - 1: 4}.get(u))
                return float(emissions[b, u, token].exp())

            grams = [tuple(row[i : i + order]) for i in range(len(row) - order + 1)]
            hits, expected = 0.0, 0.0
            every = [(path, float(p)) for path, p in every_path(links[b], size)]
            places = [(path[i : i + order], p) for path, p in every for i in range(len(path) - order + 1)]
            expected = sum(p for _, p in places)
            for gram in set(grams):
                count = sum(p * math.prod(says(u, y) for u, y in zip(at, gram, strict=True)) for at, p in places)
                hits += min(count, grams.count(gram))
            wanted = hits / expected * min(1.0, math.exp(1 - len(grams) / expected)) if grams else 0.0
            assert found[b].item() == pytest.approx(wanted, abs=1e-9)

    def test_a_graph_of_one_path(self) -> None:
        """It matches the target that it spells altogether, and one with another order of words in part."""
        links = torch.full((2, 5, 5), -INF)
        links[:, torch.arange(4), torch.arange(1, 5)] = 0.0
        target = Padded(torch.tensor([[3, 6, 7, 8, 4], [3, 7, 8, 6, 4]]), torch.tensor([5, 5]))
        match = torch.where(target.data[:, :, None] == torch.tensor([3, 6, 7, 8, 4]), 0.0, -INF)
        found = fuzzy_match(match, links, target, torch.tensor([5, 5]))
        assert found.tolist() == pytest.approx([1.0, 0.25])

    def test_gradients(self) -> None:
        target = Padded(torch.tensor([[3, 6, 7, 6, 4], [3, 6, 4, 0, 0]]), torch.tensor([5, 3]))
        lengths = torch.tensor([6, 4])
        later = torch.ones(6, 6).triu(1).bool() & (torch.arange(6) < lengths[:, None, None])

        def loss(match: Tensor, scores: Tensor) -> Tensor:
            links = scores.masked_fill(~later, -1e4).log_softmax(-1).masked_fill(~later, -INF)
            return fuzzy_match(match.log_softmax(-1), links, target, lengths)

        match = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
        scores = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(loss, (match, scores))
