"""Manifests of pairs are read strictly; pairs become token ids with their lengths and what guides them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from narspeech.data.dataset import collate
from narspeech.data.pairs import Pair, PairDataset, read_pairs, write_pairs
from narspeech.errors import ManifestError
from narspeech.tokenizer import PAD
from tests.fakes import TOKENIZER

PAIRS = [
    Pair(id="one", source="abad", target="dc"),
    Pair(id="two", source="a", target="b cd"),
    Pair(id="none", source="", target=""),
]


def test_written_pairs_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pairs.jsonl"
    pairs = [*PAIRS, Pair(id="ß", source="Ein\u2028Satz ü", target="日本")]
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs
    assert "ü" in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8") + "\n \n", encoding="utf-8")
    assert read_pairs(path) == pairs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: expected one JSON object"),
        ("[1]", "line 2: expected one JSON object"),
        (json.dumps({"id": "x", "source": "a"}), "line 2: expected the field 'target'"),
        (json.dumps({"id": "x", "source": "a", "target": "b", "text": "c"}), "received 'text'"),
        (json.dumps({"id": " ", "source": "a", "target": "b"}), "expected 'id' to be a non-empty string"),
        (json.dumps({"id": ["x"], "source": "a", "target": "b"}), "expected 'id' to be a non-empty string"),
        (json.dumps({"id": "x", "source": None, "target": "b"}), "expected 'source' to be a string, received None"),
        (json.dumps({"id": "one", "source": "a", "target": "b"}), r"received 'one' again \(first on line 1\)"),
    ],
)
def test_malformed_manifests_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, PAIRS[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ManifestError, match=message):
        read_pairs(path)


def test_unreadable_manifests_and_repeated_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="readable UTF-8 manifest"):
        read_pairs(tmp_path / "absent.jsonl")
    with pytest.raises(ManifestError, match="received 'one' twice"):
        write_pairs(tmp_path / "pairs.jsonl", [PAIRS[0], PAIRS[0]])


def test_items_are_the_tokens_of_both_sides() -> None:
    data = PairDataset(PAIRS, TOKENIZER)
    assert len(data) == 3
    for epoch in (0, 7):
        for index, pair in enumerate(PAIRS):
            item = data[epoch, index]
            assert (item.id, item.guide) == (pair.id, None)
            assert item.source.tolist() == TOKENIZER.encode(pair.source)
            assert item.tokens.tolist() == TOKENIZER.encode(pair.target)
            assert item.source.dtype == item.tokens.dtype == torch.int64
        assert data.durations(epoch) == [4.0, 4.0, 1.0]


def test_many_texts_are_encoded_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Pair(id=str(number), source="ab" * number, target="c") for number in range(7)]
    whole = PairDataset(pairs, TOKENIZER)
    monkeypatch.setattr("narspeech.data.pairs.TOGETHER", 3)
    parts = PairDataset(pairs, TOKENIZER)
    for index in range(7):
        assert torch.equal(whole[0, index].source, parts[0, index].source)
        assert torch.equal(whole[0, index].tokens, parts[0, index].tokens)
    assert len(PairDataset([], TOKENIZER)) == 0


def test_items_collate_with_their_guides() -> None:
    guides = {"one": [1, 0, 1, 0], "two": [4]}
    data = PairDataset(PAIRS[:2], TOKENIZER, guides=guides)
    batch = collate([data[0, 0], data[0, 1]])
    assert batch.ids == ("one", "two")
    assert batch.source.lengths.tolist() == [4, 1]
    assert batch.target.lengths.tolist() == [2, 4]
    assert batch.target.data[0, 2:].tolist() == [PAD, PAD]
    assert batch.guide is not None
    assert [row.tolist() for row in batch.guide.unpack()] == [[1, 0, 1, 0], [4]]
    assert batch.guide.data.sum(-1).tolist() == batch.target.lengths.tolist()


def test_a_loading_process_receives_arrays() -> None:
    data = PairDataset(PAIRS * 100, TOKENIZER)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[0, 201].tokens, data[0, 201].tokens)
    assert copy.durations(0) == data.durations(0)
