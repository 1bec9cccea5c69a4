"""DA-Transformer: the graph it draws, what training reveals, and how a graph is read."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from narspeech.batch import Batch, Encoded, Padded, TrainStep
from narspeech.decoders import dag
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.dag import DAG, DAGConfig
from narspeech.errors import ConfigError
from narspeech.ops.chosen import Chosen
from narspeech.ops.dag import fuzzy_match
from narspeech.ops.ends import with_ends
from narspeech.refine import decode
from narspeech.result import Hypothesis
from narspeech.tokenizer import BOS, EOS, MASK, PAD
from tests import fakes
from tests.ops.test_dag import enumerated, paths, value

SIZE, WIDTH = 12, 16


def decoder(**settings: object) -> DAG:
    config = DAGConfig(depth=2, width=WIDTH, heads=2, feed_forward=32, dropout=0.0)
    model = DAG(replace(config, **settings), WIDTH, SIZE).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        model.tokens.embedding.weight.mul_(3)  # confident, and of many minds
    return model


def encoded(lengths: list[int], size: int = 0) -> Encoded:
    frames = torch.tensor(lengths)
    states = Padded(torch.randn(len(lengths), size or max(lengths), WIDTH), frames)
    return Encoded(states, states)


def packed(*rows: list[int]) -> Padded:
    return Padded.pack([torch.tensor(row, dtype=torch.long) for row in rows], PAD)


def batch(target: Padded) -> Batch:
    return Batch(tuple(map(str, range(len(target.lengths)))), target, target)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 8, 1.1, 3.7])
def test_vertices(ratio: float) -> None:
    """The ratio's share of the states, rounded up, between a first and a last vertex, whatever the padding."""
    model = decoder(graph_ratio=ratio)
    lengths = [10, 3, 0, 1, 7]
    for size in (10, 13):
        found = model.vertices(encoded(lengths, size).states)
        for row, length in zip(found.unpack(), lengths, strict=True):
            assert row.tolist() == [BOS, *[MASK] * math.ceil(length * ratio), EOS]
        assert (found.data[~found.mask] == PAD).all()


@pytest.mark.parametrize("ratio", [1.0, 0.5, 3.0, 1.1])
def test_a_vertex_begins_with_the_state_at_its_share_of_the_way(ratio: float) -> None:
    model, source = decoder(graph_ratio=ratio), encoded([10, 4])
    before = model.prepare(source).heard
    assert before is not None
    for frame in range(10):
        states = source.states.data.clone()
        states[:, frame] += 1
        after = model.prepare(source._replace(states=source.states._replace(data=states))).heard
        assert after is not None
        for row, length in enumerate([10, 4]):
            last = math.ceil(length * ratio) + 1
            share = [0, *(int((vertex - 1) / ratio + 1e-9) for vertex in range(1, last)), length - 1]
            changed = (before != after)[row].any(-1)[: last + 1].tolist()
            assert changed == [min(place, length - 1) == frame for place in share]
    assert decoder(copy=False).prepare(source).heard is None


def test_links_lead_to_later_real_vertices() -> None:
    model, source = decoder(graph_ratio=2), encoded([6, 2, 0])
    with torch.inference_mode():
        memory = model.prepare(source)
        _, links, lengths = model(model.vertices(memory.states), memory)
    assert lengths.tolist() == [14, 6, 2]
    place = torch.arange(14)
    allowed = (place > place[:, None]) & (place < lengths[:, None, None])
    assert torch.equal(links > -float("inf"), allowed)
    sums = links.exp().sum(-1)
    assert torch.allclose(sums, allowed.any(-1).float())
    assert (sums[0, 13], sums[1, 5], sums[2, 1]) == (0, 0, 0)


def test_loss_is_the_sum_over_all_paths() -> None:
    """In evaluation nothing is revealed: the likelihood of BOS target EOS over the graph that decoding reads."""
    model, source = decoder(), encoded([6, 4, 0, 2])
    target = packed([6, 7, 7], [8], [], [6, 7, 8])
    loss = model.loss(source, batch(target), TrainStep())
    memory = model.prepare(source)
    states, links, lengths = model(model.vertices(memory.states), memory)
    log_probs, expected = model.tokens(states).log_softmax(-1), torch.zeros(())
    for row, (tokens, length) in enumerate(zip(target.unpack()[:3], lengths.tolist(), strict=False)):
        match = torch.zeros(len(tokens) + 2, length)
        match[1:-1] = log_probs[row, :length, tokens].T
        expected = expected + enumerated(match, links[row], len(match), length)
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == 7
    assert loss.parts["infeasible"] == 1  # three tokens, and two vertices between the ends
    assert loss.parts["glanced"] == 0
    scores = model.score(target, memory)
    torch.testing.assert_close(-scores[:3].sum(), expected)
    assert scores[3] == -float("inf")


