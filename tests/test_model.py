"""What the training loss is made of, and what reaches the decoders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Batch, Padded, TrainStep
from narspeech.decoders import mask_ctc
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import ConfigError
from narspeech.frontends.augment import SpecAugmentConfig
from narspeech.model import CTCConfig, Model, symmetric_divergence
from narspeech.tokenizer import BLANK
from tests import fakes

TAPPED = replace(fakes.model_config().encoder, depth=3, taps=(1, 2))
AUGMENTED = replace(
    fakes.model_config().frontend, augment=SpecAugmentConfig(warp=0, freq_masks=2, freq_width=6, time_masks=2)
)


def every_other(target: Padded) -> Tensor:
    """Masks that do not depend on the batch."""
    return target.mask & (torch.arange(target.data.shape[1]) % 2 == 0)


def reference_ctc(log_probs: Padded, target: Padded) -> Tensor:
    """The sum over rows, one by one, by torch's own loss; rows that cannot fit are left out."""
    total = torch.zeros(())
    for frames, tokens in zip(log_probs.unpack(), target.unpack(), strict=True):
        repeats = int((tokens[1:] == tokens[:-1]).sum())
        if len(tokens) + repeats <= len(frames):
            total = total + F.ctc_loss(frames, tokens, [len(frames)], [len(tokens)], blank=BLANK, reduction="sum")
    return total


def losses(model: Model, batch: Batch) -> dict[str, float]:
    torch.manual_seed(3)
    loss = model(batch)
    return {name: x.item() for name, x in {"total": loss.total, "count": loss.count, **loss.parts}.items()}


def test_parts_of_the_loss() -> None:
    model, batch = fakes.tiny_model(ctc=CTCConfig(weight=0.3, intermediate=0.0)), fakes.batch()
    found = losses(model, batch)
    encoded = model.encode(batch.source)
    assert encoded.ctc is not None
    assert found["ctc"] == pytest.approx(reference_ctc(encoded.ctc, batch.target).item(), rel=1e-4)
    torch.manual_seed(3)
    decoder = model.decoder.loss(encoded, batch, TrainStep())
    assert found["decoder"] == pytest.approx(decoder.total.item(), rel=1e-4)
    assert found["total"] == pytest.approx(0.3 * found["ctc"] + 0.7 * found["decoder"], rel=1e-5)
    assert found["masked"] == float(decoder.parts["masked"])
    assert found["infeasible"] == 0
    assert found["count"] == batch.target.lengths.sum()
    assert "intermediate" not in found
    assert "consistency" not in found


@pytest.mark.parametrize("condition", [False, True])
def test_intermediate_losses(condition: bool) -> None:
    ctc = CTCConfig(weight=1.0, intermediate=0.4, condition=condition)
    model, batch = fakes.tiny_model(encoder=TAPPED, ctc=ctc), fakes.batch()
    found = losses(model, batch)
    encoded = model.encode(batch.source)
    assert encoded.ctc is not None
    assert len(encoded.taps) == 2
    taps = [reference_ctc(Padded(model.ctc(tap), encoded.states.lengths), batch.target) for tap in encoded.taps]
    last = reference_ctc(encoded.ctc, batch.target).item()
    assert found["intermediate"] == pytest.approx(torch.stack(taps).mean().item(), rel=1e-4)
    assert found["total"] == pytest.approx(0.6 * last + 0.4 * found["intermediate"], rel=1e-4)


def test_self_conditioning_starts_as_nothing_and_changes_the_last_layer() -> None:
    plain = fakes.tiny_model(encoder=TAPPED, ctc=CTCConfig(condition=False), varied=False)
    conditioned = fakes.tiny_model(encoder=TAPPED, ctc=CTCConfig(condition=True), varied=False)
    conditioned.load_state_dict(plain.state_dict(), strict=False)
    source = fakes.noise([4000])
    one = plain.encode(source)
    assert torch.equal(one.states.data, conditioned.encode(source).states.data)
    assert conditioned.ctc is not None
    assert conditioned.ctc.condition is not None
    torch.nn.init.normal_(conditioned.ctc.condition.weight)
    other = conditioned.encode(source)
    torch.testing.assert_close(one.taps[0], other.taps[0])  # before the first feedback
    assert (one.states.data - other.states.data).abs().max() > 1e-2


def test_weight_one_skips_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fakes.tiny_model(ctc=CTCConfig(weight=1.0, intermediate=0.0))
    monkeypatch.setattr(model.decoder, "loss", None)
    loss = model(fakes.batch())
    assert set(loss.parts) == {"ctc", "infeasible"}
    assert loss.total.item() == pytest.approx(float(loss.parts["ctc"]))


