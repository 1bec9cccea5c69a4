from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from narspeech.errors import CheckpointError
from narspeech.search import ngram_file
from narspeech.search.kneser_ney import train
from narspeech.search.ngram import NGram, NGramScorer
from narspeech.tokenizer import BOS, EOS, NUM_SPECIAL, SPECIAL_PIECES, UNK

WORDS = 40
PIECES = (*SPECIAL_PIECES, *(f"▁w{n}" for n in range(WORDS)))


def model(order: int = 3, words: int = WORDS) -> NGram:
    draw = np.random.default_rng(0)
    texts = [NUM_SPECIAL + (draw.exponential(8, draw.integers(1, 9)).astype(int) % words) for _ in range(400)]
    return train(np.concatenate([[BOS, *text, EOS] for text in texts]), PIECES, order, [0, 0, 1])


def scores(found: NGram) -> torch.Tensor:
    torch.manual_seed(0)
    context = torch.randint(UNK, NUM_SPECIAL + WORDS, (100, found.order - 1))
    context[:10] = BOS
    every = torch.tensor([EOS, UNK, *range(NUM_SPECIAL, NUM_SPECIAL + WORDS)])
    return NGramScorer(found)(context, every.expand(100, -1))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_arpa_there_and_back(tmp_path: Path, order: int) -> None:
    written = model(order)
    ngram_file.write(tmp_path / "x.arpa", written)
    for pieces in (PIECES, None):
        found = ngram_file.read(tmp_path / "x.arpa", pieces)
        assert found.counts[1:] == written.counts[1:]
        if pieces or order == 1:
            continue
        # Its own vocabulary stands in the file's order, which is ours.
        assert found.pieces == PIECES
    assert torch.allclose(scores(ngram_file.read(tmp_path / "x.arpa", PIECES)), scores(written), atol=1e-5)


def test_arpa_as_kenlm_writes_it(tmp_path: Path) -> None:
    """Words beyond the vocabulary's order, no backoff where it is 0, and a model worked out by hand."""
    text = (
        "\\data\\\nngram 1=5\nngram 2=2\n\n\\1-grams:\n-1\t<unk>\n0\t<s>\t-0.5\n-0.3\t</s>\n-0.6\tb\t-0.2\n-0.7\ta\n\n"
        "\\2-grams:\n-0.1\tb a\n-0.4\t<s> b\n\n\\end\\\n"
    )
    (tmp_path / "x.arpa").write_text(text)
    found = ngram_file.read(tmp_path / "x.arpa")
    assert found.pieces == (*SPECIAL_PIECES, "b", "a")
    b, a = NUM_SPECIAL, NUM_SPECIAL + 1
    got = NGramScorer(found)(torch.tensor([[BOS], [b], [a]]), torch.tensor([[b, a, EOS]] * 3))
    expected = torch.tensor([[-0.4, -1.2, -0.8], [-0.8, -0.1, -0.5], [-0.6, -0.7, -0.3]]) * math.log(10)
    assert torch.allclose(got, expected, atol=1e-5)


def test_the_compact_file_is_close_and_small(tmp_path: Path) -> None:
    written = model()
    ngram_file.write(tmp_path / "x.nslm", written)
    found = ngram_file.read(tmp_path / "x.nslm", PIECES)
    assert found.pieces == PIECES
    assert all(np.array_equal(a.keys, b.keys) for a, b in zip(found.grams, written.grams, strict=True))
    assert (scores(found) - scores(written)).abs().mean() < 0.02
    ngram_file.write(tmp_path / "y.nslm", found)
    assert (tmp_path / "y.nslm").read_bytes() == (tmp_path / "x.nslm").read_bytes()  # once rounded, it stays


def test_few_values_are_kept_exactly() -> None:
    values = np.array([3, 1, 1, 2, 3], dtype=np.float32)
    places, table = ngram_file.quantise(values)
    assert np.array_equal(table[places], values)
    assert len(table) == 3
    assert len(ngram_file.quantise(values[:0])[0]) == 0
    many = np.linspace(0, 1, 5000, dtype=np.float32)
    places, table = ngram_file.quantise(many)
    assert len(table) <= 256
    assert np.abs(table[places] - many).max() < 1 / 256


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.nslm"
    ngram_file.write(path, model())
    with pytest.raises(CheckpointError, match="7 tokens, received one of 46 others"):
        ngram_file.read(path, (*SPECIAL_PIECES, "a"))
    whole = path.read_bytes()
    for damaged in (b"", whole[:-40], b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="expected a language model in"):
            ngram_file.read(path)
    with pytest.raises(CheckpointError, match="No such file"):
        ngram_file.read(tmp_path / "none.nslm")
    arpa = tmp_path / "x.arpa"
    ngram_file.write(arpa, model())
    text = arpa.read_text("utf-8")
    with pytest.raises(CheckpointError, match="expected tokens of the model that the language model is for"):
        ngram_file.read(arpa, (*SPECIAL_PIECES, "a"))
    for damaged_text, message in (
        (text[: len(text) // 2].rsplit("\n", 1)[0], "no whole one"),
        (text.replace("\\2-grams:\n", "\\2-grams:\nnonsense\n"), "a logarithm and 2 words"),
        (text.replace("\\3-grams:\n", "\\3-grams:\n-1\t</s> </s> </s>\n"), "every 3-gram"),
    ):
        arpa.write_text(damaged_text, "utf-8")
        with pytest.raises(CheckpointError, match=message):
            ngram_file.read(arpa)


def test_kenlm_agrees(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM is an extra")
    written = model()
    ngram_file.write(tmp_path / "x.arpa", written)
    theirs, ours = kenlm.Model(str(tmp_path / "x.arpa")), NGramScorer(ngram_file.read(tmp_path / "x.arpa", PIECES))
    draw = np.random.default_rng(1)
    for _ in range(50):
        text = NUM_SPECIAL + draw.integers(0, WORDS, draw.integers(1, 9))
        expected = [score for score, *_ in theirs.full_scores(" ".join(PIECES[token] for token in text))]
        whole = [BOS, BOS, *text.tolist(), EOS]
        contexts = torch.tensor([whole[i : i + 2] for i in range(len(text) + 1)])
        found = ours(contexts, torch.tensor(whole[2:])[:, None])[:, 0] / math.log(10)
        assert found.tolist() == pytest.approx(expected, abs=1e-4)
