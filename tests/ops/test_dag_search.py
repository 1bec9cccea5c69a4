"""What is read from a graph, against plain Python over one row at a time."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from narspeech.ops.beam import Beam
from narspeech.ops.dag_search import beam_search, lookahead_path, read_path, viterbi_path
from narspeech.ops.scorer import Window
from narspeech.tokenizer import BOS, EOS
from tests.ops.test_dag import random_links

LENGTHS = torch.tensor([9, 2, 5, 9, 3, 7])


def graph(lengths: Tensor = LENGTHS, *, vocabulary: int = 10, extra: int = 0) -> tuple[Tensor, Tensor]:
    """links (R, L, L) over the real vertices and emissions (R, L, V); beyond the lengths anything finite."""
    size = int(lengths.max()) + extra
    links = random_links(len(lengths), size).float()
    for row, length in enumerate(lengths.tolist()):
        links[row, :, length:] = -float("inf")
    links = links.log_softmax(-1).nan_to_num(-float("inf"))
    emissions = (2 * torch.randn(len(lengths), size, vocabulary)).log_softmax(-1)
    emissions[..., :6] = -1e4
    return links, emissions.log_softmax(-1)


def vertices(visited: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in visited]


@pytest.mark.parametrize("beta", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("extra", [0, 4])
def test_lookahead_against_a_plain_loop(beta: float, extra: int) -> None:
    links, emissions = graph(extra=extra)
    scores = emissions.amax(-1)
    expected = []
    for row, length in enumerate(LENGTHS.tolist()):
        path = [0]
        while path[-1] < length - 1:
            gain = {
                u: float(links[row, path[-1], u]) + beta * float(scores[row, u]) * (u < length - 1)
                for u in range(path[-1] + 1, length)
            }
            path.append(max(gain, key=gain.__getitem__))
        expected.append(path)
    assert vertices(lookahead_path(links, scores, beta, LENGTHS)) == expected
    assert max(map(len, expected)) > 3


def test_the_longest_path_is_followed_to_its_end() -> None:
    """From each vertex to the next one, in graphs of all sizes about a power of two."""
    for size in range(2, 19):
        links = torch.full((1, size, size), -5.0).masked_fill(torch.ones(size, size).tril().bool(), -float("inf"))
        links[0, torch.arange(size - 1), torch.arange(1, size)] = 0.0
        visited = lookahead_path(links, torch.zeros(1, size), 0.0, torch.tensor([size]))
        assert visited.all()


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_viterbi_is_the_best_of_all_paths(beta: float, penalty: float) -> None:
    links, emissions = graph(extra=2)
    scores = emissions.amax(-1)
    expected = []
    for row, length in enumerate(LENGTHS.tolist()):

        def value(path: tuple[int, ...], row: int = row) -> float:
            total = sum(float(links[row, v, u]) for v, u in pairwise(path))
            total += beta * sum(float(scores[row, u]) for u in path[1:-1])
            return total / (len(path) - 1) ** penalty

        inner = range(1, length - 1)
        every = [(0, *some, length - 1) for count in range(length - 1) for some in combinations(inner, count)]
        expected.append(list(max(every, key=value)))
    assert vertices(viterbi_path(links, scores, beta, penalty, LENGTHS)) == expected


def test_reading_a_path() -> None:
    """Tokens between the ends, equal neighbours too, each with its vertex's and its link's log-probability."""
    links, emissions = graph()
    scores, tokens = emissions.max(-1)
    tokens[0] = 7
    visited = torch.zeros(6, 9, dtype=torch.bool)
    paths = [[0, 2, 3, 7, 8], [0, 1], [0, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2], [0, 6]]
    for row, path in enumerate(paths):
        visited[row, path] = True
    found, values = read_path(visited, tokens, scores, links, LENGTHS)
    assert found.data.shape == values.shape == (6, 7)
    for row, path in enumerate(paths):
        inner = path[1:-1]
        assert found.unpack()[row].tolist() == tokens[row, inner].tolist()
        expected = [float(scores[row, u] + links[row, v, u]) for v, u in zip(path, inner, strict=False)]
        assert values[row, : len(inner)].tolist() == pytest.approx(expected)
    assert found.unpack()[0].tolist() == [7, 7, 7]


def texts(links: Tensor, emissions: Tensor, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every text of one graph, from all its paths."""
    found: dict[tuple[int, ...], float] = {}
    letters = range(6, emissions.shape[1])
    for count in range(length - 1):
        for inner in combinations(range(1, length - 1), count):
            path = (0, *inner, length - 1)
            weight = sum(float(links[v, u]) for v, u in pairwise(path))
            spelt = {(): torch.tensor(weight, dtype=torch.float64).exp().item()}
            for u in inner:
                spelt = {(*t, y): p * float(emissions[u, y].exp()) for t, p in spelt.items() for y in letters}
            for text, p in spelt.items():
                found[text] = found.get(text, 0.0) + p
    return found


def hypotheses(beam: Beam, row: int) -> list[tuple[tuple[int, ...], float]]:
    return [
        (tuple(beam.tokens[row, k, : beam.lengths[row, k]].tolist()), float(beam.totals[row, k]))
        for k in range(beam.totals.shape[1])
        if beam.totals[row, k] > -float("inf")
    ]


