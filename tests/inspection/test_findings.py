"""What is gathered: the refinement as it went, every token at its place in time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from narspeech.batch import Padded
from narspeech.data.audio import Audio
from narspeech.decoders.align_refine import AlignRefineConfig
from narspeech.decoders.base import DecodeOptions
from narspeech.inspection.findings import Findings, changes, find, masked
from narspeech.model import Model
from narspeech.ops.ctc import greedy, token_spans
from narspeech.tokenizer import BLANK, MASK
from narspeech.transcriber import Transcriber
from tests import fakes


def audio(length: int = 8000, seed: int = 0) -> Audio:
    return Audio(0.1 * fakes.noise([length], seed).data[0].numpy(), fakes.RATE, length / fakes.RATE)


def found(model: Model, sound: Audio | None = None, **settings: Any) -> Findings:
    transcriber = Transcriber(model)
    decoder = settings.pop("decoder", None)
    return find(transcriber, sound or audio(), transcriber.hearing(transcriber.options(**settings), decoder))


def test_the_refinement_is_told_as_it_went() -> None:
    model = fakes.tiny_model()
    findings = found(model, steps=3, threshold=0.9)
    expected = model.decode(Padded.pack([torch.from_numpy(audio().samples)]), DecodeOptions(steps=3, threshold=0.9))
    trace = found(model, steps=3, threshold=0.9).transcript.trace
    names = [row.name for row in findings.rows]
    assert names == ["CTC", "draft", "step 1", "step 2", "step 3"]
    rows = [[token.id for token in row.tokens] for row in findings.rows[1:]]
    assert rows == [list(step.tokens) for step in trace]
    assert rows[-1] == list(expected[0].tokens)
    assert [masked(row) for row in findings.rows] == [0, *(row.count(MASK) for row in rows)]
    assert masked(findings.rows[1]) > masked(findings.rows[2]) > 0
    for (above, below), row in zip(pairwise(rows), findings.rows[2:], strict=True):
        assert [token.changed for token in row.tokens] == [a != b for a, b in zip(above, below, strict=True)]
        assert any(token.changed for token in row.tokens)
    for row, step in zip(findings.rows[1:], trace, strict=True):
        for token, score in zip(row.tokens, step.scores, strict=True):
            assert token.confidence == (None if token.id == MASK else pytest.approx(math.exp(score)))


def test_features_and_posteriors_are_the_models_own() -> None:
    model = fakes.tiny_model()
    findings = found(model)
    source = Padded.pack([torch.from_numpy(audio().samples)])
    with torch.inference_mode():
        encoded = model.encode(source)
        features = model.frontend(source)
    assert np.allclose(findings.features, features.data[0].numpy())
    assert np.allclose(findings.posteriors, encoded.ctc.data[0].exp().numpy(), atol=1e-6)
    assert findings.frame == pytest.approx(0.04)
    assert findings.hop == pytest.approx(0.01)


def test_a_words_tokens_lie_in_it() -> None:
    model = fakes.tiny_model()
    findings = found(model, audio(16000), threshold=0.0)
    words = findings.transcript.words
    assert len(words) == len(findings.words) > 1
    for word, tokens in zip(words, findings.words, strict=True):
        assert "".join(token.text for token in tokens) == word.text
        assert tokens[0].start == pytest.approx(word.start, abs=1e-6)
        assert tokens[-1].end <= word.end + 1e-6
        assert all(token.start < token.end for token in tokens)
        assert all(one.end <= other.start + 1e-9 for one, other in pairwise(tokens))


def test_frames_are_those_of_the_alignment() -> None:
    model = fakes.tiny_model()
    findings = found(model, threshold=0.0)
    with torch.inference_mode():
        ctc = model.encode(Padded.pack([torch.from_numpy(audio().samples)])).ctc
        best = greedy(ctc)
        spans = token_spans(ctc, best.tokens)
    ids = best.tokens.data[0].tolist()
    places = [place for _, word in model.tokenizer.words(ids) for place in range(word.start, word.stop)]
    tokens = [token for word in findings.words for token in word]
    assert [token.id for token in tokens] == [ids[place] for place in places]
    assert [token.frames.start for token in tokens] == spans.starts[0, places].tolist()
    assert [token.frames.stop for token in tokens] == spans.ends[0, places].tolist()
    for token in tokens:
        seen = findings.posteriors[token.frames.start : token.frames.stop, token.id]
        assert token.ctc == pytest.approx(seen.max(), rel=1e-4)


def test_a_path_is_shown_as_its_runs() -> None:
    model = fakes.tiny_model("align_refine")
    findings = found(model, steps=2)
    assert [row.name for row in findings.rows][:2] == ["CTC", "draft"]
    assert findings.rows[-1].name == "text"
    trace = findings.transcript.trace
    for row, step in zip(findings.rows[1:-1], trace, strict=True):
        runs = [b for a, b in pairwise((BLANK, *step.tokens)) if a != b and b != BLANK]
        assert [token.id for token in row.tokens] == runs
    assert [token.id for token in findings.rows[-2].tokens] == [token.id for token in findings.rows[-1].tokens]
    # The text stands where its runs do, but for the frames that only the alignment to CTC gives it.
    for row in findings.rows:
        assert all(one.end <= other.start + 1e-9 for one, other in pairwise(row.tokens))


def test_an_imputer_begins_with_runs_of_masks() -> None:
    """Between the labels that CTC is surest of; blanks among these are left out."""
    config = AlignRefineConfig(depth=2, width=16, heads=2, feed_forward=32, dropout=0.0, mode="imputer")
    findings = found(fakes.tiny_model(decoder=config), steps=8)
    draft = next(row for row in findings.rows if row.name == "draft")
    ids = [token.id for token in draft.tokens]
    assert 1 < ids.count(MASK) < len(ids)
    assert all((token.confidence is None) == (token.id == MASK) for token in draft.tokens)


def test_rows_of_other_lengths_are_aligned_for_themselves() -> None:
    findings = found(fakes.tiny_model("levenshtein"), steps=3)
    sizes = {len(row.tokens) for row in findings.rows}
    assert len(sizes) > 1
    for row in findings.rows:
        assert all(0 <= token.start < token.end <= 1.0 + 1e-9 for token in row.tokens)
        assert all(one.end <= other.start + 1e-9 for one, other in pairwise(row.tokens))


@pytest.mark.parametrize("kind", ["ctc", "cmlm", "nat", "dag", "ar", "glat_ctc"])
def test_every_family_can_be_looked_at(kind: str) -> None:
    findings = found(fakes.tiny_model(kind), steps=2)
    ids = [token.id for token in findings.rows[-1].tokens]
    transcriber = Transcriber(fakes.tiny_model(kind))
    heard = transcriber.hear([audio().samples], transcriber.hearing(transcriber.options(steps=2)))
    assert ids == list(heard.hypotheses[0].tokens)


def test_ctc_alone_has_one_row() -> None:
    for model, settings in ((fakes.tiny_model("ctc"), {}), (fakes.tiny_model(), {"decoder": "ctc"})):
        assert [row.name for row in found(model, **settings).rows] == ["draft"]


def test_a_search_tells_its_other_texts() -> None:
    findings = found(fakes.tiny_model("ctc"), beam=4)
    assert len(findings.others) == 3
    assert len({findings.transcript.text, *(text for text, _ in findings.others)}) == 4
    assert all(score < 0 for _, score in findings.others)


def test_without_a_ctc_head_nothing_has_a_time() -> None:
    findings = found(fakes.tiny_model("cmlm", ctc=None), steps=2)
    assert findings.posteriors is None
    tokens = [token for row in findings.rows for token in row.tokens]
    assert tokens
    assert all(token.start is None and token.end is None for token in tokens)
    assert all(word.start is None for word in findings.transcript.words)


@pytest.mark.parametrize("length", [1, 100])
def test_less_than_a_frame_has_no_tokens(length: int) -> None:
    findings = found(fakes.tiny_model(), audio(length))
    assert findings.words == ()
    assert all(row.tokens == () for row in findings.rows)


def test_a_text_that_ctc_cannot_spell_is_spread_evenly() -> None:
    model = fakes.tiny_model("cmlm")
    with torch.no_grad():
        model.ctc.output.bias.fill_(float("nan"))
    findings = found(model, steps=2)
    assert any("does not fit" in warning for warning in findings.transcript.warnings)
    assert all(token.ctc is None and token.frames is None for word in findings.words for token in word)
    assert np.isfinite(findings.posteriors).all()


def test_changes() -> None:
    assert changes([1, 2, 3], [1, 4, 3]) == [False, True, False]
    assert changes([], [1, 2]) == [True, True]
    assert changes([1, 2, 3], [1, 9, 2, 3]) == [False, True, False, False]
    assert changes([1, 2, 3], [3]) == [False]
    assert changes([1], []) == []
