"""What a model did with a recording, gathered for a page: features, posteriors, words, tokens and refinement in time.

All times are seconds from the beginning of the stretch that was heard, corrected as those of words are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from narspeech.align import frame_seconds, in_order
from narspeech.batch import Padded
from narspeech.calibration import Calibration, Values
from narspeech.data.audio import Audio
from narspeech.frontends.fbank import FbankConfig
from narspeech.model import Model
from narspeech.ops.ctc import greedy, token_spans
from narspeech.picture import cells
from narspeech.result import Hypothesis, Step, Transcript
from narspeech.tokenizer import BLANK, MASK, PAD, UNK
from narspeech.transcriber import Hearing, Transcriber, to_transcript


class Token(NamedTuple):
    """A token as it is shown, its probability (None: not decided) and where it stands (None where nothing tells);
    changed: it is not what stood there a step before; id: in the vocabulary. Of tokens of words that CTC can spell also
    frames: those that CTC spends on it, and ctc: the highest probability that it gives it there."""

    id: int
    text: str
    confidence: float | None
    start: float | None = None
    end: float | None = None
    changed: bool = False
    frames: range | None = None
    ctc: float | None = None


class Row(NamedTuple):
    """A moment of the refinement."""

    name: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """audio: what was heard; transcript, its trace with it; words: the tokens of each of its words, in order; rows: the
    refinement from CTC's best path to the text; features: (T', F) what the encoder read, hop seconds apart, low_hz to
    top_hz; posteriors: (T, V) probabilities, frame seconds apart, None without a CTC head; pieces: the vocabulary;
    others: texts that a search or other candidates gave, best first, with the mean log-probability of a token."""

    audio: Audio
    transcript: Transcript
    words: tuple[tuple[Token, ...], ...]
    rows: tuple[Row, ...]
    features: Values
    hop: float
    low_hz: float
    top_hz: float
    posteriors: Values | None
    frame: float
    pieces: tuple[str, ...]
    others: tuple[tuple[str, float], ...] = ()


def find(transcriber: Transcriber, audio: Audio, hearing: Hearing) -> Findings:
    """Hear one recording, at the model's rate and short enough to be heard as a whole, and keep what is on the way."""
    model = transcriber.model
    frontend = model.config.frontend
    assert isinstance(frontend, FbankConfig), "a Transcriber hears sound"
    heard = transcriber.hear([audio.samples], hearing._replace(options=hearing.options.but(trace=True)))
    (hypothesis,), (aligned,), encoded = heard.hypotheses, heard.aligned, heard.encoded
    family = model.greedy if hearing.head == "ctc" else hearing.head or model.decoder
    history = Refinement(model, hypothesis, encoded.ctc, len(audio.samples) / audio.rate, by_frame=family.writes_path)
    posteriors = None if encoded.ctc is None else np.nan_to_num(_plain(encoded.ctc.unpack()[0].float().exp()))
    return Findings(
        audio=audio,
        transcript=to_transcript(
            hypothesis, audio, aligned, model=transcriber.name, language=transcriber.model.config.language
        ),
        words=history.words(),
        rows=history.rows(),
        features=np.nan_to_num(_plain(encoded.inputs.unpack()[0])),
        hop=1 / model.frontend.frames_per_second,
        low_hz=frontend.low_hz,
        top_hz=frontend.top_hz,
        posteriors=posteriors,
        frame=frame_seconds(model),
        pieces=model.tokenizer.pieces,
        others=tuple((model.tokenizer.decode(other.tokens), _mean(other.scores)) for other in hypothesis.alternatives),
    )


class Spans(NamedTuple):
    """starts, ends (U,) in seconds, in order; where CTC can spell the tokens, the frames that it spends on each and the
    highest probability that it gives it there."""

    starts: Values
    ends: Values
    frames: tuple[range, ...] = ()
    ctc: tuple[float, ...] = ()