def test_infeasible_targets_are_counted_and_harmless() -> None:
    model = fakes.tiny_model(encoder=TAPPED, ctc=CTCConfig(weight=0.5, intermediate=0.5)).train()
    batch = fakes.batch(["abad", "cab", "dab"])
    long = torch.tensor(fakes.TOKENIZER.encode("abcd" * 20))
    target = Padded.pack([batch.target.data[0, :4], long, batch.target.data[2, :3]])
    loss = model(batch._replace(target=target))
    assert loss.parts["infeasible"] == 1
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    encoded = model.encode(batch.source)
    assert encoded.ctc is not None
    assert float(loss.parts["ctc"]) == pytest.approx(reference_ctc(encoded.ctc, target).item(), rel=1e-4)
    # No frame at all is one way of being too short.
    source = Padded(batch.source.data, torch.tensor([0, 100, 150]))
    model.zero_grad()
    loss = model(batch._replace(source=source))
    assert loss.parts["infeasible"] == 3
    assert loss.parts["ctc"] == 0
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["ctc", "mask_ctc"])
def test_the_loss_of_a_batch_is_the_sum_of_its_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_ctc, "mask_uniform", every_other)
    ctc = CTCConfig(weight=0.4, intermediate=0.3)
    model, batch = fakes.tiny_model(kind, encoder=TAPPED, ctc=ctc).train(), fakes.batch()
    whole = model(batch)
    whole.total.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    total, count = torch.zeros(()), 0
    for row in range(len(batch.ids)):
        index = torch.tensor([row])
        source, target = (Padded.pack(part.rows(index).unpack()) for part in (batch.source, batch.target))
        loss = model(Batch(batch.ids[row : row + 1], source, target))
        loss.total.backward()
        total, count = total + loss.total.detach(), count + int(loss.count)
    torch.testing.assert_close(whole.total.detach(), total, rtol=1e-4, atol=1e-4)
    assert whole.count == count
    for one, p in zip(gradients, (p for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(one, p.grad, rtol=1e-3, atol=1e-3)


def test_consistency_of_two_views() -> None:
    """CR-CTC term by term: each view against the other one, which has no gradient."""
    ctc = CTCConfig(weight=1.0, intermediate=0.0, consistency=0.2)
    model = fakes.tiny_model("ctc", frontend=AUGMENTED, ctc=ctc).train()
    batch = fakes.batch(["abad", "cab", "a"])
    torch.manual_seed(5)
    loss = model(batch)
    torch.manual_seed(5)
    encoded = model.encode(batch.source, views=True)
    assert encoded.ctc is not None
    log_probs = encoded.ctc.data
    divergence = torch.zeros(())
    for row in range(3):
        for frame in range(int(encoded.ctc.lengths[row])):
            one, other = log_probs[row, frame], log_probs[row + 3, frame]
            for view, fixed in ((one, other.detach()), (other, one.detach())):
                divergence = divergence + F.kl_div(view, fixed, log_target=True, reduction="sum")
    assert divergence > 1
    torch.testing.assert_close(loss.parts["consistency"], divergence.detach(), rtol=1e-4, atol=1e-4)
    twice = Padded(batch.target.data.repeat(2, 1), batch.target.lengths.repeat(2))
    expected = reference_ctc(encoded.ctc, twice) + 0.2 * divergence
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-4)
    assert loss.count == 2 * batch.target.lengths.sum()
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(loss.total, list(model.parameters()))
    for name, one, other in zip(names, found, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_the_divergence_of_equal_views_is_zero_and_stops_gradients() -> None:
    logits = torch.randn(4, 5, 7, requires_grad=True)
    log_probs = Padded(logits.log_softmax(-1), torch.tensor([5, 3, 5, 3]))
    same = Padded(torch.cat([log_probs.data[:2]] * 2), log_probs.lengths)
    assert symmetric_divergence(same).abs() < 1e-5
    symmetric_divergence(log_probs).backward()
    assert logits.grad is not None
    assert logits.grad[1, 3:].abs().max() == logits.grad[3, 3:].abs().max() == 0  # padding
    # d KL(q || softmax(z)) / d z = softmax(z) - q for a fixed q.
    probs = logits.detach().softmax(-1)
    torch.testing.assert_close(logits.grad[0], probs[0] - probs[2])


def test_views_are_for_training_alone() -> None:
    model = fakes.tiny_model("ctc", frontend=AUGMENTED, ctc=CTCConfig(consistency=0.2))
    batch = fakes.batch(["ab"])
    assert model(batch).count == 2
    assert "consistency" not in model(batch).parts
    long = Padded(torch.full((1, 60), 6), torch.tensor([60]))
    loss = model.train()(batch._replace(target=long))
    assert loss.parts["infeasible"] == 1  # one target, though seen twice
    assert loss.count == 120


def test_consistency_with_a_masked_decoder() -> None:
    model = fakes.tiny_model(frontend=AUGMENTED, ctc=CTCConfig(weight=0.5, consistency=0.2)).train()
    loss = model(fakes.batch())
    loss.total.backward()
    assert set(loss.parts) == {"ctc", "infeasible", "consistency", "decoder", "masked", "masked_correct"}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.1, 0.75), (0.4, 0.0), (1.0, 0.0)])
