"""The panel: what stands at which pixel, read back from the SVG."""

from __future__ import annotations

import base64
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from narspeech import png
from narspeech.inspection import panel
from narspeech.inspection.findings import Findings
from narspeech.inspection.panel import AXIS, FEATURES, GUTTER, LABEL, SCALE, draw, picture, shown, shown_labels
from narspeech.tokenizer import BLANK, UNK, CharacterTokenizer
from tests import fakes
from tests.inspection.test_findings import audio, found

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def findings() -> Findings:
    return found(fakes.tiny_model(), audio(16000), steps=3, threshold=0.9)


class Drawing:
    """The elements of a panel by their class."""

    def __init__(self, findings: Findings, start: float = 0.0) -> None:
        self.panel = draw(findings, start)
        self.root = ElementTree.fromstring(picture(self.panel))

    def of(self, tag: str, look: str = "") -> list[ElementTree.Element]:
        found = list(self.root.iter(SVG + tag))
        return [element for element in found if look in element.get("class", "").split()] if look else found

    def images(self) -> list[np.ndarray[Any, Any]]:
        found = (element.get("href", "").partition(",") for element in self.of("image"))
        return [fakes.read_png(base64.b64decode(data)) for head, _, data in found if head == "data:image/png;base64"]


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.get(name, "nan"))


def test_words_stand_at_their_times(findings: Findings) -> None:
    spans, words = Drawing(findings).of("rect", "span"), findings.transcript.words
    assert len(spans) == len(words) > 1
    for span, word in zip(spans, words, strict=True):
        assert number(span, "x") / SCALE == pytest.approx(word.start, abs=1e-4)
        assert (number(span, "x") + number(span, "width")) / SCALE == pytest.approx(word.end, abs=1e-4)
    titles = [group.find(f"{SVG}title").text for group in Drawing(findings).of("g", "word")]
    assert titles == [word.text for word in words]


@pytest.mark.parametrize("start", [0.0, 0.3, 61.25])
def test_the_axis_tells_the_time_in_the_recording(findings: Findings, start: float) -> None:
    drawing = Drawing(findings, start)
    marks = [text for text in drawing.of("text") if (text.text or "").endswith(" s")]
    assert len(marks) in (4, 5)
    for mark in marks:
        assert number(mark, "x") / SCALE + start == pytest.approx(float(mark.text[:-2]), abs=1e-3)
    assert drawing.panel.width == pytest.approx(2 * SCALE)


def test_the_pictures_are_the_numbers(findings: Findings) -> None:
    drawing = Drawing(findings)
    spectrum, heat = drawing.images()
    assert spectrum.shape == (*findings.features.T.shape, 4)
    # Low bands at the bottom; the loudest value is the lightest, the most quiet the darkest.
    features, colours = findings.features.T[::-1], png.viridis()
    assert np.array_equal(spectrum[np.unravel_index(features.argmax(), features.shape)], colours[-1])
    assert np.array_equal(spectrum[np.unravel_index(features.argmin(), features.shape)], colours[0])
    lines = [findings.posteriors[:, label] for label in (BLANK, *drawing.panel.labels)]
    lines.append(np.clip(1 - np.sum(lines, 0), 0, None))
    assert np.abs(heat[:, :, 3] - 255 * np.sqrt(lines)).max() <= 0.51
    first, second = drawing.of("image")
    assert number(first, "width") / SCALE == pytest.approx(len(findings.features) * findings.hop, abs=1e-3)
    assert number(second, "width") / SCALE == pytest.approx(len(findings.posteriors) * findings.frame, abs=1e-3)
    assert number(second, "height") == LABEL * len(heat)
    assert number(first, "height") == FEATURES


