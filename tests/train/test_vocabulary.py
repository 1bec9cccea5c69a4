from __future__ import annotations

from dataclasses import replace

import pytest

from narspeech.errors import CheckpointError
from narspeech.tokenizer import CharacterTokenizer, train_sentencepiece
from narspeech.train.vocabulary import TokenizerConfig, make_tokenizer

TEXTS = ["abad cab", "dab add", "cab cab bad"]
OTHERS = ["dada", "bad dab cad", "abba add"]


def init(folder, tokenizer):
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_new_tokenizers_have_the_size_that_is_asked_for(kind):
    assert make_tokenizer(TokenizerConfig(kind=kind, size=14), TEXTS, None).size == 14


def test_a_sample_of_many_texts_teaches_the_pieces():
    config = TokenizerConfig(kind="bpe", size=14, sample=len(TEXTS))
    found = make_tokenizer(config, TEXTS, None)
    assert found == make_tokenizer(replace(config, sample=len(TEXTS) + 1), TEXTS, None)
    texts = [*TEXTS, "xyz"] * 20
    sampled = make_tokenizer(replace(config, sample=30), texts, None)
    assert sampled == make_tokenizer(replace(config, sample=30), texts, None)
    assert sampled != make_tokenizer(replace(config, sample=1000), texts, None)


def test_new_characters_are_those_of_the_texts():
    assert make_tokenizer(TokenizerConfig(kind="characters"), TEXTS, None) == CharacterTokenizer(" abcd")


def test_pieces_of_the_same_size_are_kept(tmp_path, capsys):
    before = train_sentencepiece(OTHERS, size=14)
    folder = init(tmp_path, before)
    for kind in ("unigram", "bpe"):
        assert make_tokenizer(TokenizerConfig(kind=kind, size=14), TEXTS, folder) == before
    assert "(sentencepiece, 14 tokens) is kept" in capsys.readouterr().err


def test_characters_are_kept_and_what_they_cannot_spell_is_told(tmp_path, capsys):
    folder = init(tmp_path, CharacterTokenizer("abc "))
    assert make_tokenizer(TokenizerConfig(kind="characters"), TEXTS, folder) == CharacterTokenizer("abc ")
    assert "it cannot spell 5 places" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokenizer", "config"),
    [
        (CharacterTokenizer("abcd "), TokenizerConfig(kind="unigram", size=14)),
        (CharacterTokenizer("abcdefg "), TokenizerConfig(kind="bpe", size=14)),  # the same size by chance
        (train_sentencepiece(OTHERS, size=14), TokenizerConfig(kind="unigram", size=15)),
        (train_sentencepiece(OTHERS, size=14), TokenizerConfig(kind="characters")),
        (train_sentencepiece(OTHERS, size=14), TokenizerConfig(kind="unigram", size=14, inherit=False)),
    ],
)
def test_others_are_trained_anew(tmp_path, tokenizer, config):
    assert make_tokenizer(config, TEXTS, init(tmp_path, tokenizer)) == make_tokenizer(config, TEXTS, None)


def test_a_checkpoint_without_tokenizer_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="expected a tokenizer"):
        make_tokenizer(TokenizerConfig(), TEXTS, tmp_path)