class Refinement:
    """The steps of one hypothesis, each token at its place in time.

    by_frame: a step's tokens are the labels of all frames. Else those of a step that is as long as the text stand where
    the text's stand, so that a column is one token all the way; others are aligned to CTC as the text is.
    """

    def __init__(
        self, model: Model, hypothesis: Hypothesis, ctc: Padded | None, duration: float, *, by_frame: bool
    ) -> None:
        self.tokenizer, self.hypothesis, self.ctc = model.tokenizer, hypothesis, ctc
        self.duration, self.by_frame, self.seconds = duration, by_frame, frame_seconds(model)
        self.calibration = model.config.calibration or Calibration()
        self.final = self._aligned(hypothesis.tokens)

    def words(self) -> tuple[tuple[Token, ...], ...]:
        """The tokens of every word."""
        tokens = self._tokens(self.hypothesis.tokens, self.hypothesis.scores, self.final)
        if self.final is not None and self.final.ctc:
            heard = zip(tokens, self.final.frames, self.final.ctc, strict=True)
            tokens = [token._replace(frames=frames, ctc=share) for token, frames, share in heard]
        return tuple(tuple(tokens[place]) for _, place in self.tokenizer.words(self.hypothesis.tokens))

    def rows(self) -> tuple[Row, ...]:
        """CTC's best path, the draft, every step and the text, without those that would only repeat another."""
        found: list[Row] = []
        text = Step(tokens=self.hypothesis.tokens, scores=self.hypothesis.scores)
        trace = self.hypothesis.trace or (text,)
        if self.ctc is not None:
            best, scores, _ = greedy(self.ctc)
            heard = Step(tokens=tuple(best.unpack()[0].tolist()), scores=tuple(scores[0].tolist()))
            if heard.tokens != trace[0].tokens:
                found.append(self._row("CTC", heard, None, self._aligned(heard.tokens)))
        above = None
        for number, step in enumerate(trace):
            name = f"step {number}" if number else "draft"
            found.append(self._path(name, step, above) if self.by_frame else self._row(name, step, above))
            above = step
        if trace[-1].tokens != text.tokens:
            found.append(self._row("text", text, None))
        return tuple(found)

    def _row(self, name: str, step: Step, above: Step | None, spans: Spans | None = None) -> Row:
        if spans is None:
            same = len(step.tokens) == len(self.hypothesis.tokens)
            spans = self.final if same else self._aligned(step.tokens)
        tokens = self._tokens(step.tokens, step.scores, spans)
        if above is None:
            return Row(name, tuple(tokens))
        fresh = changes(above.tokens, step.tokens)
        return Row(name, tuple(token._replace(changed=new) for token, new in zip(tokens, fresh, strict=True)))

    def _path(self, name: str, step: Step, above: Step | None) -> Row:
        """Runs of one label as tokens, blanks left out."""
        fresh = [False] * len(step.tokens) if above is None else changes(above.tokens, step.tokens)
        runs: list[range] = []
        for label, group in groupby(range(len(step.tokens)), step.tokens.__getitem__):
            frames = list(group)
            if label != BLANK:
                runs.append(range(frames[0], frames[-1] + 1))
        ids = [step.tokens[run[0]] for run in runs]
        scores = [max(step.scores[run.start : run.stop]) for run in runs]
        spans = None
        if self.ctc is not None:
            first, last = (np.array([frame(run) for run in runs], np.float64) for frame in (min, _behind))
            spans = Spans(*self._corrected(first, last))
        tokens = self._tokens(ids, scores, spans)
        new = [any(fresh[run.start : run.stop]) for run in runs]
        return Row(name, tuple(token._replace(changed=flag) for token, flag in zip(tokens, new, strict=True)))

    def _tokens(self, ids: Sequence[int], scores: Sequence[float], spans: Spans | None) -> list[Token]:
        shown = cells([self.tokenizer.pieces[token] for token in ids], scores)
        found = [Token(token, *cell) for token, cell in zip(ids, shown, strict=True)]
        if spans is None:
            return found
        times = zip(found, spans.starts.tolist(), spans.ends.tolist(), strict=True)
        return [token._replace(start=start, end=end) for token, start, end in times]

    def _aligned(self, ids: Sequence[int]) -> Spans | None:
        """Where CTC puts the tokens; specials, which it cannot hear, lie between their neighbours. Spread evenly where
        CTC cannot spell them."""
        if self.ctc is None:
            return None
        places = np.array([place for place, token in enumerate(ids) if token >= UNK], int)
        packed = Padded.pack([torch.tensor([ids[place] for place in places], dtype=torch.long)], PAD)
        spans = token_spans(self.ctc, packed.to(self.ctc.data.device))
        if not len(places) or not bool(spans.fits[0]):
            edges: Values = np.linspace(0.0, self.duration, len(ids) + 1, dtype=np.float64)
            return Spans(*in_order(edges[:-1], edges[1:], self.duration))
        first, last, scores = (_plain(x[0]) for x in spans[:3])
        every = np.arange(len(ids))
        starts, ends = self._corrected(np.interp(every, places, first), np.interp(every, places, last))
        if len(places) < len(ids):
            return Spans(starts, ends)
        frames = tuple(range(*pair) for pair in zip(first.astype(int).tolist(), last.astype(int).tolist(), strict=True))
        return Spans(starts, ends, frames, tuple(np.exp(scores).tolist()))

    def _corrected(self, first: Values, last: Values) -> tuple[Values, Values]:
        """Frames, and those behind the last, as seconds; corrected as `align.align` does."""
        starts, ends = self.seconds * first - self.calibration.lead, self.seconds * last + self.calibration.hold
        return in_order(starts, ends, self.duration)


def changes(before: Sequence[int], after: Sequence[int]) -> list[bool]:
    """Which tokens of `after` are not what stood there before; of another length, those outside the blocks that the two
    have in common (Ratcliff & Metzener 1988)."""
    if len(before) == len(after):
        return [old != new for old, new in zip(before, after, strict=True)]
    kept = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    same = {place for block in kept for place in range(block.b, block.b + block.size)}
    return [place not in same for place in range(len(after))]


def masked(row: Row) -> int:
    """How many tokens of a row are not decided."""
    return sum(token.id == MASK for token in row.tokens)


def _behind(run: range) -> int:
    return run.stop


def _plain(x: torch.Tensor) -> Values:
    return x.detach().double().cpu().numpy()


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / max(len(scores), 1)
