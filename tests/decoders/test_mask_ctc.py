"""Mask-CTC: what is masked, in which order it is filled, and what a score means."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Batch, Draft, Encoded, Padded, Round, TrainStep
from narspeech.decoders import mask_ctc
from narspeech.decoders.base import DecodeOptions, Memory
from narspeech.decoders.ctc import CTCDecoder
from narspeech.decoders.mask_ctc import CHOICE, MaskCTC, MaskCTCConfig, fused
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.nn.attention import CrossAttention
from narspeech.ops.scorer import Window
from narspeech.refine import decode
from narspeech.tokenizer import BLANK, BOS, EOS, MASK, PAD
from tests import fakes

SIZE, WIDTH, FRAMES = 20, 16, 30


def decoder(**settings: float) -> MaskCTC:
    config = MaskCTCConfig(depth=2, width=WIDTH, heads=2, feed_forward=32, dropout=0.0)
    model = MaskCTC(config, WIDTH, SIZE).eval()
    with torch.no_grad():
        model.tokens.embedding.weight.mul_(3)  # confident, and of many minds
    for name, value in settings.items():
        torch.nn.init.constant_(getattr(model, name), value)
    return model


def encoded(lengths: list[int], *, sharpness: float = 6.0) -> Encoded:
    """Random states, and CTC posteriors that spell many tokens of unequal confidence."""
    logits = sharpness * torch.rand(len(lengths), FRAMES, 1) * torch.randn(len(lengths), FRAMES, SIZE)
    logits[..., 1:5] = -1e4
    frames = torch.tensor(lengths)
    return Encoded(
        Padded(torch.randn(len(lengths), FRAMES, WIDTH), frames),
        Padded(torch.zeros(len(lengths), FRAMES, 1), frames),
        ctc=Padded(logits.log_softmax(-1), frames),
    )


def masks(tokens: tuple[int, ...]) -> set[int]:
    return {place for place, token in enumerate(tokens) if token == MASK}


@pytest.mark.parametrize("options", [DecodeOptions(threshold=0.0), DecodeOptions(steps=0, threshold=1.0)])
def test_the_ctc_output_is_left_alone(options: DecodeOptions) -> None:
    model, source = decoder(), encoded([30, 12, 0])
    assert decode(model, source, options) == decode(CTCDecoder(), source, DecodeOptions())


def test_threshold_one_masks_everything() -> None:
    source = encoded([30, 30])
    assert source.ctc is not None
    certain = source.ctc.data.clone()
    certain[1] = -1e4
    certain[1, :, 6] = 0.0  # a posterior of exactly 1
    certain[1, ::2] = torch.where(torch.arange(SIZE) == 0, 0.0, -1e4)
    source = source._replace(ctc=Padded(certain, source.ctc.lengths))
    model = decoder()
    draft = model.draft(model.prepare(source), DecodeOptions(threshold=1.0))
    assert (draft.scores[1, :15] == 0).all()
    assert torch.equal(draft.tokens.data == MASK, draft.tokens.mask)
    assert torch.equal(draft.undecided, draft.tokens.lengths)
    # Just below, what is certain stands.
    draft = model.draft(model.prepare(source), DecodeOptions(threshold=math.nextafter(1, 0)))
    assert draft.undecided[0] > 0
    assert draft.undecided[1] == 0


def test_the_threshold_divides_by_confidence() -> None:
    model, source = decoder(), encoded([30, 20])
    plain = model.draft(model.prepare(source), DecodeOptions(threshold=0.0))
    for threshold in (0.3, 0.7, 0.95):
        draft = model.draft(model.prepare(source), DecodeOptions(threshold=threshold))
        weak = (plain.scores.exp() < threshold) & plain.tokens.mask
        assert weak.any()
        assert torch.equal(draft.tokens.data == MASK, weak)
        assert torch.equal(draft.tokens.data[~weak], plain.tokens.data[~weak])
        assert torch.equal(draft.scores, plain.scores)
        assert torch.equal(draft.undecided, weak.sum(-1))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50])
@pytest.mark.parametrize("threshold", [0.7, 1.0])
def test_easy_first_against_a_plain_loop(steps: int, threshold: float) -> None:
    """floor(M / K) of the masks a row started with at every step, the most confident ones; the rest in the last one."""
    model = decoder()
    source = encoded([30, 21, 9, 0])
    options = DecodeOptions(steps=steps, threshold=threshold, trace=True)
    for row, found in enumerate(decode(model, source, options)):
        memory = model.prepare(source).rows(torch.tensor([row]))
        draft = model.draft(memory, options)
        tokens = draft.tokens.data[0, : draft.tokens.lengths[0]].clone()
        scores = draft.scores[0, : draft.tokens.lengths[0]].tolist()
        undecided = int((tokens == MASK).sum())
        expected = [tokens.tolist()]
        for step in range(steps):
            left = [place for place, token in enumerate(tokens.tolist()) if token == MASK]
            if not left:
                break
            with torch.inference_mode():
                logits = model(Padded(tokens[None], torch.tensor([len(tokens)])), memory)[0]
            log_probs = logits.log_softmax(-1)
            count = len(left) if step == steps - 1 else max(undecided // steps, 1)
            for place in sorted(left, key=lambda place: -float(log_probs[place].max()))[:count]:
                tokens[place] = log_probs[place].argmax()
                scores[place] = float(log_probs[place].max())
            expected.append(tokens.tolist())
        assert [list(moment.tokens) for moment in found.trace] == expected
        # A score is the log-probability of its token when it was last written.
        assert found.scores == pytest.approx(scores, abs=1e-4)
        assert found.steps == len(expected) - 1
        assert found.steps == (0 if not undecided else min(steps, undecided))


def test_what_is_decided_stands() -> None:
    model, source = decoder(), encoded([30, 25])
    for found in decode(model, source, DecodeOptions(steps=4, threshold=0.9, trace=True)):
        for before, after in zip(found.trace, found.trace[1:], strict=False):
            assert masks(after.tokens) < masks(before.tokens)
            kept = [place for place in range(len(before.tokens)) if before.tokens[place] != MASK]
            assert all(before.tokens[place] == after.tokens[place] for place in kept)
            assert all(before.scores[place] == after.scores[place] for place in kept)
        assert not masks(found.tokens)


def test_refine_mutates_nothing() -> None:
    model, source = decoder(), encoded([30, 25])
    memory = model.prepare(source)
    options = DecodeOptions(threshold=1.0)
    draft = model.draft(memory, options)
    tensors = [draft.tokens.data, draft.tokens.lengths, draft.scores, draft.owner, draft.undecided, *memory.keys]
    before = [x.clone() for x in tensors]
    after = model.refine(draft, memory, Round(0, 10), options)
    assert not torch.equal(after.tokens.data, draft.tokens.data)
    assert all(torch.equal(x, y) for x, y in zip(before, tensors, strict=True))


def test_an_all_masked_draft_knows_its_places() -> None:
    """Equal tokens without positions of their own would all get one and the same prediction."""
    model = decoder()
    tokens = Padded(torch.full((1, 6), MASK), torch.tensor([6]))
    with torch.inference_mode():
        logits = model(tokens, model.prepare(encoded([FRAMES])))[0]
    assert all((logits[one] - logits[other]).abs().max() > 0.1 for one in range(6) for other in range(one))


def test_cached_keys_and_values_equal_uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(), encoded([30, 18, 5])
    calls = []
    project = CrossAttention.project

    def counted(self: CrossAttention, states: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(states))
        return project(self, states)

    monkeypatch.setattr(CrossAttention, "project", counted)
    options = DecodeOptions(steps=5, threshold=1.0)
    found = decode(model, source, options)
    assert calls == [3] * model.config.depth  # once a layer, however many steps
    # The same, projected anew at every step for a memory that was never cut or kept.
    draft = model.draft(model.prepare(source), options)
    for index in range(5):
        draft = model.refine(draft, model.prepare(source), Round(index, 5), options)
    assert [h.tokens for h in found] == [tuple(row.tolist()) for row in draft.tokens.unpack()]


def test_brain_floats() -> None:
    model, source = decoder(), encoded([30, 18, 0])
    exact = decode(model, source, DecodeOptions(steps=3, threshold=0.8))
    half = source._replace(states=Padded(source.states.data.bfloat16(), source.states.lengths))
    rough = decode(model.bfloat16(), half, DecodeOptions(steps=3, threshold=0.8))
    assert [len(h.tokens) for h in rough] == [len(h.tokens) for h in exact]
    assert all(math.isfinite(score) and score <= 0 for h in rough for score in h.scores)
    same = [
        x == y for one, other in zip(rough, exact, strict=True) for x, y in zip(one.tokens, other.tokens, strict=True)
    ]
    assert sum(same) > 0.6 * len(same)


def test_a_whole_model_in_brain_floats() -> None:
    model = fakes.tiny_model().bfloat16()
    hypotheses = model.decode(fakes.noise([8000, 799, 0, 4000]), DecodeOptions(threshold=1.0))
    assert hypotheses[0].tokens
    assert hypotheses[2].tokens == ()


def in_time() -> Model:
    return fakes.tiny_model(decoder=replace(fakes.model_config().decoder, places="time"))  # type: ignore[call-arg]


def test_tokens_placed_in_time() -> None:
    """Each token stands at the frame where CTC heard it; in training, where its own CTC would put the target."""
    model = in_time()
    with torch.inference_mode():
        encoded = model.encode(fakes.noise([8000, 3000]))
        memory = model.decoder.prepare(encoded)
    assert memory.places is not None
    assert encoded.ctc is not None
    for row, frames in enumerate(encoded.ctc.unpack()):
        best = [BLANK, *frames.argmax(-1).tolist()]
        starts = [place - 1 for place in range(1, len(best)) if best[place] not in (BLANK, best[place - 1])]
        assert memory.places[row, : len(starts)].tolist() == starts
    assert memory.rows(torch.tensor([1])).places.tolist() == memory.places[1:].tolist()  # type: ignore[union-attr]
    draft = model.decoder.draft(memory, DecodeOptions(threshold=1.0))
    with torch.inference_mode():
        here = model.decoder(draft.tokens, memory)
        later = model.decoder(draft.tokens, memory._replace(places=memory.places + 3))
    assert (here - later).abs().max() > 1e-2
    loss = model.train()(fakes.batch())
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


def test_a_token_is_given_the_frame_at_its_place() -> None:
    """Another sound at a token's own frame changes what is heard there and nowhere else."""
    model = in_time()
    with torch.inference_mode():
        encoded = model.encode(fakes.noise([8000, 3000]))
        before = model.decoder.prepare(encoded)
        assert before.places is not None
        assert before.heard is not None
        changed = encoded.states.data.clone()
        changed[0, before.places[0, 1]] += 1
        after = model.decoder.prepare(encoded._replace(states=encoded.states._replace(data=changed)))
    assert after.heard is not None
    same = (before.heard == after.heard).all(-1)
    assert same[1].all()
    assert same[0].tolist() == [place != 1 for place in range(same.shape[1])]


