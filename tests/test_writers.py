"""What is written can be read back by a simple reader of the format, whatever the words are."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narspeech.errors import NarspeechError
from narspeech.result import Failure, Segment, Transcript, Word
from narspeech.writers import LONG_PAUSE, STREAMS, WRITERS, WriteOptions, to_json

# Anything but spaces and what is not seen.
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=8)
AWKWARD = st.sampled_from(["-->", "--->", "<b>", "&amp;", '"', '""', "(x)", ";;", "1", "NOTE", "WEBVTT", "\\", "{a"])
FEW = settings(max_examples=40)


@st.composite
def transcripts(draw: Any, timed: bool = True) -> Transcript:
    """Segments of words at whole milliseconds, with and without gaps."""
    now, segments = 0, []
    for texts in draw(st.lists(st.lists(WORDS | AWKWARD, max_size=6), min_size=1, max_size=2)):
        start, words = now, []
        for text in texts:
            begin = now + draw(st.sampled_from([0, 1, 250, 5000]))
            now = begin + draw(st.integers(1, 900))
            times = {"start": begin / 1000, "end": now / 1000} if timed else {}
            words.append(Word(text=text, confidence=draw(st.floats(0, 1)), **times))
        now += draw(st.integers(1, 2000))
        segments.append(Segment.of(tuple(words), start / 1000, now / 1000))
    return Transcript.of(tuple(segments), duration=now / 1000, language="en", model="m")


@st.composite
def options(draw: Any) -> WriteOptions:
    return WriteOptions(line_width=draw(st.integers(1, 60)), lines=draw(st.integers(1, 3)))


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def read_cues(text: str) -> list[tuple[float, float, list[str]]]:
    """The blocks of SubRip or WebVTT; the text's lines as they stand."""
    found = []
    for block in text.removeprefix("WEBVTT\n").strip("\n").split("\n\n"):
        if block:
            lines = block.split("\n")
            place = next(i for i, line in enumerate(lines) if " --> " in line)
            start, end = lines[place].split(" --> ")
            found.append((seconds(start), seconds(end), lines[place + 1 :]))
    return found


def shortened(text: str) -> str:
    """SubRip's only escape."""
    return re.sub("-{2,}>", "->", text)


def plain(text: str) -> str:
    return text


@pytest.mark.parametrize(("form", "escaped", "unescaped"), [("srt", shortened, plain), ("vtt", plain, html.unescape)])
@FEW
@given(transcript=transcripts(), style=options())
def test_subtitles_hold_every_word_in_its_time(
    form: str, escaped: Any, unescaped: Any, transcript: Transcript, style: WriteOptions
) -> None:
    text = WRITERS[form](transcript, style)
    found = read_cues(text)
    shown = [unescaped(line) for _, _, lines in found for line in lines]
    assert " ".join(shown) == escaped(transcript.text)
    assert text.count("-->") == len(found)
    words = iter(transcript.words)
    for start, end, lines in found:
        assert 1 <= len(lines) <= style.lines
        spoken = [next(words) for line in lines for _ in line.split(" ")]
        assert (start, end) == (spoken[0].start, spoken[-1].end)
        for line in map(unescaped, lines):
            assert len(line) <= style.line_width or " " not in line
    assert next(words, None) is None
    if form == "srt":
        numbers = re.findall(r"^(\d+)\n\d\d:\d\d:\d\d,\d{3} --> ", text, re.M)
        assert numbers == [str(number) for number in range(1, len(found) + 1)]


@pytest.mark.parametrize("form", ["srt", "vtt"])
@FEW
@given(transcript=transcripts(timed=False))
def test_without_times_a_subtitle_is_a_segment(form: str, transcript: Transcript) -> None:
    found = read_cues(WRITERS[form](transcript))
    spoken = [segment for segment in transcript.segments if segment.words]
    assert [(start, end) for start, end, _ in found] == [(segment.start, segment.end) for segment in spoken]


