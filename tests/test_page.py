from __future__ import annotations

import base64

from narspeech.page import data_uri, document, safe, table

ODD = "<script>alert('1') & \"2\"</script>"


def test_text_cannot_break_out() -> None:
    escaped = "&lt;script&gt;alert(&#x27;1&#x27;) &amp; &quot;2&quot;&lt;/script&gt;"
    assert safe(ODD) == escaped
    assert f"<title>{escaped}</title>" in document(ODD, "")
    assert table([(ODD, "b"), ("c", ODD)]).count(escaped) == 2


def test_bytes_of_a_name_that_are_no_text_can_be_written() -> None:
    assert safe("a\udcffb").encode() == b"a\\udcffb"


def test_a_document_has_what_it_is_given_and_asks_for_nothing() -> None:
    found = document("title", "<p>body</p>", style="p { color: red }", script="go();")
    for part in ("<p>body</p>", "p { color: red }</style>", "<script>go();</script>", "default-src 'none'"):
        assert part in found
    assert "<script>" not in document("title", "")


def test_data_can_be_read_back() -> None:
    head, _, body = data_uri("image/png", b"\x00\xff").partition(",")
    assert (head, base64.b64decode(body)) == ("data:image/png;base64", b"\x00\xff")
