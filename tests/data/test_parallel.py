from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narspeech.data.parallel import TOKEN, Limits, aligned, cleaned, fits, printable, read_lines, read_segments
from narspeech.errors import ManifestError


def test_lines_are_read_one_by_one_packed_or_not(tmp_path):
    content = "A  dog\u2028barks.\r\n\nÜber\rall\n".encode()
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(content))
    for name in ("plain", "packed.gz"):
        lines = read_lines(tmp_path / name)
        assert next(lines) == "A dog barks."
        assert list(lines) == ["", "Über all"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("latin", b"\xfcber\n"), ("no.gz", b"no archive"), ("cut.gz", gzip.compress(b"a line\n" * 100)[:-9])],
)
def test_what_is_no_text_is_refused_by_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=rf"lines of UTF-8 text in .*{name}"):
        list(read_lines(tmp_path / name))
    with pytest.raises(ManifestError, match="segments of UTF-8 text"):
        read_segments(tmp_path / "missing")


def test_segments_of_xml_and_sgml(tmp_path):
    path = tmp_path / "text.sgm"
    path.write_text(
        '<srcset setid="s" srclang="any">\n<doc docid="1">\n<title>No segment</title>\n<p>\n'
        '<seg id="1"> R&amp;D &lt;3  costs. </seg>\n<SEG id="2">&quot;Two\nlines&quot;</SEG>\n'
        '<seg id="3"></seg>\n</p>\n</doc>\n</srcset>\n'
    )
    assert read_segments(path) == ["R&D <3 costs.", '"Two lines"', ""]


def test_sides_of_unequal_length_are_refused_after_the_pairs_that_both_have():
    assert list(aligned(["a", "b"], ["c", "d"], "x")) == [("a", "c"), ("b", "d")]
    for sides in ((["a"], ["c", ""]), (["a", ""], ["c"])):
        pairs = aligned(*sides, "x")
        assert next(pairs) == ("a", "c")
        with pytest.raises(ManifestError, match="as many texts of x on both sides, received 1 on one and more"):
            next(pairs)
    with pytest.raises(ManifestError, match="texts in x, received none"):
        list(aligned([], [], "x"))


def test_tokens_are_counted_about_as_moses_does():
    assert TOKEN.findall("I don't know: it's 1,000.50 e-mails... -- \"ok\"!") == [
        *("I", "don", "'t", "know", ":", "it", "'s", "1,000.50", "e-mails", "...", "--", '"', "ok", '"', "!")
    ]
    assert TOKEN.findall("Die U.S.-Währung, größer") == ["Die", "U.S", ".", "-", "Währung", ",", "größer"]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 4), st.integers(4, 12), st.sampled_from([1.0, 1.5, 9.0]))
def test_limits_are_those_of_clean_corpus(left, right, shortest, longest, ratio):
    wanted = (
        all(shortest <= count <= longest for count in (left, right)) and left / right <= ratio and right / left <= ratio
    )
    assert fits("a " * left, "ü, " * (right // 2) + "b" * (right % 2), Limits(shortest, longest, ratio)) == wanted


def test_cleaning_streams_and_tells_what_is_left(capsys):
    asked = []

    def source():
        for pair in (("a b", "c d"), ("a", "b c"), ("", ""), ("a b c", "d e")):
            asked.append(pair)
            yield pair

    pairs = cleaned(source(), "some", Limits())
    assert next(pairs) == ("a b", "c d")
    assert len(asked) == 1
    assert list(pairs) == [("a b c", "d e")]
    assert "some: 2 of 4 pairs are kept" in capsys.readouterr().err


def test_what_cannot_be_seen_becomes_a_space():
    assert printable("a\u200bb\x00 \xad c\ufeff\ue123d") == "a b c d"
    assert printable("größer – “so” €") == "größer – “so” €"
