from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narspeech.batch import Padded
from narspeech.errors import NarspeechError
from narspeech.ops.ctc_beam import prefix_beam_search
from narspeech.search.hotwords import Hotwords
from narspeech.tokenizer import (
    BLANK,
    EOS,
    MASK,
    UNK,
    CharacterTokenizer,
    SentencePieceTokenizer,
    train_sentencepiece,
)

TEXTS = ["the cat sat on the mat", "a cat and a cart", "new york is a new town", "tan ten net eat tea"] * 5


@pytest.fixture(scope="module")
def pieces() -> SentencePieceTokenizer:
    return train_sentencepiece(TEXTS, size=30)


def total(scorer: Hotwords, tokens: list[int]) -> float:
    """What a whole text earns, its end included."""
    whole = torch.tensor([[*tokens, EOS]])
    return float(scorer(scorer.states(whole)[0], whole[0].unsqueeze(-1)).sum())


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


def earned_so_far(words: list[str], text: str) -> int:
    """What the beginning of a text has earned, its end in sight or not: all words that ended in it, and the most
    characters of one that is under way."""
    patterns = {f" {word}" for word in words}
    ended = sum(len(word) - 1 for word in patterns for at in range(len(text)) if text.startswith(f"{word} ", at))
    open_ = [cut for word in patterns for cut in range(1, len(word) + 1) if text.endswith(word[:cut])]
    return ended + max(open_, default=1) - 1


@given(
    words=st.lists(st.text("cat ", min_size=1, max_size=7).filter(str.strip), min_size=1, max_size=4),
    tokens=st.lists(st.sampled_from(["▁", "c", "a", "t", "▁a", "▁cat", "at", "▁t", "MASK", "UNK"]), max_size=12),
)
def test_every_prefix_by_plain_strings(pieces: SentencePieceTokenizer, words: list[str], tokens: list[str]) -> None:
    words = [" ".join(word.split()) for word in words]
    scorer = Hotwords(words, pieces)
    names = {piece: index for index, piece in enumerate(pieces.pieces)} | {"MASK": MASK, "UNK": UNK}
    tokens = [token for token in tokens if token in names]
    ids = torch.tensor([[names[token] for token in tokens]]).long()
    states, state = scorer.states(ids), scorer.start(torch.device("cpu"))[None]
    every = torch.arange(len(pieces.pieces))
    spoken = [token for token in every.tolist() if token >= UNK]
    text, whole = " ", torch.zeros(())
    for place, token in enumerate(tokens):
        assert torch.equal(state, states[:, place])
        gains = scorer(state, every[None])[0]
        for choice in spoken:
            after = text + pieces.pieces[choice].replace("▁", " ") if choice != UNK else f"{text}\0"
            assert gains[choice] == earned_so_far(words, after) - earned_so_far(words, text)
        whole += gains[names[token]]
        state = scorer.advance(state, ids[:, place])
        text = f"{text}\0" if token in ("MASK", "UNK") else text + token.replace("▁", " ")
    assert total(scorer, ids[0].tolist()) == whole + scorer(state, torch.tensor([[EOS]]))


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
