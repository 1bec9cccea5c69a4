"""The page: whole, escaped, in need of nothing, and telling what was found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import pytest
import torch

from narspeech.inspection.findings import Findings, Row, Token
from narspeech.inspection.page import About, detail, page, told
from narspeech.inspection.panel import LIGHT, SCALE, draw
from narspeech.model import Model
from narspeech.tokenizer import BLANK, MASK, CharacterTokenizer
from tests import fakes
from tests.inspection.test_findings import audio, found

VOID = {"meta", "br", "img", "link", "source"}
UNCLOSED = {"li", "dt", "dd"}  # whose end may be left out
ABOUT = About("a recording", 0.0, (), (("decoder", "mask_ctc"),))


class Page(HTMLParser):
    """Elements with their attributes and the text inside; a wrong end tag fails."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[int] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in VOID | UNCLOSED:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.texts[place] += data

    def all(self, tag: str, look: str = "") -> list[tuple[dict[str, str], str]]:
        found = zip(self.elements, self.texts, strict=True)
        return [(given, text) for (name, given), text in found if name == tag and look in given.get("class", "")]

    def data(self) -> dict[str, object]:
        (text,) = (text for given, text in self.all("script") if given.get("id") == "data")
        return json.loads(text)


def made(findings: Findings, about: About = ABOUT) -> str:
    return page(findings, draw(findings, about.start), about)


@pytest.fixture(scope="module")
def findings() -> Findings:
    return found(fakes.tiny_model(), audio(16000), steps=3, threshold=0.9)


def silent(model: Model) -> Model:
    """A model that hears nothing but blanks."""
    with torch.no_grad():
        model.ctc.output.bias[BLANK] += 1000
    return model


def test_every_word_is_there_with_its_time_and_confidence(findings: Findings) -> None:
    words = findings.transcript.words
    shown = Page(made(findings, ABOUT._replace(start=60.0)))
    buttons = shown.all("button", "word")
    assert [text for _, text in buttons] == [word.text for word in words]
    assert [given["data-word"] for given, _ in buttons] == [str(number) for number in range(len(words))]
    for (given, _), word, tokens in zip(buttons, words, findings.words, strict=True):
        assert given["aria-label"] == detail(word, tokens, 60.0)
        span = f"{60 + word.start:.2f} to {60 + word.end:.2f} s"
        assert given["aria-label"].startswith(f"{word.text}: {span}, confidence {word.confidence:.2f}; tokens ")
        assert ("doubtful" in given["class"]) == (word.confidence < 0.5)
    # The words in the panel and in the script's data are the same ones.
    groups = shown.all("g", "word")
    assert [given["data-word"] for given, _ in groups] == [given["data-word"] for given, _ in buttons]
    assert shown.data()["words"] == [[round(word.start, 3), round(word.end, 3)] for word in words]
    spans = [given for given, _ in shown.all("rect", "span")]
    assert [float(given["x"]) / SCALE for given in spans] == pytest.approx([w.start for w in words], abs=1e-4)


def test_a_moment_names_its_likeliest_labels(findings: Findings) -> None:
    data = Page(made(findings)).data()
    assert (data["scale"], data["frame"], data["duration"]) == (SCALE, pytest.approx(0.04), pytest.approx(2.0))
    assert len(data["frames"]) == len(findings.posteriors)
    for frame, posteriors in zip(data["frames"], findings.posteriors, strict=True):
        best = sorted(range(len(posteriors)), key=lambda label: -posteriors[label])[:5]
        expected = [[label, round(100 * posteriors[label])] for label in best if 100 * posteriors[label] >= 0.5]
        assert frame == expected
        assert all(str(label) in data["names"] for label, _ in frame)


def test_the_page_asks_for_nothing(findings: Findings) -> None:
    html = made(findings, ABOUT._replace(sound="data:audio/flac;base64,AAAA"))
    shown = Page(html)
    links = [given[name] for _, given in shown.elements for name in ("src", "href", "xlink:href") if name in given]
    assert len(links) == 3  # two pictures and the sound
    assert all(link.startswith("data:") for link in links)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in shown.elements}
    assert re.findall(r"url\(|@import|https?:", html) == []
    (policy,) = (given["content"] for given, _ in shown.all("meta") if "http-equiv" in given)
    assert policy.startswith("default-src 'none'; ")


def test_the_pictures_colours_are_those_of_the_page_in_light(findings: Findings) -> None:
    html = made(findings)
    light = html[: html.index("prefers-color-scheme")] + html[html.index(":root { --mark") :]
    for name, colour in LIGHT.items():
        assert re.search(f"{name}: (#[0-9a-f]+)", light)[1] == colour


def test_readers_who_do_not_see_it_are_told(findings: Findings) -> None:
    shown = Page(made(findings, ABOUT._replace(start=3.0)))
    ((plot, _),) = shown.all("svg", "plot")
    assert plot["aria-label"].startswith("One time axis from 3.00 to 5.00 s, and on it from top to bottom: ")
    assert (plot["tabindex"], plot["role"]) == ("0", "slider")
    assert [plot[f"aria-value{end}"] for end in ("min", "now", "max")] == ["3.00", "3.00", "5.00"]
    assert shown.all("html")[0][0]["lang"] == "en"
    assert all(given.get("scope") == "col" for given, _ in shown.all("th"))


