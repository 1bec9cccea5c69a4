"""The CTC decoder reads the model's own head and does nothing else."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch

from narspeech.batch import Batch, Encoded, Padded
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.ctc import BEAM, CTCDecoder
from narspeech.ops.ctc import ctc_loss
from narspeech.refine import decode
from narspeech.tokenizer import BLANK
from tests import fakes


def encoded(log_probs: torch.Tensor, lengths: list[int]) -> Encoded:
    padded = Padded(log_probs, torch.tensor(lengths))
    states = Padded(torch.zeros(*log_probs.shape[:2], 4), padded.lengths)
    return Encoded(states, states, ctc=padded)


def test_greedy_against_a_plain_loop() -> None:
    lengths = [40, 0, 7, 23, 1]
    logits = 2 * torch.randn(5, 40, 9)
    logits[..., 1:5] = -1e4  # as the head does
    log_probs = logits.log_softmax(-1)
    hypotheses = decode(CTCDecoder(), encoded(log_probs, lengths), DecodeOptions())
    for row, length in enumerate(lengths):
        frames = [(int(frame.argmax()), float(frame.max())) for frame in log_probs[row, :length]]
        runs = [(label, max(score for _, score in run)) for label, run in groupby(frames, key=lambda frame: frame[0])]
        spoken = [(label, score) for label, score in runs if label != BLANK]
        assert hypotheses[row].tokens == tuple(label for label, _ in spoken)
        assert hypotheses[row].scores == pytest.approx([score for _, score in spoken])
        assert hypotheses[row].steps == 0


def test_loss_is_the_heads() -> None:
    log_probs = torch.randn(3, 12, 9).log_softmax(-1)
    target = Padded(torch.tensor([[6, 7, 8], [6, 6, 0], [8, 8, 8]]), torch.tensor([3, 2, 3]))
    batch = Batch(("a", "b", "c"), target, target)
    loss = CTCDecoder().loss(encoded(log_probs, [12, 10, 4]), batch, None)  # type: ignore[arg-type]
    # The last row needs five frames and has four: it counts for nothing.
    expected = sum(
        torch.nn.functional.ctc_loss(
            log_probs[row, :frames], target.data[row, :length], [frames], [length], reduction="sum"
        )
        for row, frames, length in ((0, 12, 3), (1, 10, 2))
    )
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == 5


def test_a_scorer_or_a_beam_searches() -> None:
    logits = 2 * torch.randn(3, 20, 9)
    logits[..., 1:5] = -1e4
    source = encoded(logits.log_softmax(-1), [20, 0, 9])
    wide = decode(CTCDecoder(), source, DecodeOptions(beam=4))
    assert [len(h.alternatives) for h in wide] == [3, 0, 3]
    assert source.ctc is not None
    likely, _ = ctc_loss(source.ctc, Padded.pack([torch.tensor(h.tokens, dtype=torch.long) for h in wide]))
    others, _ = ctc_loss(
        source.ctc, Padded.pack([torch.tensor((h.alternatives or (h,))[0].tokens, dtype=torch.long) for h in wide])
    )
    assert (likely <= others + 1e-4).all()
    hot = decode(CTCDecoder(), source, DecodeOptions(), fakes.Favourite(7, 8.0))
    assert [len(h.alternatives) for h in hot] == [BEAM - 1, 0, BEAM - 1]
    for plain, favoured in zip(wide, hot, strict=True):
        assert favoured.tokens.count(7) > plain.tokens.count(7) or not plain.tokens
    # What every token gains brings longer texts, beside a scorer.
    more = decode(CTCDecoder(), source, DecodeOptions(token_bonus=4.0), fakes.Favourite(7, 0.0))
    assert all(len(a.tokens) >= len(b.tokens) for a, b in zip(more, wide, strict=True))
    assert len(more[0].tokens) > len(wide[0].tokens)
