"""Reading texts by id in every form, and joining them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from narspeech.errors import ManifestError
from narspeech.evaluate.formats import _ID_COLUMNS, _TEXT_COLUMNS
from narspeech.evaluate.texts import read_lines, read_pair, read_texts
from tests.fakes import lines, put


def test_reads_lines_of_id_and_text(tmp_path: Path) -> None:
    path = put(tmp_path, "text", "\ufeffu1  A  b \r\n\nu2\nu3\tc d\nu4 \n")
    assert read_texts(path) == {"u1": "A  b", "u2": "", "u3": "c d", "u4": ""}


def test_reads_what_transcribe_and_prepare_write(tmp_path: Path) -> None:
    transcripts = lines(
        {"id": "u1", "path": "a/u1.wav", "text": "a b", "duration": 1.5, "confidence": 0.9},
        {"id": "u2", "path": "a/u2.wav", "text": "", "duration": 1.0, "confidence": 0.0, "error": None},
        # A line separator that JSON leaves as it is must not cut the record in two.
        {"id": "u3", "path": "a/u3.wav", "text": "c\u2028d", "duration": 1.0, "confidence": 0.5},
    )
    assert read_texts(put(tmp_path, "hyp.jsonl", transcripts)) == {"u1": "a b", "u2": "", "u3": "c\u2028d"}
    manifest = lines({"id": "u1", "audio": "u1.wav", "text": "x", "start": 0, "duration": 1, "speaker": None})
    assert read_texts(put(tmp_path, "manifest.jsonl", manifest)) == {"u1": "x"}


def test_failed_utterances_are_refused_or_empty(tmp_path: Path) -> None:
    path = put(tmp_path, "h.jsonl", lines({"id": "u1", "text": "a"}, {"id": "u2", "path": "x", "error": "not audio"}))
    with pytest.raises(ManifestError, match=r"received an error for u2 \(1\).*--failed-as-empty"):
        read_texts(path)
    assert read_texts(path, failed_as_empty=True) == {"u1": "a", "u2": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "received none"),
        (" \n\n", "received none"),
        ("u1 a\nu1 b\nu2 c\n", r"received again u1 \(1\)"),
        (lines({"id": "u1", "text": "a"}, {"id": "u1", "text": "a"}), r"received again u1 \(1\)"),
        ('{"id": "u1", "text": "a"}\nu2 b\n', "line 2"),
        ('{"id": "u1", "text": "a"}\n[1]\n', "line 2"),
        (lines({"id": 7, "text": "a"}), "id"),
        (lines({"id": "", "text": "a"}), "id"),
        (lines({"text": "a"}), "id"),
        (lines({"id": "u1", "audio": "a.wav"}), "received None"),
        (lines({"id": "u1", "text": ["a"]}), "string as text"),
        ('{"id":' + "[" * 100_000, "line 1"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_texts(put(tmp_path, "file", content))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ManifestError, match="readable UTF-8"):
            read_texts(path)
    (tmp_path / "sound.wav").write_bytes(b"RIFF\xff\xfe\x00\x80")
    with pytest.raises(ManifestError, match="readable UTF-8"):
        read_texts(tmp_path / "sound.wav")


def test_lines_may_be_empty_and_are_numbered(tmp_path: Path) -> None:
    assert read_lines(put(tmp_path, "text", "\ufeffa b\n\n c\u2028d \r\ne\rf\n")) == {
        "1": "a b",
        "2": "",
        "3": "c\u2028d",
        "4": "e\rf",  # as `narspeech translate` and the recipes count
    }
    with pytest.raises(ManifestError, match="received none"):
        read_lines(put(tmp_path, "none", ""))


def test_reads_trn(tmp_path: Path) -> None:
    path = put(tmp_path, "r.trn", ";; a comment\nthe (uh) cat (s1_a-1) \r\n(s1_a-2)\n\nx (s2_b-1)\n")
    assert read_texts(path) == {"s1_a-1": "the (uh) cat", "s1_a-2": "", "s2_b-1": "x"}


def test_reads_tsv_by_its_header(tmp_path: Path) -> None:
    path = put(tmp_path, "r.tsv", "path\tage\tsentence\r\na b.mp3\t7\tOne two\r\nc.mp3\t\t\n")
    assert read_texts(path) == {"a b.mp3": "One two", "c.mp3": ""}
    for content in ("id\ttext\na\tb\tc\n", "id\ttext\n\tb\n"):
        with pytest.raises(ManifestError, match="line 2"):
            read_texts(put(tmp_path, "bad.tsv", content))
    with pytest.raises(ManifestError, match="with tabs between"):
        read_texts(put(tmp_path, "bad.tsv", "id text\n"), form="tsv")


@pytest.mark.parametrize("header", ["file\tlabel", "word\tby"])
def test_a_tsv_with_an_unknown_header_is_refused(tmp_path: Path, header: str) -> None:
    content = f"{header}\na\tb\n"
    known = r"an id \(id, .*, path\) and a text \(text, .*, reference\), received '.*--hyp-format text"
    with pytest.raises(ManifestError, match=known):
        read_texts(put(tmp_path, "h.tsv", content))
    with pytest.raises(ManifestError, match=known):
        read_texts(put(tmp_path, "h", content), form="tsv")
    # Kaldi's text may have tabs, and a table without a header can be read as such.
    assert len(read_texts(put(tmp_path, "text", content))) == 2
    assert read_texts(put(tmp_path, "bare.tsv", "u1\ta b\nu2\tc\n"), form="text") == {"u1": "a b", "u2": "c"}


def test_documentation_lists_every_column() -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    listed = re.search(r"calls the id (.*?), and the text\s(.*?), in capitals", documentation, re.DOTALL)
    assert listed is not None
    names, texts = listed.groups()
    assert tuple(re.findall("`(.*?)`", names)) == _ID_COLUMNS
    assert tuple(re.findall("`(.*?)`", texts)) == _TEXT_COLUMNS


def test_the_form_given_overrides_the_content(tmp_path: Path) -> None:
    path = put(tmp_path, "text", "u1 hello (laughs)\n")
    assert read_texts(path) == {"laughs": "u1 hello"}
    assert read_texts(path, form="text") == {"u1": "hello (laughs)"}
    assert read_texts(path, form="lines") == {"1": "u1 hello (laughs)"}
    with pytest.raises(ManifestError, match=r"expected `text \(id\)`"):
        read_texts(put(tmp_path, "text", "u1 a\n"), form="trn")
    with pytest.raises(ManifestError, match="JSON"):
        read_texts(path, form="jsonl")


@pytest.mark.parametrize("content", ["{ a / b } c (s-1)\n", "x { um / } y (s-1)\n"])
def test_alternatives_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ManifestError, match="received alternatives"):
        read_texts(put(tmp_path, "r.trn", content))
    assert read_texts(put(tmp_path, "r.trn", "{ a } and/or b / c (s-1)\n")) == {"s-1": "{ a } and/or b / c"}


def test_pairs_of_different_forms_are_joined(tmp_path: Path) -> None:
    trn, jsonl = (
        put(tmp_path, "r.trn", "a b (s-1)\n"),
        put(tmp_path, "h", lines({"id": "s-1", "text": "a"})),
    )
    assert read_pair(trn, jsonl, (None, None)) == ({"s-1": "a b"}, {"s-1": "a"})
    with pytest.raises(ManifestError, match="no hypothesis for s-1"):
        read_pair(trn, put(tmp_path, "t", "s-2 a\n"), (None, None))