def test_a_segment_may_have_a_text_alone() -> None:
    segment = Segment(start=1.0, end=2.0, text="one two", words=(), confidence=0.5)
    transcript = Transcript(text="one two", segments=(segment,), words=(), duration=2.0, confidence=0.5)
    assert WRITERS["srt"](transcript, WriteOptions(line_width=3)) == "1\n00:00:01,000 --> 00:00:02,000\none\ntwo\n"


def word(text: str, start: float, end: float) -> Word:
    return Word(text=text, confidence=0.5, start=start, end=end)


def test_lines_are_filled_and_pauses_part_subtitles() -> None:
    late = 3.0 + LONG_PAUSE
    words = (*(word(text, i, i + 0.9) for i, text in enumerate(["one", "two", "three"])), word("four", late, late + 1))
    transcript = Transcript.of((Segment.of(words, 0.0, 9.0),), duration=9.0)
    assert WRITERS["srt"](transcript, WriteOptions(line_width=7)) == (
        "1\n00:00:00,000 --> 00:00:02,900\none two\nthree\n\n2\n00:00:06,000 --> 00:00:07,000\nfour\n"
    )
    assert WRITERS["vtt"](transcript, WriteOptions(line_width=7, lines=1)) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.900\none two\n\n00:00:02.000 --> 00:00:02.900\nthree\n"
        "\n00:00:06.000 --> 00:00:07.000\nfour\n"
    )


def test_hours_are_told() -> None:
    transcript = Transcript.of((Segment.of((word("a", 36061.5, 360000.9996),), 0.0, 4e5),), duration=4e5)
    assert "10:01:01,500 --> 100:00:01,000" in WRITERS["srt"](transcript)


@FEW
@given(transcript=transcripts())
def test_tsv(transcript: Transcript) -> None:
    head, *rows, last = WRITERS["tsv"](transcript).split("\n")
    assert (head, last) == ("start\tend\ttext", "")
    found = [row.split("\t") for row in rows]
    assert [(int(start) / 1000, int(end) / 1000, text) for start, end, text in found] == [
        (segment.start, segment.end, segment.text) for segment in transcript.segments
    ]


@FEW
@given(transcript=transcripts())
def test_ctm(transcript: Transcript) -> None:
    found = [line.split(" ") for line in WRITERS["ctm"](transcript, WriteOptions(id="u 1")).split("\n")[:-1]]
    assert [(name, channel) for name, channel, *_ in found] == [("u_1", "1")] * len(transcript.words)
    for (_, _, start, length, text, confidence), expected in zip(found, transcript.words, strict=True):
        assert expected.start is not None
        assert expected.end is not None
        assert (float(start), text) == (expected.start, expected.text)
        assert float(start) + float(length) == pytest.approx(expected.end)
        assert float(confidence) == pytest.approx(expected.confidence, abs=1e-4)


@FEW
@given(transcript=transcripts(timed=False), id=st.text(st.characters(codec="utf-8"), max_size=20))
def test_trn(transcript: Transcript, id: str) -> None:
    text = WRITERS["trn"](transcript, WriteOptions(id=id))
    assert text.count("\n") == 1
    assert not text.startswith(";;")
    spoken, name = re.fullmatch(r"(.*) \(([^()\s]+)\)\n", text).groups()  # type: ignore[union-attr]
    assert spoken.strip() == transcript.text
    if re.fullmatch(r"[\w.-]+", id):
        assert name == id


def read_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """Tiers by name, of intervals."""
    tiers = {}
    for item in re.split(r"\n    item \[\d+\]:\n", text)[1:]:
        name = re.search(r'name = "(.*)"', item).group(1)  # type: ignore[union-attr]
        rows = re.findall(r'xmin = (\S+)\n +xmax = (\S+)\n +text = "(.*)"$', item, re.M)
        assert f"intervals: size = {len(rows)}\n" in item
        tiers[name] = [(float(start), float(end), label.replace('""', '"')) for start, end, label in rows]
    assert f"\nsize = {len(tiers)}\n" in text
    return tiers