def test_fuzzy_fine_tuning() -> None:
    """The share of the likelihood, and of what the tokens' fuzzy match of 2-grams lacks; it can be learnt by."""
    source, target = encoded([6, 4, 0, 1]), batch(packed([6, 7, 7], [8], [], [6, 9]))
    model = decoder()
    memory = model.prepare(source)
    graph = model(model.vertices(memory.states), memory)
    ends = with_ends(target.target)
    assert [row.tolist() for row in ends.unpack()] == [[BOS, 6, 7, 7, EOS], [BOS, 8, EOS], [BOS, EOS], [BOS, 6, 9, EOS]]
    matched = fuzzy_match(model.match(graph.states, target.target), graph.links, ends, graph.lengths)
    assert ((matched > 0) & (matched < 1))[[0, 1]].all()
    assert matched[2] == 1  # of nothing, nothing is missed
    likelihood = model.loss(source, target, TrainStep()).total
    model.config = replace(model.config, fuzzy=0.3)
    mixed = model.loss(source, target, TrainStep()).total
    torch.testing.assert_close(mixed, 0.7 * likelihood + 0.3 * (torch.tensor([3, 1, 0, 2]) * (1 - matched)).sum())
    model.config = replace(model.config, fuzzy=1.0)
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-2)
    losses = []
    for _ in range(25):
        loss = model.loss(source, target, TrainStep(progress=1.0)).total
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_the_models_ctc_counts_under_its_own_name() -> None:
    model, source = decoder(), encoded([6, 1])
    ctc = Padded(torch.zeros(2, 6, SIZE), source.states.lengths)
    loss = model.loss(source._replace(ctc=ctc), batch(packed([6], [6, 6])), TrainStep())
    assert loss.parts.keys() == {"glanced", "graph_infeasible"}
    assert loss.parts["graph_infeasible"] == 1


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.5), (0.5, 0.3), (1.0, 0.1)])
def test_glancing(progress: float, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the errors on the best path, as many tokens, which then stand where the best path has them."""
    model, source = decoder(graph_ratio=1.5).train(), encoded([8, 8, 8, 2])
    target = packed([6, 7, 8, 9, 10, 11, 6, 7, 8, 9], [7, 9], [], [6, 6, 6, 6])
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda tokens, memory: seen.append(tokens) or forward(tokens, memory))
    loss = model.loss(source, batch(target), TrainStep(progress=progress))
    assert len(seen) == 2
    memory = model.prepare(source)
    vertices = model.vertices(memory.states)
    assert torch.equal(seen[0].data, vertices.data)
    assert torch.equal(seen[0].lengths, vertices.lengths)
    with torch.no_grad():
        states, links, lengths = forward(vertices, memory)
    revealed, best_paths = 0, []
    for row, tokens in enumerate(target.unpack()[:3]):
        match = model.match(states[row : row + 1], packed(tokens.tolist()))[0].detach()
        length = int(lengths[row])
        best = max(paths(len(match), length), key=lambda path: float(value(path, match, links[row])))
        best_paths.append(best)
        place = torch.tensor(best[1:-1], dtype=torch.long)
        wrong = int((model.tokens(states[row, place]).argmax(-1) != tokens).sum())
        given = seen[1].data[row] != vertices.data[row]
        assert given.sum() == math.floor(share * wrong)
        assert set(given.nonzero()[:, 0].tolist()) <= set(place.tolist())
        shown = given[place]
        assert torch.equal(seen[1].data[row, place][shown], tokens[shown])
        revealed += int(given.sum())
    assert torch.equal(seen[1].data[3], vertices.data[3])  # a target that does not fit shows nothing
    assert loss.parts["glanced"] == revealed
    assert revealed > 0 or progress == 1
    # The loss is that of the whole target in the second pass, in which a vertex says what it was given for certain.
    states, links, lengths = forward(seen[1], memory)
    given, expected = seen[1].data != vertices.data, torch.zeros(())
    for row, tokens in enumerate(target.unpack()[:3]):
        match = model.match(states[row : row + 1], packed(tokens.tolist()))[0].clone()
        for place in given[row].nonzero()[:, 0].tolist():
            match[:, place] = -float("inf")
            match[best_paths[row].index(place), place] = 0
        expected = expected + enumerated(match, links[row], len(match), int(lengths[row]))
    torch.testing.assert_close(loss.total, expected)


def test_a_vertex_does_not_learn_to_copy_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(graph_ratio=1.5, glance=(1.0, 1.0)).train(), encoded([8, 8])
    said, seen = [], []
    forward, log_probs = model.forward, model.tokens.log_probs

    def recorded(states: Tensor, tokens: Tensor) -> Chosen:
        found = log_probs(states, tokens)
        said.append(found.log_probs)
        if said[-1].requires_grad:
            said[-1].retain_grad()
        return found

    monkeypatch.setattr(model, "forward", lambda tokens, memory: seen.append(tokens) or forward(tokens, memory))
    monkeypatch.setattr(model.tokens, "log_probs", recorded)
    model.loss(source, batch(packed([6, 7, 8, 9], [7, 9])), TrainStep()).total.backward()  # type: ignore[no-untyped-call]
    given = seen[1].data != seen[0].data
    gradient = said[1].grad
    assert gradient is not None
    assert given.any()
    assert gradient[given].eq(0).all()
    assert gradient[seen[1].data == MASK].any()


def test_both_passes_drop_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = decoder(glance=(0.0, 0.0)).train(), encoded([8, 5])
    model.dropout.p = 0.5
    graphs = []
    forward = model.forward

    def recorded(tokens: Padded, memory: dag.Memory) -> dag.Graph:
        graphs.append(forward(tokens, memory))
        return graphs[-1]

    monkeypatch.setattr(model, "forward", recorded)
    model.loss(source, batch(packed([6, 7], [8])), TrainStep())
    assert torch.equal(graphs[0].states, graphs[1].states)
    assert not graphs[0].states.requires_grad
    assert graphs[1].states.requires_grad
    model.loss(source, batch(packed([6, 7], [8])), TrainStep())
    assert not torch.equal(graphs[1].states, graphs[2].states)


def read(model: DAG, source: Encoded, decoding: str, **options: int) -> list[Hypothesis]:
    model.config = replace(model.config, decoding=decoding)  # type: ignore[arg-type]
    return decode(model, source, DecodeOptions(**options))  # type: ignore[arg-type]


def test_every_way_to_read_a_graph() -> None:
    """Greedy and lookahead step by step, Viterbi by the best of all paths, the beam by the likelihood of its texts."""
    model, source = decoder(length_penalty=0.0), encoded([8, 3, 0, 6])
    found = {name: read(model, source, name) for name in ("greedy", "lookahead", "viterbi", "beam")}
    found["wide"] = read(model, source, "lookahead", beam=20)
    assert len({tuple(h.tokens for h in hypotheses) for hypotheses in found.values()}) > 2
    with torch.inference_mode():
        memory = model.prepare(source)
        states, links, lengths = model(model.vertices(memory.states), memory)
        emissions, tokens = model.tokens(states).log_softmax(-1).max(-1)
        emissions[torch.arange(4), lengths - 1] = 0
    for row, length in enumerate(lengths.tolist()):
        match = emissions[row].expand(length, -1).clone()
        match[:, 0] = 0
        every = [path for count in range(2, length + 1) for path in paths(count, length)]
        expected = {"viterbi": max(every, key=lambda path: float(value(path, match, links[row])))}
        for name, beta in (("greedy", 0), ("lookahead", 1)):
            path = [0]
            while path[-1] < length - 1:
                path.append(int((links[row, path[-1]] + beta * emissions[row]).argmax()))
            expected[name] = tuple(path)
        for name, path in expected.items():
            assert found[name][row].tokens == tuple(tokens[row, path[1:-1]].tolist())
            scores = [float(links[row, v, u] + emissions[row, u]) for v, u in pairwise(path[:-1])]
            assert found[name][row].scores == pytest.approx(scores, abs=1e-5)
        with torch.inference_mode():
            texts = packed(*([*h[row].tokens] for h in found.values()))
            likely = model.score(texts, memory.rows(torch.full((5,), row)))
        assert likely[-1] >= likely.max() - 1e-4  # the wide beam's
    assert all(hypotheses[2].tokens == () for hypotheses in found.values())


def test_a_beam_gives_alternatives_in_their_order() -> None:
    model, source = decoder(), encoded([8, 0, 5])
    found = read(model, source, "beam", beam=4)
    assert [len(h.alternatives) for h in found] == [3, 0, 3]  # of nothing there is one reading
    memory = model.prepare(source)
    for row, hypothesis in enumerate(found):
        ordered = [hypothesis, *hypothesis.alternatives]
        assert len({h.tokens for h in ordered}) == len(ordered)
        texts = packed(*([*h.tokens] for h in ordered))
        with torch.inference_mode():
            total = model.score(texts, memory.rows(torch.full((len(ordered),), row))) / (texts.lengths + 1)
        assert total.tolist() == pytest.approx(sorted(total.tolist(), reverse=True), abs=1e-5)


def test_the_scorer_of_a_beam() -> None:
    model, source = decoder(), encoded([8, 5])
    plain = read(model, source, "beam", beam=4)
    hotter = decode(model, source, DecodeOptions(beam=4), fakes.Favourite(7, 8.0))
    assert all(h.tokens.count(7) > len(h.tokens) / 2 for h in hotter)
    assert any(h.tokens.count(7) < len(h.tokens) / 2 for h in plain)


@pytest.mark.parametrize("decoding", ["greedy", "lookahead", "viterbi", "beam"])
@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_batched_is_single_whatever_the_padding(decoding: str, ratio: float) -> None:
    model, source = decoder(graph_ratio=ratio), encoded([12, 3, 0, 1, 9])
    batched = read(model, source, decoding, beam=3 if decoding == "beam" else 1)
    assert len({h.tokens for h in batched}) > 3
    for row, states in enumerate(source.states.unpack()):
        for room in (0, 5):
            data = torch.cat([states, 50 * torch.randn(room, WIDTH)])[None]
            alone = Padded(data, torch.tensor([len(states)]))
            (found,) = read(model, Encoded(alone, alone), decoding, beam=3 if decoding == "beam" else 1)
            for one, other in zip(
                (found, *found.alternatives), (batched[row], *batched[row].alternatives), strict=True
            ):
                assert one.tokens == other.tokens
                assert one.scores == pytest.approx(other.scores, abs=1e-4)


@pytest.mark.parametrize("decoding", ["greedy", "lookahead", "viterbi", "beam"])
def test_only_what_means_something_comes_out(decoding: str) -> None:
    model = decoder()
    with torch.no_grad():
        model.tokens.bias[:5] += 50
    for hypothesis in read(model, encoded([12, 9, 0]), decoding):
        assert set(hypothesis.tokens) <= set(range(5, SIZE))


def test_brain_floats() -> None:
    """The graph is as exact as its states; sums and searches are float32."""
    model, source = decoder(), encoded([12, 9, 0])
    target = batch(packed([6, 7, 8], [9], []))
    exact, plain = read(model, source, "lookahead"), model.loss(source, target, TrainStep())
    half = source._replace(states=Padded(source.states.data.bfloat16(), source.states.lengths))
    rough, loss = read(model.bfloat16(), half, "lookahead"), model.loss(half, target, TrainStep())
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(plain.total.item(), rel=0.05)
    assert rough[2].tokens == ()
    assert all(math.isfinite(score) for h in rough for score in h.scores)
    assert abs(sum(len(h.tokens) for h in rough) - sum(len(h.tokens) for h in exact)) < 5


def test_no_state_at_all() -> None:
    model, source = decoder(), encoded([0, 0], 0)
    assert source.states.data.shape == (2, 0, WIDTH)
    assert [h.tokens for h in read(model, source, "lookahead")] == [(), ()]
    loss = model.train().loss(source, batch(packed([], [6])), TrainStep())
    assert loss.total == 0
    assert loss.parts["infeasible"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"graph_ratio": 0.0}, "graph_ratio above 0"),
        ({"glance": (0.5, 1.5)}, "glance between 0 and 1"),
        ({"fuzzy": 2.0}, "fuzzy between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DAGConfig(**settings)  # type: ignore[arg-type]


def test_learns_without_copies_from_several_vertices_a_state() -> None:
    """As published: text, vertices that begin with their number alone, no CTC head."""
    config = fakes.model_config("dag", "text", ctc=None)
    encoder = replace(config.encoder, upsample=1)  # type: ignore[call-arg]
    settings = replace(config.decoder, graph_ratio=3, copy=False)  # type: ignore[call-arg]
    model = fakes.tiny_model("dag", "text", ctc=None, encoder=encoder, decoder=settings)
    data = fakes.batch(fakes.SENTENCES[:3], "text")
    losses = fakes.train(model, data, updates=80)
    assert losses[-1] < 0.2 * losses[0]
    for decoding in ("greedy", "lookahead", "viterbi", "beam"):
        found = read(model.decoder, model.encode(data.source), decoding, beam=3 if decoding == "beam" else 1)  # type: ignore[arg-type]
        assert [model.tokenizer.decode(hypothesis.tokens) for hypothesis in found] == list(data.ids)
