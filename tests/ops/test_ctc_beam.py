from __future__ import annotations

import math
from collections import defaultdict
from itertools import groupby, pairwise, product

import pytest
import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.ops.beam import Beam
from narspeech.ops.ctc import greedy
from narspeech.ops.ctc_beam import prefix_beam_search
from narspeech.ops.scorer import Sum, Window
from narspeech.tokenizer import BLANK, BOS, EOS, UNK

VOCABULARY = 9
LENGTHS = [4, 0, 5, 1, 3]
EVERYTHING = 400  # more prefixes than there are
Text = tuple[int, ...]


def posteriors(lengths: list[int] = LENGTHS) -> Padded:
    """Over the blank and three tokens; what stands beyond the lengths is nonsense."""
    logits = torch.full((len(lengths), max(lengths), VOCABULARY), -1e4)
    spoken = [BLANK, *range(UNK + 1, VOCABULARY)]
    logits[..., spoken] = 2 * torch.randn(len(lengths), max(lengths), len(spoken))
    data = logits.log_softmax(-1)
    for row, length in enumerate(lengths):
        data[row, length:] = 7.0
    return Padded(data, torch.tensor(lengths))


def texts(log_probs: Tensor) -> dict[Text, float]:
    """log P of every text (T, V), summed over all paths."""
    found: dict[Text, float] = defaultdict(float)
    for path in product([BLANK, *range(UNK + 1, VOCABULARY)], repeat=len(log_probs)):
        p = math.exp(sum(log_probs[frame, label].item() for frame, label in enumerate(path)))
        found[tuple(label for label, _ in groupby(path) if label != BLANK)] += p
    return {text: math.log(p) for text, p in found.items() if p > 0}


def hypotheses(found: Beam, row: int) -> list[tuple[Text, float]]:
    return [
        (tuple(tokens[:length]), total)
        for tokens, length, total in zip(
            found.tokens[row].tolist(), found.lengths[row].tolist(), found.totals[row].tolist(), strict=True
        )
        if total > -1000  # no token that a head never says
    ]


class Bigram(Window):
    """Each token's log-probability by the one before it, from a table."""

    context = 1

    def __init__(self) -> None:
        self.table = torch.randn(VOCABULARY, VOCABULARY)

    def __call__(self, context: Tensor, candidates: Tensor) -> Tensor:
        return self.table[context, candidates]

    def of(self, text: Text) -> float:
        whole = (BOS, *text, EOS)
        return sum(self.table[a, b].item() for a, b in pairwise(whole))


def test_a_wide_beam_finds_every_text_and_its_whole_probability() -> None:
    log_probs = posteriors()
    found = prefix_beam_search(log_probs, EVERYTHING)
    for row, length in enumerate(LENGTHS):
        every = texts(log_probs.data[row, :length])
        best = sorted(every, key=every.__getitem__, reverse=True)
        got = hypotheses(found, row)
        assert {text for text, _ in got} == set(best)
        assert got[0][0] == best[0]
        for text, total in got:
            assert total == pytest.approx(every[text], abs=1e-4)


def test_the_scorer_and_the_bonus_are_added() -> None:
    log_probs, scorer = posteriors(), Bigram()
    found = prefix_beam_search(log_probs, EVERYTHING, Sum([(scorer, 0.7)]), bonus=0.3)
    turned = 0
    for row, length in enumerate(LENGTHS):
        every = texts(log_probs.data[row, :length])
        values = {text: p + 0.7 * scorer.of(text) + 0.3 * len(text) for text, p in every.items()}
        got = hypotheses(found, row)
        for text, total in got:
            assert total == pytest.approx(values[text], abs=1e-4)
        assert got[0][0] == max(values, key=values.__getitem__)
        turned += got[0][0] != max(every, key=every.__getitem__)
    assert turned


def test_a_pool_of_one_keeps_to_the_likeliest_token_of_each_frame() -> None:
    log_probs = posteriors()
    found = prefix_beam_search(log_probs, EVERYTHING, pool=1)
    for row, length in enumerate(LENGTHS):
        data = log_probs.data[row, :length].clone()
        spoken = data.clone()
        spoken[:, BLANK] = float("-inf")
        keep = torch.zeros_like(data, dtype=torch.bool).scatter(1, spoken.argmax(-1, keepdim=True), True)
        keep[:, BLANK] = True
        allowed = {
            tuple(label for label, _ in groupby(path) if label != BLANK)
            for path in product(*(frame.nonzero().squeeze(-1).tolist() for frame in keep))
        }
        assert {text for text, _ in hypotheses(found, row)} <= allowed
        assert hypotheses(found, row)[0][0] in allowed


def test_a_sure_model_is_read_as_greedily() -> None:
    logits = torch.full((2, 12, VOCABULARY), -1e4)
    logits[..., [BLANK, 6, 7, 8]] = 40 * torch.rand(2, 12, 4)
    log_probs = Padded(logits.log_softmax(-1), torch.tensor([12, 7]))
    found, best = prefix_beam_search(log_probs, 8), greedy(log_probs)
    for row, tokens in enumerate(best.tokens.unpack()):
        length = int(found.lengths[row, 0])
        assert found.tokens[row, 0, :length].tolist() == tokens.tolist()
        # A prefix that was written early remembers its tokens as they were then.
        assert (found.scores[row, 0, :length] <= best.scores[row, :length]).all()
        assert torch.allclose(found.scores[row, 0, :length], best.scores[row, :length], atol=0.2)


def test_a_row_does_not_depend_on_the_others() -> None:
    log_probs, scorer = posteriors(), Bigram()
    found = prefix_beam_search(log_probs, 3, scorer)
    for row, length in enumerate(LENGTHS):
        alone = prefix_beam_search(
            Padded(log_probs.data[row : row + 1, :length], log_probs.lengths[row : row + 1]), 3, scorer
        )
        assert [text for text, _ in hypotheses(alone, 0)] == [text for text, _ in hypotheses(found, row)]


def test_without_a_frame_there_is_only_the_empty_text() -> None:
    found = prefix_beam_search(posteriors([0, 0]), 3)
    assert hypotheses(found, 0) == hypotheses(found, 1) == [((), 0.0)]