@FEW
@given(transcript=transcripts())
def test_textgrid(transcript: Transcript) -> None:
    tiers = read_textgrid(WRITERS["TextGrid"](transcript))
    expected = {
        "segments": [(one.start, one.end, one.text) for one in transcript.segments if one.text],
        "words": [(one.start, one.end, one.text) for one in transcript.words],
    }
    assert {name: [row for row in rows if row[2]] for name, rows in tiers.items()} == expected
    for rows in tiers.values():  # without gaps, from the start to the end
        assert [rows[0][0], *(end for _, end, _ in rows)] == [*(start for start, _, _ in rows), transcript.duration]
        assert all(start < end for start, end, _ in rows)
    bare = Transcript.of((Segment.of((Word(text="a", confidence=1.0),), 0.0, 2.0),), duration=2.0)
    assert read_textgrid(WRITERS["TextGrid"](bare)) == {"segments": [(0.0, 2.0, "a")]}


@FEW
@given(transcript=transcripts())
def test_json(transcript: Transcript) -> None:
    options = WriteOptions(id="u1", path="a.wav")
    text, line = WRITERS["json"](transcript, options), WRITERS["jsonl"](transcript, options)
    assert json.loads(text) == json.loads(line) == {"id": "u1", "path": "a.wav", **transcript.to_dict()}
    assert line.count("\n") == 1
    assert json.loads(WRITERS["json"](transcript)) == transcript.to_dict()


def test_a_failure_as_json() -> None:
    failure = Failure(path="a.wav", reason="damaged")
    assert to_json(failure, WriteOptions(id="a", path="a.wav")) == '{"id": "a", "path": "a.wav", "error": "damaged"}\n'


def test_names_that_are_no_text() -> None:
    transcript = Transcript.of((Segment.of((word("é", 0.0, 1.0),), 0.0, 1.0),), duration=1.0)
    options = WriteOptions(id="caf\udce9", path="caf\udce9.wav")
    for write in WRITERS.values():
        assert write(transcript, options).encode()
    assert json.loads(WRITERS["jsonl"](transcript, options))["path"] == "caf\udce9.wav"
    assert "é" in WRITERS["jsonl"](transcript)


@FEW
@given(transcript=transcripts())
def test_a_stream_holds_a_line_a_recording_or_a_word(transcript: Transcript) -> None:
    assert WRITERS["txt"](transcript) == transcript.text + "\n"
    for form in STREAMS:
        text = WRITERS[form](transcript)
        assert text.count("\n") == (len(transcript.words) if form == "ctm" else 1)
        assert text.endswith("\n") or not text


def test_odd_spaces_break_no_line() -> None:
    text = "a\tb\nc\u2028d"
    transcript = Transcript.of((Segment.of((word(text, 0.0, 1.0),), 0.0, 1.0),), duration=1.0)
    for form in ("txt", "tsv", "srt", "vtt", "trn", "TextGrid"):
        assert "a b c d" in WRITERS[form](transcript)
    assert WRITERS["ctm"](transcript) == "recording 1 0.000 1.000 a_b_c_d 0.5000\n"


def test_nothing_said() -> None:
    transcript = Transcript.of((Segment.of((), 0.0, 1.0),), duration=1.0)
    written = {form: write(transcript, WriteOptions(id="u")) for form, write in WRITERS.items()}
    assert (written["txt"], written["srt"], written["vtt"], written["ctm"]) == ("\n", "", "WEBVTT\n", "")
    assert written["trn"] == " (u)\n"
    assert read_textgrid(written["TextGrid"]) == {"segments": [(0, 1, "")], "words": [(0, 1, "")]}


def test_a_ctm_needs_times() -> None:
    transcript = Transcript.of((Segment.of((Word(text="a", confidence=1.0),), 0.0, 1.0),), duration=1.0)
    with pytest.raises(NarspeechError, match=r"expected words with times .* received a transcript without: "):
        WRITERS["ctm"](transcript)


@pytest.mark.parametrize("shape", [{"line_width": 0}, {"lines": 0}])
def test_subtitles_of_nothing_are_refused(shape: dict[str, int]) -> None:
    with pytest.raises(NarspeechError, match="at least 1 line"):
        WriteOptions(**shape)  # type: ignore[arg-type]