def test_guidance_fades(progress: float, share: float) -> None:
    """A given alignment replaces CTC at first, in the taps as well, and does nothing in the end."""
    ctc = CTCConfig(weight=1.0, intermediate=0.3, guided=0.4)
    model = fakes.tiny_model("ctc", encoder=replace(TAPPED, taps=(1,)), ctc=ctc)
    batch = fakes.batch(["abd"])
    starts = torch.tensor([[0.05, 0.17, 0.29]])  # seconds; a frame is 40 ms, and three are left after the last start
    guided = batch._replace(guide=Padded(starts, torch.tensor([3])))
    encoded = model.encode(batch.source)
    assert encoded.ctc is not None
    labels = [0, 6, 6, 6, 7, 7, 7, 9, 9, 9, 9]
    assert encoded.ctc.lengths.tolist() == [len(labels)]
    expected = 0.0
    for log_probs, weight in ((encoded.ctc.data, 0.7), (model.ctc(encoded.taps[0]), 0.3)):
        path = -log_probs[0, range(len(labels)), labels].sum()
        loss = reference_ctc(Padded(log_probs, encoded.ctc.lengths), batch.target)
        expected += weight * (share * path + (1 - share) * loss).item()
    found = model(guided, TrainStep(progress=progress))
    assert found.total.item() == pytest.approx(expected, rel=1e-4)
    # What is reported is CTC's own loss, and a batch without a guide has no other.
    plain = model(batch, TrainStep(progress=progress))
    assert plain.parts == found.parts
    assert plain.total.item() == pytest.approx(model(guided, TrainStep(progress=1.0)).total.item())


def test_guidance_of_two_views() -> None:
    ctc = CTCConfig(weight=1.0, intermediate=0.0, guided=1.0, consistency=0.2)
    model = fakes.tiny_model("ctc", ctc=ctc).train()  # without augmentation, both views are equal
    batch = fakes.batch(["abd", "ba"])
    guided = batch._replace(guide=Padded(torch.tensor([[0.05, 0.17, 0.29], [0.05, 0.17, 0.0]]), torch.tensor([3, 2])))
    alone = fakes.tiny_model("ctc", ctc=replace(ctc, consistency=0.0)).train()
    assert model(guided).total.item() == pytest.approx(2 * alone(guided).total.item(), rel=1e-4)


def test_decoding_uses_the_models_own_settings() -> None:
    source = fakes.noise([8000, 4000])
    model = fakes.tiny_model(decoding=DecodeOptions(steps=2, threshold=1.0))
    assert [hypothesis.steps for hypothesis in model.decode(source)] == [2, 2]
    assert [h.steps for h in model.decode(source, DecodeOptions(steps=1, threshold=1.0))] == [1, 1]
    assert [h.steps for h in model.decode(source, decoder="ctc")] == [0, 0]
    assert model.decode(source, decoder="ctc") == model.decode(source, DecodeOptions(steps=0))


def test_encoding_is_log_probabilities_at_the_encoders_lengths() -> None:
    model = fakes.tiny_model()
    encoded = model.encode(fakes.noise([8000, 799, 0]))
    assert encoded.ctc is not None
    assert torch.equal(encoded.ctc.lengths, encoded.states.lengths)
    assert encoded.ctc.lengths.tolist() == model.encoder.lengths(torch.tensor([98, 8, 0])).tolist()
    torch.testing.assert_close(encoded.ctc.data.exp().sum(-1), torch.ones(encoded.ctc.data.shape[:2]))
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("kind", ["ctc", "mask_ctc", "align_refine", "levenshtein"])
def test_what_reads_ctc_needs_a_head(kind):
    config = fakes.model_config(kind, "text", ctc=None)
    if kind == "levenshtein":
        config = replace(config, decoder=replace(config.decoder, start="ctc"))
    with pytest.raises(ConfigError, match=f"expected a CTC head for the decoder {kind} to read"):
        Model(config, fakes.TOKENIZER)