class TestBeamSearch:
    @pytest.mark.parametrize("penalty", [0.0, 1.0])
    def test_a_wide_beam_finds_the_best_texts(self, penalty: float) -> None:
        lengths = torch.tensor([6, 2, 5, 3])
        links, emissions = graph(lengths, vocabulary=8)
        beam = beam_search(links, emissions, lengths, 40, penalty)
        for row, length in enumerate(lengths.tolist()):
            every = texts(links[row], emissions[row], length)
            assert sum(every.values()) == pytest.approx(1, abs=1e-5)
            logs = {text: torch.tensor(p).log().item() / (len(text) + 1) ** penalty for text, p in every.items()}
            ordered = sorted(logs.items(), key=lambda item: -item[1])[:40]
            found = hypotheses(beam, row)
            assert [text for text, _ in found] == [text for text, _ in ordered]
            assert [total for _, total in found] == pytest.approx([total for _, total in ordered], abs=1e-5)

    def test_scores_are_conditional(self) -> None:
        """P(a token | those before): the probability of all texts that begin so over that of those before."""
        lengths = torch.tensor([6])
        links, emissions = graph(lengths, vocabulary=8)
        every = texts(links[0], emissions[0], 6)
        beam = beam_search(links, emissions, lengths, 6, 0.0)
        for k in range(6):
            text = tuple(beam.tokens[0, k, : beam.lengths[0, k]].tolist())
            begun = [sum(p for t, p in every.items() if t[:n] == text[:n]) for n in range(len(text) + 1)]
            expected = [torch.tensor(b / a).log().item() for a, b in pairwise(begun)]
            assert beam.scores[0, k, : len(text)].tolist() == pytest.approx(expected, abs=1e-4)

    def test_a_narrow_beam_against_a_plain_search(self) -> None:
        lengths = torch.tensor([7, 6])
        links, emissions = graph(lengths, vocabulary=9)
        beam = beam_search(links, emissions, lengths, 2, 1.0)
        for row, length in enumerate(lengths.tolist()):
            every = texts(links[row], emissions[row], length)

            def begun(text: tuple[int, ...], every: dict[tuple[int, ...], float] = every) -> float:
                return sum(p for t, p in every.items() if t[: len(text)] == text)

            active: list[tuple[int, ...]] = [()]
            ended: list[tuple[int, ...]] = []
            for _ in range(length - 1):
                ended += [text for text in active if text in every]
                longer = [(*text, y) for text in active for y in range(6, 9)]
                active = sorted(longer, key=begun, reverse=True)[:2]
            value = {text: torch.tensor(every[text]).log().item() / (len(text) + 1) for text in ended}
            expected = sorted(ended, key=value.__getitem__, reverse=True)[:2]
            assert [text for text, _ in hypotheses(beam, row)] == expected

    def test_the_scorer_is_heard(self) -> None:
        """It is given the tokens before, adds to every next token and to the end, and may turn the order round."""
        lengths = torch.tensor([5, 4])
        links, emissions = graph(lengths, vocabulary=8)

        def likes(text: tuple[int, ...]) -> float:
            return 2.0 * sum(a != b for a, b in pairwise(text)) - 0.5 * len(text) + (len(text) > 1)

        class Likes(Window):
            context = 2

            def __call__(self, context: Tensor, candidates: Tensor) -> Tensor:
                bonus = torch.full((len(context), 8), -0.5)
                for row, (second, first) in enumerate(context.tolist()):
                    if first != BOS:
                        bonus[row] += 2.0
                        bonus[row, first] -= 2.0
                    bonus[row, EOS] = float(second != BOS)
                return bonus.gather(1, candidates)

        beam = beam_search(links, emissions, lengths, 30, 0.0, Likes())
        for row, length in enumerate(lengths.tolist()):
            every = texts(links[row], emissions[row], length)
            values = {text: torch.tensor(p).log().item() + likes(text) for text, p in every.items()}
            best = sorted(values, key=values.__getitem__, reverse=True)
            found = hypotheses(beam, row)
            assert [text for text, _ in found] == best[:30]
            assert found[0][1] == pytest.approx(values[best[0]], abs=1e-4)
            assert best != sorted(every, key=every.__getitem__, reverse=True)

    @pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.5, 1.0, 2.0])
    def test_stopping_early_loses_nothing(self, penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """A scorer that says nothing keeps the search going to the end."""

        class Says(Window):
            context = 2

            def __call__(self, context: Tensor, candidates: Tensor) -> Tensor:
                return context.new_zeros(candidates.shape, dtype=torch.float)

        taken: list[int] = []
        take = Beam.take
        monkeypatch.setattr(Beam, "take", lambda beam, index: taken.append(1) or take(beam, index))
        steps = []
        for seed in range(20):
            torch.manual_seed(seed)
            lengths = torch.tensor([30, 12, 2])
            links, emissions = graph(lengths, vocabulary=9)
            taken.clear()
            found = beam_search(links, emissions, lengths, 3, penalty)
            steps.append(len(taken) / 2)
            complete = beam_search(links, emissions, lengths, 3, penalty, Says())
            assert [hypotheses(found, row) for row in range(3)] == [hypotheses(complete, row) for row in range(3)]
        assert max(steps) <= 29
        if penalty <= 1:
            assert min(steps) < 20

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        links, emissions = graph(extra=3)
        batched = beam_search(links, emissions, LENGTHS, 3, 1.0)
        for row, length in enumerate(LENGTHS.tolist()):
            cut = (links[row : row + 1, :length, :length], emissions[row : row + 1, :length])
            alone = beam_search(*cut, LENGTHS[row : row + 1], 3, 1.0)
            found, expected = hypotheses(batched, row), hypotheses(alone, 0)
            assert [text for text, _ in found] == [text for text, _ in expected]
            assert [x for _, x in found] == pytest.approx([x for _, x in expected], abs=1e-5)
