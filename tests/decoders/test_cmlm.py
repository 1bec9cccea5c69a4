"""The conditional masked language model: its masks and lengths in training, and Mask-Predict against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from narspeech.batch import Batch, Draft, Encoded, Padded, Round, TrainStep
from narspeech.decoders import cmlm
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.cmlm import CMLM, CMLMConfig
from narspeech.errors import ConfigError
from narspeech.refine import decode
from narspeech.tokenizer import MASK, PAD
from tests import fakes

SIZE, WIDTH, FRAMES, LONGEST = 20, 16, 12, 17


def decoder(**settings: float) -> CMLM:
    config = CMLMConfig(
        depth=2, width=WIDTH, heads=2, feed_forward=32, dropout=0.0, longest=LONGEST, unseen=settings.get("unseen", 0.0)
    )
    model = CMLM(config, WIDTH, SIZE).eval()
    with torch.no_grad():
        model.tokens.embedding.weight.mul_(2)  # of many minds
        model.length.output.weight.mul_(5)
    return model


def encoded(lengths: list[int]) -> Encoded:
    frames = torch.tensor(lengths)
    states = Padded(2 * torch.randn(len(lengths), FRAMES, WIDTH), frames)
    return Encoded(states, Padded(torch.zeros(len(lengths), FRAMES, 1), frames))


def log_probs(model: CMLM, tokens: list[int], source: Encoded) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(Padded(torch.tensor([tokens]).long(), torch.tensor([len(tokens)])), model.prepare(source))
    return logits[0].log_softmax(-1)


def mask_predict(model: CMLM, source: Encoded, length: int, steps: int) -> list[fakes.Moment]:
    """What one row of that length shows at the start and after each step that it takes, in plain Python."""
    shown = [fakes.Moment([MASK] * length, [0.0] * length)]
    for step in range(steps if length else 0):
        tokens, scores = list(shown[-1].tokens), list(shown[-1].scores)
        count = math.floor(length * (steps - step) / steps)
        if not count:  # no later step has more
            break
        weak = sorted(range(length), key=lambda place: (scores[place], place))[:count]
        for place in weak:
            tokens[place] = MASK
        predicted = log_probs(model, tokens, source)
        for place in weak:
            tokens[place] = int(predicted[place].argmax())
            scores[place] = float(predicted[place].max())
        shown.append(fakes.Moment(tokens, scores))
    return shown


def one(source: Encoded, row: int) -> Encoded:
    index = torch.tensor([row])
    return Encoded(source.states.rows(index), source.inputs.rows(index))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 30])
@pytest.mark.parametrize("candidates", [1, 3])
def test_mask_predict_against_a_plain_loop(steps: int, candidates: int) -> None:
    torch.manual_seed(11)  # weights that change their mind at different steps
    model, source = decoder(), encoded([12, 7, 3, 0, 12, 1])
    options = DecodeOptions(steps=steps, candidates=candidates, trace=True)
    taken = set()
    for row, best in enumerate(decode(model, source, options)):
        single = one(source, row)
        with torch.inference_mode():
            likely = model.length(single.states)[0].argsort(descending=True, stable=True)[:candidates].tolist()
        if row == 3:
            likely = [0] * candidates
        expected = [mask_predict(model, single, length, steps) for length in likely]

        def worth(shown: list[fakes.Moment], likeliest: int = likely[0]) -> float:
            scores = shown[-1].scores
            return sum(scores) / len(scores) if scores else (-math.inf if likeliest else 0.0)

        expected.sort(key=lambda shown: -worth(shown))
        found = [best, *best.alternatives]
        assert len(found) == candidates
        for hypothesis, shown in zip(found, expected, strict=True):
            assert [list(moment.tokens) for moment in hypothesis.trace] == [moment.tokens for moment in shown]
            assert hypothesis.scores == pytest.approx(shown[-1].scores, abs=1e-4)
            assert list(hypothesis.tokens) == shown[-1].tokens
            assert hypothesis.steps == len(shown) - 1
            taken.add(hypothesis.steps)
    assert len(taken) > (2 if steps > 4 else 1)  # short rows leave early, the empty one at once


def test_masks_of_the_likeliest_lengths_in_order_of_owners() -> None:
    model, source = decoder(), encoded([12, 0, 5])
    memory = model.prepare(source)
    draft = model.draft(memory, DecodeOptions(candidates=4))
    assert draft.owner.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    lengths = draft.tokens.lengths.view(3, 4)
    assert torch.equal(lengths[[0, 2]], model.length(source.states).topk(4).indices[[0, 2]])
    assert lengths[1].tolist() == [0] * 4  # nothing was heard
    assert torch.equal(draft.tokens.data == MASK, draft.tokens.mask)
    assert draft.tokens.data[~draft.tokens.mask].eq(PAD).all()
    assert torch.equal(draft.undecided, draft.tokens.lengths)
    assert torch.equal(model.settled(draft), draft.tokens.lengths == 0)
    # More candidates than there are lengths.
    assert len(model.draft(memory, DecodeOptions(candidates=99)).owner) == 3 * (LONGEST + 1)


def test_earlier_tokens_are_masked_again_and_only_they_get_new_scores() -> None:
    model, source = decoder(), encoded([12])
    tokens = Padded(torch.tensor([[6, 7, 8, 9, 10, 11, 12, 13]]), torch.tensor([8]))
    scores = -torch.tensor([[0.5, 0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.05]])
    draft = Draft(tokens, scores, torch.tensor([0]), torch.tensor([3]))
    with torch.inference_mode():
        after = model.refine(draft, model.prepare(source), Round(5, 8), DecodeOptions(steps=8))
    weak = [2, 4, 6]
    seen = [MASK if place in weak else token for place, token in enumerate(tokens.data[0].tolist())]
    expected = log_probs(model, seen, source)
    for place in range(8):
        best, token = expected[place].max(-1)
        assert after.tokens.data[0, place] == (token if place in weak else tokens.data[0, place])
        torch.testing.assert_close(after.scores[0, place], best if place in weak else scores[0, place])
    assert tokens.data.tolist() == [[6, 7, 8, 9, 10, 11, 12, 13]]
    assert after.undecided == 2  # floor(8 (1 - 6 / 8))


def test_without_steps_all_is_predicted_once() -> None:
    model, source = decoder(), encoded([12, 4, 0])
    at_once, one_step = (
        decode(model, source, DecodeOptions(steps=steps, candidates=2, trace=True)) for steps in (0, 1)
    )
    assert [h.tokens for h in at_once] == [h.tokens for h in one_step]
    assert [h.steps for h in at_once] == [0, 0, 0]
    assert MASK not in {token for h in at_once for moment in h.trace for token in moment.tokens}
    for some, other in zip(at_once, one_step, strict=True):
        assert some.scores == pytest.approx(other.scores, abs=1e-4)


def test_an_empty_row_wins_only_as_the_likeliest_length() -> None:
    model, source = decoder(), encoded([12, 9])
    for best in (0, 5):
        with torch.no_grad():
            model.length.output.weight.zero_()
            model.length.output.bias.fill_(-9.0)
            model.length.output.bias[[0, 5, 7]] = torch.tensor([1.0, 0.9, 0.8])
            model.length.output.bias[best] = 2.0
        for found in decode(model, source, DecodeOptions(candidates=3)):
            lengths = [len(h.tokens) for h in (found, *found.alternatives)]
            assert sorted(lengths) == [0, 5, 7]
            assert lengths[0 if best == 0 else -1] == 0


def test_loss_counts_masked_places_and_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(), encoded([12, 6])
    target = Padded(torch.tensor([[6, 7, 8, 9], [10, 11, PAD, PAD]]), torch.tensor([4, 2]))
    hidden = torch.tensor([[True, False, True, False], [False, True, False, False]])
    monkeypatch.setattr(cmlm, "mask_uniform", lambda _: hidden)
    loss = model.loss(source, Batch(("a", "b"), target, target), TrainStep())
    smoothing, allowed = model.config.label_smoothing, torch.tensor([5, *range(6, SIZE)])  # UNK and the letters
    expected = torch.zeros(())
    for row, seen, places in ((0, [MASK, 7, MASK, 9], (0, 2)), (1, [10, MASK], (1,))):
        there = log_probs(model, seen, one(source, row))
        for place in places:
            truth = target.data[row, place]
            expected -= (1 - smoothing) * there[place, truth] + smoothing * there[place, allowed].mean()
    lengths = -model.length(source.states)[[0, 1], [4, 2]].sum()
    torch.testing.assert_close(loss.total, expected + lengths)
    torch.testing.assert_close(loss.parts["length"], lengths.detach())
    assert loss.count == 6
    assert loss.parts["masked"] == 3


@pytest.mark.parametrize(("unseen", "low", "high"), [(0.0, 0.45, 0.55), (0.5, 0.70, 0.80), (1.0, 1.0, 1.0)])
def test_some_targets_are_masked_whole(unseen: float, low: float, high: float) -> None:
    """Of two tokens one or both are masked: both in half of the rows, and in `unseen` of the others."""
    model, source = decoder(unseen=unseen), encoded([3] * 4000)
    target = Padded(torch.full((4000, 2), 7), torch.full((4000,), 2))
    loss = model.loss(source, Batch(("a",) * 4000, target, target), TrainStep())
    assert low <= float(loss.parts["masked"]) / 4000 - 1 <= high


def test_no_ctc_head_is_needed() -> None:
    model = fakes.tiny_model("cmlm", "text", ctc=None)
    assert torch.isfinite(model(fakes.batch(side="text")).total)
    assert [bool(h.tokens) for h in model.decode(fakes.nonsense([7, 0, 3]))] == [True, False, True]


def test_brain_floats() -> None:
    model = fakes.tiny_model("cmlm").bfloat16()
    source = fakes.noise([8000, 799, 0, 4000])
    found = model.decode(source, DecodeOptions(candidates=3))
    assert found[0].tokens
    assert found[2].tokens == ()
    assert all(math.isfinite(score) and score <= 0 for h in found for score in h.scores)


@pytest.mark.parametrize("settings", [{"longest": 0}, {"length_weight": 0.0}, {"unseen": 1.5}, {"unseen": math.nan}])
def test_the_config_is_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected .* received .*: .*|expected .* received .*; .*"):
        CMLMConfig(**settings)  # type: ignore[arg-type]
