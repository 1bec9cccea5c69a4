from __future__ import annotations

import pytest
import torch

from narspeech.batch import Padded
from narspeech.errors import NarspeechError
from narspeech.ops.ctc_beam import prefix_beam_search
from narspeech.search.hotwords import Hotwords
from narspeech.tokenizer import BLANK, BOS, EOS, MASK, CharacterTokenizer, SentencePieceTokenizer, train_sentencepiece

TEXTS = ["the cat sat on the mat", "a cat and a cart", "new york is a new town", "tan ten net eat tea"] * 5


@pytest.fixture(scope="module")
def pieces() -> SentencePieceTokenizer:
    return train_sentencepiece(TEXTS, size=30)


def total(scorer: Hotwords, tokens: list[int]) -> float:
    """What a whole text earns, its end included."""
    whole = [BOS] * scorer.context + tokens + [EOS]
    steps = range(len(tokens) + 1)
    contexts = torch.tensor([whole[i : i + scorer.context] for i in steps]).reshape(len(steps), scorer.context)
    wanted = torch.tensor([[whole[i + scorer.context]] for i in steps])
    return float(scorer(contexts, wanted).sum())


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("the cat sat", 3),
        ("cat", 3),
        ("cat cat", 6),
        ("cats", 0),
        ("a cart", 0),
        ("the scat", 0),
        ("new york", 8),
        ("new town", 0),
        ("new new york cat", 11),
        ("", 0),
    ],
)
def test_a_word_earns_its_characters_and_a_beginning_gives_them_back(
    pieces: SentencePieceTokenizer, text: str, earned: int
) -> None:
    letters = CharacterTokenizer(" acehkmnorstwydi")
    for tokenizer in (pieces, letters):
        scorer = Hotwords(["cat", "new york"], tokenizer)
        assert total(scorer, tokenizer.encode(text)) == earned


def test_every_way_to_spell_a_word_earns_the_same(pieces: SentencePieceTokenizer) -> None:
    scorer = Hotwords(["cat"], pieces)
    names = {piece: index for index, piece in enumerate(pieces.pieces)}
    assert total(scorer, [names["▁"], names["c"], names["a"], names["t"]]) == 3
    assert total(scorer, pieces.encode("cat")) == 3


def test_words_inside_words_and_masks(pieces: SentencePieceTokenizer) -> None:
    scorer = Hotwords(["york", "new york", "york"], pieces)
    assert total(scorer, pieces.encode("new york")) == 12
    assert total(scorer, pieces.encode("york")) == 4
    half = pieces.encode("new york")
    assert total(scorer, [*half[:-1], MASK, half[-1]]) == 0


def test_a_hotword_wins_in_a_beam_where_sounds_are_alike() -> None:
    tokenizer = CharacterTokenizer(" cart")
    ids = tokenizer.encode("cat")
    data = torch.full((1, 3, tokenizer.size), -20.0)
    for frame, (token, other) in enumerate(zip(ids, tokenizer.encode("rar"), strict=True)):
        data[0, frame, token], data[0, frame, other] = -1.2, -0.8
    data[..., BLANK] = -3.0
    log_probs = Padded(data.log_softmax(-1), torch.tensor([3]))
    plain, helped = (prefix_beam_search(log_probs, 8, scorer) for scorer in (None, Hotwords(["cat"], tokenizer)))
    assert tokenizer.decode(plain.tokens[0, 0].tolist()) == "rar"
    assert tokenizer.decode(helped.tokens[0, 0].tolist()) == "cat"


def test_a_word_that_cannot_be_spelt() -> None:
    tokenizer = CharacterTokenizer(" cart")
    for word in ("Cat", "dog", " ", ""):
        with pytest.raises(NarspeechError, match=r"characters that the model writes \( ?acrt|characters that"):
            Hotwords([word], tokenizer)