def test_every_step_is_told(findings: Findings) -> None:
    html = made(findings)
    sentences = list(told(findings.rows, 0.0))
    assert [sentence.partition(":")[0] for sentence in sentences] == [row.name for row in findings.rows]
    for sentence in sentences:
        assert f"<li>{escape(sentence)}" in html
    for row, sentence in zip(findings.rows, sentences, strict=True):
        for token in row.tokens:
            if token.changed:
                assert f"{token.text} {token.confidence:.2f} at {token.start:.2f} s" in sentence
    boxes = Page(html).all("g", "box")
    assert len(boxes) == sum(len(row.tokens) for row in findings.rows) + len(findings.words)


def test_a_step_is_told_in_a_sentence() -> None:
    still, hidden = Token(7, "a", 0.9, 0.0, 0.1), Token(MASK, "?", None, 0.1, 0.2)
    fresh = Token(8, "b", 0.456, 1.5, 1.6, changed=True)
    rows = [Row("draft", (still, hidden)), Row("step 1", (still, fresh)), Row("step 2", (fresh,) * 50), Row("text", ())]
    draft, step, long, text = told(rows, 10.0)
    assert draft == "draft: 1 of 2 tokens masked"
    assert step == "step 1: wrote b 0.46 at 11.50 s; 2 tokens"
    assert long.endswith(" and 10 more; 50 tokens")
    assert text == "text: 0 tokens"


def test_what_is_odd_is_escaped() -> None:
    model = fakes.tiny_model()
    model.tokenizer = CharacterTokenizer('"<>& ')
    findings = found(model, audio(16000), steps=2, threshold=0.9)
    odd = "</title><script>alert('1')</script>&\".wav"
    findings = replace(findings, transcript=replace(findings.transcript, warnings=(odd,)))
    html = made(findings, About(odd, 0.0, (odd,), ((odd, odd),)))
    shown = Page(html)
    assert "<script>alert" not in html
    assert len(shown.all("script")) == 2
    assert shown.all("h1")[0][1] == odd
    assert shown.all("title")[0][1] == odd
    texts = [text for _, text in shown.all("button", "word")]
    assert texts == [word.text for word in findings.transcript.words]
    assert "<" in "".join(texts)
    assert "<" not in next(text for given, text in shown.all("script") if given)
    assert "<" in shown.data()["names"].values()


def test_settings_warnings_and_remarks_are_told(findings: Findings) -> None:
    warned = replace(findings, transcript=replace(findings.transcript, warnings=("It is odd.",)))
    html = made(warned, About("x", 0.0, ("Only a part.",), (("threshold", "0.9"), ("decoder", "mask_ctc"))))
    shown = Page(html)
    texts = [text for _, text in shown.all("td")]
    assert "0.9" in texts
    assert "mask_ctc" in texts
    assert '<ul class=warnings aria-label="warnings"><li>It is odd.</ul>' in html
    assert "<ul><li>Only a part.</ul>" in html
    calm = replace(findings, transcript=replace(findings.transcript, warnings=()))
    assert "warnings" not in [given.get("class") for _, given in Page(made(calm)).elements]


def test_the_sound_is_there_where_it_is_given(findings: Findings) -> None:
    given, _ = Page(made(findings, ABOUT._replace(sound="data:audio/flac;base64,AAAA"))).all("audio")[0]
    assert given["src"] == "data:audio/flac;base64,AAAA"
    assert "controls" in given
    assert Page(made(findings)).all("audio") == []
    assert "to play" not in made(findings)


def test_a_file_without_words() -> None:
    findings = found(silent(fakes.tiny_model()))
    shown = Page(made(findings))
    assert findings.words == ()
    assert "No words were heard." in made(findings)
    assert shown.all("button") == shown.all("rect", "span") == []
    assert len(shown.all("image")) == 2
    assert shown.data()["words"] == []


def test_less_than_a_frame() -> None:
    shown = Page(made(found(fakes.tiny_model(), audio(100))))
    assert shown.all("image") == []
    assert shown.data()["frames"] == []


def test_a_model_of_ctc_alone() -> None:
    findings = found(fakes.tiny_model("ctc"), audio(16000), beam=3)
    html = made(findings)
    shown = Page(html)
    assert [text for _, text in shown.all("button", "word")] == [word.text for word in findings.transcript.words]
    assert len(shown.all("image")) == 2
    assert "Other texts that were considered" in html
    assert all(text in [cell for _, cell in shown.all("td")] for text, _ in findings.others)
    assert "Refinement steps: 0." in html


def test_without_times_the_refinement_flows() -> None:
    findings = found(fakes.tiny_model("cmlm", ctc=None), steps=2)
    shown = Page(made(findings))
    assert [text for _, text in shown.all("button", "word")] == [word.text for word in findings.transcript.words]
    assert " s, confidence" not in made(findings)
    assert shown.data()["words"] == [None] * len(findings.words)
    assert len(shown.all("svg")) == 3  # beside names and panel the picture of the steps
