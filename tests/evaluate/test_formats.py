"""Every form is told by its content, and no other text is taken for one of sclite's by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from narspeech.evaluate.formats import FORMS, Form, Line, form_of


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("u1 a b\nu2", "text"),
        ("1272-128104-0000 MISTER QUILTER IS", "text"),
        ("a b (s-1)\n(s-2)", "trn"),
        (";; head\na (s_1)", "trn"),
        ("a (s-1)\nb", "text"),
        ("u1 hello (he laughs)", "text"),  # no id has a space
        ('{"id": "u"}', "jsonl"),
        ('{ "id": "u / v" }', "jsonl"),
        ("{}", "jsonl"),
        ("{ a / b } c (s-1)", "trn"),
        ("id\ttext\na\tb", "tsv"),
        ("Path\tx\tSentence\na\tb\tc", "tsv"),
        ("u1\ta b", "text"),
        ("start\tend\ttext", "text"),  # no id: what stands there cannot be joined
        ("w 1 s 0.0 1.5 <o,f0> a b", "stm"),
        ("w 1 1272 0 1.5", "stm"),
        ("w 1 s 0.0 1.0 hello", "stm"),
        ("w 1 0.00 0.25 hello", "ctm"),
        ("w 1 0.00 0.25 hello 0.97\nw 1 1 .5 5 NA lex spk", "text"),  # a line without decimals may be digits
        ("w A 0.00 0.25 hello -0.97 lex spk", "ctm"),
        ("u1 1 2 3 4", "text"),
        ("u1 1 2 3 4 5 6", "text"),
        (";; only a comment", "text"),
    ],
)
def test_forms_are_told_by_content(content: str, form: Form) -> None:
    assert form_of(numbered(content), Path("file")) == form
    assert form in FORMS


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("r.tsv", "file\tlabel\na\tb", "tsv"),
        ("r.TSV", "start\tend\ttext", "tsv"),
        ("r.tsv", "u1 a b\nu2\tc", "text"),  # a header would have tabs
        ("r.tsv", "w\t1\t0.00\t0.25\thello", "ctm"),
        ("text", "file\tlabel\na\tb", "text"),  # Kaldi's own name: ids and words may be any
        ("tsv", "u1\ta b", "text"),
    ],
)
def test_a_name_in_tsv_tells_columns_from_text(name: str, content: str, form: Form) -> None:
    assert form_of(numbered(content), Path(name)) == form


def numbered(content: str) -> list[Line]:
    return [Line(number, line) for number, line in enumerate(content.split("\n"), 1)]
