"""Align-Refine, Align-Denoise and the Imputer: what each learns from, and how it rewrites a path."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Literal, cast

import pytest
import torch

from narspeech.batch import Batch, Draft, Encoded, Padded, Round, TrainStep
from narspeech.decoders import align_refine
from narspeech.decoders.align_refine import AlignRefine, AlignRefineConfig
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.ctc import CTCDecoder
from narspeech.errors import ConfigError
from narspeech.model import Model
from narspeech.ops.ctc import ctc_loss, required_frames
from narspeech.ops.imputer import imputer_loss
from narspeech.ops.viterbi import forced_path
from narspeech.refine import decode
from narspeech.tokenizer import BLANK, BOS, MASK, PAD
from tests import fakes

SIZE, WIDTH, FRAMES, BLOCK = 20, 16, 30, 4
Mode = Literal["align_refine", "align_denoise", "imputer"]
MODES: tuple[Mode, ...] = ("align_refine", "align_denoise", "imputer")
OTHERS = MODES[1:]


def decoder(mode: Mode = "align_refine", passes: int = 2) -> AlignRefine:
    config = AlignRefineConfig(
        mode=mode, depth=1, width=WIDTH, heads=2, feed_forward=32, dropout=0.0, passes=passes, block=BLOCK
    )
    model = AlignRefine(config, WIDTH, SIZE).eval()
    with torch.no_grad():
        model.hear.weight.mul_(4)  # of as many minds as there are frames
    return model


def encoded(lengths: list[int]) -> Encoded:
    """Random states, and CTC posteriors of which every third frame or so is blank."""
    logits = 2 * torch.randn(len(lengths), FRAMES, SIZE)
    logits[..., BLANK] += 2
    logits[..., PAD:6] = -1e4
    frames = torch.tensor(lengths)
    return Encoded(
        Padded(torch.randn(len(lengths), FRAMES, WIDTH), frames),
        Padded(torch.zeros(len(lengths), FRAMES, 1), frames),
        ctc=Padded(logits.log_softmax(-1), frames),
    )


def batch() -> Batch:
    """The last of four targets does not fit into 5 frames, and the third says nothing."""
    target = Padded.pack([torch.tensor(ids).long() for ids in ([6, 7, 7, 9], [10, 11], [], [8, 8, 8, 8])], PAD)
    return Batch(tuple("abcd"), target, target)


LENGTHS = [FRAMES, 18, 0, 5]


def model(mode: Mode, side: fakes.Side, *, varied: bool = True) -> Model:
    plain = fakes.model_config("align_refine", side).decoder
    return fakes.tiny_model(
        "align_refine", side, varied=varied, decoder=replace(cast("AlignRefineConfig", plain), mode=mode)
    )


@pytest.mark.parametrize("mode", MODES)
def test_no_steps_give_the_ctc_output(mode: Mode) -> None:
    source, options = encoded([30, 12, 0]), DecodeOptions(steps=0)
    assert decode(decoder(mode), source, options) == decode(CTCDecoder(), source, options)


@pytest.mark.parametrize("name", ["passes", "block"])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} of 1 or more, received 0"):
        AlignRefineConfig(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["align_refine", "align_denoise"])
def test_every_frame_is_rewritten_until_nothing_changes(mode: Mode) -> None:
    """Against a plain loop over one row: the path is the argmax of what the decoder says of the path before."""
    network, source = decoder(mode), encoded([30, 17, 0, 1])
    assert source.ctc is not None
    found = decode(network, source, DecodeOptions(steps=6, trace=True))
    assert {h.steps for h in found} > {0}  # the row without frames takes none
    for row, length in enumerate(source.states.lengths.tolist()):
        alone = Encoded(*(Padded(x.data[row : row + 1, :length], x.lengths[row : row + 1]) for x in source[:2]))
        memory = network.prepare(alone._replace(ctc=source.ctc.rows(torch.tensor([row]))))
        best = source.ctc.data[row, :length].max(-1)
        paths, scores = [best.indices.tolist()], best.values
        for _ in range(6 if length else 0):
            given = Padded(torch.tensor([paths[-1]]), torch.tensor([length]))
            with torch.inference_mode():
                best = network(given, memory)[0].log_softmax(-1).max(-1)
            paths.append(best.indices.tolist())
            scores = best.values
            if paths[-1] == paths[-2]:
                break
        assert [list(moment.tokens) for moment in found[row].trace] == paths
        assert found[row].steps == len(paths) - 1
        runs = [
            (label, max(score for _, score in run))
            for label, run in groupby(zip(paths[-1], scores.tolist(), strict=True), key=lambda frame: frame[0])
            if label != BLANK
        ]
        assert found[row].tokens == tuple(label for label, _ in runs)
        assert found[row].scores == pytest.approx([score for _, score in runs], abs=1e-4)


@pytest.mark.parametrize("steps", [1, 2, BLOCK - 1, 10])
def test_blocks_are_imputed_against_a_plain_loop(steps: int) -> None:
    """In every block of frames the most confident MASKs at every turn, of which the first is CTC's; the shares of the
    turns are as equal as can be, the larger ones first."""
    network, source = decoder("imputer"), encoded([30, 17, 0, 3])
    assert source.ctc is not None
    shares = {1: [2, 2], 2: [2, 1, 1], BLOCK - 1: [1] * BLOCK, 10: [1] * BLOCK}[steps]
    for row, found in enumerate(decode(network, source, DecodeOptions(steps=steps, trace=True))):
        length = int(source.states.lengths[row])
        memory = network.prepare(source).rows(torch.tensor([row]))
        path, scores = [MASK] * length, [0.0] * length
        best = source.ctc.data[row].max(-1)
        expected = []
        for share in shares:
            if expected and MASK not in path:
                break
            for begin in range(0, length, BLOCK):
                left = [t for t in range(begin, min(begin + BLOCK, length)) if path[t] == MASK]
                for t in sorted(left, key=lambda t: -float(best.values[t]))[:share]:
                    path[t], scores[t] = int(best.indices[t]), float(best.values[t])
            expected.append(list(path))
            given = Padded(torch.tensor([path + [PAD] * (FRAMES - length)]), torch.tensor([length]))
            with torch.inference_mode():
                best = network(given, memory)[0].log_softmax(-1).max(-1)
        assert [list(moment.tokens) for moment in found.trace] == expected
        assert found.steps == len(expected) - 1
        assert found.tokens == tuple(label for label, _ in groupby(path) if label != BLANK)
        assert found.trace[-1].scores == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_refine_mutates_nothing(mode: Mode) -> None:
    network, options = decoder(mode), DecodeOptions()
    memory = network.prepare(encoded([30, 25]))
    draft = network.draft(memory, options)
    tensors = [draft.tokens.data, draft.tokens.lengths, draft.scores, draft.owner, draft.undecided, *memory.keys]
    before = [x.clone() for x in tensors]
    after = network.refine(draft, memory, Round(0, 10), options)
    assert not torch.equal(after.tokens.data, draft.tokens.data)
    assert all(torch.equal(x, y) for x, y in zip(before, tensors, strict=True))


def test_the_steps_are_unrolled() -> None:
    """Each pass reads the best path of the one before, the first that of the CTC head; the losses are averaged."""
    network, source, data = decoder(passes=3), encoded(LENGTHS), batch()
    loss = network.loss(source, data, TrainStep())
    assert source.ctc is not None
    memory, log_probs, losses = network.prepare(source), source.ctc.data, []
    for _ in range(3):
        path = Padded(log_probs.argmax(-1), source.ctc.lengths)
        log_probs = network(path, memory).log_softmax(-1)
        losses.append(ctc_loss(Padded(log_probs, path.lengths), data.target)[0].sum())
    torch.testing.assert_close(loss.total, torch.stack(losses).mean())
    assert loss.count == 10
    assert loss.parts["first_pass"] == losses[0]
    assert loss.parts["last_pass"] == losses[-1]


@pytest.mark.parametrize(("share", "everywhere"), [(0.0, False), (1.0, True)])
def test_noise_is_what_ctc_hears_instead(share: float, everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, source, data = decoder("align_denoise"), encoded(LENGTHS), batch()
    assert source.ctc is not None
    truth, fits = forced_path(source.ctc, data.target)
    heard = source.ctc.data.argmax(-1)
    # The first column is a row's share of noise, the others are compared with it.
    draw = torch.full((4, FRAMES + 1), 0.5)
    draw[:, 0] = share
    monkeypatch.setattr(torch, "rand", lambda *_: draw)
    seen: list[torch.Tensor] = []
    states = network.states
    monkeypatch.setattr(network, "states", lambda path, memory: seen.append(path.data) or states(path, memory))
    loss = network.loss(source, data, TrainStep())
    real = source.ctc.mask
    assert torch.equal(seen[0][real], (heard if everywhere else truth)[real])
    assert loss.parts["noisy"] == (((heard != truth) & real).sum() if everywhere else 0)
    log_probs = network(Padded(seen[0], source.ctc.lengths), network.prepare(source)).log_softmax(-1)
    assert fits.tolist() == [True, True, True, False]
    expected = -sum(log_probs[row, t, truth[row, t]] for row in (0, 1) for t in range(LENGTHS[row]))
    torch.testing.assert_close(loss.total, torch.as_tensor(expected))


def test_the_imputer_hides_a_part_of_the_forced_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    network, source, data = decoder("imputer"), encoded(LENGTHS), batch()
    assert source.ctc is not None
    hidden = torch.rand(4, FRAMES) < 0.6
    monkeypatch.setattr(align_refine, "mask_uniform", lambda _: hidden)
    seen: list[torch.Tensor] = []
    states = network.states
    monkeypatch.setattr(network, "states", lambda path, memory: seen.append(path.data) or states(path, memory))
    loss = network.loss(source, data, TrainStep())
    truth, fits = forced_path(source.ctc, data.target)
    shown = ~hidden & source.ctc.mask & fits[:, None]  # of what cannot be aligned nothing is known
    assert torch.equal(seen[0] != MASK, shown)
    assert torch.equal(seen[0][shown], truth[shown])
    log_probs = network(Padded(seen[0], source.ctc.lengths), network.prepare(source)).log_softmax(-1)
    losses, _ = imputer_loss(Padded(log_probs, source.ctc.lengths), data.target, truth, shown)
    assert (losses > 0).tolist() == [True, True, False, False]
    torch.testing.assert_close(loss.total, losses.sum())


def test_a_hidden_label_is_never_read() -> None:
    """Where the path is masked the state stands alone, and elsewhere the label counts."""
    network, source = decoder("imputer"), encoded([30])
    path = torch.full((1, FRAMES), MASK)
    path[0, 3] = 7
    with torch.no_grad():
        memory = network.prepare(source)
        before = network(Padded(path, source.states.lengths), memory)
        network.tokens.embedding.weight[7] += 1
        label = network(Padded(path, source.states.lengths), memory)[..., :7]
        network.tokens.embedding.weight[MASK] += 1
        mask = network(Padded(path, source.states.lengths), memory)[..., 3:7]
    assert not torch.equal(before[..., :7], label)
    assert torch.equal(mask, label[..., 3:7])


@pytest.mark.parametrize("mode", MODES)
def test_settled_rows(mode: Mode) -> None:
    tokens = Padded(torch.tensor([[6, MASK], [6, BLANK], [PAD, PAD]]), torch.tensor([2, 2, 0]))
    draft = Draft(tokens, torch.zeros(3, 2), torch.arange(3), torch.tensor([2, 2, 0]))
    assert decoder(mode).settled(draft).tolist() == [False, mode == "imputer", True]


@pytest.mark.parametrize("side", ["speech", "text"])
@pytest.mark.parametrize("mode", OTHERS)
def test_the_contract_in_the_other_modes(mode: Mode, side: fakes.Side) -> None:
    """Finite gradients everywhere, batched = single whatever the padding, nothing special comes out."""
    network = model(mode, side)
    loss = network.train()(fakes.batch(side=side), TrainStep(progress=0.5))
    loss.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())
    two = fakes.batch(["ab", "ba"], side)
    for lengths in ([0, 2], [0, 0]):
        target = Padded(two.target.data[:, : max(lengths)], torch.tensor(lengths))
        network.zero_grad()
        network(two._replace(target=target)).total.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())
    network.eval()
    with torch.no_grad():
        network.decoder.tokens.bias[[PAD, MASK, BOS]] += 50
    lengths = [6000, 0, 2100, 799] if side == "speech" else [12, 0, 8, 1]
    source = fakes.noise(lengths) if side == "speech" else fakes.nonsense(lengths)
    for options in (DecodeOptions(steps=3), DecodeOptions(steps=10)):
        batched = network.decode(source, options)
        assert len({h.tokens for h in batched}) > 2
        assert batched[1].tokens == ()
        for row, alone in enumerate(source.unpack()):
            padding = 50 * torch.randn(777) if side == "speech" else fakes.nonsense([5]).data[0]
            (found,) = network.decode(Padded(torch.cat([alone, padding])[None], torch.tensor([len(alone)])), options)
            assert found.tokens == batched[row].tokens
            assert found.steps == batched[row].steps
            assert found.scores == pytest.approx(batched[row].scores, abs=1e-4)
            assert not {BLANK, PAD, MASK, BOS} & set(found.tokens)


@pytest.mark.parametrize("mode", OTHERS)
def test_overfits_eight_examples(mode: Mode) -> None:
    network, data = model(mode, "text", varied=False), fakes.batch(side="text")
    losses = fakes.train(network, data, updates=160)
    assert losses[-1] < 0.2 * losses[0]
    assert [network.tokenizer.decode(h.tokens) for h in network.decode(data.source)] == list(data.ids)


@pytest.mark.parametrize("mode", MODES)
def test_brain_floats(mode: Mode) -> None:
    network = model(mode, "speech").bfloat16()
    found = network.decode(fakes.noise([6000, 799, 0]), DecodeOptions(steps=3))
    assert found[0].tokens
    assert found[2].tokens == ()
    assert all(score <= 0 for h in found for score in h.scores)
    data = fakes.batch(["ab", "cc"])
    loss = network.train()(data)
    assert torch.isfinite(loss.total)
    assert loss.total.dtype == torch.float32


def test_the_fakes_have_targets_that_fit() -> None:
    data = fakes.batch()
    assert (required_frames(data.target) <= model("imputer", "speech").encode(data.source).states.lengths).all()
