"""Text comes back as it went in, words know their tokens, and only an undamaged folder loads."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from narspeech import tokenizer as tokenizers
from narspeech.errors import CheckpointError, ConfigError, NarspeechError
from narspeech.tokenizer import (
    BLANK,
    BOS,
    EOS,
    MASK,
    NUM_SPECIAL,
    PAD,
    UNK,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load,
    train_characters,
    train_sentencepiece,
)

TEXTS = (
    "the cat sat on the mat",
    "a dog ran to the other cat",
    "hello world it's a cold day",
    "été über 你好",
    "the dog sat, the cat ran, the other dog sat",
)
ALPHABET = "".join(sorted(set("".join(TEXTS)) - {" "}))
KINDS = ("characters", "unigram", "bpe")


@cache
def trained(kind: str) -> Tokenizer:
    if kind == "characters":
        return train_characters(TEXTS)
    return train_sentencepiece(TEXTS, size=60 if kind == "bpe" else 38, model_type=kind)  # type: ignore[arg-type]


every_kind = pytest.mark.parametrize("kind", KINDS)
texts = st.lists(st.text(ALPHABET, min_size=1, max_size=8), max_size=6).map(" ".join)


def test_the_special_ids_are_what_models_were_trained_with() -> None:
    assert (BLANK, PAD, MASK, BOS, EOS, UNK, NUM_SPECIAL) == (0, 1, 2, 3, 4, 5, 6)


@every_kind
def test_specials_come_first_and_pieces_name_every_id(kind: str) -> None:
    tokenizer = trained(kind)
    assert tokenizer.pieces[:NUM_SPECIAL] == ("<blank>", "<pad>", "<mask>", "<bos>", "<eos>", "<unk>")
    assert len(tokenizer.pieces) == len(set(tokenizer.pieces)) == tokenizer.size
    assert tokenizer.kind == ("characters" if kind == "characters" else "sentencepiece")
    for text in TEXTS:
        assert "".join(tokenizer.pieces[index] for index in tokenizer.encode(text)).replace("▁", " ").strip() == text


@every_kind
@given(text=texts)
def test_text_of_known_characters_comes_back(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert all(NUM_SPECIAL <= index < tokenizer.size for index in ids)
    assert tokenizer.decode(ids) == text
    assert [word for word, _ in tokenizer.words(ids)] == text.split()


@every_kind
@given(text=st.text(max_size=20))
def test_any_text_encodes_without_control_tokens(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert all(UNK <= index < tokenizer.size for index in ids)
    tokenizer.decode(ids)


@every_kind
@given(data=st.data())
def test_words_of_any_ids(kind: str, data: st.DataObject) -> None:
    tokenizer = trained(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=30))
    words = tokenizer.words(iter(ids))
    assert " ".join(word for word, _ in words) == tokenizer.decode(iter(ids))
    for word, where in words:
        assert 0 <= where.start < where.stop <= len(ids)
        inside = tokenizer.decode(ids[where])
        if kind == "characters":
            assert inside == word
        else:  # a piece without "▁" in front continues the word of the slice before it, so nothing else can be in it
            assert inside.split(" ") == [word]
    starts = [where.start for _, where in words]
    stops = [where.stop for _, where in words]
    assert all(stop <= start for stop, start in zip(stops, starts[1:], strict=False))


@every_kind
def test_case_is_never_changed(kind: str) -> None:
    assert trained(kind).decode(trained(kind).encode("THE cat")) in ("⁇ cat", "⁇⁇⁇ cat")
    tokenizer = train_characters(["aA"])
    assert tokenizer.decode(tokenizer.encode("aAA")) == "aAA"


@every_kind
def test_unknown_characters_and_specials_when_decoding(kind: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode("the cat")
    first_letter = next(position for position, index in enumerate(ids) if tokenizer.decode([index]))
    noisy = [BOS, *ids[: first_letter + 1], BLANK, MASK, *ids[first_letter + 1 :], UNK, EOS, PAD, PAD]
    assert tokenizer.decode(noisy) == "the cat⁇"
    first, last = tokenizer.words(noisy)
    assert (first[0], first[1].start) == ("the", first_letter + 1)
    assert (last[0], last[1].stop) == ("cat⁇", len(noisy) - 3)


def test_words_of_characters_leave_the_spaces_out() -> None:
    tokenizer = train_characters(["ab cd"])
    ids = tokenizer.encode("  ab   c ")
    assert tokenizer.words(ids) == [("ab", slice(2, 4)), ("c", slice(7, 8))]
    assert tokenizer.decode(ids) == "ab c"


@every_kind
def test_batches_equal_single_texts(kind: str) -> None:
    tokenizer = trained(kind)
    batch = ["", *TEXTS, " ", "unknown Ω here"]
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode("") == []


@every_kind
@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_ids_out_of_range_are_refused(kind: str, wrong: int) -> None:
    with pytest.raises(NarspeechError, match="expected token ids from 0 to"):
        trained(kind).decode([UNK, wrong])


@every_kind
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = load(tmp_path / "new" / "folder")
    assert loaded == tokenizer == pickle.loads(pickle.dumps(tokenizer))
    assert type(loaded) is type(tokenizer)
    assert loaded.pieces == tokenizer.pieces
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    files = {"tokenizer.json"} if kind == "characters" else {"tokenizer.json", "tokenizer.model"}
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == files


def test_the_saved_files_are_as_documented(tmp_path: Path) -> None:
    train_characters(["b a"]).save(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert record == {"format": 1, "kind": "characters", "alphabet": " ab"}
    trained("bpe").save(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert record.keys() == {"format", "kind", "sha256"}
    assert isinstance(load(tmp_path), SentencePieceTokenizer)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_missing_file_is_told(name: str, tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path)


def test_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a tokenizer in"):
        load(tmp_path / "nowhere")


def test_a_model_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path / "a")
    trained("unigram").save(tmp_path / "b")
    shutil.copy(tmp_path / "a" / "tokenizer.model", tmp_path / "b" / "tokenizer.model")
    with pytest.raises(CheckpointError, match="with sha256"):
        load(tmp_path / "b")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"\xff", b"{", b'{"kind": "characters", "alphabet": "ab"}',
        b'{"format": 2, "kind": "characters", "alphabet": "ab"}',
        b'{"format": 1, "kind": "words", "alphabet": "ab"}',
        b'{"format": 1, "kind": ["characters"], "alphabet": "ab"}',
        b'{"format": 1, "kind": "characters"}',
        b'{"format": 1, "kind": "characters", "alphabet": ""}',
        b'{"format": 1, "kind": "characters", "alphabet": "aa"}',
        b'{"format": 1, "kind": "characters", "alphabet": ["a"]}',
        b'{"format": 1, "kind": "characters", "alphabet": "ab", "more": 1}',
        b'{"format": 1, "kind": "sentencepiece"}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        load(tmp_path)


def test_the_table_of_kinds_is_closed() -> None:
    kinds = {kind: cls.__name__ for kind, cls in tokenizers.TOKENIZERS.items()}
    assert kinds == {"characters": "CharacterTokenizer", "sentencepiece": "SentencePieceTokenizer"}


@pytest.mark.parametrize("alphabet", ["", "aba", "\ud800"])
def test_an_alphabet_holds_distinct_whole_characters(alphabet: str) -> None:
    with pytest.raises(ConfigError, match="expected an alphabet"):
        CharacterTokenizer(alphabet)


def foreign_model(**options: Any) -> bytes:
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, model_type="bpe", minloglevel=3, **options
    )
    return model.getvalue()


@pytest.mark.parametrize("model", [b"", b"junk"])
def test_other_bytes_are_no_model(model: bytes) -> None:
    with pytest.raises(ConfigError, match=f"received {len(model)} other bytes"):
        SentencePieceTokenizer(model)


@pytest.mark.parametrize(
    "options",
    [{"vocab_size": 45}, {"vocab_size": 320, "byte_fallback": True, "bos_id": -1, "eos_id": -1}],
    ids=["bos", "bytes"],
)
def test_a_model_with_specials_of_its_own_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="train it with train_sentencepiece"):
        SentencePieceTokenizer(foreign_model(**options))


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("size", [0, 5, 20, 1000])
def test_a_size_out_of_reach_names_one_within(model_type: Any, size: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=rf"^expected a size of at (least|most) \d+ .*received {size}; ") as caught:
        train_sentencepiece(TEXTS, size=size, model_type=model_type)
    reachable = int(next(word for word in str(caught.value).split() if word.isdigit()))
    assert train_sentencepiece(TEXTS, size=reachable, model_type=model_type).size == reachable
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_repeats_itself(model_type: Any) -> None:
    first, second = (train_sentencepiece(iter(TEXTS), size=36, model_type=model_type) for _ in range(2))
    assert first.model == second.model


def test_a_long_sentence_is_not_left_out() -> None:
    tokenizer = train_sentencepiece(["a b", "z" * 5000], size=10, model_type="bpe")
    assert UNK not in tokenizer.encode("zz")


def test_rare_characters_may_become_unknown() -> None:
    tokenizer = train_sentencepiece(["ab " * 100, "q"], size=12, model_type="bpe", character_coverage=0.99)
    assert tokenizer.decode(tokenizer.encode("a q b")) == "a ⁇ b"


@pytest.mark.parametrize("options", [{"model_type": "word"}, {"character_coverage": 0.5}])
def test_wrong_options_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        train_sentencepiece(TEXTS, size=36, **options)


def test_no_text_is_told() -> None:
    with pytest.raises(ConfigError, match="received none"):
        train_sentencepiece(["", " "], size=36)
    with pytest.raises(ConfigError, match="received none"):
        train_characters([])


def test_an_error_of_the_texts_comes_through() -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train_sentencepiece(broken(), size=36)


@pytest.mark.parametrize("text", ["a cat", "the cats sat", "at"])
def test_offsets_point_at_each_tokens_first_letter(text: str) -> None:
    characters = train_characters([text])
    assert characters.offsets(characters.encode(text)) == list(range(len(text)))
    pieces = train_sentencepiece(["the cats sat at the mat", "a cat"] * 20, size=20, model_type="bpe")
    ids = pieces.encode(text)
    for offset, index in zip(pieces.offsets(ids), ids, strict=True):
        surface = pieces.pieces[index].replace("▁", " ")
        assert text[offset:].startswith(surface.lstrip(" ")) or surface == " "
