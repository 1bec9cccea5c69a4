"""stm and ctm: words go to the segments that sclite gives them to."""

from __future__ import annotations

from pathlib import Path

import pytest

from narspeech.errors import ManifestError
from narspeech.evaluate.texts import read_pair, read_texts
from narspeech.result import Segment, Transcript, Word
from narspeech.writers import WriteOptions, write_ctm

STM = """;; a comment
w1 1 spkA 0.5 2.0 <o,f0,male> the cat sat
w1 1 spkB 3.0 5.0 <o,f0,male> on the mat
w2 1 spkA 0.0 2.0 <o> hello
w2 1 spkA 2.0 3.0 <o> IGNORE_TIME_SEGMENT_IN_SCORING
w2 1 spkA 3.0 4.0 bye
"""
CTM = """w1 1 0.0 0.2 before .9
w1 1 0.6 0.2 the
w1 1 0.9 0.2 cat NA
w1 1 2.4 0.2 between
w1 1 3.1 0.2 on
w1 1 6.4 0.2 after
w1 1 3.4 0.2 mat
w2 1 0.4 0.2 hello
w2 1 2.4 0.2 ignored
w2 1 2.9 0.2 edge
w2 1 3.1 0.2 bye
"""


def put(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_words_go_to_segments_by_their_middle(tmp_path: Path) -> None:
    # The very texts that sclite 2.10 aligns for these two files (sclite -r .. stm -h .. ctm -o pralign).
    truth, found = read_pair(put(tmp_path, "r.stm", STM), put(tmp_path, "h.ctm", CTM), (None, None))
    assert list(truth.values()) == ["the cat sat", "on the mat", "hello", "bye"]
    assert list(found.values()) == ["before the cat", "between on mat after", "hello", "edge bye"]
    assert list(found) == list(truth)
    assert list(truth)[1] == "spkB-w1-1-3.000-5.000"


def test_segments_without_words_are_empty(tmp_path: Path) -> None:
    truth, found = read_pair(put(tmp_path, "r", STM), put(tmp_path, "h", "w2 1 0.4 0.2 hello\n"), (None, None))
    assert list(found.values()) == ["", "", "hello", ""]
    assert len(truth) == 4


def test_without_times_they_are_read_by_recording(tmp_path: Path) -> None:
    stereo = "w1 A 0.5 0.1 b\nw1 A 0.1 0.1 a\nw1 B 0.1 0.1 c\nw2 1 0.0 0.5 d\n"
    assert read_texts(put(tmp_path, "h.ctm", stereo)) == {"w1-A": "a b", "w1-B": "c", "w2": "d"}
    stm = put(tmp_path, "r.stm", "w 1 s 2.0 3.0 later\nw 1 s 0.0 1.0 <x> first\nw 1 s 1.0 2.0\n")
    assert read_texts(stm) == {"w": "first later"}
    assert read_pair(stm, put(tmp_path, "h", "w first\n"), (None, None))[1] == {"w": "first"}
    with pytest.raises(ManifestError, match="not to be scored"):
        read_texts(put(tmp_path, "r.stm", STM))


def transcript(text: str) -> Transcript:
    words = tuple(Word(text=word, start=0.1, end=0.2, confidence=0.5) for word in text.split())
    return Transcript.of((Segment.of(words, 0.0, 1.0),), duration=1.0)


def test_a_recording_without_words_is_missing_in_a_ctm(tmp_path: Path) -> None:
    # As `narspeech transcribe --format ctm` writes it: nothing for a recording of noise.
    words = write_ctm(transcript("a"), WriteOptions(id="a")) + write_ctm(transcript(""), WriteOptions(id="noise"))
    ref, hyp = put(tmp_path, "r", "a a\nnoise x y\n"), put(tmp_path, "h.ctm", words)
    with pytest.raises(ManifestError, match=r"no hypothesis for noise \(1\).*--failed-as-empty"):
        read_pair(ref, hyp, (None, None))
    truth, found = read_pair(ref, hyp, (None, None), failed_as_empty=True)
    assert (truth, found) == ({"a": "a", "noise": "x y"}, {"a": "a", "noise": ""})
    # Other names are a mistake, whatever is lacking; and no other form lacks what was heard.
    for failed_as_empty in (False, True):
        with pytest.raises(ManifestError, match=r"no reference for a \(1\)") as refusal:
            read_pair(put(tmp_path, "o", "b a\n"), hyp, (None, None), failed_as_empty=failed_as_empty)
        assert "--failed-as-empty" not in str(refusal.value)
    with pytest.raises(ManifestError, match="no hypothesis for noise") as refusal:
        read_pair(ref, put(tmp_path, "h", "a a\n"), (None, None), failed_as_empty=True)
    assert "--failed-as-empty" not in str(refusal.value)


@pytest.mark.parametrize(
    ("stm", "ctm", "message"),
    [
        (STM, CTM + "w3 1 0.0 0.1 stray\n", "received words of w3 1"),
        (STM + "w2 1 spkA 3.0 4.0 bye\n", CTM, "every segment once"),
        (STM, "w1 1 0.0 0.1\n", "expected waveform, channel, begin, duration and word"),
        (STM, "w1 1 0.0 nan word\n", "expected two times in seconds"),
        (STM, "w1 1 -1.0 0.1 word\n", "expected two times in seconds"),
        ("w1 1 s\n", CTM, "expected waveform, channel, speaker, begin, end and text"),
        ("w1 1 s 0.0 1.0 { a / b }\n", CTM, "received alternatives"),
        (STM, "w1 1 * * <ALT_BEGIN>\n", "received alternatives"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, stm: str, ctm: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_pair(put(tmp_path, "r", stm), put(tmp_path, "h", ctm), ("stm", "ctm"))
