from __future__ import annotations

import math
from xml.etree import ElementTree

from narspeech.picture import Cell, cells, draw_trace

SVG = "{http://www.w3.org/2000/svg}"


def boxes(document: str) -> list[ElementTree.Element]:
    """All but the background."""
    return list(ElementTree.fromstring(document).iter(f"{SVG}rect"))[1:]


def texts(document: str) -> list[str | None]:
    return [element.text for element in ElementTree.fromstring(document).iter(f"{SVG}text")]


def test_tokens_become_cells():
    found = cells(["▁a", "<mask>", "<b>", "<blank>"], [math.log(0.5), 0.0, 0.0, 0.0])
    assert found == [Cell("_a", 0.5), Cell("?", None), Cell("<b>", 1.0), Cell("·", 1.0)]


def test_rows_of_one_length_stand_in_columns_and_changes_are_framed():
    document = draw_trace([[Cell("ab", 0.9), Cell("?", None)], [Cell("ab", 0.9), Cell("long & <odd>", 0.2)]])
    assert texts(document) == ["draft", "ab", "?", "step 1", "ab", "long & <odd>"]
    first, second = boxes(document)[:2], boxes(document)[2:]
    assert [box.get("x") for box in first] == [box.get("x") for box in second]
    assert [box.get("width") for box in first] == [box.get("width") for box in second]
    assert [box.get("stroke-width") for box in (*first, *second)] == ["0.4", "0.4", "0.4", "2"]
    assert len({box.get("fill") for box in (*first, *second)}) == 3  # sure, undecided, unsure


def test_what_stays_undecided_is_no_change():
    document = draw_trace([[Cell("?", None), Cell("?", None)], [Cell("?", None), Cell("?", 0.5)]])
    assert [box.get("stroke-width") for box in boxes(document)] == ["0.4", "0.4", "0.4", "2"]


def test_rows_of_other_lengths_flow():
    document = draw_trace([[], [Cell("a", 0.5), Cell("b", 0.5)], [Cell("b", 1.0)]])
    assert [box.get("stroke-width") for box in boxes(document)] == ["2", "2", "2"]
    widths = {element.get("width") for element in ElementTree.fromstring(document).iter(f"{SVG}rect")}
    assert len(widths) == 2  # the background, and boxes of one letter
    assert draw_trace([]).startswith("<svg")


def test_colours_are_told_apart_from_0_to_1():
    fills = [boxes(draw_trace([[Cell("a", share / 10)]]))[0].get("fill") for share in range(11)]
    assert len(set(fills)) == 11
