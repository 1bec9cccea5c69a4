"""NAT: what is copied, what is revealed, what the layers in between predict, and how candidates come about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Batch, Draft, Encoded, Padded, TrainStep
from narspeech.decoders import nat
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.nat import FERTILITIES, NAT, NATConfig, gold_fertilities
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.nn.positions import sinusoids
from narspeech.refine import decode
from narspeech.tokenizer import PAD
from tests import fakes

SIZE, WIDTH = 20, 16
VARIANTS: list[dict[str, Any]] = [
    {"copy": "uniform", "dslp": True},
    {"copy": "fertility", "glancing": None},
    {"copy": "fertility", "dslp": True},
]


def decoder(**settings: Any) -> NAT:
    tiny: dict[str, Any] = {"depth": 2, "width": WIDTH, "heads": 2, "feed_forward": 32, "dropout": 0.0, "longest": 12}
    model = NAT(NATConfig(**(tiny | {"label_smoothing": 0.0} | settings)), WIDTH, SIZE).eval()
    with torch.no_grad():
        model.tokens.embedding.weight.mul_(3)  # confident, and of many minds
        if model.fertility is not None:
            model.fertility.weight.mul_(6)
    return model


def encoded(lengths: list[int]) -> Encoded:
    states = Padded(torch.randn(len(lengths), max(lengths), WIDTH), torch.tensor(lengths))
    return Encoded(states, states)


def batch(target: list[list[int]], guide: list[list[int]] | None = None) -> Batch:
    tokens, given = (
        None if rows is None else Padded.pack([torch.tensor(row).long() for row in rows], PAD)
        for rows in (target, guide)
    )
    assert tokens is not None
    return Batch(tuple(map(str, range(len(target)))), tokens, tokens, given)


def inputs(model: NAT, source: Encoded, copied: list[list[int]]) -> Padded:
    """Each row's states at the given places, projected."""
    pairs = zip(source.states.data, copied, strict=True)
    return Padded.pack([model.copy(states[places]) for states, places in pairs])


