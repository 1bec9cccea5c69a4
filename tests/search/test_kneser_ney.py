from __future__ import annotations

import math
import random
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from narspeech.errors import ConfigError
from narspeech.lm import by_word
from narspeech.search import arpa
from narspeech.search.kneser_ney import FALLBACK, check_prune, train
from narspeech.search.ngram import NGram, NGramScorer
from narspeech.tokenizer import BOS, EOS, MASK, NUM_SPECIAL, SPECIAL_PIECES, UNK

KENLM = Path(__file__).with_name("kenlm")
Gram = tuple[int, ...]
WORDS = 7
PIECES = (*SPECIAL_PIECES, *"abcdefg")


def corpus(sentences: int = 60) -> list[list[int]]:
    """Texts with habits, so that counts differ."""
    draw = random.Random(1)
    found = []
    for _ in range(sentences):
        text = [NUM_SPECIAL + min(int(draw.expovariate(0.6)), WORDS - 2)]
        while draw.random() < 0.8:
            text.append(NUM_SPECIAL + (text[-1] + int(draw.expovariate(0.8))) % (WORDS - 1))
        found.append(text)
    return found


def joined(texts: list[list[int]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([token for text in texts for token in (BOS, *text, EOS)], dtype=np.int64)


class Textbook:
    """Interpolated modified Kneser-Ney by dictionaries, after Chen & Goodman's equations and lmplz's pruning."""

    def __init__(self, texts: list[list[int]], order: int, thresholds: list[int]) -> None:
        self.order = order
        raw: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
        for text in texts:
            whole = (BOS, *text, EOS)
            for n in range(1, order + 1):
                raw[n].update(tuple(whole[i : i + n]) for i in range(len(whole) - n + 1))
        self.counts: list[dict[Gram, int]] = [{} for _ in range(order + 1)]
        for n in range(1, order + 1):
            before: dict[Gram, set[int]] = defaultdict(set)
            if n < order:
                for gram in raw[n + 1]:
                    before[gram[1:]].add(gram[0])
            for gram, number in raw[n].items():
                if gram != (BOS,):
                    self.counts[n][gram] = number if n == order or gram[0] == BOS else len(before[gram])
        self.kept = [{g for g in raw[n] if n < 2 or raw[n][g] > thresholds[n - 1]} for n in range(order + 1)]
        self.discounts = [self.discount(Counter(self.counts[n].values())) for n in range(order + 1)]

    @staticmethod
    def discount(number: Counter[int]) -> list[float]:
        if not all(number[n] for n in (1, 2, 3)):
            return [0, *FALLBACK]
        y = number[1] / (number[1] + 2 * number[2])
        found = [0.0, *(n - (n + 1) * y * number[n + 1] / number[n] for n in (1, 2, 3))]
        return found if all(0 <= d <= n for n, d in enumerate(found)) else [0, *FALLBACK]

    def p(self, gram: Gram) -> float:
        """The interpolated probability of the last token, by the context of the others."""
        n = len(gram)
        if n == 0:
            return 1 / len({g for g in self.counts[1] if g != (UNK,)} | {(UNK,)})
        followers = {g: c for g, c in self.counts[n].items() if g[:-1] == gram[:-1]}
        total = sum(followers.values())
        if not total:
            return self.p(gram[1:])
        taken = {g: self.discounts[n][min(c, 3)] if g in self.kept[n] else c for g, c in followers.items()}
        own = followers[gram] - taken[gram] if gram in followers else 0
        return own / total + sum(taken.values()) / total * self.p(gram[1:])


@pytest.mark.parametrize(("order", "prune"), [(1, []), (2, []), (3, []), (4, [0, 0, 1, 2]), (3, [0, 1, 1])])
def test_equals_the_textbook(order: int, prune: list[int]) -> None:
    texts = corpus()
    model = train(joined(texts), PIECES, order, prune)
    book = Textbook(texts, order, check_prune(prune, order))
    scorer = NGramScorer(model)
    assert any(model.counts)
    draw = random.Random(2)
    every = [EOS, UNK, *range(NUM_SPECIAL, NUM_SPECIAL + WORDS)]
    for _ in range(60):
        text = draw.choice([draw.choice(texts), draw.choices(every[2:], k=4)])
        before = (BOS,) * order + tuple(text[: draw.randrange(len(text) + 1)])
        context = before[len(before) - order + 1 :]
        scores = scorer(torch.tensor([context], dtype=torch.long).reshape(1, order - 1), torch.tensor([every]))[0]
        # A text begins with one BOS: the others are only padding.
        own = context[max((place for place, token in enumerate(context) if token == BOS), default=0) :]
        for token, score in zip(every, scores.tolist(), strict=True):
            assert score == pytest.approx(math.log(book.p((*own, token))), abs=1e-4)
    assert sum(prune) == 0 or model.counts != train(joined(texts), PIECES, order).counts


def entries(lines: Iterable[str]) -> dict[str, tuple[float, float]]:
    """The n-grams of an ARPA file, each with its log-probability and its backoff, logarithms to the base 10."""
    found: dict[str, tuple[float, float]] = {}
    for line in lines:
        if "\t" in line:
            value, words, *backoff = line.strip().split("\t")
            found[words] = (float(value), float(backoff[0]) if backoff else 0.0)
    return found


def assert_as_lmplz(theirs: Iterable[str], sentences: Iterable[str], order: int, prune: list[int]) -> None:
    """The same n-grams, probabilities and backoffs, all but what <s> has for a probability: nothing ever asks for it,
    and we write -99, as SRILM does, where lmplz writes 0."""
    tokens, pieces = by_word(iter(sentences))
    ours, expected = entries(arpa.lines(train(tokens.astype(np.int64), pieces, order, prune))), entries(theirs)
    assert ours.keys() == expected.keys()
    assert (ours["<s>"][0], expected["<s>"][0]) == (-99, 0)
    ours["<s>"], expected["<s>"] = (0, ours["<s>"][1]), (0, expected["<s>"][1])
    for words, values in expected.items():
        assert ours[words] == pytest.approx(values, abs=1e-5), words


@pytest.mark.parametrize(
    ("name", "sentences", "order", "prune"),
    [("plain", 30, 3, []), ("pruned", 30, 4, [0, 0, 1]), ("fallback", 12, 3, [])],
)
def test_equals_what_lmplz_wrote(name: str, sentences: int, order: int, prune: list[int]) -> None:
    text = (KENLM / "corpus.txt").read_text().splitlines()[:sentences]
    assert_as_lmplz((KENLM / f"{name}.arpa").read_text("utf-8").splitlines(), text, order, prune)


@pytest.mark.parametrize(("order", "prune"), [(2, [0, 1]), (3, []), (5, [0, 0, 1, 2])])
def test_equals_lmplz_itself(order: int, prune: list[int]) -> None:
    if shutil.which("lmplz") is None:
        pytest.skip("KenLM's lmplz is not installed")
    text = [" ".join(PIECES[token] for token in sentence) for sentence in corpus(400)]
    # Of the very last n-grams in its order, which sorts by the last word first, lmplz takes the occurrences where the
    # discounts should be worked out from adjusted counts. They are the same for a word that occurs once.
    text.append("once")
    command = ["lmplz", "-o", str(order), "-S", "200M", "--discount_fallback", "--prune", *map(str, prune or [0])]
    done = subprocess.run(command, input="\n".join(text) + "\n", capture_output=True, text=True, check=True)
    assert_as_lmplz(done.stdout.splitlines(), text, order, prune)


def test_probabilities_sum_to_one_in_every_context() -> None:
    model = train(joined(corpus()), PIECES, 4, [0, 0, 1])
    # The seventh word never occurs, so it shares UNK's probability.
    every = torch.tensor([EOS, UNK, *range(NUM_SPECIAL, NUM_SPECIAL + WORDS - 1)])
    contexts = torch.randint(UNK, NUM_SPECIAL + WORDS, (200, 3))
    contexts[:20] = BOS
    total = NGramScorer(model)(contexts, every.expand(200, -1)).exp().sum(-1)
    assert torch.allclose(total, torch.ones(200), atol=1e-4)


def test_a_context_is_cut_where_a_token_is_masked() -> None:
    scorer = NGramScorer(train(joined(corpus()), PIECES, 3))
    candidates = torch.arange(NUM_SPECIAL, NUM_SPECIAL + WORDS)[None]
    cut = scorer(torch.tensor([[MASK, 6]]), candidates)
    bigram = NGramScorer(NGram(pieces=PIECES, grams=train(joined(corpus()), PIECES, 3).grams[:2]))
    assert torch.equal(cut, bigram(torch.tensor([[6]]), candidates))


def test_settings_that_make_no_model() -> None:
    with pytest.raises(ConfigError, match="begin with 0 and rise, received 1 2"):
        train(joined(corpus()), PIECES, 3, [1, 2])
    with pytest.raises(ConfigError, match="rise, received 0 2 1"):
        train(joined(corpus()), PIECES, 3, [0, 2, 1])
    with pytest.raises(ConfigError, match="order of 1 or more, received 0"):
        train(joined(corpus()), PIECES, 0)
    with pytest.raises(ConfigError, match="expected text to learn"):
        train(np.zeros(0, dtype=np.int64), PIECES, 2)
