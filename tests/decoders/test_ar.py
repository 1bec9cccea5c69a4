"""The autoregressive decoder: its cache against teacher forcing, its beam search against enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Batch, Encoded, Padded, TrainStep
from narspeech.decoders import ar
from narspeech.decoders.ar import AR, ARConfig
from narspeech.decoders.base import DecodeOptions, Memory
from narspeech.errors import ConfigError
from narspeech.nn.attention import Cache, CrossAttention
from narspeech.nn.positions import rotary, sinusoids
from narspeech.refine import decode
from narspeech.result import Hypothesis
from narspeech.tokenizer import BOS, EOS, PAD, UNK

SIZE, WIDTH = 12, 16


def decoder(seed: int = 0, size: int = SIZE, **settings: Any) -> AR:
    """Of many minds: what it says hangs on all that it hears and said."""
    torch.manual_seed(seed)
    config = ARConfig(**{"depth": 2, "width": WIDTH, "heads": 2, "feed_forward": 32, "dropout": 0.0, **settings})
    model = AR(config, WIDTH, size).eval()
    with torch.no_grad():
        for parameter in model.stack.layers.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.5)
    return model


def encoded(lengths: list[int], size: int | None = None, seed: int = 0) -> Encoded:
    """Random states, what lies beyond their lengths included."""
    torch.manual_seed(seed)
    size = max(lengths) if size is None else size
    frames = torch.tensor(lengths)
    states = 2 * torch.randn(len(lengths), size, WIDTH)
    return Encoded(Padded(states, frames), Padded(torch.zeros(len(lengths), size, 1), frames))


def targets(lengths: list[int], seed: int = 0) -> Padded:
    torch.manual_seed(seed)
    data = torch.randint(UNK, SIZE, (len(lengths), max(lengths)))
    padded = Padded(data, torch.tensor(lengths))
    return Padded(data.masked_fill(~padded.mask, PAD), padded.lengths)


def log_probs(model: AR, memory: Memory, tokens: tuple[int, ...]) -> Tensor:
    """(V,) of what follows the tokens, computed anew, for a memory of one row."""
    with torch.inference_mode():
        logits = model(Padded(torch.tensor([tokens]).long(), torch.tensor([len(tokens)])), memory)
        return logits[0, -1].log_softmax(-1)


def total(found: Hypothesis, model: AR, memory: Memory) -> float:
    """Log-probability with the end, one step after another."""
    steps = [float(log_probs(model, memory, found.tokens[:place])[t]) for place, t in enumerate((*found.tokens, EOS))]
    return sum(steps)


def test_teacher_forcing_equals_cached_steps() -> None:
    model, source, target = decoder(), encoded([9, 4, 0]), targets([6, 5, 3])
    memory = model.prepare(source)
    forced = model(target, memory)
    assert forced.shape == (3, 7, SIZE)
    caches = [Cache() for _ in memory.keys]
    tokens = F.pad(target.data, (1, 0), value=BOS)
    for place in range(7):
        x = model.tokens.embed(tokens[:, place : place + 1]) + sinusoids(torch.tensor([place]), WIDTH)
        angles = rotary(7, WIDTH // 2, x.device)[:, place : place + 1]
        seen = torch.ones(1, 1, 1, place + 1, dtype=torch.bool)
        x = model.stack(x, seen, memory.keys, memory.values, memory.mask, caches, angles)
        torch.testing.assert_close(model.tokens(x)[:, 0], forced[:, place], atol=1e-4, rtol=1e-4)


def test_no_token_sees_a_later_one() -> None:
    model, target = decoder(), targets([6])
    memory = model.prepare(encoded([9]))
    before = model(target, memory)
    for place in range(6):
        other = target.data.clone()
        other[0, place] = UNK if other[0, place] != UNK else UNK + 1
        after = model(target._replace(data=other), memory)
        assert torch.equal(after[:, : place + 1], before[:, : place + 1])
        assert ((after - before)[0, place + 1 :].abs().amax(-1) > 1e-3).all()


class TestLoss:
    def test_equals_a_plain_loop(self) -> None:
        model, source, target = decoder(label_smoothing=0.1), encoded([9, 4, 7]), targets([6, 0, 3])
        loss = model.loss(source, Batch(("", "", ""), source.inputs, target), TrainStep())
        wanted = correct = 0.0
        allowed = model.tokens.allowed
        assert int(allowed.sum()) == SIZE - 4
        for row, tokens in enumerate(target.unpack()):
            memory = model.prepare(source).rows(torch.tensor([row]))
            for place, truth in enumerate([*tokens.tolist(), EOS]):
                found = log_probs(model, memory, tuple(tokens[:place].tolist()))
                wanted -= 0.9 * float(found[truth]) + 0.1 * float(found[allowed].mean())
                correct += int(found.argmax()) == truth
        assert loss.total.item() == pytest.approx(wanted, rel=1e-5)
        assert loss.count == 9
        assert loss.parts == {"predicted": 12, "predicted_correct": correct}

    def test_padding_is_worth_nothing(self) -> None:
        model, source, target = decoder(), encoded([9, 4]), targets([5, 2])
        alone = []
        for row in torch.tensor([[0], [1]]):
            single = Encoded(source.states.rows(row), source.inputs.rows(row))
            alone.append(model.loss(single, Batch(("",), source.inputs, target.rows(row)), TrainStep()).total)
        together = model.loss(source, Batch(("", ""), source.inputs, target), TrainStep()).total
        torch.testing.assert_close(together, torch.stack(alone).sum())


class TestScore:
    def test_equals_the_sum_of_its_steps(self) -> None:
        model, source, target = decoder(), encoded([9, 4, 7, 0]), targets([6, 0, 3, 2])
        found = model.score(target, model.prepare(source))
        for row, tokens in enumerate(target.unpack()):
            memory = model.prepare(source).rows(torch.tensor([row]))
            given = Hypothesis(tokens=tuple(tokens.tolist()), scores=())
            assert found[row].item() == pytest.approx(total(given, model, memory), abs=1e-4)

    def test_of_what_was_found(self) -> None:
        """The rank of a hypothesis is its score over its length and end."""
        model, source = decoder(length_penalty=0.7), encoded([9, 4, 7])
        memory, options = model.prepare(source), DecodeOptions(beam=4)
        draft = model.draft(memory, options)
        whole = model.score(draft.tokens, memory.rows(draft.owner))
        wanted = whole / (draft.tokens.lengths + 1) ** 0.7
        torch.testing.assert_close(model.rank(draft, memory, options), wanted, atol=1e-4, rtol=1e-4)


def greedy(model: AR, memory: Memory, limit: int) -> tuple[list[int], list[float]]:
    tokens, scores = list[int](), list[float]()
    while len(tokens) < limit:
        score, token = log_probs(model, memory, tuple(tokens)).max(-1)
        if token == EOS:
            break
        tokens.append(int(token))
        scores.append(float(score))
    return tokens, scores


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model, source = decoder(seed), encoded([9, 4, 7, 0, 1, 12], seed=seed)
    limits = [23, 16, 20, 0, 11, 28]
    found = decode(model, source, DecodeOptions())
    assert len({hypothesis.tokens for hypothesis in found}) > 2
    for row, hypothesis in enumerate(found):
        memory = model.prepare(source).rows(torch.tensor([row]))
        tokens, scores = greedy(model, memory, limits[row])
        assert list(hypothesis.tokens) == tokens
        assert hypothesis.scores == pytest.approx(scores, abs=1e-4)
        assert hypothesis.alternatives == ()
        assert hypothesis.steps == 0


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_huge_beam_is_exhaustive(penalty: float) -> None:
    model = decoder(size=UNK + 2, length_penalty=penalty, max_ratio=0.5, max_extra=1)
    source = encoded([6, 4, 2, 0])  # texts of at most 4, 3, 2 and 0 of 2 tokens
    letters = range(UNK, UNK + 2)
    for row, (found, limit) in enumerate(
        zip(decode(model, source, DecodeOptions(beam=100)), (4, 3, 2, 0), strict=True)
    ):
        memory = model.prepare(source).rows(torch.tensor([row]))
        texts = [text for length in range(limit + 1) for text in itertools.product(letters, repeat=length)]
        several = memory.rows(torch.zeros(len(texts)).long())
        whole = model.score(Padded.pack([torch.tensor(text).long() for text in texts]), several).tolist()
        value = {text: score / (len(text) + 1) ** penalty for text, score in zip(texts, whole, strict=True)}
        rows = [found.tokens, *(other.tokens for other in found.alternatives)]
        assert rows == sorted(texts, key=lambda text: -value[text])


def naive_beam(model: AR, memory: Memory, beam: int, limit: int) -> list[tuple[int, ...]]:
    """The search in plain Python, without a cache."""
    penalty = model.config.length_penalty
    live, done = [((), 0.0)], list[tuple[tuple[int, ...], float]]()
    for place in range(limit + 1):
        ways = []
        for tokens, score in live:
            following = log_probs(model, memory, tokens)
            for token in range(EOS, SIZE):
                if token == EOS or place < limit:
                    ways.append(((*tokens, token), score + float(following[token])))
        ways.sort(key=lambda way: -way[1])
        done += [(way[:-1], score / (place + 1) ** penalty) for way, score in ways[:beam] if way[-1] == EOS]
        live = [way for way in ways if way[0][-1] != EOS][:beam]
        if len(done) >= beam:
            break
    return [tokens for tokens, _ in sorted(done, key=lambda way: -way[1])][:beam]


@pytest.mark.parametrize(("beam", "penalty"), [(2, 1.0), (3, 0.0), (5, 1.0), (5, 0.6)])
def test_the_search_equals_a_naive_one(beam: int, penalty: float) -> None:
    model = decoder(length_penalty=penalty, max_ratio=1.0, max_extra=2)
    lengths = [8, 3, 0, 5]
    source = encoded(lengths)
    for row, found in enumerate(decode(model, source, DecodeOptions(beam=beam))):
        memory = model.prepare(source).rows(torch.tensor([row]))
        wanted = naive_beam(model, memory, beam, lengths[row] + 2 if lengths[row] else 0)
        assert [found.tokens, *(other.tokens for other in found.alternatives)] == wanted


class TestAlternatives:
    def test_come_best_first_and_differ(self) -> None:
        model, source = decoder(), encoded([9, 4, 7])
        for row, found in enumerate(decode(model, source, DecodeOptions(beam=4))):
            memory = model.prepare(source).rows(torch.tensor([row]))
            rows = [found, *found.alternatives]
            assert len({hypothesis.tokens for hypothesis in rows}) == 4
            values = [total(hypothesis, model, memory) / (len(hypothesis.tokens) + 1) for hypothesis in rows]
            assert values == sorted(values, reverse=True)
            for hypothesis in rows:
                assert len(hypothesis.scores) == len(hypothesis.tokens)
                assert not {BOS, EOS, PAD} & set(hypothesis.tokens)

    def test_a_draft_is_in_the_order_of_the_rank(self) -> None:
        model, options = decoder(), DecodeOptions(beam=4)
        memory = model.prepare(encoded([9, 4, 7]))
        draft = model.draft(memory, options)
        assert draft.owner.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        for value in model.rank(draft, memory, options).split(4):
            assert value.tolist() == sorted(value.tolist(), reverse=True)
        assert model.settled(draft).all()

    def test_a_wider_beam_finds_better_texts(self) -> None:
        gains = []
        for seed in range(3):
            model, source = decoder(seed, length_penalty=0.0), encoded([9, 7], seed=seed)
            narrow, wide = (decode(model, source, DecodeOptions(beam=beam)) for beam in (1, 8))
            for row in range(2):
                memory = model.prepare(source).rows(torch.tensor([row]))
                gains.append(total(wide[row], model, memory) - total(narrow[row], model, memory))
        assert sum(gains) > 0.5
        assert sum(gain < -1e-4 for gain in gains) <= 1

    def test_nothing_heard_has_one_empty_text(self) -> None:
        model = decoder()
        for source in (encoded([0, 5]), encoded([0, 0]), encoded([0], size=3)):
            for beam in (1, 3):
                found = decode(model, source, DecodeOptions(beam=beam))[0]
                assert found == Hypothesis(tokens=(), scores=())

    def test_no_utterance(self) -> None:
        source = encoded([5]).states.rows(torch.zeros(0).long())
        assert decode(decoder(), Encoded(source, source), DecodeOptions(beam=3)) == []


@pytest.mark.parametrize("beam", [1, 4])
def test_batch_mates_and_padding_change_nothing(beam: int) -> None:
    lengths = [9, 0, 4, 14, 1, 7, 2, 9]
    model, source = decoder(), encoded(lengths)
    batched = decode(model, source, DecodeOptions(beam=beam))
    assert len({hypothesis.tokens for hypothesis in batched}) > 4
    assert len({len(hypothesis.tokens) for hypothesis in batched}) > 2  # utterances leave the batch at several places
    order = torch.tensor([3, 5, 0, 7, 1, 6, 2, 4])
    shuffled = decode(model, Encoded(source.states.rows(order), source.inputs.rows(order)), DecodeOptions(beam=beam))
    for row, length in enumerate(lengths):
        for room in (length, 30):
            states = Padded(F.pad(source.states.data[row : row + 1, :length], (0, 0, 0, room - length), value=7.0),
                            torch.tensor([length]))  # fmt: skip
            (alone,) = decode(model, Encoded(states, states), DecodeOptions(beam=beam))
            for found in (batched[row], shuffled[order.tolist().index(row)]):
                assert [found.tokens, *(other.tokens for other in found.alternatives)] == [
                    alone.tokens,
                    *(other.tokens for other in alone.alternatives),
                ]
                for one, other in zip((found, *found.alternatives), (alone, *alone.alternatives), strict=True):
                    assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_who_leaves_the_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(), encoded([9, 0, 4, 14, 1, 7, 2, 9])
    found = []
    for share in (0.0, 0.5, 1.0):
        monkeypatch.setattr(ar, "WORTH_LEAVING", share)
        found.append(decode(model, source, DecodeOptions(beam=3)))
    for row in range(8):
        first, *others = ([found[n][row], *found[n][row].alternatives] for n in range(3))
        assert all([h.tokens for h in other] == [h.tokens for h in first] for other in others)


def test_beams_share_the_memory_of_their_utterance(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(), encoded([9, 7])
    sizes, projections = set(), list[int]()
    forward, project = CrossAttention.forward, CrossAttention.project

    def looked(self: CrossAttention, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        sizes.add((len(keys), tuple(x.shape[:2])))
        return forward(self, x, keys, values, mask)

    def projected(self: CrossAttention, states: Tensor) -> tuple[Tensor, Tensor]:
        projections.append(len(states))
        return project(self, states)

    monkeypatch.setattr(CrossAttention, "forward", looked)
    monkeypatch.setattr(CrossAttention, "project", projected)
    decode(model, source, DecodeOptions(beam=5))
    assert projections == [2, 2]  # once a layer
    assert sizes <= {(2, (2, 5)), (1, (1, 5))}


def test_hypotheses_end_at_the_limit() -> None:
    model = decoder(max_ratio=0.5, max_extra=3)
    with torch.no_grad():
        model.tokens.bias[EOS] = -30  # never by itself
    found = decode(model, encoded([9, 4, 0, 1]), DecodeOptions(beam=3))
    assert [len(hypothesis.tokens) for hypothesis in found] == [7, 5, 0, 3]
    assert [len(hypothesis.alternatives) for hypothesis in found] == [2, 2, 0, 2]


def test_drafting_mutates_nothing() -> None:
    model = decoder()
    memory = model.prepare(encoded([9, 4]))
    before = [x.clone() for x in (*memory.keys, *memory.values, memory.mask, *memory.states)]
    first, second = (model.draft(memory, DecodeOptions(beam=3)) for _ in range(2))
    assert torch.equal(first.tokens.data, second.tokens.data)
    assert not first.scores.requires_grad
    after = (*memory.keys, *memory.values, memory.mask, *memory.states)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_brain_floats() -> None:
    model, source = decoder(), encoded([9, 4, 0, 7])
    exact = decode(model, source, DecodeOptions(beam=3))
    half = source._replace(states=Padded(source.states.data.bfloat16(), source.states.lengths))
    rough = decode(model.bfloat16(), half, DecodeOptions(beam=3))
    assert rough[2].tokens == ()
    for one, other in zip(rough, exact, strict=True):
        assert len(one.alternatives) == len(other.alternatives)
        assert all(math.isfinite(score) and score <= 0 for score in one.scores)
    assert sum(one.tokens[:2] == other.tokens[:2] for one, other in zip(rough, exact, strict=True)) > 2


@pytest.mark.parametrize("settings", [{"length_penalty": -1.0}, {"max_ratio": -0.5}, {"max_extra": -1}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected .* of 0 or more, received -"):
        ARConfig(**settings)
