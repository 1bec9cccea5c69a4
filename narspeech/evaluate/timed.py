"""NIST's files with times: segments of reference (stm) and words of hypothesis (ctm), as texts by id."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from narspeech.errors import ManifestError
from narspeech.evaluate.formats import Line, refuse_alternatives

# A segment with this transcript is not scored, nor is what was heard in it.
IGNORED = "ignore_time_segment_in_scoring"


class Segment(NamedTuple):
    """What is said from begin to end, in seconds; a word of a ctm file has no speaker."""

    waveform: str
    channel: str
    speaker: str
    begin: float
    end: float
    text: str

    @property
    def id(self) -> str:
        return f"{self.speaker}-{self.waveform}-{self.channel}-{self.begin:.3f}-{self.end:.3f}"

    @property
    def ignored(self) -> bool:
        return self.text.strip().lower() == IGNORED


def read_stm(lines: Sequence[Line], path: object) -> list[Segment]:
    """`waveform channel speaker begin end <label> transcript` a line. Raises ManifestError on anything else."""
    segments = []
    for number, line in lines:
        if line.startswith(";;"):
            continue
        where = f"{path}, line {number}"
        cells = line.split(maxsplit=5)
        if len(cells) < 5:
            raise ManifestError(f"expected waveform, channel, speaker, begin, end and text at {where}, received {line}")
        begin, end = _seconds(cells[3:5], where)
        text = cells[5].strip() if len(cells) > 5 else ""
        if text.startswith("<") and ">" in text:
            text = text[text.index(">") + 1 :]
        refuse_alternatives(text, where)
        segments.append(Segment(cells[0], cells[1], cells[2], begin, max(begin, end), text.strip()))
    return segments


def read_ctm(lines: Sequence[Line], path: object) -> list[Segment]:
    """`waveform channel begin duration word [confidence]` a line. Raises ManifestError on anything else."""
    words = []
    for number, line in lines:
        if line.startswith(";;"):
            continue
        where = f"{path}, line {number}"
        refuse_alternatives(line, where)
        cells = line.split()
        if len(cells) < 5:
            raise ManifestError(f"expected waveform, channel, begin, duration and word at {where}, received {line}")
        begin, duration = _seconds(cells[2:4], where)
        words.append(Segment(cells[0], cells[1], "", begin, begin + duration, cells[4]))
    return words


def by_recording(segments: Iterable[Segment], path: object) -> dict[str, str]:
    """All that is said in a recording, in the order of time, by waveform (and channel, where it has several)."""
    parts = _by_channel(segments)
    channels: dict[str, int] = {}
    for waveform, _ in parts:
        channels[waveform] = channels.get(waveform, 0) + 1
    texts = {}
    for (waveform, channel), part in parts.items():
        if any(segment.ignored for segment in part):
            raise ManifestError(
                f"expected hypotheses with times (ctm) beside {path}, for it has segments that are not to be scored, "
                f"received texts without: score a ctm file, or remove {IGNORED.upper()} from the references"
            )
        name = waveform if channels[waveform] == 1 else f"{waveform}-{channel}"
        texts[name] = " ".join(segment.text for segment in part if segment.text)
    return texts


def by_segment(
    references: Sequence[Segment], words: Sequence[Segment], path: object
) -> tuple[dict[str, str], dict[str, str]]:
    """References and hypotheses by segment: each word goes where its middle is, one between two segments to the later.

    So does sclite, which also gives what lies behind the last segment to the last one. Ids begin with the speaker.
    Raises ManifestError if words belong to no recording of the references, or two segments are the same.
    """
    heard = _by_channel(words)
    truth: dict[str, str] = {}
    found: dict[str, str] = {}
    for key, segments in _by_channel(references).items():
        ends = [segment.end for segment in segments]
        parts: list[list[str]] = [[] for _ in segments]
        for word in heard.pop(key, []):
            parts[min(bisect_right(ends, (word.begin + word.end) / 2), len(parts) - 1)].append(word.text)
        for segment, part in zip(segments, parts, strict=True):
            if segment.id in truth:
                raise ManifestError(f"expected every segment once, received again {segment.id}: remove the repetition")
            if not segment.ignored:
                truth[segment.id] = segment.text
                found[segment.id] = " ".join(part)
    if heard:
        stray = ", ".join(f"{waveform} {channel}" for waveform, channel in list(heard)[:5])
        raise ManifestError(f"expected words of recordings that have references in {path}, received words of {stray}")
    return truth, found


def _by_channel(segments: Iterable[Segment]) -> dict[tuple[str, str], list[Segment]]:
    parts: dict[tuple[str, str], list[Segment]] = {}
    for segment in segments:
        parts.setdefault((segment.waveform, segment.channel), []).append(segment)
    return {key: sorted(part, key=lambda each: each.begin) for key, part in parts.items()}


def _seconds(cells: Sequence[str], where: str) -> tuple[float, float]:
    try:
        first, second = map(float, cells)
        if 0 <= first < float("inf") and 0 <= second < float("inf"):
            return first, second
    except ValueError:
        pass
    raise ManifestError(
        f"expected two times in seconds at {where}, received {' '.join(cells)}: is it a stm or ctm file?"
    )
