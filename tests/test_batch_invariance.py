"""A row's text never depends on its padding or batch-mates: the small share of tests/soak/test_batch_invariance.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from narspeech.batch import Padded
from narspeech.model import Model
from narspeech.result import Hypothesis, Step
from narspeech.tokenizer import MASK
from tests import fakes
from tests.invariance import Report, check, check_fills, labels_tied, moments_tied, scatter, variants

SOUND = fakes.sing("abcd abba dad cab bad cc ab dc a", seconds=0.1)


def test_thirty_cases() -> None:
    report = Report()
    for number, model in enumerate(variants()):
        report = report.plus(check(model, 8 if number < 2 else 7, SOUND, longest=1.5, first=1000 * number))
    assert report.ties <= 1
    # The proof is of worth only if there is text, and if refinement rewrites it.
    assert report.spoken > 0.7 * report.rows
    assert report.tokens > 3 * report.rows
    assert report.rewritten > 0.1 * report.tokens


@pytest.mark.parametrize("leak", ["zeroed", "mask"])
def test_a_leak_is_seen(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding that reaches the convolutions, or keys of padded frames that are looked at."""
    model = next(variants())
    if leak == "zeroed":
        monkeypatch.setattr(Padded, "zeroed", lambda self: Padded(self.data.nan_to_num(0, 1, -1), self.lengths))
    else:
        everywhere: Callable[..., Tensor] = lambda lengths, size, _=None: torch.ones(len(lengths), 1, 1, size).bool()  # noqa: E731
        monkeypatch.setattr("narspeech.encoders.conformer.key_mask", everywhere)
    with pytest.raises(AssertionError, match=r"case \d+, lengths"):
        check(model, 10, SOUND, longest=1.5)


def test_a_leak_in_refinement_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = next(variants())
    everywhere: Callable[..., Tensor] = lambda lengths, size: torch.ones(len(lengths), 1, 1, size).bool()  # noqa: E731
    monkeypatch.setattr("narspeech.decoders.stack.key_mask", everywhere)
    with pytest.raises(AssertionError, match="decoder logits differ"):
        check(model, 10, SOUND, longest=1.5)


def never(_tokens: tuple[int, ...]) -> Tensor:
    raise AssertionError("no step was taken")


class TestTies:
    """The exceptions are exact: a tie is excused, a clear choice is not."""

    def test_labels(self) -> None:
        alone = torch.tensor([[-1.0, -1.00005, -5.0], [-3.0, -1.0, -2.0]])
        flipped = alone.clone()
        assert not labels_tied(flipped, alone)
        flipped[0, 1] = -0.99999
        assert labels_tied(flipped, alone)
        flipped[1, 2] = -0.5
        with pytest.raises(AssertionError, match="another label"):
            labels_tied(flipped, alone)

    @pytest.mark.parametrize(("threshold", "tied"), [(0.9, True), (0.9002, False)])
    def test_threshold(self, threshold: float, tied: bool) -> None:
        score = -0.10536  # log 0.9
        alone, together = (
            Hypothesis(tokens=(7,), scores=(0.0,), trace=(Step(tokens=(token,), scores=(score,)),))
            for token in (7, MASK)
        )
        if tied:
            assert moments_tied(together, alone, threshold, never)
        else:
            with pytest.raises(AssertionError, match="from the threshold"):
                moments_tied(together, alone, threshold, never)

    def test_proposals(self) -> None:
        log_probs = torch.tensor([[-1.0, -1.00005, -9.0], [-0.5, -2.0, -9.0]])
        check_fills((0, 0), (1, 0), (MASK, MASK), log_probs)
        with pytest.raises(AssertionError, match="another proposal"):
            check_fills((0, 0), (0, 1), (MASK, MASK), log_probs)
        with pytest.raises(AssertionError, match="rewritten"):
            check_fills((0, 0), (1, 0), (1, MASK), log_probs)

    def test_order_of_filling(self) -> None:
        log_probs = torch.tensor([[-1.0, -5.0], [-1.00005, -5.0], [-3.0, -5.0]])
        masks = (MASK,) * 3
        check_fills((0, MASK, MASK), (MASK, 0, MASK), masks, log_probs)
        with pytest.raises(AssertionError, match="other places filled"):
            check_fills((0, MASK, MASK), (MASK, MASK, 0), masks, log_probs)

    def test_other_scores_and_steps_are_no_tie(self) -> None:
        alone, louder, longer = (
            Hypothesis(tokens=(7,), scores=(scores[0],), trace=tuple(Step(tokens=(7,), scores=(x,)) for x in scores))
            for scores in ((-0.5,), (-0.6,), (-0.5, -0.5))
        )
        with pytest.raises(AssertionError, match="other scores"):
            moments_tied(louder, alone, 0.9, never)
        with pytest.raises(AssertionError, match="more steps"):
            moments_tied(longer, alone, 0.9, never)


def test_scattered_models_are_the_same_every_time() -> None:
    first, again = (scatter(fakes.tiny_model(seed=3, varied=False)) for _ in range(2))
    assert isinstance(first, Model)
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
