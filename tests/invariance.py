"""Random batches, and the proof that every row of them comes out as it does alone and without padding.

Shared by tests/test_batch_invariance.py (a few cases) and tests/soak/test_batch_invariance.py (a thousand).

Tokens may differ only where the choice is a tie, that is where within TOLERANCE of each other lie
 - the two best log-probabilities of a frame whose label differs, or of a masked token whose proposal differs,
 - a token's score and the threshold, where one run masks the token and the other does not,
 - the confidences of the tokens that only one of the runs fills in at a step.
What follows from a tie in later steps of that row is not compared. Every tie that was used is counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from narspeech.batch import Draft, Encoded, Padded
from narspeech.decoders.base import DecodeOptions
from narspeech.encoders.subsampling import KINDS
from narspeech.model import CTCConfig, Model
from narspeech.nn.convolution import MaskedBatchNorm
from narspeech.refine import decode
from narspeech.result import Hypothesis, Step
from narspeech.tokenizer import MASK
from tests import fakes

TOLERANCE = 1e-4
GARBAGE = (0.0, float("nan"), float("inf"), float("-inf"), 1e30, -1.0)


class Case(NamedTuple):
    """Clips, the batch that holds them in their order amid garbage, and how to decode them."""

    clips: list[Tensor]
    source: Padded
    options: DecodeOptions


class Report(NamedTuple):
    """Largest differences of log-probabilities and decoder logits; counts of rows, of ties used, of rows with text, of
    tokens heard and of tokens that refinement changed."""

    ctc: float = 0.0
    decoder: float = 0.0
    rows: int = 0
    ties: int = 0
    spoken: int = 0
    tokens: int = 0
    rewritten: int = 0

    def plus(self, other: Report) -> Report:
        sums = (a + b for a, b in zip(self[2:], other[2:], strict=True))
        return Report(max(self.ctc, other.ctc), max(self.decoder, other.decoder), *sums)


def variants() -> Iterator[Model]:
    """Tiny models with random weights, one for every kind of layer that padding could get through."""
    base = fakes.model_config()
    for number, (positions, norm, window, subsampling, normalise, condition, places) in enumerate(
        (
            ("rotary", "layer", None, KINDS[2], "utterance", False, "number"),
            ("relative", "batch", None, KINDS[0], "global", True, "time"),
            ("rotary", "batch", (4, 2), KINDS[1], "none", True, "number"),
            ("relative", "layer", (3, 0), KINDS[1], "utterance", False, "time"),
        )
    ):
        settings: dict[str, Any] = {"positions": positions, "norm": norm, "window": window, "subsampling": subsampling}
        model = fakes.tiny_model(
            seed=number,
            varied=False,
            frontend=replace(base.frontend, normalise=normalise),  # type: ignore[arg-type]
            encoder=replace(base.encoder, taps=(1,), **settings),
            decoder=replace(base.decoder, places=places),  # type: ignore[call-arg]
            ctc=CTCConfig(condition=condition),
        )
        yield scatter(model)


@torch.no_grad()
def scatter(model: Model) -> Model:
    """Weights far from their starting points, and a CTC head that hears many letters and now and then nothing."""
    model.frontend.fit([Padded(fakes.sing("abcd ")[None], torch.tensor([fakes.RATE // 2]))])
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.normal_(1.0, 0.2)
        else:
            parameter.add_(torch.randn_like(parameter) * parameter.std().nan_to_num(0.1).clamp(min=0.1))
    for module in model.modules():
        if isinstance(module, MaskedBatchNorm):
            module.mean.normal_(0, 0.3)
            module.variance.uniform_(0.5, 1.5)
    hiss = torch.randn(2, fakes.RATE // 2) * torch.tensor([[0.3], [1e-3]])
    sound = torch.cat([fakes.sing("abcd abba cd"), *hiss])
    source = Padded(sound[None], torch.tensor([len(sound)]))
    centre(model.encoder.subsampling.output, model.encoder.subsampling(model.frontend(source)).data[0], 0.5)
    centre(model.ctc.output, model.ctc.output(model.encode(source).states.data[0]), 0.5)
    return model


def centre(layer: nn.Linear, outputs: Tensor, deviation: float) -> None:
    """Shift and stretch what a layer gives, now `outputs` (N, D), to mean 0 and that deviation in every dimension."""
    layer.weight.mul_((scale := deviation / outputs.std(0))[:, None])
    layer.bias.sub_(outputs.mean(0)).mul_(scale)


def draw(seed: int, sound: Tensor, *, rate: int, window: int, longest: float) -> Case:
    """A case of one to five clips of `sound` (N,) of up to `longest` seconds; `window` samples make one frame."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for _ in range(chance.randint(1, 5)):
        length = chance.choice([chance.randrange(int(longest * rate)) + 1] * 9 + [chance.randrange(2 * window)])
        start = chance.randrange(max(1, len(sound) - length))
        clip = 10 ** chance.uniform(-2, 0.3) * sound[start : start + length]
        noise = 10 ** chance.uniform(-5, -1) * torch.randn(len(clip), generator=generator)
        clips.append(clip + noise if chance.random() < 0.9 else torch.zeros(len(clip)))
    if chance.random() < 0.2:
        clips.append(chance.choice(clips))  # the same clip twice in one batch
    width = max(map(len, clips)) + chance.choice([0, 0, 1, chance.randrange(2 * window), chance.randrange(rate)])
    if chance.random() < 0.5:
        data = torch.full((len(clips), width), chance.choice(GARBAGE))
    else:  # loud noise, or the sound going on
        start = chance.randrange(len(sound))
        data = torch.randn(len(clips), width, generator=generator) * 10 ** chance.uniform(-3, 3)
        if chance.random() < 0.5:
            data = sound.roll(-start).repeat(width // len(sound) + 1)[:width].repeat(len(clips), 1)
    for row, clip in zip(data, clips, strict=True):
        row[: len(clip)] = clip
    threshold = chance.choice([0.0, 0.12, 0.2, 0.3, 0.6, 0.99, 1.0])
    options = DecodeOptions(steps=chance.choice([0, 1, 2, 3, 5, 10]), threshold=threshold, trace=True)
    return Case(clips, Padded(data, torch.tensor([len(clip) for clip in clips])), options)


def check(model: Model, cases: int, sound: Tensor, *, longest: float, first: int = 0) -> Report:
    """Compare every row of that many random cases with the same row alone; AssertionError where they differ."""
    config = model.config.frontend
    report = Report()
    for seed in range(first, first + cases):
        case = draw(seed, sound, rate=config.rate, window=config.window, longest=longest)
        try:
            report = report.plus(compare(model, case))
        except AssertionError as error:
            lengths = case.source.lengths.tolist()
            raise AssertionError(f"case {seed}, lengths {lengths}, {case.options}: {error}") from error
    return report


@torch.inference_mode()
def compare(model: Model, case: Case) -> Report:
    encoded = model.encode(case.source)
    outcome = Outcome.of(model, encoded, case.options)
    window, hop = model.config.frontend.window, model.config.frontend.hop
    report = Report()
    for row, clip in enumerate(case.clips):
        single = model.encode(Padded(clip[None], torch.tensor([len(clip)])))
        frames = model.encoder.lengths(torch.tensor([max(0, 1 + (len(clip) - window) // hop)]))
        assert encoded.states.lengths[row] == single.states.lengths[0] == frames[0], "another number of frames"
        report = report.plus(compare_row(model, outcome, row, Outcome.of(model, single, case.options), case.options))
    return report


class Outcome(NamedTuple):
    """All that a batch gives: CTC log-probabilities, the decoder's logits at its first look, both decoders' texts."""

    encoded: Encoded
    ctc: list[Tensor]
    draft: Draft
    logits: list[Tensor]
    greedy: list[Hypothesis]
    refined: list[Hypothesis]

    @staticmethod
    def of(model: Model, encoded: Encoded, options: DecodeOptions) -> Outcome:
        assert encoded.ctc is not None
        draft, logits = look(model, encoded, options)
        return Outcome(
            encoded,
            encoded.ctc.unpack(),
            draft,
            logits.unpack(),
            decode(model.greedy, encoded, options),
            decode(model.decoder, encoded, options),
        )


def look(model: Model, encoded: Encoded, options: DecodeOptions) -> tuple[Draft, Padded]:
    """The first draft, and what the decoder makes of it."""
    memory = model.decoder.prepare(encoded)
    draft = model.decoder.draft(memory, options)
    return draft, Padded(model.decoder(draft.tokens, memory), draft.tokens.lengths)


def compare_row(model: Model, batch: Outcome, row: int, single: Outcome, options: DecodeOptions) -> Report:
    together, alone = batch.ctc[row], single.ctc[0]
    ctc = furthest(together, alone, model.ctc.forbidden)
    assert ctc < TOLERANCE, f"row {row}: CTC log-probabilities differ by {ctc}"
    heard, said = batch.greedy[row], single.greedy[0]
    spoken = Report(ctc, rows=1, spoken=bool(said.tokens), tokens=len(said.tokens))
    if labels_tied(together, alone):
        return spoken._replace(ties=1)
    assert heard.tokens == said.tokens, f"row {row}: another text from the same labels"
    assert close(heard.scores, said.scores), f"row {row}: other scores"
    before, after = batch.draft.tokens.unpack()[row], single.draft.tokens.unpack()[0]
    decoder = 0.0
    if torch.equal(before, after):
        decoder = furthest(batch.logits[row], single.logits[0], model.decoder.get_buffer("tokens.forbidden"))
        assert decoder < TOLERANCE, f"row {row}: decoder logits differ by {decoder}"

    def confidences(tokens: tuple[int, ...]) -> Tensor:
        padded = Padded(torch.tensor([tokens]), torch.tensor([len(tokens)]))
        logits: Tensor = model.decoder(padded, model.decoder.prepare(single.encoded))[0]
        return logits.float().log_softmax(-1)

    tied = moments_tied(batch.refined[row], single.refined[0], options.threshold, confidences)
    changed = sum(a != b for a, b in zip(said.tokens, single.refined[0].tokens, strict=True))
    return spoken._replace(decoder=decoder, ties=int(tied), rewritten=changed)


def furthest(together: Tensor, alone: Tensor, forbidden: Tensor) -> float:
    """Largest difference, NaN included. A forbidden token's -1e4 has no digits left for the comparison."""
    assert together.shape == alone.shape, f"received {tuple(together.shape)} in the batch, {tuple(alone.shape)} alone"
    difference = (together - alone)[..., forbidden == 0].abs()
    return float(difference.max()) if difference.numel() else 0.0


def close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(abs(x - y) < TOLERANCE for x, y in zip(a, b, strict=True))


def labels_tied(together: Tensor, alone: Tensor) -> bool:
    """Whether best labels of log-probabilities (T, V) differ; each that does must be a tie."""
    differing = together.argmax(-1) != alone.argmax(-1)
    margins = alone[differing].topk(2).values.diff(dim=-1).abs()
    assert (margins < TOLERANCE).all(), f"another label although the two best are {margins.max()} apart"
    return bool(differing.any())


def moments_tied(
    together: Hypothesis, alone: Hypothesis, threshold: float, confidences: Callable[[tuple[int, ...]], Tensor]
) -> bool:
    """Whether two refinements part; where they first do, it must be at a tie."""
    previous: Step | None = None
    for here, there in zip_longest(together.trace, alone.trace):
        assert here is not None, "fewer steps than alone"
        assert there is not None, "more steps than alone"
        if here.tokens != there.tokens:
            if previous is None:
                check_masks(here, there, threshold)
            else:
                check_fills(here.tokens, there.tokens, previous.tokens, confidences(previous.tokens))
            return True
        assert close(here.scores, there.scores), "other scores of the same tokens"
        previous = there
    assert together.tokens == alone.tokens
    assert together.steps == alone.steps
    return False


def check_masks(here: Step, there: Step, threshold: float) -> None:
    """Drafts of one CTC text may differ only in masks of tokens whose score ties with the threshold."""
    for a, b, score in zip(here.tokens, there.tokens, there.scores, strict=True):
        if a != b:
            assert MASK in (a, b), "another draft of the same text"
            gap = abs(score - math.log(threshold))
            assert gap < TOLERANCE, f"masked in one run only, although the score is {gap} from the threshold"


def check_fills(here: tuple[int, ...], there: tuple[int, ...], before: tuple[int, ...], log_probs: Tensor) -> None:
    """Steps from the same tokens may differ only in proposals that tie, and in which of tied ones are filled in."""
    best = log_probs.topk(2).values
    swapped = []
    for place, (a, b) in enumerate(zip(here, there, strict=True)):
        if a == b:
            continue
        assert before[place] == MASK, "a token that stood was rewritten"
        if MASK in (a, b):
            swapped.append(float(best[place, 0]))
        else:
            gap = float(best[place, 0] - best[place, 1])
            assert gap < TOLERANCE, f"another proposal although the two best are {gap} apart"
    if swapped:
        gap = max(swapped) - min(swapped)
        assert gap < TOLERANCE, f"other places filled although their confidences are {gap} apart"
