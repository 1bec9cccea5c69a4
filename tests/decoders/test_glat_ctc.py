"""GLAT with CTC: what is revealed, and that one pass says it all."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from torch import Tensor

from narspeech.batch import Batch, Encoded, Padded, TrainStep
from narspeech.decoders.base import DecodeOptions, Memory
from narspeech.decoders.glat_ctc import GlatCTC, GlatCTCConfig
from narspeech.errors import ConfigError
from narspeech.ops.ctc import ctc_loss
from narspeech.ops.viterbi import forced_path
from narspeech.refine import decode
from narspeech.tokenizer import BLANK, MASK, PAD

SIZE, WIDTH, FRAMES = 20, 16, 30
LENGTHS = [FRAMES, 18, 0, 5]


def decoder(glance: tuple[float, float] = (0.5, 0.25), dropout: float = 0.0) -> GlatCTC:
    config = GlatCTCConfig(depth=1, width=WIDTH, heads=2, feed_forward=32, dropout=dropout, glance=glance)
    return GlatCTC(config, WIDTH, SIZE)


def encoded(lengths: list[int]) -> Encoded:
    states = Padded(torch.randn(len(lengths), FRAMES, WIDTH), torch.tensor(lengths))
    return Encoded(states, states)


def batch() -> Batch:
    """The last of four targets does not fit into 5 frames, and the third says nothing."""
    target = Padded.pack([torch.tensor(ids).long() for ids in ([6, 7, 7, 9], [10, 11], [], [8, 8, 8, 8])], PAD)
    return Batch(tuple("abcd"), target, target)


class Watched:
    """The passes of a decoder: the paths and states that go in, the logits that come out."""

    def __init__(self, network: GlatCTC, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[Tensor] = []
        self.heard: list[Tensor] = []
        self.logits: list[Tensor] = []
        read = network.states

        def watch(path: Padded, memory: Memory) -> Tensor:
            states = read(path, memory)
            assert memory.heard is not None
            self.paths.append(path.data)
            self.heard.append(memory.heard)
            self.logits.append(network.tokens(states))
            return states

        monkeypatch.setattr(network, "states", watch)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.5), (1.0, 0.25)])
def test_a_share_of_the_wrong_frames_is_revealed(
    progress: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, source, data = decoder(), encoded(LENGTHS), batch()
    watched = Watched(network, monkeypatch)
    loss = network.loss(source, data, TrainStep(progress=progress))
    (blind, glanced), real = watched.paths, source.states.mask
    assert torch.equal(blind == MASK, real)
    assert not watched.logits[0].requires_grad
    first = Padded(watched.logits[0].log_softmax(-1), source.states.lengths)
    truth, fits = forced_path(first, data.target)
    revealed = (glanced != MASK) & real
    for row, length in enumerate(LENGTHS):
        wrong = sum(first.data[row, t].argmax() != truth[row, t] for t in range(length))
        assert revealed[row].sum() == (int(share * wrong) if fits[row] else 0)
    assert revealed.sum() == loss.parts["glanced"] > 4
    assert torch.equal(glanced[revealed], truth[revealed])
    # A label stands in the place of its frame's state.
    assert (watched.heard[1][revealed] == 0).all()
    assert torch.equal(watched.heard[1][~revealed], watched.heard[0][~revealed])
    losses, fits = ctc_loss(Padded(watched.logits[1].log_softmax(-1), source.states.lengths), data.target)
    torch.testing.assert_close(loss.total, losses.sum())
    assert loss.count == 10
    assert loss.parts["infeasible"] == (~fits).sum() == 1


def test_both_passes_have_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    network = decoder(glance=(0.0, 0.0), dropout=0.5).train()
    watched = Watched(network, monkeypatch)
    network.loss(encoded(LENGTHS), batch(), TrainStep())
    network.loss(encoded(LENGTHS), batch(), TrainStep())
    assert torch.equal(watched.logits[0], watched.logits[1])
    assert not torch.equal(watched.logits[1], watched.logits[3])


@pytest.mark.parametrize("steps", [0, 10])
def test_one_pass_against_a_plain_loop(steps: int) -> None:
    network, source = decoder().eval(), encoded([30, 17, 0, 1])
    with torch.no_grad():
        network.hear.weight.mul_(4)  # of as many minds as there are frames
        path = Padded(torch.full((4, FRAMES), MASK), source.states.lengths)
        scores, labels = network(path, network.prepare(source)).log_softmax(-1).max(-1)
    found = decode(network, source, DecodeOptions(steps=steps))
    assert len({h.tokens for h in found}) == 4
    for row, length in enumerate([30, 17, 0, 1]):
        frames = list(zip(labels[row, :length].tolist(), scores[row, :length].tolist(), strict=True))
        runs = [(label, max(score for _, score in run)) for label, run in groupby(frames, key=lambda frame: frame[0])]
        spoken = [(label, score) for label, score in runs if label != BLANK]
        assert found[row].tokens == tuple(label for label, _ in spoken)
        assert found[row].scores == pytest.approx([score for _, score in spoken], abs=1e-4)
        assert found[row].steps == 0


def test_no_frame_at_all() -> None:
    nothing = Padded(torch.zeros(2, 0, WIDTH), torch.tensor([0, 0]))
    assert [h.tokens for h in decode(decoder().eval(), Encoded(nothing, nothing), DecodeOptions())] == [(), ()]
    target = Padded(torch.tensor([[6], [7]]), torch.tensor([1, 0]))
    loss = decoder().loss(Encoded(nothing, nothing), Batch(("a", "b"), target, target), TrainStep())
    loss.total.backward()
    assert loss.total == 0
    assert loss.parts["infeasible"] == 1


@pytest.mark.parametrize("glance", [(-0.1, 0.3), (0.5, 1.1)])
def test_settings_are_checked(glance: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected glance between 0 and 1, received .*"):
        GlatCTCConfig(glance=glance)
