"""Transcripts as files for other programs: pure functions from a Transcript to a str, in one table.

    from narspeech.writers import WRITERS
    Path("talk.srt").write_text(WRITERS["srt"](transcript))

Only ctm needs the times of words. Without them subtitles show a segment at a time, and a TextGrid has no tier of words.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from narspeech.errors import NarspeechError
from narspeech.result import Failure, Transcript, Word

# Seconds of silence inside a segment after which a new subtitle begins, as in Whisper's.
LONG_PAUSE = 3.0


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """id: of the utterance, in json, jsonl, ctm and trn; path: of the sound, in json and jsonl; line_width: characters
    of a subtitle's line at most (a longer word has a line of its own); lines: lines of a subtitle at most."""

    id: str = ""
    path: str = ""
    line_width: int = 42
    lines: int = 2

    def __post_init__(self) -> None:
        if min(self.line_width, self.lines) < 1:
            raise NarspeechError(
                f"expected subtitles of at least 1 line of 1 character, received {self.lines} lines of "
                f"{self.line_width}: 2 lines of 42 are usual"
            )


class Writer(Protocol):
    def __call__(self, transcript: Transcript, options: WriteOptions = ..., /) -> str: ...


class Interval(NamedTuple):
    """Seconds, and what is said there."""

    start: float
    end: float
    text: str


_PLAIN = WriteOptions()