class TestLoss:
    def test_of_a_uniform_copy(self) -> None:
        model, source = decoder(glancing=None), encoded([6, 2, 4])
        loss = model.loss(source, batch([[6, 7, 8], [9, 10, 11, 12], []]), TrainStep())
        log_probs = model(inputs(model, source, [[0, 2, 4], [0, 1, 1, 1], []]), model.prepare(source)).log_softmax(-1)
        truth = [(0, 0, 6), (0, 1, 7), (0, 2, 8), (1, 0, 9), (1, 1, 10), (1, 2, 11), (1, 3, 12)]
        tokens = -sum(log_probs[place] for place in truth)
        assert model.length is not None
        length = model.length.loss(source.states, torch.tensor([3, 4, 0]))
        torch.testing.assert_close(loss.total, tokens + length)
        torch.testing.assert_close(loss.parts["length"], length.detach())
        assert loss.count == loss.parts["hidden"] == 7
        assert loss.parts["hidden_correct"] == sum(int(log_probs[r, u].argmax()) == token for r, u, token in truth)

    def test_of_given_fertilities(self) -> None:
        model, source = decoder(copy="fertility", glancing=None, length_weight=0.5), encoded([3, 2, 2])
        # The last guide does not sum to its target.
        given = batch([[6, 7, 8], [9, 10], [11, 12]], [[2, 0, 1], [0, 2], [1, 0]])
        loss = model.loss(source, given, TrainStep())
        log_probs = model(inputs(model, source, [[0, 0, 2], [1, 1], [0, 1]]), model.prepare(source)).log_softmax(-1)
        tokens = -sum(
            log_probs[row, place, token]
            for row, tokens in enumerate(given.target.unpack())
            for place, token in enumerate(tokens.tolist())
        )
        assert model.fertility is not None
        heads = model.fertility(source.states.data).log_softmax(-1)
        truth = [(0, 0, 2), (0, 1, 0), (0, 2, 1), (1, 0, 0), (1, 1, 2), (2, 0, 1), (2, 1, 1)]
        fertility = -sum(heads[place] for place in truth)
        torch.testing.assert_close(loss.total, tokens + 0.5 * fertility)
        assert loss.parts["guided"] == 2

    def test_large_fertilities_are_copied_but_learnt_as_the_largest_class(self) -> None:
        model, source = decoder(copy="fertility", glancing=None), encoded([2])
        loss = model.loss(source, batch([[6] * 61], [[60, 1]]), TrainStep())
        assert model.fertility is not None
        heads = model.fertility(source.states.data).log_softmax(-1)[0]
        torch.testing.assert_close(loss.parts["fertility"], -(heads[0, FERTILITIES - 1] + heads[1, 1]).detach())

    def test_glancing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The revealed places read their tokens' embeddings, and the others alone count."""
        model, source = decoder(), encoded([4, 4])
        given = batch([[6, 7, 8], [9, 10]])
        shown = torch.tensor([[False, True, False], [True, False, False]])
        ratios, guesses = [], []

        def glance(target: Padded, ratio: float, rehearse: Any) -> Tensor:
            assert torch.equal(target.data, given.target.data)
            ratios.append(ratio)
            guesses.append(rehearse())
            return shown

        monkeypatch.setattr(nat, "glance", glance)
        loss = model.loss(source, given, TrainStep(progress=0.25))
        copied, memory = inputs(model, source, [[0, 1, 3], [0, 2]]), model.prepare(source)
        assert ratios == [pytest.approx(0.45)]
        assert torch.equal(guesses[0][copied.mask], model(copied, memory).argmax(-1)[copied.mask])
        seen = copied.data.clone()
        seen[0, 1], seen[1, 0] = model.tokens.embed(torch.tensor([7, 9]))
        log_probs = model(Padded(seen, copied.lengths), memory).log_softmax(-1)
        expected = -(log_probs[0, 0, 6] + log_probs[0, 2, 8] + log_probs[1, 1, 10])
        torch.testing.assert_close(loss.total - loss.parts["length"], expected)
        assert (loss.parts["hidden"], loss.count) == (3, 5)

    def test_both_passes_drop_the_same(self) -> None:
        """With nothing to reveal, the second pass is the first again."""
        model, source = decoder(dropout=0.5, glancing=(0.0, 0.0), dslp=True, mixing=0.0).train(), encoded([4, 4])
        passes = []
        original = model.predictions

        def recorded(*arguments: Any) -> Any:
            for logits in original(*arguments):
                passes.append(logits.detach())
                yield logits

        model.predictions = recorded  # type: ignore[method-assign]
        model.loss(source, batch([[6, 7, 8], [9, 10]]), TrainStep())
        assert len(passes) == 4
        assert torch.equal(passes[0], passes[2])
        assert torch.equal(passes[1], passes[3])
        model.loss(source, batch([[6, 7, 8], [9, 10]]), TrainStep())
        assert not torch.equal(passes[3], passes[5])

    @pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
    def test_deep_supervision(self, monkeypatch: pytest.MonkeyPatch, mixing: float) -> None:
        """The mean of all layers; between them goes what one predicts, or what it should have and none is asked for."""
        model, source = decoder(depth=3, dslp=True, mixing=mixing, glancing=None).train(), encoded([4, 3])
        given = batch([[6, 7, 8], [9, 10]])
        copied, memory = inputs(model, source, [[0, 1, 3], [0, 2]]), model.prepare(source)
        draw = torch.tensor([[0.2, 0.7, 0.4], [0.9, 0.1, 0.3]])
        monkeypatch.setattr(torch, "rand", lambda *_, **__: draw)
        loss = model.loss(source, given, TrainStep())
        x = copied.data + sinusoids(torch.arange(3), WIDTH)
        total = torch.zeros(())
        for number, layer in enumerate(model.stack.layers):
            places = nat.rotary(3, WIDTH // 2, x.device)
            mask = copied.mask[:, None, None]
            x = layer(x, places, mask, memory.keys[number], memory.values[number], memory.mask)
            hidden = model.stack.norm(x)
            logits = F.linear(hidden, model.tokens.embedding.weight, model.tokens.bias) + model.tokens.forbidden
            right = logits.log_softmax(-1).gather(-1, given.target.data[..., None])[..., 0]
            total = total - right[given.target.mask & (draw >= mixing)].sum() / 3
            if number < 2:
                tokens = logits.argmax(-1).where(draw >= mixing, given.target.data)
                x = x + model.onward[number](torch.cat([hidden, model.tokens.embed(tokens)], -1))
        torch.testing.assert_close(loss.total - loss.parts["length"], total)

    def test_nothing_gold_reaches_decoding_with_deep_supervision(self) -> None:
        model, source = decoder(dslp=True), encoded([4])
        copied, memory = inputs(model, source, [[0, 1, 3]]), model.prepare(source)
        *_, last = model.predictions(copied, memory)
        assert torch.equal(model(copied, memory), last)
        first, _ = model.predictions(copied, memory)
        gold = first.argmax(-1)
        *_, same = model.predictions(copied, memory, gold, torch.ones(1, 3, dtype=torch.bool))
        assert torch.equal(same, last)
        *_, other = model.predictions(copied, memory, SIZE - 1 - gold, torch.ones(1, 3, dtype=torch.bool))
        assert (other - last).abs().max() > 1e-2


def test_gold_fertilities() -> None:
    states = Padded(torch.zeros(5, 4, 1), torch.tensor([4, 2, 4, 3, 0]))
    lengths = torch.tensor([3, 2, 3, 3, 0])
    guide = Padded(
        # fits; fits, with rubbish beyond; too few; of tokens of several states; nothing
        torch.tensor([[0, 2, 1, 0], [2, 0, 7, 7], [1, 1, 0, 0], [3, 0, 0, 0], [5, 5, 0, 0]]),
        torch.tensor([4, 2, 4, 1, 0]),
    )
    found, given = gold_fertilities(states, lengths, guide)
    assert given.tolist() == [True, True, False, False, True]
    assert found.tolist() == [[0, 2, 1, 0], [2, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    for width in (2, 6):  # of a batch that was packed otherwise
        other = Padded(F.pad(guide.data, (0, width - 4)), guide.lengths.clamp(max=width))
        assert gold_fertilities(states, lengths, other)[1].tolist() == [width == 6, True, False, False, True]
    negative = Padded(torch.tensor([[4, -1, 0, 0]]), torch.tensor([4]))
    assert not gold_fertilities(states.rows(torch.tensor([0])), lengths[:1], negative)[1].any()
    even, given = gold_fertilities(states, lengths, None)
    assert not given.any()
    assert torch.equal(even.sum(-1), lengths)


class TestDecoding:
    @pytest.mark.parametrize("copy", ["uniform", "fertility"])
    @pytest.mark.parametrize("candidates", [1, 4])
    def test_equals_one_row_at_a_time(self, copy: str, candidates: int) -> None:
        """Every candidate as a plain loop decodes it, ranked by the mean log-probability of its tokens."""
        model, source = decoder(copy=copy, dslp=True), encoded([9, 3, 6, 1])
        draft = model.draft(model.prepare(source), DecodeOptions(candidates=candidates))
        assert draft.owner.tolist() == [owner for owner in range(4) for _ in range(candidates)]
        found = decode(model, source, DecodeOptions(candidates=candidates))
        lengths = draft.tokens.lengths.view(4, candidates)
        distinct = set()
        for owner, hypothesis in enumerate(found):
            own = source.states.rows(torch.tensor([owner])).unpack()[0][None]
            alone = Encoded(*[Padded(own, torch.tensor([own.shape[1]]))] * 2)
            for candidate, places in enumerate(self.places(model, own, lengths[owner], candidates)):
                row = draft.rows(torch.tensor([owner * candidates + candidate]))
                (tokens,) = row.tokens.unpack()
                assert len(places) == len(tokens)
                if places:
                    logits = model(inputs(model, alone, [places]), model.prepare(alone))[0]
                    assert torch.equal(tokens, logits.argmax(-1))
                    best = logits.log_softmax(-1).max(-1).values
                    torch.testing.assert_close(row.scores[0, : len(tokens)], best)
                distinct.add(tuple(tokens.tolist()))
            ranked = [hypothesis, *hypothesis.alternatives]
            assert len(ranked) == candidates
            means = [sum(h.scores) / len(h.tokens) if h.tokens else -torch.inf for h in ranked]
            assert means == sorted(means, reverse=True)
        assert len(distinct) > 2 * candidates

    @staticmethod
    def places(model: NAT, states: Tensor, lengths: Tensor, candidates: int) -> list[list[int]]:
        """The states (1, T, D) that every candidate copies."""
        count = states.shape[1]
        if model.length is not None:
            likeliest = model.length(Padded(states, torch.tensor([count])))[0].argsort(descending=True)[:candidates]
            assert lengths.tolist() == (likeliest * (likeliest[0] > 0)).tolist()
            return [[min(int(u * count / n + 0.5), count - 1) for u in range(n)] for n in lengths.tolist()]
        assert model.fertility is not None
        probabilities = model.fertility(states)[0].softmax(-1)
        ends = (probabilities @ torch.arange(FERTILITIES).float()).cumsum(-1)
        rows = [[sum(i <= n - 0.5 for i in ends.tolist()) for n in range(1, int(ends[-1] + 0.5) + 1)]]
        draws = torch.rand(count, candidates - 1, generator=torch.Generator().manual_seed(0)).T
        for draw in draws:
            counts = [
                next(n for n, c in enumerate(p.cumsum(-1)) if c > u) for p, u in zip(probabilities, draw, strict=True)
            ]
            rows.append([place for place, number in enumerate(counts) for _ in range(number)])
        return [row[: model.config.longest] if rows[0] else [] for row in rows]

    def test_a_likely_silence_is_empty_and_an_unlikely_one_comes_last(self) -> None:
        model, source = decoder(), encoded([5, 5])
        assert model.length is not None
        log_probs = torch.full((2, 13), -9.0)
        log_probs[0, :3], log_probs[1, :3] = torch.tensor([-0.1, -1, -2]), torch.tensor([-1, -0.1, -2])
        model.length.forward = lambda _: log_probs  # type: ignore[method-assign]
        first, second = decode(model, source, DecodeOptions(candidates=3))
        assert [first.tokens, *(other.tokens for other in first.alternatives)] == [()] * 3
        assert sorted([len(second.tokens), len(second.alternatives[0].tokens)]) == [1, 2]
        assert second.alternatives[1].tokens == ()

    def test_no_more_than_the_longest(self) -> None:
        model, source = decoder(copy="fertility"), encoded([9])
        assert model.fertility is not None
        with torch.no_grad():
            model.fertility.bias[40] = 1e3
        (found,) = decode(model, source, DecodeOptions(candidates=3))
        assert [len(h.tokens) for h in (found, *found.alternatives)] == [12] * 3

    def test_an_empty_row_is_no_hypothesis(self) -> None:
        for copy in ("uniform", "fertility"):
            found = decode(decoder(copy=copy), encoded([4, 0]), DecodeOptions(candidates=3))
            assert [h.tokens for h in (found[1], *found[1].alternatives)] == [()] * 3

    def test_nothing_is_refined(self) -> None:
        model, source = decoder(), encoded([4, 3])
        assert [h.steps for h in decode(model, source, DecodeOptions(steps=9))] == [0, 0]
        draft = model.draft(model.prepare(source), DecodeOptions())
        assert isinstance(draft, Draft)
        assert model.settled(draft).all()
        assert not draft.undecided.any()


def model_of(settings: dict[str, Any], side: fakes.Side, **others: Any) -> Model:
    config = NATConfig(depth=2, width=16, heads=2, feed_forward=32, dropout=0.0, label_smoothing=0.0, **settings)
    return fakes.tiny_model("nat", side, decoder=config, **others)


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("side", ["speech", "text"])
class TestVariants:
    """The contract of the other variants; the table's test holds the published one to it."""

    def test_every_parameter_has_a_gradient(self, settings: dict[str, Any], side: str) -> None:
        model = model_of(settings, cast("fakes.Side", side)).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(fakes.batch(side=cast("fakes.Side", side)))
        loss.total.backward()
        bad = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert bad == []

    def test_batched_is_single_whatever_the_padding(self, settings: dict[str, Any], side: str) -> None:
        model = model_of(settings, cast("fakes.Side", side))
        source = fakes.noise([8000, 2100, 0, 799]) if side == "speech" else fakes.nonsense([12, 3, 0, 5])
        options = DecodeOptions(candidates=3)
        batched = model.decode(source, options)
        longer = Padded(torch.cat([source.data, source.data.flip(1)], 1), source.lengths)
        for row in range(4):
            (alone,) = model.decode(longer.rows(torch.tensor([row])), options)
            for found, expected in zip(
                (alone, *alone.alternatives), (batched[row], *batched[row].alternatives), strict=True
            ):
                assert found.tokens == expected.tokens
                assert found.scores == pytest.approx(expected.scores, abs=1e-4)

    def test_bfloat16(self, settings: dict[str, Any], side: str) -> None:
        model = model_of(settings, cast("fakes.Side", side)).bfloat16()
        loss = model(fakes.batch(side=cast("fakes.Side", side)))
        assert loss.total.isfinite()
        assert len(model.decode(fakes.batch(side=cast("fakes.Side", side)).source, DecodeOptions(candidates=2))) == 8


def test_fertilities_are_learnt() -> None:
    """In this language every a is said twice and no b is said at all; a guide tells which letter gave which."""
    config = replace(fakes.model_config(side="text").encoder, upsample=1)  # type: ignore[type-var]
    model = model_of({"copy": "fertility", "dslp": True}, "text", varied=False, ctc=None, encoder=config)
    data = fakes.batch(side="text")
    said = [text.replace("a", "aa").replace("b", "") for text in fakes.SENTENCES]
    counts = {"a": 2, "b": 0}
    guide = Padded.pack([torch.tensor([counts.get(letter, 1) for letter in text]) for text in fakes.SENTENCES])
    data = fakes.batch(said, "text")._replace(source=data.source, guide=guide)
    assert model(data).parts["guided"] == 8
    fakes.train(model, data, updates=100)
    assert [model.tokenizer.decode(hypothesis.tokens) for hypothesis in model.decode(data.source)] == said


@pytest.mark.parametrize("settings", [{"longest": 0}, {"mixing": 1.1}, {"glancing": (0.5, -0.1)}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected .* received .*"):
        NATConfig(**settings)
