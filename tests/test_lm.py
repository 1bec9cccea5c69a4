from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from narspeech.cli import main
from narspeech.errors import NarspeechError
from narspeech.lm import main as lm
from narspeech.search import ngram_file
from narspeech.tokenizer import SPECIAL_PIECES, train_sentencepiece

TEXT = "The cat sat\n\nthe dog   sat on the mat\nA CAT AND A DOG\n" * 3


def test_words_and_pieces_from_packed_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write(TEXT)
    with lzma.open(tmp_path / "c.txt.xz", "wt") as file:
        file.write(TEXT)
    whole = [str(tmp_path / name) for name in ("a.txt", "b.txt.gz", "c.txt.xz")]
    out = tmp_path / "new" / "words.arpa"
    assert main(["lm", *whole, "--out", str(out), "--order", "2", "--prune", "0"]) == 0
    words = ngram_file.read(out)
    assert words.pieces == (*SPECIAL_PIECES, "the", "cat", "sat", "dog", "on", "mat", "a", "and")
    assert words.order == 2
    tokenizer = train_sentencepiece(TEXT.lower().splitlines(), size=22)
    tokenizer.save(tmp_path / "model")
    out = tmp_path / "pieces.nslm"
    assert main(["lm", *whole, "--out", str(out), "--tokenizer", str(tmp_path / "model"), "--prune", "0", "1"]) == 0
    pieces = ngram_file.read(out, tokenizer.pieces)
    assert pieces.order == 6
    assert pieces.counts[1] > 5


def test_sentences_shorter_than_the_order_and_words_that_look_special(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("yes\nno\nturn left\nturn <unk> <s> right\n</s> stop\n")
    out = tmp_path / "short.arpa"
    assert main(["lm", str(tmp_path / "a.txt"), "--out", str(out), "--prune", "0"]) == 0
    model = ngram_file.read(out)
    assert model.pieces == (*SPECIAL_PIECES, "yes", "no", "turn", "left", "right", "stop")
    assert model.counts[4:] == (0, 0)
    assert out.read_text().count("<unk>") == 1


def test_bad_usage(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(NarspeechError, match=r"end in .nslm or .arpa, received .*x.txt"):
        lm([str(tmp_path / "a.txt"), "--out", str(tmp_path / "x.txt")])
    with pytest.raises(NarspeechError, match="at least one text"):
        lm(["--out", str(tmp_path / "x.arpa")])
    (tmp_path / "b.txt.xz").write_text("not packed")
    with pytest.raises(NarspeechError, match="expected lines of UTF-8 text in"):
        lm([str(tmp_path / "b.txt.xz"), "--out", str(tmp_path / "x.arpa")])
    assert not (tmp_path / "x.arpa").exists()