def write_txt(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:  # noqa: ARG001 - as all writers
    """The words on one line."""
    return _one_line(transcript.text) + "\n"


def write_json(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:
    """id and path where they are given, then `Transcript.to_dict()`."""
    return to_json(transcript, options, indent=2)


def write_jsonl(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:
    """The same object on one line."""
    return to_json(transcript, options)


def to_json(outcome: Transcript | Failure, options: WriteOptions, *, indent: int | None = None) -> str:
    """An object of id, path and the outcome's own fields, and a line end."""
    given = {name: text for name, text in (("id", options.id), ("path", options.path)) if text}
    entry = {**given, **outcome.to_dict()} if isinstance(outcome, Transcript) else {**given, "error": outcome.reason}
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False, indent=indent)
    # Bytes of a file name that are no UTF-8 cannot be written as they are, but as escapes.
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(entry, allow_nan=False, indent=indent)
    return text + "\n"


def write_srt(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:
    """SubRip. It has no escapes; an arrow in the text is made shorter, lest it looks like a time."""
    return "\n".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{re.sub('-{2,}>', '->', text)}\n"
        for number, (start, end, text) in enumerate(cues(transcript, options), 1)
    )


def write_vtt(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:
    """WebVTT (W3C)."""
    return "WEBVTT\n" + "".join(
        f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{html.escape(text, quote=False)}\n"
        for start, end, text in cues(transcript, options)
    )


def write_tsv(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:  # noqa: ARG001 - as all writers
    """A line a segment: start and end in milliseconds, text; with a header, as Whisper writes it."""
    rows = (
        f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{_one_line(segment.text)}\n"
        for segment in transcript.segments
    )
    return "start\tend\ttext\n" + "".join(rows)


def write_ctm(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:
    """NIST's time-marked conversation: id, channel, start, duration, word, confidence. Raises NarspeechError for words
    without times."""
    intervals = timed(transcript.words)
    if intervals is None:
        raise NarspeechError(
            "expected words with times for the format ctm, received a transcript without: take a model that tells "
            "them, or a format that needs none, such as json or srt"
        )
    name = _name(options.id)
    return "".join(
        f"{name} 1 {start:.3f} {round(end, 3) - round(start, 3):.3f} {_token(text)} {word.confidence:.4f}\n"
        for (start, end, text), word in zip(intervals, transcript.words, strict=True)
    )


def write_trn(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:
    """NIST's transcript: the words and the id in parentheses."""
    return f"{re.sub('^;', ' ;', _one_line(transcript.text))} ({re.sub('[()]', '_', _name(options.id))})\n"


def write_textgrid(transcript: Transcript, options: WriteOptions = _PLAIN) -> str:  # noqa: ARG001 - as all writers
    """Praat's long text format: a tier of segments, and one of words where they have times."""
    segments = [Interval(segment.start, segment.end, segment.text) for segment in transcript.segments]
    words = timed(transcript.words)
    tiers = {"segments": segments} if words is None else {"segments": segments, "words": words}
    last = max([transcript.duration, *(tier[-1].end for tier in tiers.values() if tier)])
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {last:.6f}\ntiers? <exists>\n'
    items = (
        f"    item [{number}]:\n" + _tier(name, tier, last) for number, (name, tier) in enumerate(tiers.items(), 1)
    )
    return head + f"size = {len(tiers)}\nitem []:\n" + "".join(items)


WRITERS: dict[str, Writer] = {
    "txt": write_txt,
    "json": write_json,
    "jsonl": write_jsonl,
    "srt": write_srt,
    "vtt": write_vtt,
    "tsv": write_tsv,
    "ctm": write_ctm,
    "trn": write_trn,
    "TextGrid": write_textgrid,
}
# What these write of one recording may follow what they wrote of another.
STREAMS = frozenset({"txt", "jsonl", "ctm", "trn"})


def timed(words: Sequence[Word]) -> list[Interval] | None:
    """Words with their times; None where one has none."""
    found = [
        Interval(word.start, word.end, word.text) for word in words if word.start is not None and word.end is not None
    ]
    return found if len(found) == len(words) else None


def cues(transcript: Transcript, options: WriteOptions) -> Iterator[Interval]:
    """Subtitles, broken like Whisper's: lines are filled up at word boundaries, and a new subtitle begins where the
    lines are full, after a long pause, and with every segment. A segment whose words have no times is one subtitle."""
    for segment in transcript.segments:
        words = timed(segment.words)
        if not words:
            whole = [Interval(segment.start, segment.end, text) for text in segment.text.split()]
            if whole:
                yield Interval(segment.start, segment.end, _text(_filled(whole, options.line_width)))
            continue
        for span in _spans(words):
            lines = _filled(span, options.line_width)
            for first in range(0, len(lines), options.lines):
                shown = lines[first : first + options.lines]
                yield Interval(shown[0][0].start, shown[-1][-1].end, _text(shown))


def _spans(words: Iterable[Interval]) -> list[list[Interval]]:
    """Words between long pauses."""
    spans: list[list[Interval]] = []
    for word in words:
        if not spans or word.start - spans[-1][-1].end > LONG_PAUSE:
            spans.append([])
        spans[-1].append(word)
    return spans


def _filled(words: Iterable[Interval], width: int) -> list[list[Interval]]:
    """Words in lines of at most `width` characters."""
    lines: list[list[Interval]] = []
    room = 0
    for word in words:
        size = len(_one_line(word.text)) + 1
        if not lines or size > room:
            lines.append([])
            room = width + 1
        lines[-1].append(word)
        room -= size
    return lines


def _text(lines: Iterable[Iterable[Interval]]) -> str:
    return "\n".join(" ".join(_one_line(word.text) for word in line) for line in lines)


def _tier(name: str, intervals: Sequence[Interval], last: float) -> str:
    """Praat wants a tier without gaps: silence has an empty text."""
    tiles: list[Interval] = []
    for interval in [*intervals, Interval(last, last, "")]:
        reached = tiles[-1].end if tiles else 0.0
        if interval.start > reached:
            tiles.append(Interval(reached, interval.start, ""))
        if interval.end > max(interval.start, reached):
            tiles.append(interval._replace(start=max(interval.start, reached)))
    texts = [_one_line(text).replace('"', '""') for _, _, text in tiles]
    rows = [
        f"        intervals [{number}]:\n            xmin = {start:.6f}\n            xmax = {end:.6f}\n"
        f'            text = "{text}"\n'
        for number, ((start, end, _), text) in enumerate(zip(tiles, texts, strict=True), 1)
    ]
    head = f'        class = "IntervalTier"\n        name = "{name}"\n        xmin = 0\n        xmax = {last:.6f}\n'
    return head + f"        intervals: size = {len(tiles)}\n" + "".join(rows)


def _clock(seconds: float, mark: str) -> str:
    """hh:mm:ss and milliseconds after the mark."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{milliseconds:03}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _token(text: str) -> str:
    return re.sub(r"\s+", "_", text)


def _name(id: str) -> str:
    """An id for NIST's formats: without spaces, and no comment (;;)."""
    name = _token(id.encode("utf-8", "backslashreplace").decode())
    return re.sub("^;", "_", name) or "recording"