@pytest.mark.parametrize(("share", "replaced"), [(0.0, 0), (1.0, 3)])
def test_visible_tokens_are_what_ctc_hears(share: float, replaced: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`errors` of them stand as the likeliest token at their place, the blank aside; what is asked for is the truth."""
    model = MaskCTC(
        MaskCTCConfig(depth=1, width=WIDTH, heads=2, feed_forward=32, places="time", errors=share), WIDTH, SIZE
    ).eval()
    logits = torch.zeros(1, FRAMES, SIZE)
    logits[..., BLANK] = 5.0  # what is said is never the best label, and 9 always the second
    logits[..., 9] = 3.0
    ctc = Padded(logits.log_softmax(-1), torch.tensor([FRAMES]))
    source = encoded([FRAMES])._replace(ctc=ctc)
    target = Padded(torch.tensor([[6, 7, 8, 10]]), torch.tensor([4]))
    monkeypatch.setattr(mask_ctc, "mask_uniform", lambda _: torch.tensor([[False, True, False, False]]))
    seen = []
    states = model.states
    monkeypatch.setattr(model, "states", lambda tokens, memory: seen.append(tokens.data) or states(tokens, memory))
    loss = model.loss(source, Batch(("a",), target, target), TrainStep())
    assert seen[0].tolist() == [[9, MASK, 9, 9] if replaced else [6, MASK, 8, 10]]
    assert torch.isfinite(loss.total)


def test_errors_need_places_in_time() -> None:
    with pytest.raises(ConfigError, match="expected errors of 0 where places are numbers"):
        MaskCTCConfig(errors=0.2)
    with pytest.raises(ConfigError, match="expected errors between 0 and 1"):
        MaskCTCConfig(places="time", errors=1.5)


@pytest.mark.parametrize("options", [DecodeOptions(steps=3, threshold=1.0), DecodeOptions(threshold=0.7)])
def test_placed_in_time_batched_is_single(options: DecodeOptions) -> None:
    model, source = in_time(), fakes.noise([8000, 2100, 5003, 0, 150, 799])
    batched = model.decode(source, options)
    assert len({hypothesis.tokens for hypothesis in batched}) > 3
    for row, samples in enumerate(source.unpack()):
        longer = torch.cat([samples, 50 * torch.randn(777)])
        found = model.decode(Padded(longer[None], source.lengths[row : row + 1]), options)[0]
        assert found.tokens == batched[row].tokens
        assert found.scores == pytest.approx(batched[row].scores, abs=1e-4)


def test_loss_counts_masked_places_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(), encoded([30, 18])
    target = Padded(torch.tensor([[6, 7, 8, 9], [10, 11, PAD, PAD]]), torch.tensor([4, 2]))
    hidden = torch.tensor([[True, False, True, False], [False, True, False, False]])
    monkeypatch.setattr(mask_ctc, "mask_uniform", lambda _: hidden)
    loss = model.loss(source, Batch(("a", "b"), target, target), TrainStep())
    seen = Padded(torch.tensor([[MASK, 7, MASK, 9], [10, MASK, PAD, PAD]]), target.lengths)
    log_probs = model(seen, model.prepare(source)).log_softmax(-1)
    smoothing, allowed = model.config.label_smoothing, torch.tensor([5, *range(6, SIZE)])  # UNK and the letters
    expected = torch.zeros(())
    for row, place, token in ((0, 0, 6), (0, 2, 8), (1, 1, 11)):
        here = log_probs[row, place]
        expected -= (1 - smoothing) * here[token] + smoothing * here[allowed].mean()
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == 6
    assert loss.parts["masked"] == 3
    guesses = [int(log_probs[row, place].argmax()) == token for row, place, token in ((0, 0, 6), (0, 2, 8), (1, 1, 11))]
    assert loss.parts["masked_correct"] == sum(guesses)


def test_masked_places_see_both_sides_and_the_sound() -> None:
    model, source = decoder(), encoded([30])
    tokens = torch.tensor([[6, MASK, 8]])
    with torch.inference_mode():
        memory = model.prepare(source)
        base = model(Padded(tokens, torch.tensor([3])), memory)[0, 1]
        for changed in ([[7, MASK, 8]], [[6, MASK, 9]]):
            assert (model(Padded(torch.tensor(changed), torch.tensor([3])), memory)[0, 1] - base).abs().max() > 1e-2
        louder = source._replace(states=Padded(2 * source.states.data, source.states.lengths))
        assert (model(Padded(tokens, torch.tensor([3])), model.prepare(louder))[0, 1] - base).abs().max() > 1e-2
        # Frames and tokens beyond a row's length are not seen.
        noisy = source.states.data.clone()
        shorter = Encoded(Padded(noisy, torch.tensor([20])), source.inputs, ctc=source.ctc)
        seen = model(Padded(tokens, torch.tensor([2])), model.prepare(shorter))[0, 1]
        noisy[:, 20:] = 99.0
        again = model(Padded(torch.tensor([[6, MASK, 11]]), torch.tensor([2])), model.prepare(shorter))[0, 1]
        torch.testing.assert_close(seen, again)


def test_settled_rows_hold_no_mask() -> None:
    tokens = Padded(torch.tensor([[6, MASK], [6, 7], [PAD, PAD]]), torch.tensor([2, 2, 0]))
    rows = torch.arange(3)
    draft = Draft(tokens, torch.zeros(3, 2), rows, torch.tensor([1, 0, 0]))
    assert decoder().settled(draft).tolist() == [False, True, True]


@pytest.mark.parametrize("settings", [{"steps": -1}, {"threshold": 1.01}, {"threshold": -0.1}, {"threshold": math.nan}])
def test_options_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected .* received .*: .*"):
        DecodeOptions(**settings)  # type: ignore[arg-type]


def test_memory_rows() -> None:
    model = decoder()
    memory = model.prepare(encoded([30, 18, 5]))
    some = memory.rows(torch.tensor([2, 0]))
    assert isinstance(some, Memory)
    assert some.ctc is not None
    assert some.ctc.lengths.tolist() == [5, 30]
    assert all(torch.equal(few, all_[[2, 0]]) for few, all_ in zip(some.keys, memory.keys, strict=True))
    assert all(torch.equal(few, all_[[2, 0]]) for few, all_ in zip(some.values, memory.values, strict=True))
    assert F.log_softmax(some.ctc.data, -1).allclose(some.ctc.data, atol=1e-4)


class Table(Window):
    """A scorer by the two tokens before."""

    context = 2

    def __init__(self) -> None:
        self.values = torch.randn(SIZE, SIZE, SIZE)

    def __call__(self, context: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return self.values[context[:, :1], context[:, 1:], candidates]


def test_a_scorer_joins_the_fill_beside_decided_neighbours() -> None:
    scorer, lengths = Table(), [6, 3, 1]
    tokens = torch.randint(6, SIZE, (3, 6))
    tokens[0, [1, 2, 4]] = MASK
    tokens[1:, 0] = MASK
    log_probs = torch.randn(3, 6, SIZE).log_softmax(-1)
    confidence, best = fused(log_probs, Padded(tokens, torch.tensor(lengths)), scorer)
    for row, length in enumerate(lengths):
        before = [BOS, BOS, *tokens[row, :length].tolist(), EOS]
        for place in range(length):
            first, left, right = before[place], before[place + 1], before[place + 3]
            values, choice = log_probs[row, place].topk(min(CHOICE, SIZE))
            bonus = torch.zeros(len(choice))
            if left != MASK:
                bonus += scorer.values[first, left, choice]
            if right != MASK:
                bonus += scorer.values[left, choice, right]
            expected = (values + bonus).log_softmax(-1) + values.logsumexp(-1)
            assert best[row, place] == choice[expected.argmax()]
            assert confidence[row, place].item() == pytest.approx(expected.max().item(), abs=1e-5)
            assert confidence[row, place] < 0


def test_a_scorer_changes_what_is_masked_alone() -> None:
    model, source, options = decoder(), encoded([30, 12, 0]), DecodeOptions(steps=4, threshold=0.9, trace=True)
    plain, helped = decode(model, source, options), decode(model, source, options, fakes.Favourite(7, 50.0))
    for one, other in zip(plain, helped, strict=True):
        assert one.trace[:1] == other.trace[:1]
        hidden = masks(one.trace[0].tokens) if one.trace else set()
        assert not hidden or other.tokens.count(7) > one.tokens.count(7)  # wherever it was among the likeliest
        assert all(one.tokens[place] == other.tokens[place] for place in {*range(len(one.tokens))} - hidden)
