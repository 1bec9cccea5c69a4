"""The Levenshtein Transformer: its refinement step and its loss against plain loops over one row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from narspeech.batch import Batch, Encoded, Padded, Round, TrainStep
from narspeech.decoders import levenshtein
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.ctc import CTCDecoder
from narspeech.decoders.levenshtein import FLOOR, Levenshtein, LevenshteinConfig
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.refine import decode
from narspeech.tokenizer import BOS, MASK, NUM_SPECIAL, PAD
from tests import fakes

SIZE, WIDTH, FRAMES = 20, 16, 12


def decoder(**settings: Any) -> Levenshtein:
    """Random policies that delete now and then and insert up to three tokens a gap."""
    config = LevenshteinConfig(depth=2, width=WIDTH, heads=2, feed_forward=32, dropout=0.0, **settings)
    model = Levenshtein(config, WIDTH, SIZE).eval()
    with torch.no_grad():
        model.tokens.embedding.weight.mul_(2)
        model.deletion.weight.mul_(4)
        model.insertion.weight.mul_(4)
        model.insertion.bias.fill_(-99.0)
        model.insertion.bias[:4] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    return model


def encoded(lengths: list[int]) -> Encoded:
    frames = torch.tensor(lengths)
    states = Padded(2 * torch.randn(len(lengths), FRAMES, WIDTH), frames)
    logits = 3 * torch.randn(len(lengths), FRAMES, SIZE)
    logits[..., 1:5] = -1e4
    inputs = Padded(torch.zeros(len(lengths), FRAMES, 1), frames)
    return Encoded(states, inputs, ctc=Padded(logits.log_softmax(-1), frames))


def one(source: Encoded, row: int) -> Encoded:
    index = torch.tensor([row])
    assert source.ctc is not None
    return Encoded(source.states.rows(index), source.inputs.rows(index), ctc=source.ctc.rows(index))


def single(tokens: list[int]) -> Padded:
    return Padded(torch.tensor([tokens]).long(), torch.tensor([len(tokens)]))


def longest(frames: int, ratio: float) -> int:
    return max(FLOOR, math.floor(frames * ratio)) if frames else 0


def step(model: Levenshtein, source: Encoded, before: fakes.Moment) -> tuple[fakes.Moment, int, int]:
    """One refinement step of one row in plain Python, and how many tokens it deletes and inserts."""
    memory = model.prepare(source)
    with torch.inference_mode():
        doubts = model.delete_logits(single(before.tokens), memory)[0].tolist()
        left = [place for place, doubt in enumerate(doubts) if doubt <= 0]
        tokens, scores = [before.tokens[place] for place in left], [before.scores[place] for place in left]
        logits = model.insert_logits(single(tokens), memory)[0]
        logits[:, 0] -= model.config.zero_penalty
        room = longest(int(source.states.lengths), model.config.max_ratio) - len(tokens)
        opened, written = [], []
        for gap, count in enumerate(logits.argmax(-1).tolist()):
            count = max(0, min(count, room))
            room -= count
            opened += [MASK] * count + tokens[gap : gap + 1]
            written += [0.0] * count + scores[gap : gap + 1]
        log_probs = model.fill_logits(single(opened), memory)[0].log_softmax(-1)
    for place, token in enumerate(opened):
        if token == MASK:
            opened[place], written[place] = int(log_probs[place].argmax()), float(log_probs[place].max())
    return fakes.Moment(opened, written), len(doubts) - len(left), len(opened) - len(left)


@pytest.mark.parametrize("start", ["empty", "ctc"])
@pytest.mark.parametrize("settings", [{}, {"zero_penalty": 4.0, "max_ratio": 1.2}])
def test_refinement_against_a_plain_loop(start: str, settings: dict[str, float]) -> None:
    model, source = decoder(start=start, **settings), encoded([12, 7, 12, 0, 3, 12])
    options = DecodeOptions(steps=5, trace=True)
    heard = decode(CTCDecoder(), source, options)
    deleted, inserted = 0, 0
    for row, found in enumerate(decode(model, source, options)):
        first = fakes.Moment(list(heard[row].tokens), list(heard[row].scores)) if start == "ctc" else ([], [])
        shown = [fakes.Moment(*first)]
        for _ in range(options.steps):
            moment, fewer, more = step(model, one(source, row), shown[-1])
            deleted, inserted = deleted + fewer, inserted + more
            shown.append(moment)
            if moment.tokens == shown[-2].tokens:
                break
        assert [list(moment.tokens) for moment in found.trace] == [moment.tokens for moment in shown]
        for moment, expected in zip(found.trace, shown, strict=True):
            assert moment.scores == pytest.approx(expected.scores, abs=1e-4)
        assert found.tokens == found.trace[-1].tokens
        assert found.steps == len(shown) - 1
        assert row != 3 or not found.tokens
    assert deleted > 3
    assert inserted > 20


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_a_hypothesis_has_its_limit(ratio: float) -> None:
    model, frames = decoder(max_ratio=ratio), [12, 7, 0, 1]
    with torch.no_grad():
        model.insertion.bias[255] = 1e4
    for steps in (1, 4):
        found = decode(model, encoded(frames), DecodeOptions(steps=steps))
        assert [len(h.tokens) for h in found] == [longest(frame, ratio) for frame in frames]


def test_the_penalty_of_inserting_nothing() -> None:
    source, options = encoded([12, 5]), DecodeOptions(steps=5)
    idle, eager = decoder(), decoder(zero_penalty=1e4)
    with torch.no_grad():
        for model in (idle, eager):
            model.insertion.bias[0] = 1e3
            model.deletion.bias.fill_(-99.0)
    assert [(h.tokens, h.steps) for h in decode(idle, source, options)] == [((), 1)] * 2  # no change, no further step
    # Gaps that open at every step: from 1 one of 1, 2 or 3 tokens, then one more at least in each gap.
    assert all(len(h.tokens) == longest(f, 2.0) for h, f in zip(decode(eager, source, options), [12, 5], strict=True))


def test_without_steps() -> None:
    source = encoded([12, 7, 0])
    empty, ctc = decoder(), decoder(start="ctc")
    at_once = decode(empty, source, DecodeOptions(steps=0))
    assert [h.tokens for h in at_once] == [h.tokens for h in decode(empty, source, DecodeOptions(steps=1))]
    assert [h.steps for h in at_once] == [0, 0, 0]
    assert any(h.tokens for h in at_once)
    assert decode(ctc, source, DecodeOptions(steps=0)) == decode(CTCDecoder(), source, DecodeOptions())


def test_refine_mutates_nothing_and_its_padding_holds_no_mask() -> None:
    model, source = decoder(start="ctc", zero_penalty=9.0), encoded([12, 2, 0])
    memory = model.prepare(source)
    draft = model.draft(memory, DecodeOptions())
    tensors = [draft.tokens.data, draft.tokens.lengths, draft.scores, draft.owner, *memory.keys]
    before = [x.clone() for x in tensors]
    with torch.inference_mode():
        after = model.refine(draft, memory, Round(0, 10), DecodeOptions())
    assert all(torch.equal(x, y) for x, y in zip(before, tensors, strict=True))
    assert after.tokens.data.shape == after.scores.shape == (3, int(after.tokens.lengths.max()))
    assert after.tokens.lengths.tolist() != draft.tokens.lengths.tolist()
    assert torch.equal(after.tokens.data == PAD, ~after.tokens.mask)
    assert (after.tokens.data[after.tokens.mask] >= NUM_SPECIAL - 1).all()


def test_a_pass_that_has_nothing_to_do_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(), encoded([12, 7])
    with torch.no_grad():
        model.deletion.bias.fill_(-99.0)
        model.insertion.bias[0] = -99.0
        model.insertion.bias[1] = 99.0
    shown = spy(model, monkeypatch)
    decode(model, source, DecodeOptions(steps=1))
    assert [x.data.shape[1] for x in shown] == [0, 1]  # nothing to delete
    model.insertion.bias.data[0] = 999.0
    shown.clear()
    decode(model, source, DecodeOptions(steps=1))
    assert [x.data.shape[1] for x in shown] == [0]  # and nothing to fill


def table(source: list[int], target: list[int]) -> int:
    """The length of a longest common subsequence."""
    above = [0] * (len(target) + 1)
    for token in source:
        here = [0]
        for u, other in enumerate(target):
            here.append(above[u] + 1 if token == other else max(above[u + 1], here[-1]))
        above = here
    return above[-1]


def spy(model: Levenshtein, monkeypatch: pytest.MonkeyPatch) -> list[Padded]:
    """What the policies are shown, one after the other."""
    shown: list[Padded] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda tokens, memory: shown.append(tokens) or forward(tokens, memory))
    return shown


@pytest.mark.parametrize("start", ["empty", "ctc"])
@pytest.mark.parametrize("restart", [0.0, 1.0])
def test_loss_against_plain_loops(start: str, restart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(start=start, restart=restart), encoded([12, 6, 4])
    targets = [[6, 7, 7, 8, 9, 6], [10, 11, 12], []]
    shorter = [[6, 7, 9], [12], []]
    target = Padded.pack([torch.tensor(row).long() for row in targets], PAD)
    given = Padded.pack([torch.tensor(row).long() for row in shorter], PAD)
    monkeypatch.setattr(levenshtein, "dropped", lambda _: Padded(F.pad(given.data, (0, 3)), given.lengths))
    seen_by = spy(model, monkeypatch)
    loss = model.loss(source, Batch(("a", "b", "c"), target, target), TrainStep())
    heard = [list(h.tokens) for h in decode(CTCDecoder(), source, DecodeOptions())]
    begun = shorter if restart == 0 else heard if start == "ctc" else [[], [], []]
    shown = [[row.tolist() for row in tokens.unpack()] for tokens in seen_by]
    with torch.inference_mode():
        memory = model.prepare(source)
        counts = model.insert_logits(seen_by[0], memory).log_softmax(-1)
        fills = model.fill_logits(seen_by[1], memory).log_softmax(-1)
        doubts = model.delete_logits(seen_by[2], memory)
    expected = {"insertion": 0.0, "filling": 0.0, "deletion": 0.0}
    for row, truth in enumerate(targets):
        # Insertion sees what an expert's deletions leave of the beginning, and fills see the rest of the target hidden.
        standing, masked, filled = (rows[row] for rows in shown)
        assert standing == [token for token in masked if token != MASK]
        assert table(standing, begun[row]) == len(standing) == table(begun[row], truth)
        assert all(token in (MASK, true) for token, true in zip(masked, truth, strict=True))
        gaps = [0]
        for token in masked:
            gaps = [*gaps[:-1], gaps[-1] + 1] if token == MASK else [*gaps, 0]
        expected["insertion"] -= sum(float(counts[row, gap, count]) for gap, count in enumerate(gaps))
        smoothing, allowed = model.config.label_smoothing, torch.arange(NUM_SPECIAL - 1, SIZE)
        for place, token in enumerate(masked):
            if token == MASK:
                there = fills[row, place]
                expected["filling"] -= float((1 - smoothing) * there[truth[place]] + smoothing * there[allowed].mean())
        # Deletion sees what the model filled in, or the start that has something to delete.
        if restart == 1 and start == "ctc":
            assert filled == heard[row]
        else:
            assert all(hidden in (MASK, token) for hidden, token in zip(masked, filled, strict=True))
            assert all(token >= NUM_SPECIAL - 1 for token in filled)
        kept = levenshtein.common(single(filled), single(truth)).kept[0]
        assert int(kept.sum()) == table(filled, truth)
        here = doubts[row, : len(filled)]
        expected["deletion"] -= float(F.logsigmoid(torch.where(kept, -here, here)).sum())
    for name, value in expected.items():
        assert float(loss.parts[name]) == pytest.approx(value, abs=1e-3)
    assert float(loss.total.detach()) == pytest.approx(sum(expected.values()), abs=1e-3)
    assert loss.count == 9


def test_fills_are_sampled_from_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source, rows = decoder(restart=1.0), encoded([FRAMES]), 3000
    many = source._replace(states=source.states.repeat(rows), inputs=source.inputs.repeat(rows), ctc=None)
    target = Padded(torch.full((rows, 1), 7), torch.ones(rows).long())
    shown = spy(model, monkeypatch)
    model.loss(many, Batch(("a",) * rows, target, target), TrainStep())
    found = torch.bincount(shown[2].data.flatten(), minlength=SIZE) / rows
    with torch.inference_mode():
        expected = model.fill_logits(single([MASK]), model.prepare(source))[0, 0].softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.04)
    assert expected.max() < 0.9  # else there is nothing to sample


def test_dropped_targets() -> None:
    """Any number of tokens is dropped, none and all too, and the others stay in order."""
    target = Padded(torch.tensor([[6, 7, 8]] * 4000), torch.tensor([3] * 4000))
    found = levenshtein.dropped(target)
    share = torch.bincount(found.lengths, minlength=4) / 4000
    torch.testing.assert_close(share, torch.full((4,), 0.25), rtol=0, atol=0.04)
    assert all(row.tolist() == sorted(set(row.tolist())) for row in found.unpack())
    assert found.data[~found.mask].eq(PAD).all()


def from_ctc(seed: int = 0) -> Model:
    config = replace(fakes.model_config("levenshtein").decoder, start="ctc")  # type: ignore[call-arg]
    return fakes.tiny_model("levenshtein", decoder=config, seed=seed)


def test_from_ctc_batched_is_single() -> None:
    model, source = from_ctc(), fakes.noise([8000, 2100, 5003, 0, 150, 799])
    batched = model.decode(source)
    assert len({hypothesis.tokens for hypothesis in batched}) > 3
    assert batched[3].tokens == ()
    for row, samples in enumerate(source.unpack()):
        found = model.decode(Padded(samples[None], source.lengths[row : row + 1]))[0]
        assert found.tokens == batched[row].tokens
        assert found.scores == pytest.approx(batched[row].scores, abs=1e-4)


def test_from_ctc_every_parameter_learns() -> None:
    model = from_ctc().train()
    loss = model(fakes.batch())
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


def test_from_nothing_needs_no_head() -> None:
    model = fakes.tiny_model("levenshtein", "text", ctc=None)
    assert torch.isfinite(model(fakes.batch(side="text")).total)
    assert [bool(h.tokens) for h in model.decode(fakes.nonsense([7, 0, 3]))] == [True, False, True]


def test_brain_floats() -> None:
    model = fakes.tiny_model("levenshtein").bfloat16()
    found = model.decode(fakes.noise([8000, 799, 0, 4000]), DecodeOptions(steps=3))
    assert found[0].tokens
    assert found[2].tokens == ()
    assert all(math.isfinite(score) and score <= 0 for h in found for score in h.scores)
    assert not {MASK, PAD, BOS} & {token for h in found for token in h.tokens}


@pytest.mark.parametrize("settings", [{"restart": 1.1}, {"restart": math.nan}, {"max_ratio": 0.0}])
def test_the_config_is_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected .* received .*[:;] .*"):
        LevenshteinConfig(**settings)  # type: ignore[arg-type]