def test_labels_are_those_of_the_path_and_the_rows(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    met = {token.id for row in findings.rows for token in row.tokens} | set(findings.posteriors.argmax(-1).tolist())
    expected = {label for label in met if label >= UNK}
    labels, unshown = shown_labels(findings)
    assert (set(labels), unshown) == (expected, 0)
    peaks = [findings.posteriors[:, label].argmax() for label in labels]
    assert peaks == sorted(peaks)
    monkeypatch.setattr(panel, "MAX_LABELS", 2)
    fewer, unshown = shown_labels(findings)
    assert (len(fewer), unshown) == (2, len(expected) - 2)
    assert set(fewer) <= {token.id for word in findings.words for token in word}
    drawing = Drawing(findings)
    assert f"+{unshown}, rest" in [text.text for text in drawing.of("text")]
    assert len(drawing.images()[1]) == 4


def test_the_text_is_framed_where_ctc_has_it() -> None:
    findings = found(fakes.tiny_model(), audio(16000), threshold=0.0)  # CTC's own text, which it can spell
    drawing = Drawing(findings)
    heat = number(drawing.of("image")[1], "y")
    tokens = [token for word in findings.words for token in word]
    for frame, token in zip(drawing.of("rect", "path"), tokens, strict=True):
        assert number(frame, "x") == pytest.approx(token.frames.start * findings.frame * SCALE, abs=0.01)
        assert number(frame, "width") == pytest.approx(len(token.frames) * findings.frame * SCALE, abs=0.01)
        line = round((number(frame, "y") - heat - 0.5) / LABEL)
        assert (BLANK, *drawing.panel.labels)[line] == token.id


def test_every_token_of_every_step_is_drawn(findings: Findings) -> None:
    drawing = Drawing(findings)
    boxes = [group for group in drawing.of("g", "box") if group.find(f"{SVG}title") is not None]
    tokens = [(row.name, token) for row in findings.rows for token in row.tokens]
    for box, (name, token) in zip(boxes, tokens, strict=True):
        title, rect = box.find(f"{SVG}title"), box.find(f"{SVG}rect")
        sure = "masked" if token.confidence is None else f"{token.confidence:.2f}"
        assert title.text == f"{token.text} {sure}"
        assert number(rect, "x") / SCALE == pytest.approx(token.start, abs=1e-4)
        assert ("changed" in box.get("class", "")) == token.changed
        assert ("same" in box.get("class", "")) == (not token.changed and name.startswith("step"))
    names = [text.text for text in drawing.of("text") if number(text, "x") == GUTTER - 6]
    assert names[-len(findings.rows) :] == [row.name for row in findings.rows]
    assert number(drawing.root, "height") == pytest.approx(drawing.panel.height, abs=1)


def test_what_is_odd_is_escaped() -> None:
    model = fakes.tiny_model()
    model.tokenizer = CharacterTokenizer('"<>& ')
    drawing = Drawing(found(model, audio(16000)))
    texts = [group.find(f"{SVG}title").text for group in drawing.of("g", "word")]
    assert {"<", "&"} <= set("".join(texts))


def test_hertz_are_named_where_the_filters_are() -> None:
    findings = found(fakes.tiny_model())
    marks = {text.text: number(text, "y") for text in Drawing(findings).of("text") if (text.text or "").endswith("Hz")}
    assert list(marks) == ["500 Hz", "1,000 Hz", "2,000 Hz"]  # 4,000 Hz is the edge
    spread = [1127 * np.log1p(hertz / 700) for hertz in (20.0, 500.0, 1000.0, 4000.0)]
    low, first, second, high = spread
    distance = FEATURES * (second - first) / (high - low)
    assert marks["500 Hz"] - marks["1,000 Hz"] == pytest.approx(distance, abs=0.11)


def test_without_posteriors_there_is_the_sound_alone() -> None:
    drawing = Drawing(found(fakes.tiny_model("cmlm", ctc=None)))
    assert len(drawing.images()) == 1
    assert drawing.of("rect", "span") == drawing.of("rect", "path") == []
    assert drawing.panel.labels == ()


def test_nothing_heard_is_an_axis() -> None:
    drawing = Drawing(found(fakes.tiny_model(), audio(100)))
    assert drawing.images() == []
    assert drawing.panel.height >= AXIS


def test_names_of_labels() -> None:
    assert [shown(piece) for piece in ("▁the", "a", "▁", " ", "<blank>")] == ["_the", "a", "space", "space", "blank"]
